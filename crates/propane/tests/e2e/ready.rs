//! `readinessPath` with workers that share an address: each is found, asked, and asked again.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lossless::held_by;
use crate::peers::{fixture, has};
use crate::support::{App, field, pid_in};

fn boots_and_reloads(app: &App) {
    let manager = app.start_ready(&[]);
    for generation in 1..=2 {
        let end = manager.reload(generation);
        assert!(end.contains("manager_reload_completed"), "{end}\n{}", manager.diagnostics());
    }
    let log = manager.stop();
    assert!(!log.contains("worker_boot_timeout"), "{log}");
}

/// Many workers that are asked for their path, with so little time that who asks now and then, and waits for chance to
/// lead to each of them, would not find all.
fn many(count: u32, boot_seconds: u32, settings: &str) -> App {
    App::new(&format!(
        "propaneAccessories = {{ workerCount = {count}; workerBootTimeoutSeconds = {boot_seconds}; reloadOverlapSeconds = 0; \
         readinessPath = \"/readyz\"; {settings} }};"
    ))
}

#[test]
fn many_workers_with_a_slot_each_are_all_found() {
    boots_and_reloads(&many(24, 10, "socketStrategy = inherit;"));
}

#[test]
fn many_workers_with_one_socket_are_all_found() {
    // The kernel prefers some of them, so that it takes luck as well as time.
    boots_and_reloads(&many(8, 25, "socketStrategy = shared;"));
}

#[test]
fn many_workers_that_bind_by_themselves_are_all_found() {
    for strategy in ["steer", "reuseport"] {
        boots_and_reloads(&many(24, 10, &format!("socketStrategy = {strategy};")));
    }
}

#[test]
fn a_worker_that_closes_after_each_answer_is_seen_to_be_ready() {
    if has("gunicorn") {
        for command in ["gunicorn --workers 1 --bind fd://{fd}", "gunicorn --workers 1"] {
            let app = App::new(&format!(
                "host = \"{}\"; propaneAccessories = {{ workerCount = 3; reloadOverlapSeconds = 0; \
                 readinessPath = \"/\"; workerCommand = \"{command} --chdir {} app:app\"; }};",
                if command.contains("{fd}") { "127.0.0.1" } else { "unix:sock" },
                fixture("gunicorn").display()
            ));
            boots_and_reloads(&app);
        }
    }
}

#[test]
fn a_worker_that_is_not_ready_is_asked_until_it_is() {
    if !has("python3") {
        return;
    }
    for (version, keeps) in [("HTTP/1.1", true), ("HTTP/1.0", false)] {
        let app = App::new(&format!(
            "propaneAccessories = {{ workerCount = 2; readinessPath = \"/readyz\"; \
             workerCommand = \"python3 {} {{fd}} {version}\"; }};",
            fixture("moody/server.py").display()
        ));
        let manager = app.start(&[]);
        manager.wait_for_nth("asked pid=", 8);
        assert!(!manager.log().contains("event=worker_ready"), "{}", manager.log());
        app.write("open", "");
        manager.wait_for("event=manager_ready");
        let log = manager.stop();
        let asked: Vec<&str> = log.lines().filter(|line| line.starts_with("asked pid=")).collect();
        let count = |key| asked.iter().map(|line| field(line, key)).collect::<BTreeSet<_>>().len();
        assert_eq!(count("pid"), 2, "{log}");
        assert_eq!(count("port"), if keeps { 2 } else { asked.len() }, "one connection for each: {keeps}\n{log}");
    }
}

/// Those who take connections from one that leaves are not only those who are known to be ready.
#[test]
fn a_replacement_is_asked_while_another_worker_leaves() {
    if !has("python3") {
        return;
    }
    let app = App::new(&format!(
        "propaneAccessories = {{ workerCount = 1; socketStrategy = steer; readinessPath = \"/\"; respawnDelayMs = 0; \
         gracefulShutdownSeconds = 120; workerCommand = \"python3 {} {{host}} {{port}}\"; }};",
        fixture("holding/server.py").display()
    ));
    let manager = app.start_ready(&[]);
    // One after the other, so that it is known where each stands.
    for nth in [2, 3] {
        manager.signal(Signal::SIGTTIN);
        manager.wait_for_nth("event=worker_ready", nth);
    }
    let pids = [1, 2, 3].map(|nth| pid_in(&manager.wait_for_nth("event=worker_started", nth)));
    let held = held_by(pids[2], app.address);
    manager.signal(Signal::SIGTTOU);
    manager.wait_for("event=worker_turned_away");
    kill(Pid::from_raw(pids[1]), Signal::SIGKILL).unwrap();
    manager.wait_for_nth("event=worker_ready", 4);
    assert!(!manager.log().contains("event=worker_drained"), "it has not left yet\n{}", manager.log());
    drop(held);
    manager.wait_for("event=http_worker_stopped");
    manager.stop();
}

/// An event loop may keep an `io_uring` for other things: that alone does not say that it serves.
#[test]
fn a_worker_with_a_ring_is_ready_when_it_waits_for_connections() {
    if !has("python3") {
        return;
    }
    for way in ["epoll", "ring"] {
        let app = App::new(&format!(
            "propaneAccessories = {{ workerCount = 1; reloadOverlapSeconds = 0; \
             workerCommand = \"python3 {} {{fd}} {way}\"; }};",
            fixture("ring/server.py").display()
        ));
        let manager = app.start(&[]);
        manager.wait_for("rings:");
        assert_eq!(manager.found_within(Duration::from_millis(300), "event=worker_ready"), None, "{way}");
        app.write("open", "");
        assert_eq!(field(&manager.wait_for("event=worker_ready"), "proof"), "accepting", "{way}");
        manager.stop();
    }
}
