//! TERM, INT, QUIT: a stop ends.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::support::{App, Manager, eventually, field};

/// Workers that do not care for TERM, and leave a file when that is so.
const DEAF: &str = "propaneAccessories = { workerCount = 2; gracefulShutdownSeconds = 1; workerCommand = \"sh -c 'trap \\\"\\\" TERM; echo > up.$ARLEN_WORKER_ID; while :; do sleep 1000 & wait; done' {fd}\"; workerBootTimeoutSeconds = 600; };";

/// Starts deaf workers, and waits until they are.
fn start_deaf(app: &App) -> Manager {
    let manager = app.start(&[]);
    for up in ["up.0", "up.1"] {
        eventually(up, || app.path(up).exists().then_some(()));
    }
    manager
}

#[test]
fn who_ignores_term_is_killed_after_the_grace_time() {
    let app = App::new(DEAF);
    let mut manager = start_deaf(&app);
    let began = Instant::now();
    manager.signal(Signal::SIGTERM);
    assert_eq!(manager.wait_exit().code(), Some(0), "the end of the grace time is an orderly end");
    assert!(began.elapsed().as_millis() >= 1000, "the grace time was given");
    let kill = manager.wait_for("signal=KILL");
    assert_eq!(field(&kill, "reason"), "signal_term_grace_timeout");
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_second_term_and_quit_are_immediate() {
    for (first, second) in
        [(Signal::SIGTERM, Some(Signal::SIGTERM)), (Signal::SIGINT, Some(Signal::SIGINT)), (Signal::SIGQUIT, None)]
    {
        let app = App::new(&DEAF.replace("gracefulShutdownSeconds = 1", "gracefulShutdownSeconds = 600"));
        let mut manager = start_deaf(&app);
        manager.signal(first);
        manager.wait_for("event=manager_stopping");
        if let Some(second) = second {
            manager.signal(second);
        }
        assert_eq!(manager.wait_exit().code(), Some(0), "{first:?} {second:?}");
        assert_eq!(manager.log().matches("event=http_worker_stopped").count(), 2);
    }
}

#[test]
fn term_during_a_reload_wins() {
    let app = App::new("propaneAccessories = { workerCount = 2; reloadOverlapSeconds = 600; };");
    let mut manager = app.start_ready(&[]);
    manager.signal(Signal::SIGHUP);
    manager.wait_for_nth("event=worker_ready", 4);
    manager.signal(Signal::SIGTERM);
    assert_eq!(manager.wait_exit().code(), Some(0));
    let failed = manager.wait_for("event=manager_reload_failed");
    assert_eq!(field(&failed, "reason"), "shutdown");
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn term_right_after_the_start_is_not_lost() {
    for _ in 0..10 {
        let app = App::new("propaneAccessories = { workerCount = 4; };");
        let mut manager = app.start(&[]);
        manager.wait_for("event=manager_started");
        manager.signal(Signal::SIGTERM);
        assert_eq!(manager.wait_exit().code(), Some(0), "{}", manager.diagnostics());
        assert_eq!(app.control_files(), Vec::<String>::new());
    }
}

#[test]
fn the_drain_goes_on_serving() {
    let app = App::new("propaneAccessories = { workerCount = 1; shutdownDrainSeconds = 1; };");
    let mut manager = app.start_ready(&[]);
    let began = Instant::now();
    manager.signal(Signal::SIGTERM);
    manager.wait_for("event=manager_shutdown_requested");
    assert_eq!(manager.get("/").0, 200);
    assert_eq!(manager.wait_exit().code(), Some(0));
    assert!(began.elapsed().as_millis() >= 1000);
}
