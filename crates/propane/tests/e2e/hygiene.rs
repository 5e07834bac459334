//! What a worker gets, and what it does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::{App, Manager, eventually, notify_socket};

fn status_field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

fn descriptors(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut fds: Vec<i32> = entries.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    fds.sort_unstable();
    fds
}

#[test]
fn a_worker_holds_its_own_descriptors_only_and_has_clean_signals() {
    let app = App::new("propaneAccessories = { workerCount = 2; workerCommand = \"./worker {fd}\"; };");
    let program = env!("CARGO_BIN_EXE_propane");
    // A stray descriptor and ignored signals, as a careless parent leaves them.
    let mut command = std::process::Command::new("sh");
    let line = format!("trap '' HUP USR2 PIPE; exec 7</dev/zero; exec {program} --port {}", app.address.port());
    command.args(["-c", &line]).current_dir(app.root());
    app.script("worker", "#!/bin/sh\nexec sleep 1000\n");
    let manager = Manager::spawn(command, app.address);
    manager.wait_for_nth("event=worker_started", 2);
    for pid in manager.children() {
        eventually("the last exec", || {
            fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep").then_some(())
        });
    }
    for pid in manager.children() {
        // Not at once: the loader of the program just executed may still have a library open.
        eventually("its own descriptors only", || (descriptors(pid) == [0, 1, 2, 3]).then_some(()));
        let target = |fd: i32| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().display().to_string();
        assert_eq!(target(0), "/dev/null");
        assert!(target(3).starts_with("socket:["));
        for name in ["SigBlk", "SigIgn", "SigCgt"] {
            assert_eq!(u64::from_str_radix(&status_field(pid, name), 16).unwrap(), 0, "{name}");
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let group = stat.rsplit_once(") ").unwrap().1.split(' ').nth(2).unwrap().to_owned();
        assert_eq!(group, pid.to_string(), "a process group of its own");
        let limits = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            text.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned()
        };
        assert_eq!(
            limits(pid),
            limits(std::process::id().cast_signed()),
            "the limit that the manager was started with"
        );
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(environment.contains(&format!("LISTEN_PID={pid}\0")) && environment.contains("LISTEN_FDS=1\0"));
    }
    manager.stop();
}

#[test]
fn a_warden_holds_nothing_that_anybody_could_wait_for_and_takes_no_signal() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    let warden = manager.warden();
    // It takes its name before it looks at what it was given, and closes what it has read in between.
    eventually("its start", || {
        let comm = fs::read_to_string(format!("/proc/{warden}/comm")).unwrap();
        (comm == "propane\n" && descriptors(warden) == [0, 1, 2, 3, 4]).then_some(())
    });
    let target = |fd: i32| fs::read_link(format!("/proc/{warden}/fd/{fd}")).unwrap().display().to_string();
    for fd in descriptors(warden) {
        let expected = match fd {
            0 => "anon_inode:[pidfd]",
            1 => "/dev/null",
            2 => "pipe:[",
            _ => "/memfd:propane-state",
        };
        assert!(target(fd).starts_with(expected), "{fd}: {}", target(fd));
    }
    assert!(fs::read(format!("/proc/{warden}/environ")).unwrap().is_empty());
    assert_eq!(fs::read_link(format!("/proc/{warden}/cwd")).unwrap(), std::path::Path::new("/"));
    let stat = fs::read_to_string(format!("/proc/{warden}/stat")).unwrap();
    let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, warden.to_string(), "a session of its own");
    let blocked = u64::from_str_radix(&status_field(warden, "SigBlk"), 16).unwrap();
    for signal in nix::sys::signal::Signal::iterator() {
        let can_be = !["SIGKILL", "SIGSTOP"].contains(&signal.as_str());
        assert_eq!(blocked >> (signal as i32 - 1) & 1 == 1, can_be, "{signal}");
    }
    manager.stop();
}

#[test]
fn files_have_the_modes_that_are_promised() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    let mode = |name: &str| fs::metadata(app.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("tmp/propane.pid") & !0o22, 0o644);
    assert_eq!(mode("tmp/propane.state.json"), 0o600);
    manager.stop();
}

#[test]
fn a_command_gets_its_placeholders_and_the_usual_variables() {
    let app = App::new(
        "propaneAccessories = { workerCount = 1; umask = 027; workerCommand = \"./worker {host} {port} {env} {fd} {slot} {other} '{port}0'\"; };",
    );
    app.script(
        "worker",
        "#!/bin/sh\necho \"$@\" $HOST $PORT $(umask) > words.new; mv words.new words; exec sleep 1000\n",
    );
    let manager = app.start(&[]);
    let words = eventually("words", || fs::read_to_string(app.path("words")).ok());
    let port = app.address.port();
    assert_eq!(words, format!("127.0.0.1 {port} production 3 0 {{other}} {port}0 127.0.0.1 {port} 0027\n"));
    manager.stop();
}

#[test]
fn workers_can_run_as_somebody_else() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can run workers as another user");
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; runAsUser = nobody; };");
    fs::set_permissions(app.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let manager = app.start_ready(&[]);
    let worker = manager.children()[0];
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let (uid, gid) = (nobody.uid.to_string(), nobody.gid.to_string());
    assert_eq!(status_field(worker, "Uid"), [uid.as_str(); 4].join("\t"));
    assert_eq!(status_field(worker, "Gid"), [gid.as_str(); 4].join("\t"));
    assert_eq!(status_field(worker, "Groups"), gid);
    let socket = notify_socket(worker);
    let (file, directory) = (fs::metadata(&socket).unwrap(), fs::metadata(socket.parent().unwrap()).unwrap());
    assert_eq!((file.uid(), directory.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()), "its socket is open to it");
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

/// A free port that is root's.
fn roots_port() -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (600..1024).rev().find(is_free).unwrap()
}

#[test]
fn a_port_of_roots_is_served_by_workers_that_are_nobody() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if !nix::unistd::Uid::effective().is_root() || first.trim() != "1024" {
        eprintln!("skipped: needs root, and ports that are root's");
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 2; runAsUser = nobody; };");
    fs::set_permissions(app.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let port = roots_port();
    let mut command = app.command(&[]);
    command.args(["--port", &port.to_string()]);
    let manager = Manager::spawn(command, ([127, 0, 0, 1], port).into());
    manager.wait_for("event=manager_ready");
    assert_eq!(manager.get("/").0, 200);
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.to_string();
    assert!(manager.children().iter().all(|pid| status_field(*pid, "Uid").starts_with(&nobody)));
    manager.stop();
    // Workers that bind by themselves could never have it, and are not even tried.
    let flags = ["--worker-cmd", "./server", "--socket-strategy", "steer", "--port", &port.to_string()];
    let (code, stdout, stderr) = app.run(&flags);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("ports below 1024 are root's; put {fd} into workerCommand"), "{stderr}");
    assert!(!stdout.contains("worker_started"), "{stdout}");
}

#[test]
fn secrets_of_the_command_line_are_not_in_a_workers() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", "exec sleep 1000 # hunter2"]);
    let worker = crate::support::pid_in(&manager.wait_for("event=worker_ready"));
    let words = fs::read_to_string(format!("/proc/{worker}/cmdline")).unwrap();
    assert!(words.contains("--port") && !words.contains("hunter2"), "{words}");
    let log = manager.log() + &manager.diagnostics();
    assert!(!log.contains("hunter2"), "{log}");
    manager.stop();
}
