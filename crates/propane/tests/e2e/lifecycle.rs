//! The main story: boot, crash, resize, rotate, stop.

use std::fs;
use std::os::unix::net::UnixDatagram;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{App, Manager, PATIENCE, eventually, field, is_alive, pid_in, wait_gone};

#[test]
fn four_workers_serve_and_nothing_is_left_after_term() {
    let app = App::new("");
    let manager = app.start_ready(&[]);
    let workers = manager.children();
    assert_eq!(workers.len(), 4);
    assert_eq!(manager.get("/"), (200, "<h1>hello</h1>\n".to_owned()));
    assert_eq!(manager.get("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(fs::read_to_string(app.path("tmp/propane.pid")).unwrap(), format!("{}\n", manager.pid()));
    let log = manager.stop();
    for token in ["http_worker_stop_requested", "role=http_worker", "reason=signal_term", "exit_code=0"] {
        assert!(log.contains(token), "{token} in {log}");
    }
    assert!(log.lines().last().unwrap().contains("event=manager_stopped"), "{log}");
    assert_eq!(app.control_files(), Vec::<String>::new());
    assert!(workers.into_iter().all(|pid| !is_alive(pid)));
}

#[test]
fn a_killed_worker_is_replaced_in_its_slot() {
    let app = App::new("propaneAccessories = { workerCount = 2; respawnDelayMs = 20; };");
    let manager = app.start_ready(&[]);
    let victim = manager.children()[0];
    kill(Pid::from_raw(victim), Signal::SIGKILL).unwrap();
    let exit = manager.wait_for("event=worker_exited");
    assert_eq!(pid_in(&exit), victim);
    assert_eq!(
        ["role", "status", "exit_reason", "restart_action", "respawn_in_ms"].map(|key| field(&exit, key)),
        ["http", "137", "signal_9", "respawn", "20"]
    );
    let start = manager.wait_for("reason=respawn_after_exit");
    assert_eq!(field(&start, "slot"), field(&exit, "slot"));
    manager.wait_for_nth("event=worker_ready", 3);
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn a_worker_that_dies_of_a_real_time_signal_is_replaced_too() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    let pid = manager.children()[0].to_string();
    assert!(std::process::Command::new("kill").args(["-35", &pid]).status().unwrap().success());
    let exit = manager.wait_for("event=worker_exited");
    assert_eq!((field(&exit, "status"), field(&exit, "exit_reason")), ("163", "signal_35"));
    manager.wait_for_nth("event=worker_ready", 2);
    manager.stop();
}

#[test]
fn a_readiness_path_is_asked_of_each_worker_through_crash_and_reload() {
    let app = App::new(
        "propaneAccessories = { workerCount = 3; respawnDelayMs = 0; reloadOverlapSeconds = 0; readinessPath = \"/readyz\"; };",
    );
    let manager = app.start_ready(&[]);
    kill(Pid::from_raw(manager.children()[0]), Signal::SIGKILL).unwrap();
    manager.wait_for_nth("event=worker_ready", 4);
    assert!(manager.reload(1).contains("manager_reload_completed"), "{}", manager.log());
    manager.stop();
}

#[test]
fn a_manager_started_with_blocked_signals_hears_them() {
    use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
    let app = App::new("propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 0; };");
    let mut command = app.command(&[]);
    let block = || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?);
    #[expect(unsafe_code, reason = "sets the mask of the child and nothing else, which is a single system call")]
    // SAFETY: sigprocmask is async-signal-safe (`signal-safety(7)`).
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, block);
    }
    let manager = crate::support::Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    assert!(manager.reload(1).contains("manager_reload_completed"));
    manager.stop();
}

#[test]
fn a_clean_exit_is_replaced_as_well() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    kill(Pid::from_raw(manager.children()[0]), Signal::SIGTERM).unwrap();
    let exit = manager.wait_for("event=worker_exited");
    assert_eq!((field(&exit, "exit_reason"), field(&exit, "restart_action")), ("exit_0", "respawn"));
    manager.wait_for("reason=respawn_after_exit");
    manager.stop();
}

#[test]
fn a_worker_that_dies_at_once_is_respawned_with_growing_delay() {
    let app =
        App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; workerCommand = \"/bin/false\"; };");
    let manager = app.start(&[]);
    manager.wait_for_nth("event=worker_exited", 4);
    let log = manager.log();
    let delays: Vec<u64> = log
        .lines()
        .filter(|line| line.contains("event=worker_exited"))
        .map(|line| field(line, "respawn_in_ms").parse().unwrap())
        .collect();
    assert_eq!(delays[0], 0, "the first crash is replaced after exactly respawnDelayMs");
    for (delay, expected) in delays[1..4].iter().zip([100, 200, 400]) {
        assert!((expected * 8 / 10..=expected * 12 / 10).contains(delay), "{delays:?}");
    }
    manager.stop();
}

#[test]
fn ttin_and_ttou_change_the_number_of_workers_but_never_to_none() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    manager.signal(Signal::SIGTTIN);
    manager.wait_for("event=manager_workers_changed");
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.children().len(), 2);
    for count in 1..=2 {
        manager.signal(Signal::SIGTTOU);
        manager.wait_for_nth("to=1", count);
    }
    let stopped = manager.wait_for("event=http_worker_stopped");
    assert_eq!(field(&stopped, "reason"), "scale_down");
    assert_eq!(field(&stopped, "slot"), "1");
    assert_eq!(manager.get("/").0, 200);
    assert_eq!(manager.children().len(), 1);
    manager.stop();
}

#[test]
fn usr1_opens_the_lifecycle_log_again() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "log/lifecycle.log");
    let manager = crate::support::Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    let (log, rotated) = (app.path("log/lifecycle.log"), app.path("log/lifecycle.log.1"));
    fs::rename(&log, &rotated).unwrap();
    manager.signal(Signal::SIGUSR1);
    manager.wait_for("event=manager_log_reopened");
    manager.stop();
    let (old, new) = (fs::read_to_string(rotated).unwrap(), fs::read_to_string(log).unwrap());
    assert!(old.contains("event=manager_started") && !old.contains("event=manager_stopped"), "{old}");
    assert!(new.starts_with("propane:lifecycle event=manager_log_reopened"), "{new}");
    assert!(new.trim_end().lines().last().unwrap().contains("event=manager_stopped"), "{new}");
}

#[test]
fn the_log_is_appended_to_and_holds_events_only() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    for _ in 0..2 {
        let mut command = app.command(&[]);
        command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "lifecycle.log");
        let manager = crate::support::Manager::spawn(command, app.address);
        manager.wait_for("event=manager_ready");
        manager.stop();
    }
    let text = fs::read_to_string(app.path("lifecycle.log")).unwrap();
    assert_eq!(text.matches("event=manager_started").count(), 2);
    assert!(text.lines().all(|line| line.starts_with("propane:lifecycle event=")), "{text}");
}

#[test]
fn once_ends_with_the_first_workers_status() {
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    let mut manager = app.start_ready(&["--once"]);
    let workers = manager.children();
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).unwrap();
    assert_eq!(manager.wait_exit().code(), Some(137));
    let line = manager.wait_for("event=manager_shutdown_requested");
    assert!(line.contains("signal=internal reason=once_mode_worker_exit exit_status=137"), "{line}");
    wait_gone(workers[1]);
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn no_respawn_goes_on_until_no_worker_is_left() {
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    let mut manager = app.start_ready(&["--no-respawn"]);
    let workers = manager.children();
    kill(Pid::from_raw(workers[0]), Signal::SIGKILL).unwrap();
    let exit = manager.wait_for("event=worker_exited");
    assert_eq!(field(&exit, "restart_action"), "none");
    for _ in 0..20 {
        assert_eq!(manager.get("/").0, 200, "the other one serves on, and nobody waits for the dead one");
    }
    kill(Pid::from_raw(workers[1]), Signal::SIGINT).unwrap();
    assert_eq!(manager.wait_exit().code(), Some(0));
    manager.wait_for("reason=workers_exhausted_no_respawn");
}

#[test]
fn print_routes_is_the_workers_own_answer() {
    let app = App::new("");
    let (code, stdout, stderr) = app.run(&["--print-routes"]);
    assert_eq!(code, 0, "{stderr}");
    let started = stdout.lines().position(|line| line.contains("event=manager_started")).unwrap();
    let routes: Vec<_> = stdout.lines().skip(started + 1).collect();
    assert!(routes.iter().any(|line| line.contains("/healthz")), "{stdout}");
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_manager_started_under_nohup_still_reloads() {
    let app = App::new("propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 0; };");
    let program = env!("CARGO_BIN_EXE_propane");
    let mut command = std::process::Command::new("nohup");
    command.arg(program).args(["--port", &app.address.port().to_string()]).current_dir(app.root());
    let manager = crate::support::Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    assert!(manager.reload(1).contains("manager_reload_completed"));
    manager.stop();
}

#[test]
fn a_stopped_worker_gets_its_term_too() {
    let app = App::new("propaneAccessories = { workerCount = 1; gracefulShutdownSeconds = 60; };");
    let manager = app.start_ready(&[]);
    let worker = manager.children()[0];
    kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
    eventually("the stopped state", || {
        let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
        stat.contains(") T ").then_some(())
    });
    let log = manager.stop();
    assert!(log.contains("exit_reason=exit_0 reason=signal_term"), "{log}");
}

/// A datagram socket as a service manager has it, and what it hears in order.
struct ServiceManager {
    socket: UnixDatagram,
    app: App,
}

impl ServiceManager {
    fn new(settings: &str) -> Self {
        let app = App::new(settings);
        let socket = UnixDatagram::bind(app.path("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, app }
    }

    fn start(&self) -> Manager {
        let mut command = self.app.command(&[]);
        command.env("NOTIFY_SOCKET", self.app.path("notify"));
        Manager::spawn(command, self.app.address)
    }

    /// The next message, without the time in it.
    fn hear(&self) -> String {
        let mut room = [0; 1024];
        let length = self.socket.recv(&mut room).expect("a message of the manager's");
        let text = str::from_utf8(&room[..length]).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with("MONOTONIC_USEC="));
        lines.collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_service_manager_hears_of_the_start_of_reloads_also_of_refused_ones_and_of_the_stop() {
    let service_manager = ServiceManager::new("propaneAccessories = { workerCount = 2; reloadOverlapSeconds = 0; };");
    let mut manager = service_manager.start();
    assert_eq!(service_manager.hear(), "READY=1 STATUS=2 workers are ready");
    manager.signal(Signal::SIGHUP);
    assert_eq!(service_manager.hear(), "RELOADING=1 STATUS=reload 1");
    assert_eq!(service_manager.hear(), "READY=1 STATUS=reload 1 is done, 2 workers are ready");
    service_manager.app.configure("propaneAccessories = { workerCount = \"many\"; };");
    manager.signal(Signal::SIGHUP);
    assert_eq!(service_manager.hear(), "RELOADING=1");
    assert_eq!(service_manager.hear(), "READY=1 STATUS=reload 2 failed (configuration); the old workers go on");
    manager.signal(Signal::SIGTERM);
    assert_eq!(service_manager.hear(), "STOPPING=1 STATUS=stopping");
    assert!(manager.wait_exit().success());
}
