//! Nothing is lost: through reloads, resizes, crashes and broken releases, with sockets that the manager owns.
//!
//! Small versions by default. `PROPANE_RELOADS=100 PROPANE_CLIENTS=64 PROPANE_KILL_SECONDS=30` makes them as large as the
//! promise is; what the clients have seen is printed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use propane_load::{Failure, Load, Mode, Report};

use crate::peers::{fixture, has};
use crate::support::{App, Manager, PATIENCE, eventually, field, get, pid_in};

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn reloads() -> u32 {
    number("PROPANE_RELOADS", 5)
}

/// One load at a time: each takes all the machine has.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reloads under load. Returns what the clients have seen.
pub(crate) fn reload_under_load(manager: &Manager, address: SocketAddr, mode: Mode, reloads: u32) -> Report {
    let _alone = alone();
    let clients = number("PROPANE_CLIENTS", 8) as usize;
    let load = Load::start(address, clients, mode);
    for generation in 1..=reloads {
        load.wait_for_more(30, PATIENCE).unwrap();
        let end = manager.reload(generation);
        assert!(end.contains("manager_reload_completed"), "{end}\n{}", manager.diagnostics());
    }
    load.wait_for_more(30, PATIENCE).unwrap();
    let report = load.stop();
    println!("{report}");
    report
}

const BOTH: [Mode; 2] = [Mode::NewConnections, Mode::KeepAlive];

/// An app with a worker command, or the embedded worker without one.
fn app(workers: u32, command: &str, settings: &str) -> App {
    let command = if command.is_empty() { String::new() } else { format!("workerCommand = \"{command}\";") };
    App::new(&format!(
        "propaneAccessories = {{ workerCount = {workers}; reloadOverlapSeconds = 0; {settings} {command} }};"
    ))
}

fn loses_nothing(command: &str) {
    for mode in BOTH {
        let app = app(2, command, "");
        let manager = app.start_ready(&[]);
        let report = reload_under_load(&manager, app.address, mode, reloads());
        let log = manager.stop();
        assert_eq!(report.failures(), 0, "{mode:?}\n{report}\n{log}");
        let cut = |line: &str| line.contains("event=manager_reload_completed") && field(line, "cut_connections") != "0";
        assert!(!log.lines().any(cut), "{log}");
    }
}

#[test]
fn the_embedded_worker_loses_nothing() {
    loses_nothing("");
}

#[test]
fn gunicorn_loses_nothing() {
    if has("gunicorn") {
        let app = fixture("gunicorn");
        loses_nothing(&format!("gunicorn --bind fd://{{fd}} --workers 1 --chdir {} app:app", app.display()));
    }
}

#[test]
fn node_loses_nothing() {
    if has("node") {
        loses_nothing(&format!("node {} {{fd}}", fixture("node/server.js").display()));
    }
}

#[test]
fn slots_come_and_go_without_loss() {
    let app = app(2, "", "");
    let manager = app.start_ready(&[]);
    let _alone = alone();
    for mode in BOTH {
        let before = manager.log().matches("event=manager_workers_changed").count();
        let load = Load::start(app.address, 8, mode);
        for round in 1..=5 {
            for (nth, signal) in [Signal::SIGTTIN, Signal::SIGTTOU].into_iter().enumerate() {
                let stopped = manager.log().matches("event=http_worker_stopped").count();
                manager.signal(signal);
                manager.wait_for_nth("event=manager_workers_changed", before + 2 * (round - 1) + nth + 1);
                load.wait_for_more(30, PATIENCE).unwrap();
                if signal == Signal::SIGTTOU {
                    manager.wait_for_nth("event=http_worker_stopped", stopped + 1);
                }
            }
        }
        let report = load.stop();
        assert_eq!(report.failures(), 0, "{mode:?}\n{report}\n{}", manager.log());
    }
    let log = manager.stop();
    assert!(log.contains("event=worker_drained"), "{log}");
}

#[test]
fn a_reload_to_fewer_workers_and_back_loses_nothing() {
    let settings = |count: u32| format!("propaneAccessories = {{ workerCount = {count}; reloadOverlapSeconds = 0; }};");
    let app = App::new(&settings(4));
    let manager = app.start_ready(&[]);
    let _alone = alone();
    let load = Load::start(app.address, 8, Mode::NewConnections);
    for generation in 1..=6 {
        app.configure(&settings(if generation % 2 == 1 { 1 } else { 4 }));
        load.wait_for_more(30, PATIENCE).unwrap();
        assert!(manager.reload(generation).contains("manager_reload_completed"));
    }
    load.wait_for_more(30, PATIENCE).unwrap();
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}\n{}", manager.log());
    manager.stop();
}

/// A worker that shuts its listener down on TERM, instead of closing it, ends it for its successor as well.
#[test]
fn a_listener_that_a_worker_shuts_down_listens_again() {
    if has("python3") {
        let app = app(1, "python3 -u serve.py", "socketStrategy = inherit;");
        app.write(
            "serve.py",
            "import os, signal, socket\ns = socket.socket(fileno=3)\n\
             def leave(*_):\n    s.shutdown(socket.SHUT_RDWR)\n    os._exit(0)\n\
             signal.signal(signal.SIGTERM, leave)\n\
             while True:\n    try: c, _ = s.accept()\n    except OSError: continue\n    \
             d = b''\n    while b'\\r\\n\\r\\n' not in d: d += c.recv(4096)\n    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n    c.close()\n",
        );
        let manager = app.start_ready(&[]);
        for generation in 1..=3 {
            assert!(manager.reload(generation).contains("manager_reload_completed"));
            assert_eq!(manager.get("/").0, 200);
        }
        manager.wait_for_diagnostic("it listens again");
        manager.stop();
    }
}

/// Only what is inside a killed worker is lost with it, never what waits.
#[test]
fn killed_workers_lose_what_they_were_at_and_no_more() {
    let settings = "respawnDelayMs = 0; respawnDelayMaxMs = 0;";
    let app = app(4, "", settings);
    let manager = app.start_ready(&[]);
    let _alone = alone();
    let clients = number("PROPANE_CLIENTS", 8);
    let load = Load::start(app.address, clients as usize, Mode::NewConnections);
    let end = Instant::now() + Duration::from_secs(number("PROPANE_KILL_SECONDS", 2).into());
    let mut kills = 0;
    let mut next = Instant::now();
    while Instant::now() < end {
        let children = manager.children();
        // Whoever comes first in the list has lived longest, so that all have their turn.
        if let Some(victim) = children.get(kills as usize % children.len().max(1)) {
            let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
            kills += 1;
        }
        next += Duration::from_millis(100);
        eventually("the next kill", || (Instant::now() >= next).then_some(()));
    }
    let report = load.stop();
    println!("{kills} kills\n{report}");
    let log = manager.stop();
    for never in [Failure::Connect, Failure::Timeout, Failure::BadStatus, Failure::Malformed] {
        assert_eq!(report.count(never), 0, "{kills} kills\n{report}\n{log}");
    }
    let most = u64::from(kills * clients / 4);
    assert!(report.failures() <= most, "{kills} kills\n{report}");
}

/// A connection that a worker of `testdata/workers/holding` has, and that it keeps until this is dropped.
pub(crate) fn held_by(pid: i32, address: SocketAddr) -> TcpStream {
    eventually("a connection to the worker", || {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET /hold HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
        let answer = BufReader::new(client.try_clone().unwrap()).lines().map_while(Result::ok);
        let mut head = answer.take_while(|line| !line.is_empty());
        let is_its = head.find_map(|line| Some(line.strip_prefix("X-Pid: ")? == pid.to_string())) == Some(true);
        // Who has spoken last waits for an answer, however long that takes.
        is_its.then(|| client.write_all(b"x").unwrap()).map(|()| client)
    })
}

/// While nobody serves, new connections wait for those who will, and not for somebody who is about to go.
#[test]
fn who_comes_while_nobody_serves_is_not_lost_with_a_slot_that_goes() {
    if !has("python3") {
        return;
    }
    let command = format!("python3 {} {{fd}}", fixture("holding/server.py").display());
    let app = app(2, &command, "respawnDelayMs = 1000; respawnDelayMaxMs = 1000;");
    let manager = app.start_ready(&[]);
    let pids = [1, 2].map(|nth| pid_in(&manager.wait_for_nth("event=worker_started", nth)));
    // In the slot that is to go.
    let held = held_by(pids[1], app.address);
    manager.signal(Signal::SIGTTOU);
    manager.wait_for("event=http_worker_stop_requested");
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    manager.wait_for("event=worker_exited");
    let clients = [(); 16].map(|()| {
        let address = app.address;
        std::thread::spawn(move || get(address, "/"))
    });
    manager.wait_for_nth("event=worker_ready", 3);
    drop(held);
    manager.wait_for("event=http_worker_stopped");
    for client in clients {
        assert_eq!(client.join().unwrap().unwrap().0, 200);
    }
    manager.stop();
}

/// A worker that is switched to a fault by a file.
fn switchable() -> App {
    let app = app(2, "./worker {fd}", "workerBootTimeoutSeconds = 1; reloadOverlapSeconds = 1;");
    let program = env!("CARGO_BIN_EXE_propane");
    app.script(
        "worker",
        &format!(
            "#!/bin/sh\ncase $(cat fault 2>/dev/null) in\n exit) exit 3;;\n hang) exec sleep 1000;;\n \
             die) {program} worker & pid=$!; while ! [ -e ready ]; do :; done; kill -9 $pid; exit 4;;\nesac\n\
             exec {program} worker\n"
        ),
    );
    app
}

#[test]
fn a_broken_release_touches_nobody() {
    for (fault, reason) in [("exit", "worker_exited"), ("hang", "boot_timeout"), ("die", "worker_exited")] {
        let app = switchable();
        let manager = app.start_ready(&[]);
        let before = manager.children();
        let load = Load::start(app.address, 4, Mode::NewConnections);
        load.wait_for_more(30, PATIENCE).unwrap();
        fs::write(app.path("fault"), fault).unwrap();
        manager.signal(Signal::SIGHUP);
        if fault == "die" {
            manager.wait_for_nth("event=worker_ready", 3);
            app.write("ready", "");
        }
        let end = manager.wait_for("event=manager_reload_failed");
        assert_eq!(field(&end, "reason"), reason, "{end}");
        if reason == "worker_exited" {
            assert!(["exit_3", "exit_4"].contains(&field(&end, "exit_reason")), "{end}");
        }
        load.wait_for_more(30, PATIENCE).unwrap();
        let report = load.stop();
        // The one that died in the settle time may have taken along what it was given.
        let lost = if fault == "die" { report.count(Failure::Reset) + report.count(Failure::ShortRead) } else { 0 };
        assert!(report.failures() == lost && lost <= 4, "{fault}\n{report}\n{}", manager.log());
        let left: Vec<_> = manager.children().into_iter().filter(|pid| before.contains(pid)).collect();
        assert_eq!(left, before, "{fault}");
        manager.stop();
    }
}

#[test]
fn a_storm_of_hups_ends_in_one_generation() {
    let app = app(2, "", "");
    let manager = app.start_ready(&[]);
    let _alone = alone();
    let load = Load::start(app.address, 4, Mode::NewConnections);
    let began = Instant::now();
    for nth in 1..=100 {
        manager.signal(Signal::SIGHUP);
        eventually("the next HUP", || (began.elapsed() >= Duration::from_millis(20) * nth).then_some(()));
    }
    manager.wait_for("event=manager_reload_requested");
    let status = eventually("the end of the last reload", || {
        let log = manager.log();
        let count = |event: &str| log.matches(event).count();
        let requested = log.rfind("event=manager_reload_requested")?;
        // What is requested during a reload is begun after it.
        let last = requested + log[requested..].rfind("event=manager_reload_started")?;
        log[last..].contains("event=manager_reload_completed").then(|| count("event=manager_reload_started"))
    });
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}\n{}", manager.log());
    assert!((1..=100).contains(&status));
    assert_eq!(manager.children().len(), 2);
    manager.stop();
}

#[test]
fn a_stop_wins_in_every_phase_of_a_reload() {
    for (strategy, phase) in [
        ("inherit", "event=manager_reload_requested"),
        ("inherit", "reason=reload_generation_1"),
        ("inherit", "generation=1 "),
        ("inherit", "reason=reload_retire_generation_1"),
        ("steer", "reason=reload_generation_1"),
        ("steer", "event=worker_turned_away"),
        ("steer", "event=worker_drained"),
    ] {
        if strategy == "steer" && !has("python3") {
            continue;
        }
        let command = format!("python3 {}", fixture("rude/server.py").display());
        let command = if strategy == "steer" { command.as_str() } else { "" };
        let app = app(2, command, &format!("socketStrategy = {strategy};"));
        let manager = app.start_ready(&[]);
        manager.signal(Signal::SIGHUP);
        manager.wait_for(phase);
        let children = manager.children();
        manager.stop();
        children.into_iter().for_each(crate::support::wait_gone);
    }
}
