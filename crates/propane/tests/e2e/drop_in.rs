//! In the place of the bash original: an Arlen app gets exactly what it got from it (ARLEN-CONTRACT A5, A6).

use std::collections::BTreeMap;
use std::fs;

use crate::support::{App, Manager, eventually};

/// An app whose server writes down how it was called, and then serves nothing.
fn app(settings: &str) -> App {
    let app = App::new(settings);
    app.script(
        ".boomhauer/build/boomhauer-app",
        "#!/bin/sh\n{ printf '%s\\n' \"$0\" \"$@\"; } > argv.$ARLEN_WORKER_ID.new\nenv > env.$ARLEN_WORKER_ID\n\
         pwd > cwd.$ARLEN_WORKER_ID\nmv argv.$ARLEN_WORKER_ID.new argv.$ARLEN_WORKER_ID\nexec sleep 1000\n",
    );
    app
}

fn start(app: &App, flags: &[&str]) -> Manager {
    let mut command = app.command(flags);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("KEPT", "yes");
    command.env("NOTIFY_SOCKET", "/nowhere").env("WATCHDOG_USEC", "1").env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    Manager::spawn(command, app.address)
}

fn lines(app: &App, name: &str) -> Vec<String> {
    let text = eventually(name, || fs::read_to_string(app.path(name)).ok());
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_compiled_app_gets_the_contracts_words_and_variables() {
    let app = app("cluster = { enabled = YES; name = blue; nodeID = n1; expectedNodes = 3; };");
    let manager = start(&app, &["--workers", "2", "--host", "127.0.0.1", "--", "--extra", "a b"]);
    let root = app.root().canonicalize().unwrap();
    let binary = root.join(".boomhauer/build/boomhauer-app");
    let port = app.address.port().to_string();
    let words =
        [binary.to_str().unwrap(), "--env", "production", "--host", "127.0.0.1", "--port", &port, "--extra", "a b"];
    assert_eq!(lines(&app, "argv.1"), words);
    assert_eq!(lines(&app, "cwd.1"), [root.to_str().unwrap()]);
    let pairs = lines(&app, "env.1");
    let env: BTreeMap<_, _> = pairs.iter().filter_map(|pair| pair.split_once('=')).collect();
    for (name, value) in [
        ("KEPT", "yes"),
        ("ARLEN_APP_ROOT", root.to_str().unwrap()),
        ("ARLEN_HOST", "127.0.0.1"),
        ("ARLEN_PORT", &port),
        ("ARLEN_LISTEN_BACKLOG", "128"),
        ("ARLEN_CONNECTION_TIMEOUT_SECONDS", "30"),
        ("ARLEN_ENABLE_REUSEPORT", "1"),
        ("ARLEN_CLUSTER_ENABLED", "1"),
        ("ARLEN_CLUSTER_NAME", "blue"),
        ("ARLEN_CLUSTER_NODE_ID", "n1"),
        ("ARLEN_CLUSTER_EXPECTED_NODES", "3"),
        ("ARLEN_CLUSTER_OBSERVED_NODES", "3"),
        ("ARLEN_CLUSTER_EMIT_HEADERS", "1"),
        ("ARLEN_MAX_HTTP_SESSIONS", "256"),
        ("ARLEN_MAX_WEBSOCKET_SESSIONS", "256"),
        ("ARLEN_REQUEST_DISPATCH_MODE", "concurrent"),
        ("ARLEN_WORKER_ID", "1"),
        ("ARLEN_WORKER_GENERATION", "0"),
        ("ARLEN_PROPANE_PID", &manager.pid().to_string()),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    for absent in ["WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "ARLEN_FRAMEWORK_ROOT", "ARLEN_MAX_BODY_BYTES", "PORT"]
    {
        assert_eq!(env.get(absent), None, "{absent}");
    }
    assert_ne!(env.get("NOTIFY_SOCKET"), Some(&"/nowhere"), "the manager's own socket stays its own");
    manager.stop();
}

#[test]
fn once_is_passed_on_and_the_status_comes_back() {
    let app = App::new("");
    app.script(
        ".boomhauer/build/boomhauer-app",
        "#!/bin/sh\nfor word; do [ \"$word\" = --once ] && exit 7; done\nexit 1\n",
    );
    let (code, stdout, stderr) = app.run(&["--once", "--workers", "1", "--job-worker-count", "0"]);
    assert_eq!(code, 7, "{stdout}{stderr}");
}

/// A framework whose build step makes the app's server.
fn framework(app: &App, step: &str) {
    app.script("framework/build/arlen", "#!/bin/sh\n");
    app.script("framework/bin/propane", "#!/bin/sh\n");
    app.script("framework/bin/boomhauer", &format!("#!/bin/sh\n{step}\n"));
    app.write("src/app.m", "");
}

#[test]
fn an_app_with_sources_is_prepared_first() {
    let app = App::new("");
    framework(
        &app,
        "[ \"$*\" = \"--no-watch --prepare-only\" ] || exit 9\necho building\nmkdir -p $ARLEN_APP_ROOT/.boomhauer/build\n\
         printf '#!/bin/sh\\nexec sleep 1000\\n' > $ARLEN_APP_ROOT/.boomhauer/build/boomhauer-app\n\
         chmod +x $ARLEN_APP_ROOT/.boomhauer/build/boomhauer-app",
    );
    let root = app.path("framework");
    let manager = app.start(&["--framework-root", root.to_str().unwrap(), "--workers", "1"]);
    manager.wait_for("event=worker_started");
    let variable = format!("ARLEN_FRAMEWORK_ROOT={}", root.canonicalize().unwrap().display());
    // While a process execs, its environment is empty for a moment.
    eventually("the worker's environment", || {
        let environment = fs::read_to_string(format!("/proc/{}/environ", manager.children()[0])).unwrap();
        environment.contains(&variable).then_some(())
    });
    assert!(!manager.stop().contains("building"));
}

#[test]
fn a_failed_preparation_ends_the_start_with_its_status() {
    let app = App::new("");
    framework(&app, "exit 42");
    let root = app.path("framework");
    let (code, stdout, stderr) = app.run(&["--framework-root", root.to_str().unwrap()]);
    assert_eq!(code, 42, "{stdout}{stderr}");
    assert!(stderr.contains("propane: app prepare step failed; see"), "{stderr}");
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_preparation_can_be_stopped() {
    let app = App::new("");
    framework(&app, "echo $$ > pid; exec sleep 1000");
    let root = app.path("framework");
    let mut manager = app.start(&["--framework-root", root.to_str().unwrap()]);
    let pid = eventually("the step's pid", || {
        fs::read_to_string(app.path("pid")).ok().and_then(|pid| pid.trim().parse::<i32>().ok())
    });
    manager.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(manager.wait_exit().code(), Some(0));
    crate::support::wait_gone(pid);
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_preparation_ends_with_a_manager_that_is_killed() {
    let app = App::new("");
    framework(&app, "sh -c 'echo $$ > pid.new; mv pid.new pid; exec sleep 1008' & wait");
    let root = app.path("framework");
    let manager = app.start(&["--framework-root", root.to_str().unwrap()]);
    let compiler = eventually("the compiler's pid", || fs::read_to_string(app.path("pid")).ok()?.trim().parse().ok());
    manager.signal(nix::sys::signal::Signal::SIGKILL);
    crate::support::wait_gone(compiler);
}
