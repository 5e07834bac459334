//! What keeps a manager from starting, and that nothing is left then.

use std::net::TcpListener;

use crate::support::{App, Manager, get};

fn refused(app: &App, flags: &[&str], code: i32, text: &str) {
    let (got, stdout, stderr) = app.run(flags);
    assert_eq!(got, code, "{flags:?}\n{stdout}\n{stderr}");
    assert!(stderr.contains(text), "{text:?} in {stderr}");
    assert!(!stdout.contains("event=worker_started"), "{stdout}");
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn usage_and_configuration_errors_exit_2() {
    let app = App::new("");
    for (flags, text) in [
        (&["--worker", "3"][..], "--workers"),
        (&["--port", "http"], "--port"),
        (&["--port", "70000"], "65535"),
        (&["--workers", "0"], "workerCount"),
        (&["--workers"], "--workers"),
        (&["--env", "prodution"], "production"),
        (&["--env", "../../etc/x"], "environment"),
        (&["--job-worker-count", "2"], "--job-worker-count requires --job-worker-cmd"),
        (&["--worker-cmd", "'unclosed"], "workerCommand"),
    ] {
        refused(&app, flags, 2, text);
    }
    app.configure("port = 3000\n  host = x;");
    refused(&app, &[], 2, "config/app.plist:2:");
    std::fs::remove_file(app.path("config/app.plist")).unwrap();
    refused(&app, &[], 2, "--app-root");
}

#[test]
fn troubles_of_the_world_exit_1() {
    let app = App::new("");
    refused(&app, &["--app-root", "/no/such/root"], 1, "/no/such/root");
    refused(&app, &["--host", "192.0.2.1"], 1, "192.0.2.1");
    refused(&app, &["--worker-cmd", "no-such-program"], 1, "no-such-program is not found in PATH");
    refused(&app, &["--worker-cmd", "./public/index.html"], 1, "is not an executable file");
    nix::unistd::mkfifo(&app.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let unread = app.command(&[]).env("ARLEN_PROPANE_LIFECYCLE_LOG", app.path("fifo")).output().unwrap();
    assert_eq!(unread.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unread.stderr).contains("nobody reads that FIFO"), "{unread:?}");
    app.script("ported", "#!/no/such/interpreter\r\n");
    refused(
        &app,
        &["--worker-cmd", "./ported"],
        1,
        "the interpreter that its first line names, or its loader, is missing",
    );
    app.script("bare", "exec sleep 1000\n");
    refused(&app, &["--worker-cmd", "./bare"], 1, "nor a script with a first line such as #!/bin/sh");
    if !nix::unistd::Uid::effective().is_root() {
        refused(&app, &["--run-as-user", "root"], 1, "root");
    }
    refused(&app, &["--run-as-user", "no-such-user"], 1, "user");
}

#[test]
fn a_taken_port_is_found_before_any_worker_is_spawned() {
    let app = App::new("");
    let _foreign = TcpListener::bind(app.address).unwrap();
    let owner = format!("pid {}", std::process::id());
    let text = format!("address {} is already in use by {owner}", app.address);
    for strategy in ["inherit", "shared", "reuseport"] {
        refused(&app, &["--socket-strategy", strategy], 1, &text);
    }
}

#[test]
fn a_second_manager_is_told_of_the_first_and_harms_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    let (code, stdout, stderr) = app.run(&[]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let pid_file = app.root().canonicalize().unwrap().join("tmp/propane.pid");
    let expected = format!("propane: already running with pid {} (pid file: {})", manager.pid(), pid_file.display());
    assert!(stderr.contains(&expected), "{expected} in {stderr}");
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn of_two_managers_started_at_once_one_wins() {
    for _ in 0..100 {
        let app = App::new("propaneAccessories = { workerCount = 1; };");
        let mut managers = [app.start(&[]), app.start(&[])];
        let codes = managers.each_mut().map(|manager| {
            crate::support::eventually("a winner and a loser", || {
                if manager.log().contains("event=manager_ready") { Some(None) } else { manager.try_exit().map(Some) }
            })
        });
        assert!(matches!(codes, [None, Some(1)] | [Some(1), None]), "{codes:?}");
        assert_eq!(get(app.address, "/").unwrap().0, 200);
    }
}

#[test]
fn managers_with_pid_files_side_by_side_leave_each_other_alone() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let other = App::new("propaneAccessories = { workerCount = 1; };");
    let pid_files = ["tmp/web.1", "tmp/web.2"].map(|name| app.path(name).to_str().unwrap().to_owned());
    let first = app.start_ready(&["--pid-file", &pid_files[0]]);
    let second = other.start_ready(&["--pid-file", &pid_files[1]]);
    assert_eq!((first.get("/").0, second.get("/").0), (200, 200));
    assert!(!first.log().contains("event=worker_exited"), "{}", first.log());
    first.stop();
    second.stop();
}

#[test]
fn a_manager_whose_pid_file_was_cleaned_away_is_found_all_the_same() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    std::fs::remove_file(app.path("tmp/propane.pid")).unwrap();
    let (code, _, stderr) = app.run(&[]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&format!("already running with pid {}", manager.pid())), "{stderr}");
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn a_stale_pid_file_is_no_obstacle() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    app.write("tmp/propane.pid", "1\n");
    let manager = app.start_ready(&[]);
    manager.stop();
}

#[test]
fn the_start_limit_ends_what_never_worked() {
    let app = App::new(
        "propaneAccessories = { workerCount = 1; respawnDelayMs = 0; startLimitBurst = 3; workerCommand = \"/bin/false\"; };",
    );
    let mut manager: Manager = app.start(&[]);
    assert_eq!(manager.wait_exit().code(), Some(1));
    manager.wait_for("reason=start_limit");
    assert_eq!(manager.log().matches("event=worker_exited").count(), 3);
    assert_eq!(app.control_files(), Vec::<String>::new());
}
