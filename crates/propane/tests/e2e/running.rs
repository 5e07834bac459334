//! `config diff --running`: what a manager runs, beside what its files say.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{App, Manager, eventually, field, is_alive, wait_gone};

const QUICK: &str = "reloadOverlapSeconds = 0; gracefulShutdownSeconds = 5;";

fn running_file(app: &App) -> PathBuf {
    app.path("tmp/propane.running.json")
}

/// The exit code and both streams of `config diff`, from a shell that knows nothing of the manager.
fn diff(app: &App, words: &[&str]) -> (i32, String, String) {
    said(app.bare(&[&["config", "diff"], words].concat()))
}

fn said(mut command: Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// The line of a key, its columns separated by one blank.
fn line(shown: &str, key: &str) -> String {
    let line = shown.lines().find(|line| line.starts_with(&format!("{key} ")));
    let line = line.unwrap_or_else(|| panic!("no {key} in\n{shown}"));
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn worker_variable(manager: &Manager, name: &str) -> Option<String> {
    let environment = fs::read_to_string(format!("/proc/{}/environ", manager.children()[0])).unwrap();
    let prefix = format!("{name}=");
    environment.split('\0').find_map(|pair| pair.strip_prefix(&prefix)).map(ToOwned::to_owned)
}

#[test]
fn edits_are_shown_until_a_reload_applies_them_and_the_rest_until_a_restart() {
    let settings = |backlog: u32, workers: u32, secret: &str| {
        format!(
            "listenBacklog = {backlog};\nsession = {{ secret = {secret}; }};\n\
             propaneAccessories = {{ workerCount = {workers}; {QUICK} }};"
        )
    };
    let app = App::new(&settings(64, 1, "hunter2"));
    let manager = app.start_ready(&[]);
    let same = (0, "no differences\n".to_owned(), String::new());
    assert_eq!(diff(&app, &["--running"]), same);

    app.configure(&settings(65, 2, "hunter3"));
    let (status, shown, told) = diff(&app, &["--running"]);
    assert_eq!((status, told.as_str()), (1, ""), "{shown}");
    assert!(shown.lines().next().unwrap().trim_start().starts_with("running (generation 0)   on disk"), "{shown}");
    for (key, expected) in [
        ("listenBacklog", "64 65 config/app.plist:2:17 needs a restart"),
        (
            "enableReusePort",
            "NO YES derived: propaneAccessories.workerCount = 2 > 1 (config/app.plist:4:38) applies on HUP, with new workers",
        ),
        ("propaneAccessories.workerCount", "1 2 config/app.plist:4:38 applies on HUP, with new workers"),
        ("session.secret", "*** *** config/app.plist:3:22 applies on HUP, with new workers (secret, changed)"),
    ] {
        assert_eq!(line(&shown, key), format!("{key} {expected}"), "{shown}");
    }
    assert!(shown.ends_with("\n4 differences\n"), "{shown}");

    assert!(manager.reload(1).contains("manager_reload_completed"));
    let (status, shown, _) = diff(&app, &["--running"]);
    assert_eq!(status, 1);
    assert!(shown.trim_start().starts_with("running (generation 1)"), "{shown}");
    assert_eq!(line(&shown, "listenBacklog"), "listenBacklog 64 65 config/app.plist:2:17 needs a restart");
    assert!(shown.ends_with("\n1 difference\n"), "{shown}");
    assert_eq!(worker_variable(&manager, "ARLEN_LISTEN_BACKLOG").as_deref(), Some("64"));

    assert!(manager.reload(2).contains("manager_reload_completed"));
    manager.wait_for_nth("event=manager_reload_needs_restart", 2);
    app.configure(&settings(64, 2, "hunter3"));
    assert_eq!(diff(&app, &["--running"]), same);
    assert!(manager.reload(3).contains("manager_reload_completed"));
    assert_eq!(diff(&app, &["--running"]), same);
    let log = manager.stop();
    assert_eq!(log.matches("event=manager_reload_needs_restart").count(), 2, "{log}");
    assert_eq!(app.control_files(), [""; 0]);
}

#[test]
fn files_are_read_with_the_manager_s_own_variables_and_flags() {
    let app = App::new(&format!("connectionTimeoutSeconds = 8; propaneAccessories = {{ workerCount = 1; {QUICK} }};"));
    let mut command = app.command(&["--connection-timeout-seconds", "9"]);
    command.env("ARLEN_PROPANE_RESPAWN_DELAY_MS", "77").env("ARLEN_PROPANE_JOB_WORKER_COUNT", "1");
    command.env("ARLEN_PROPANE_JOB_WORKER_COMMAND", "exec sleep 1000 # redis://worker:hunter2@cache/0");
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    let mut elsewhere = app.bare(&["config", "diff", "--running", "--app-root", app.root().to_str().unwrap()]);
    elsewhere.current_dir("/").env("ARLEN_PORT", "1").env("ARLEN_HOST", "192.0.2.1");
    assert_eq!(said(elsewhere), (0, "no differences\n".to_owned(), String::new()));

    // Below a flag and a variable nothing changes; beside them it does.
    app.configure("connectionTimeoutSeconds = 7; propaneAccessories = { workerCount = 1; respawnDelayMs = 5; umask = 027; reloadOverlapSeconds = 0; };");
    let (_, shown, _) = diff(&app, &["--running"]);
    assert_eq!(
        line(&shown, "propaneAccessories.umask"),
        "propaneAccessories.umask \"\" 027 config/app.plist:2:99 applies on HUP, with new workers"
    );
    assert_eq!(
        line(&shown, "propaneAccessories.gracefulShutdownSeconds"),
        "propaneAccessories.gracefulShutdownSeconds 5 10 no longer config/app.plist:2:123 applies on HUP, at once"
    );
    assert!(shown.ends_with("\n2 differences\n"), "{shown}");

    let (_, shown, _) = diff(&app, &["--running", "--respawn-delay-ms", "5"]);
    assert_eq!(
        line(&shown, "propaneAccessories.respawnDelayMs"),
        "propaneAccessories.respawnDelayMs 77 5 --respawn-delay-ms applies on HUP, at once"
    );
    let (_, shown, _) =
        diff(&app, &["--running", "--job-worker-cmd", "exec sleep 1000 # redis://worker:hunter3@cache/0"]);
    assert!(line(&shown, "propaneAccessories.jobWorkerCommand").ends_with("(secret, changed)"), "{shown}");
    let (_, shown, _) =
        diff(&app, &["--running", "--job-worker-cmd", "exec sleep 1000 # redis://worker:hunter2@cache/0"]);
    assert!(!shown.contains("jobWorkerCommand"), "{shown}");
    manager.stop();
}

#[test]
fn an_environment_s_file_that_was_not_there_before_counts() {
    let app = App::new(&format!("propaneAccessories = {{ workerCount = 1; {QUICK} }};"));
    let manager = app.start_ready(&["--env", "canary_7"]);
    assert_eq!(diff(&app, &["--running"]).0, 0);
    app.write("config/environments/canary_7.plist", "{ connectionTimeoutSeconds = 7; }\n");
    let (status, shown, _) = diff(&app, &["--running"]);
    assert_eq!(status, 1);
    assert_eq!(
        line(&shown, "connectionTimeoutSeconds"),
        "connectionTimeoutSeconds 30 7 config/environments/canary_7.plist:1:30 applies on HUP, with new workers"
    );
    assert!(manager.reload(1).contains("manager_reload_completed"));
    assert_eq!(diff(&app, &["--running"]).0, 0);
    let (status, shown, _) = diff(&app, &["--running", "--env", "production"]);
    assert_eq!(status, 1);
    assert_eq!(line(&shown, "environment"), "environment canary_7 production --env needs a restart");
    manager.stop();
}

#[test]
fn secrets_are_kept_as_hashes_that_say_nothing_to_anybody_else() {
    let settings = format!(
        "session = {{ secret = hunter2; }};\nmailer = {{ url = \"smtp://mailer:hunter2@mail/\"; }};\n\
         propaneAccessories = {{ workerCount = 1; {QUICK} }};"
    );
    let (one, two) = (App::new(&settings), App::new(&settings));
    let managers = [&one, &two].map(|app| app.start_ready(&[]));
    let documents = [&one, &two].map(|app| {
        let text = fs::read_to_string(running_file(app)).unwrap();
        assert!(!text.contains("hunter2") && text.contains("smtp://***@mail/"), "{text}");
        assert_eq!(fs::metadata(running_file(app)).unwrap().permissions().mode() & 0o777, 0o600);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    });
    let hash = |document: &serde_json::Value, key: &str| {
        let settings = document["configuration"]["settings"].as_array().unwrap().iter();
        let found = settings.clone().find(|setting| setting["key"] == key).unwrap();
        let hash = found["hash"].as_str().unwrap().to_owned();
        assert_eq!(hash.len(), 64, "{found}");
        hash
    };
    for key in ["session.secret", "mailer.url"] {
        assert_ne!(hash(&documents[0], key), hash(&documents[1], key));
    }
    assert_eq!(diff(&one, &["--running"]).0, 0);
    one.configure(&settings.replace("mailer:hunter2", "mailer:hunter3"));
    let (_, shown, _) = diff(&one, &["--running"]);
    assert_eq!(
        line(&shown, "mailer.url"),
        "mailer.url smtp://***@mail/ smtp://***@mail/ config/app.plist:3:18 applies on HUP, with new workers (secret, changed)"
    );
    let (_, json, _) = diff(&one, &["--running", "--format", "json"]);
    assert!(json.contains("\"secret\": true") && !json.contains("hunter"), "{json}");
    for manager in managers {
        manager.stop();
    }
}

#[test]
fn a_reload_that_fails_leaves_what_runs_as_it_was() {
    let program = env!("CARGO_BIN_EXE_propane");
    let settings = |workers: &str| {
        format!("propaneAccessories = {{ workerCommand = \"./worker {{fd}}\"; workerCount = {workers}; {QUICK} }};")
    };
    let app = App::new(&settings("1"));
    app.script("worker", &format!("#!/bin/sh\ntest -e broken && exit 3\nexec {program} worker\n"));
    let manager = app.start_ready(&[]);

    app.configure(&settings("many"));
    assert!(manager.reload(1).contains("manager_reload_failed"));
    let (status, shown, told) = diff(&app, &["--running"]);
    assert_eq!((status, shown.as_str()), (1, ""));
    assert!(told.contains("workerCount = many;"), "{told}");
    let last = "propane: nothing is compared until this is put right\n\
                propane: the reload to generation 1 failed (configuration); generation 0 runs on\n";
    assert!(told.ends_with(last), "{told}");
    app.configure("port = (");
    assert_eq!(diff(&app, &["--running"]).0, 2);

    app.configure(&settings("2"));
    app.write("broken", "");
    assert!(manager.reload(2).contains("manager_reload_failed"));
    let (status, shown, told) = diff(&app, &["--running"]);
    assert_eq!(status, 1);
    assert!(line(&shown, "propaneAccessories.workerCount").contains("workerCount 1 2 "), "{shown}");
    assert_eq!(told, "propane: the reload to generation 2 failed (worker_exited); generation 0 runs on\n");

    fs::remove_file(app.path("broken")).unwrap();
    assert!(manager.reload(3).contains("manager_reload_completed"));
    assert_eq!(diff(&app, &["--running"]), (0, "no differences\n".to_owned(), String::new()));

    // A command that needs other sockets cannot be rolled out at all.
    app.configure(&settings("2").replace(" {fd}", ""));
    let (status, shown, told) = diff(&app, &["--running"]);
    assert_eq!(status, 1);
    assert!(line(&shown, "propaneAccessories.workerCommand").ends_with("needs a restart"), "{shown}");
    assert!(told.contains("a HUP would be refused: the new worker command needs socketStrategy steer"), "{told}");
    manager.stop();
}

#[test]
fn a_reload_on_its_way_says_so() {
    let app = App::new(&format!("propaneAccessories = {{ workerCount = 1; {QUICK} }};"));
    let manager = app.start_ready(&[]);
    app.configure("propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 3600; };");
    manager.signal(Signal::SIGHUP);
    manager.wait_for("event=manager_reload_started");
    let told = eventually("the file to say so", || {
        let (_, _, told) = diff(&app, &["--running"]);
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(told, "propane: a reload to generation 1 is under way; until it is done, generation 0 counts\n");
    manager.stop();
}

#[test]
fn what_a_killed_manager_has_left_behind_is_not_running() {
    let app = App::new(&format!("propaneAccessories = {{ workerCount = 1; {QUICK} }};"));
    let nobody = format!("propane: no manager is running (pid file: {})\n", app.path("tmp/propane.pid").display());
    assert_eq!(diff(&app, &["--running"]), (2, String::new(), nobody.clone()));
    let mut manager = app.start_ready(&[]);
    let workers = manager.children();
    manager.signal(Signal::SIGKILL);
    manager.wait_exit();
    workers.into_iter().for_each(wait_gone);
    assert!(running_file(&app).exists() && app.path("tmp/propane.pid").exists());
    assert_eq!(diff(&app, &["--running"]), (2, String::new(), nobody));
    let manager = app.start_ready(&[]);
    assert_eq!(diff(&app, &["--running"]).0, 0);
    manager.stop();
}

#[test]
fn a_file_that_is_not_the_manager_s_is_an_error_and_no_answer() {
    let app = App::new(&format!("propaneAccessories = {{ workerCount = 1; {QUICK} }};"));
    let manager = app.start_ready(&[]);
    let sound = fs::read(running_file(&app)).unwrap();
    let later = String::from_utf8(sound.clone()).unwrap().replacen("propane-running/1", "propane-running/9", 1);
    let cases: [(&[u8], &str); 6] = [
        (b"", "is no sound propane-running/1 document (EOF while parsing a value at line 1 column 0)"),
        (&sound[..sound.len() / 2], "is no sound propane-running/1 document (EOF while parsing"),
        (b"\xff\0nonsense", "is no sound propane-running/1 document (expected value at line 1 column 1)"),
        (b"{\"format\":\"propane-running/1\"}", "is no sound propane-running/1 document (missing field"),
        (later.as_bytes(), "(its format is \"propane-running/9\")"),
        (&b"[".repeat(100_000), "is no sound propane-running/1 document ("),
    ];
    for (bytes, expected) in cases {
        fs::write(running_file(&app), bytes).unwrap();
        let (status, shown, told) = diff(&app, &["--running"]);
        assert_eq!((status, shown.as_str()), (2, ""), "{told}");
        assert!(told.contains(expected), "{told}");
        assert!(told.contains(&format!("the manager with pid {} writes it anew", manager.pid())), "{told}");
    }
    // A reload writes over all of that.
    assert!(manager.reload(1).contains("manager_reload_completed"));
    assert_eq!(diff(&app, &["--running"]).0, 0);
    fs::remove_file(running_file(&app)).unwrap();
    let (status, _, told) = diff(&app, &["--running"]);
    assert_eq!(status, 2);
    assert!(
        told.contains(&format!("the manager with pid {} has not saved its configuration", manager.pid())),
        "{told}"
    );
    app.write("secret", &String::from_utf8(sound).unwrap());
    std::os::unix::fs::symlink(app.path("secret"), running_file(&app)).unwrap();
    let (status, _, told) = diff(&app, &["--running"]);
    assert_eq!(status, 2);
    assert!(told.contains("cannot read the running configuration"), "{told}");
    manager.stop();
}

/// What needs a restart stays for new workers, too: a new port in their environment would be one that nobody listens on.
#[test]
fn new_workers_get_what_is_in_force() {
    let app = App::new("");
    let port = app.address.port();
    let settings = |host: &str, port: u16, strategy: &str| {
        format!(
            "host = \"{host}\"; port = {port}; propaneAccessories = {{ workerCount = 1; socketStrategy = {strategy}; {QUICK} }};"
        )
    };
    app.configure(&settings("127.0.0.1", port, "inherit"));
    let manager = Manager::spawn(app.bare(&[]), app.address);
    manager.wait_for("event=manager_ready");
    app.configure(&settings("127.0.0.2", port + 1, "reuseport"));
    let end = manager.reload(1);
    assert!(end.contains("manager_reload_completed"), "{end}\n{}", manager.diagnostics());
    let told = manager.wait_for("event=manager_reload_needs_restart");
    assert_eq!(field(&told, "keys"), "host,port,propaneAccessories.socketStrategy");
    for (name, expected) in [
        ("ARLEN_HOST", "127.0.0.1".to_owned()),
        ("ARLEN_PORT", port.to_string()),
        ("ARLEN_ENABLE_REUSEPORT", "0".to_owned()),
    ] {
        assert_eq!(worker_variable(&manager, name), Some(expected), "{name}");
    }
    assert_eq!(manager.get("/").0, 200);
    let (_, shown, _) = diff(&app, &["--running"]);
    let needs_restart = shown.lines().filter(|line| line.ends_with("needs a restart")).count();
    assert_eq!((needs_restart, shown.contains("\n4 differences\n")), (4, true), "{shown}");
    manager.stop();
}

/// The manager's own timings apply at once: the old worker is killed by the new grace time.
#[test]
fn the_grace_time_of_a_reload_is_the_new_one() {
    let app = App::new("");
    let settings = |seconds: u32| {
        format!(
            "propaneAccessories = {{ workerCommand = \"./stubborn {{fd}}\"; workerCount = 1; reloadOverlapSeconds = 0; \
             gracefulShutdownSeconds = {seconds}; respawnDelayMs = {}; }};",
            if seconds > 1 { 3_600_000 } else { 0 }
        )
    };
    app.configure(&settings(3600));
    let program = env!("CARGO_BIN_EXE_propane");
    app.script(
        "stubborn",
        &format!(
            "#!/bin/sh\ntrap '' TERM\nsh -c 'LISTEN_PID=$$ exec {program} worker' &\nwhile :; do sleep 1000; done\n"
        ),
    );
    let manager = app.start_ready(&[]);
    app.configure(&settings(1));
    let end = manager.reload(1);
    assert!(end.contains("manager_reload_completed") && end.contains("killed_workers=1"), "{end}");
    // And so does the delay before a worker is replaced.
    let worker = manager.children()[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), Signal::SIGKILL).unwrap();
    manager.wait_for("reason=respawn_after_exit");
    assert!(!is_alive(worker));
    manager.stop();
}
