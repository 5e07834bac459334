//! `socketStrategy = steer`: workers that bind by themselves and know nothing of it leave without losing a connection.
//!
//! The worker is `testdata/workers/rude`: it closes and exits on TERM, whatever waits for it.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use propane_load::{Failure, Load, Mode};

use crate::lossless::{alone, reload_under_load, reloads};
use crate::peers::{fixture, has};
use crate::support::{App, Manager, PATIENCE, eventually, field, get, is_alive, pid_in, wait_gone};

/// An app whose workers are rude, and take `delay_ms` for a request.
fn rude(strategy: &str, delay_ms: u32, settings: &str) -> App {
    let server = fixture("rude/server.py");
    App::new(&format!(
        "propaneAccessories = {{ socketStrategy = {strategy}; reloadOverlapSeconds = 0; {settings} \
         workerCommand = \"python3 {} {{host}} {{port}} {delay_ms}\"; }};",
        server.display()
    ))
}

fn loses_nothing(app: &App, manager: Manager, mode: Mode) {
    let report = reload_under_load(&manager, app.address, mode, reloads());
    let diagnostics = manager.diagnostics();
    let log = manager.stop();
    assert_eq!(report.failures(), 0, "{report}\n{log}");
    assert_eq!(diagnostics, "", "nothing to complain of");
    assert!(
        log.lines()
            .filter(|line| line.contains("event=manager_reload_completed"))
            .all(|end| field(end, "killed_workers") == "0"),
        "{log}"
    );
    assert!(log.contains("event=worker_turned_away") && log.contains("event=worker_drained"), "{log}");
}

#[test]
fn a_rude_worker_loses_nothing() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 4;");
        loses_nothing(&app, app.start_ready(&[]), Mode::NewConnections);
    }
}

#[test]
fn requests_in_flight_are_finished_first() {
    if has("python3") {
        let app = rude("steer", 200, "workerCount = 2;");
        loses_nothing(&app, app.start_ready(&[]), Mode::NewConnections);
    }
}

#[test]
fn a_single_worker_loses_nothing() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 1;");
        loses_nothing(&app, app.start_ready(&[]), Mode::NewConnections);
    }
}

/// What a worker leaves behind may go on listening: nobody is to be sent there, neither while the rest of its group has its
/// grace time, nor to a descendant that has gone its own way.
#[test]
fn who_goes_on_listening_for_a_worker_that_has_left_is_given_nobody() {
    if !has("python3") {
        return;
    }
    for child in ["env RUDE_DEAF=1", "setsid"] {
        let app = rude("steer", 2, "workerCount = 2; gracefulShutdownSeconds = 600;");
        let server = format!("python3 {} \"$@\"", fixture("rude/server.py").display());
        app.script("worker", &format!("#!/bin/sh\n{child} {server} &\nexec sleep 1010\n"));
        let manager = app.start_ready(&["--worker-cmd", "./worker {host} {port} 2"]);
        manager.signal(Signal::SIGHUP);
        wait_gone(pid_in(&manager.wait_for("event=http_worker_stop_requested")));
        for _ in 0..20 {
            assert_eq!(manager.get("/").0, 200, "{child}\n{}", manager.log());
        }
        manager.signal(Signal::SIGQUIT);
    }
}

/// A manager that is ready, whose workers have this variable.
fn start_with(app: &App, variable: &str, value: &str) -> Manager {
    let mut command = app.command(&[]);
    command.env(variable, value);
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    manager
}

/// Which worker answers.
fn who_answers(address: SocketAddr) -> i32 {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().find_map(|line| line.strip_prefix("X-Pid: ")).unwrap().parse().unwrap()
}

#[test]
fn who_joins_while_somebody_takes_his_time_to_leave_is_given_connections() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 2; gracefulShutdownSeconds = 600;");
        let manager = start_with(&app, "RUDE_DEAF", "1");
        manager.signal(Signal::SIGTTOU);
        let leaves = pid_in(&manager.wait_for("event=http_worker_stop_requested"));
        manager.signal(Signal::SIGTTIN);
        let joins = pid_in(&manager.wait_for_nth("event=worker_ready", 3));
        eventually("an answer of the new one", || (who_answers(app.address) == joins).then_some(()));
        assert!(is_alive(leaves), "it takes its time");
        manager.signal(Signal::SIGQUIT);
    }
}

/// Workers that have booted at the same moment can be told apart all the same.
#[test]
fn fewer_workers_right_after_the_boot_lose_nothing() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 6;");
        let manager = app.start_ready(&[]);
        let _alone = alone();
        let load = Load::start(app.address, 8, Mode::NewConnections);
        for nth in 1..=4 {
            load.wait_for_more(30, PATIENCE).unwrap();
            manager.signal(Signal::SIGTTOU);
            manager.wait_for_nth("event=http_worker_stopped", nth);
        }
        load.wait_for_more(30, PATIENCE).unwrap();
        let report = load.stop();
        assert_eq!(report.failures(), 0, "{report}\n{}", manager.log());
        assert_eq!(manager.diagnostics(), "", "it is known who stands where");
        manager.stop();
    }
}

#[test]
fn an_address_of_ipv6_is_steered_as_well() {
    if has("python3") {
        let mut app = rude("steer", 2, "workerCount = 3;");
        app.address = SocketAddr::from((Ipv6Addr::LOCALHOST, app.address.port()));
        let manager = app.start_ready(&["--host", "::1"]);
        loses_nothing(&app, manager, Mode::NewConnections);
    }
}

#[test]
fn every_listener_of_a_worker_is_steered() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 2;");
        let manager = start_with(&app, "RUDE_ALSO", "::1");
        let also = SocketAddr::from((Ipv6Addr::LOCALHOST, app.address.port()));
        let load = Load::start(also, 4, Mode::NewConnections);
        let report = reload_under_load(&manager, app.address, Mode::NewConnections, reloads());
        let also = load.stop();
        assert!(also.ok > 30, "{also}");
        assert_eq!((report.failures(), also.failures()), (0, 0), "{report}\n{also}\n{}", manager.log());
        manager.stop();
    }
}

/// A crash takes its own queue along, and must not take anything from those who drain, or close the port.
#[test]
fn crashes_in_the_middle_of_reloads_cost_no_more_than_crashes() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 4; respawnDelayMs = 0; respawnDelayMaxMs = 0;");
        let manager = app.start_ready(&[]);
        let _alone = alone();
        let clients = 8;
        let load = Load::start(app.address, clients, Mode::NewConnections);
        let mut kills = 0;
        for generation in 1..=reloads() {
            load.wait_for_more(30, PATIENCE).unwrap();
            manager.signal(Signal::SIGHUP);
            let turned = manager.log().matches("event=worker_turned_away").count();
            manager.wait_for(&format!("reason=reload_generation_{generation} "));
            // Now an old worker, now a new one, now at boot, now in the drain.
            if generation % 2 == 0 {
                manager.wait_for_nth("event=worker_turned_away", turned + 1);
            }
            let children = manager.children();
            let victim = if generation % 3 == 0 { children.first() } else { children.last() };
            if let Some(victim) = victim {
                kills += u64::from(kill(Pid::from_raw(*victim), Signal::SIGKILL).is_ok());
            }
            let end = format!("manager_pid={} generation={generation} ", manager.pid());
            eventually("the end of the reload", || {
                let log = manager.log();
                log.lines()
                    .any(|line| {
                        line.contains("event=manager_reload_") && !line.contains("_started") && line.contains(&end)
                    })
                    .then_some(())
            });
        }
        load.wait_for_more(30, PATIENCE).unwrap();
        let report = load.stop();
        println!("{kills} kills\n{report}");
        let log = manager.stop();
        for never in [Failure::Timeout, Failure::BadStatus, Failure::Malformed, Failure::Connect] {
            assert_eq!(report.count(never), 0, "{report}\n{log}");
        }
        assert!(report.failures() <= kills * clients as u64, "{kills} kills\n{report}\n{log}");
    }
}

#[test]
fn batches_lose_nothing() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 3; reloadMaxSurge = 1;");
        loses_nothing(&app, app.start_ready(&[]), Mode::NewConnections);
    }
}

/// The command of a manager that is nobody, and may do nothing that nobody may not.
fn unprivileged(app: &App) -> Option<Command> {
    let command = app.command(&[]);
    if !Uid::effective().is_root() {
        return Some(command);
    }
    if !has("setpriv") {
        return None;
    }
    for directory in [app.root().to_owned(), app.path("config")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    nobody.arg(command.get_program()).args(command.get_args()).current_dir(app.root());
    Some(nobody)
}

#[test]
fn nothing_of_it_needs_a_capability() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 3;");
        let Some(command) = unprivileged(&app) else { return };
        let manager = Manager::spawn(command, app.address);
        manager.wait_for("event=manager_ready");
        loses_nothing(&app, manager, Mode::NewConnections);
    }
}

#[test]
fn where_sockets_cannot_be_borrowed_it_says_so_and_goes_on() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 2;");
        let Some(mut command) = unprivileged(&app) else { return };
        command.env("RUDE_UNDUMPABLE", "1");
        let manager = Manager::spawn(command, app.address);
        let event = manager.wait_for("event=socket_strategy_changed");
        assert!(event.contains("from=steer to=reuseport reason=\"cannot borrow a socket"), "{event}");
        for generation in 1..=2 {
            assert!(manager.reload(generation).contains("manager_reload_completed"));
        }
        assert_eq!(manager.diagnostics().matches("reuseport is used instead").count(), 1, "once is enough");
        let log = manager.stop();
        assert!(!log.contains("worker_turned_away"), "{log}");
    }
}

/// As in a container: root, but without the capability to look at another user's processes.
#[test]
fn workers_of_another_user_serve_although_nothing_of_them_can_be_seen() {
    let python = "/usr/bin/python3";
    if Uid::effective().is_root() && has(python) && has("setpriv") {
        let app = App::new(&format!(
            "propaneAccessories = {{ workerCount = 2; runAsUser = nobody; workerCommand = \"{python} serve.py {{host}} {{port}}\"; }};"
        ));
        app.script("serve.py", &fs::read_to_string(fixture("rude/server.py")).unwrap());
        fs::set_permissions(app.root(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", env!("CARGO_BIN_EXE_propane")]);
        command.args(app.command(&[]).get_args()).current_dir(app.root());
        let manager = Manager::spawn(command, app.address);
        let event = manager.wait_for("event=socket_strategy_changed");
        assert!(event.contains("run propane as that user, or give it CAP_SYS_PTRACE"), "{event}");
        assert!(manager.wait_for("event=worker_ready").contains("proof=unproven"));
        assert!(manager.reload(1).contains("manager_reload_completed"));
        assert_eq!(get(app.address, "/").unwrap().0, 200);
        manager.stop();
    }
}

#[test]
fn plain_reuseport_loses_what_steering_saves() {
    if has("python3") {
        let app = rude("reuseport", 2, "workerCount = 4;");
        let manager = app.start_ready(&[]);
        let _alone = alone();
        let load = Load::start(app.address, 64, Mode::NewConnections);
        // As many as it takes: usually the first loses dozens.
        for generation in 1..=20 {
            load.wait_for_more(100, PATIENCE).unwrap();
            assert!(manager.reload(generation).contains("manager_reload_completed"));
            if load.failed() > 0 {
                break;
            }
        }
        let report = load.stop();
        assert!(report.count(Failure::Reset) + report.count(Failure::ShortRead) > 0, "{report}");
        manager.stop();
    }
}

#[test]
fn kept_connections_are_cut_between_requests_or_counted() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 2; gracefulShutdownSeconds = 1;");
        let manager = app.start_ready(&[]);
        let report = reload_under_load(&manager, app.address, Mode::KeepAlive, 2);
        assert_eq!(report.failures(), 0, "{report}");
        let log = manager.stop();
        // Clients that ask again and again are in use until the end of the grace time.
        assert!(log.contains("event=worker_drain_timeout"), "{log}");
        let end = log.lines().find(|line| line.contains("event=manager_reload_completed")).unwrap();
        assert_ne!(field(end, "cut_connections"), "0", "{end}");
    }
}

#[test]
fn a_stranger_on_the_port_is_not_steered_around() {
    if has("python3") {
        let app = rude("steer", 2, "workerCount = 2;");
        let manager = app.start_ready(&[]);
        let port = app.address.port().to_string();
        let mut stranger = Command::new("python3");
        stranger.arg(fixture("rude/server.py")).args(["127.0.0.1", &port]).stdout(std::process::Stdio::piped());
        let mut stranger = stranger.spawn().unwrap();
        let mut line = [0; 4];
        std::io::Read::read_exact(stranger.stdout.as_mut().unwrap(), &mut line).unwrap();
        let end = manager.reload(1);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(end.contains("manager_reload_completed"), "{end}");
        manager.wait_for_diagnostic(&format!("pid {}, which is no worker, listens on the port as well", stranger.id()));
        assert_eq!(get(app.address, "/").unwrap().0, 200);
        manager.stop();
    }
}

/// A program that is left over by a killed manager points to listeners that live, or nowhere, which means the kernel's
/// own choice.
#[test]
fn a_program_that_is_left_over_closes_nothing() {
    if has("python3") {
        // A request that takes long holds the drain, and so the program, in place.
        let app = rude("steer", 3_000, "workerCount = 3;");
        let manager = start_with(&app, "RUDE_OUTLIVES", "1");
        let old = manager.children();
        let asked: Vec<_> = (0..24)
            .map(|_| {
                let mut stream = std::net::TcpStream::connect(app.address).unwrap();
                std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                stream
            })
            .collect();
        manager.signal(Signal::SIGHUP);
        manager.wait_for_nth("event=worker_turned_away", 3);
        let all = manager.children();
        // Its warden would end them.
        kill(Pid::from_raw(manager.warden()), Signal::SIGKILL).unwrap();
        manager.wait_for_diagnostic("the warden has ended");
        manager.signal(Signal::SIGKILL);
        eventually("the end of the manager", || (!is_alive(manager.pid())).then_some(()));
        drop(asked);
        // All of the new ones but one, then the old ones: whoever is left is found.
        let new: Vec<i32> = all.iter().copied().filter(|pid| !old.contains(pid)).collect();
        assert_eq!((old.len(), new.len()), (3, 3));
        let mut left = all;
        for victims in [&new[1..], &old[..2], &new[..1]] {
            for pid in victims {
                kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
                crate::support::wait_gone(*pid);
                left.retain(|other| other != pid);
            }
            let asking: Vec<_> = (0..12)
                .map(|_| {
                    std::thread::spawn({
                        let address = app.address;
                        move || get(address, "/").map(|answer| answer.0)
                    })
                })
                .collect();
            for answer in asking {
                assert_eq!(answer.join().unwrap().unwrap(), 200, "{left:?} are left");
            }
        }
        for pid in left {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    }
}

#[test]
fn a_stop_in_the_middle_of_a_drain_waits_for_nobody_who_cannot_finish() {
    if has("python3") {
        let app = rude("steer", 20_000, "workerCount = 2; gracefulShutdownSeconds = 60;");
        let manager = app.start_ready(&[]);
        let mut stream = std::net::TcpStream::connect(app.address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        manager.signal(Signal::SIGHUP);
        manager.wait_for("event=worker_drained");
        let log = manager.stop();
        assert!(log.contains("event=manager_reload_failed"), "{log}");
    }
}

#[test]
fn a_worker_that_dies_while_it_drains_is_no_obstacle() {
    if has("python3") {
        let app = rude("steer", 20_000, "workerCount = 2;");
        let manager = app.start_ready(&[]);
        let mut stream = std::net::TcpStream::connect(app.address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        manager.signal(Signal::SIGHUP);
        let busy = manager.wait_for("event=worker_turned_away");
        manager.wait_for_nth("event=worker_turned_away", 2);
        let drained = manager.wait_for("event=worker_drained");
        let old = manager
            .log()
            .lines()
            .filter(|line| line.contains("event=worker_turned_away"))
            .map(pid_in)
            .collect::<Vec<_>>();
        let busy = old.into_iter().find(|pid| *pid != pid_in(&drained)).unwrap_or_else(|| pid_in(&busy));
        kill(Pid::from_raw(busy), Signal::SIGKILL).unwrap();
        manager.wait_for("event=manager_reload_completed");
        manager.stop();
    }
}
