//! What an operator fears.

use std::fs;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peers::has;
use crate::support::{App, Manager, children_of, eventually, is_alive, wait_gone, warden_of};

/// Half a second is promised, and some milliseconds are what it takes (they are printed); a busy machine may take longer
/// to let anybody run at all.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Waits until a job has written the pids of `count` processes.
fn pids(app: &App, count: usize) -> Vec<i32> {
    eventually("everybody's pid", || {
        let text = fs::read_to_string(app.path("pids")).unwrap_or_default();
        let pids: Vec<i32> = text.split_terminator('\n').map(|pid| pid.parse().unwrap()).collect();
        (pids.len() == count && text.ends_with('\n')).then_some(pids)
    })
}

#[test]
fn a_killed_manager_leaves_nobody_wherever_they_have_gone() {
    // The shell of each job and what it starts write their pids.
    let jobs = [
        ("behind a shell", "echo $$ >> pids; sh -c 'echo $$ >> pids; exec sleep 1001' & wait"),
        (
            "deaf, and behind one that is deaf",
            "trap '' TERM HUP INT; echo $$ >> pids; sh -c 'sh -c \"echo \\$\\$ >> pids; exec sleep 1002\" & wait' & wait",
        ),
        (
            "a daemon in a session of its own",
            "echo $$ >> pids; setsid sh -c '(sh -c \"echo \\$\\$ >> pids; exec sleep 1003\" &)'; exec sleep 1003",
        ),
        (
            "a daemon without an environment",
            "echo $$ >> pids; (setsid env -i sh -c 'echo $$ >> pids; exec sleep 1004' &); exec sleep 1004",
        ),
        ("stopped", "echo $$ >> pids; setsid sh -c 'echo $$ >> pids; kill -STOP $$' & wait"),
    ];
    for (what, job) in jobs {
        let app = App::new("propaneAccessories = { workerCount = 1; };");
        let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", job]);
        let (pids, warden) = (pids(&app, 2), manager.warden());
        manager.signal(Signal::SIGKILL);
        let began = Instant::now();
        pids.into_iter().chain([warden]).for_each(wait_gone);
        let took = began.elapsed();
        println!("{what}: nobody left after {} ms", took.as_millis());
        assert!(took < GONE_WITHIN, "{what}: {took:?}");
        manager.wait_for_diagnostic("its warden has killed what was left");
    }
}

#[test]
fn a_worker_that_no_longer_dies_with_its_manager_is_killed_by_its_warden() {
    if !has("python3") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; workerCommand = \"python3 worker.py {fd}\"; };");
    app.write(
        "worker.py",
        "import ctypes, os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
         assert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0\n\
         open('pids', 'w').write(f'{os.getpid()}\\n')\nwhile True: time.sleep(1000)\n",
    );
    let manager = app.start(&[]);
    let worker = pids(&app, 1)[0];
    manager.signal(Signal::SIGKILL);
    wait_gone(worker);
    manager.wait_for_warden_to_tell_of(worker);
}

#[test]
fn the_next_start_clears_what_a_manager_leaves_that_is_killed_with_its_warden() {
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", "sleep 1001 & wait"]);
    let job = crate::support::pid_in(&manager.wait_for("event=async_worker_started"));
    let children = manager.children();
    assert_eq!(children.len(), 3);
    let grandchild = eventually("the job's child", || children_of(job).first().copied());
    let warden = manager.warden();
    kill(Pid::from_raw(warden), Signal::SIGKILL).unwrap();
    manager.wait_for_diagnostic("the warden has ended");
    manager.signal(Signal::SIGKILL);
    children.into_iter().for_each(wait_gone);
    assert!(crate::support::is_alive(grandchild), "no parent death signal reaches a grandchild");
    let next = app.start_ready(&[]);
    wait_gone(grandchild);
    next.wait_for_diagnostic(&format!("killed pid {grandchild}"));
    next.stop();
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_manager_without_its_warden_works_and_says_once_what_that_means() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    kill(Pid::from_raw(manager.warden()), Signal::SIGKILL).unwrap();
    let told = manager.wait_for_diagnostic("the warden has ended");
    assert!(told.contains("lives on until the next start"), "{told}");
    kill(Pid::from_raw(manager.children()[0]), Signal::SIGKILL).unwrap();
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.diagnostics().matches("the warden").count(), 1, "{}", manager.diagnostics());
    manager.stop();
}

#[test]
fn a_warden_is_no_child_of_its_manager_and_ends_with_it() {
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    let manager = app.start_ready(&[]);
    let warden = manager.warden();
    assert_eq!(manager.children().len(), 2, "workers and nobody else");
    assert!(!manager.children().contains(&warden));
    // A stopped one is no exception.
    kill(Pid::from_raw(warden), Signal::SIGSTOP).unwrap();
    let (pid, log) = (manager.pid(), manager.stop());
    assert!(!crate::support::is_alive(warden) && warden_of(pid).is_none(), "{log}");
}

#[test]
fn a_start_that_fails_leaves_no_warden() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let _taken = std::net::TcpListener::bind(app.address).unwrap();
    let child = app.command(&[]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().cast_signed();
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("already in use") || told.contains("taken"), "{told}");
    assert_eq!(warden_of(pid), None);
}

#[test]
fn a_warden_cannot_be_started_by_hand() {
    let app = App::new("");
    for words in [&["warden"][..], &["warden", "1"], &["warden", "--help"]] {
        let output = app.bare(words).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {told}");
        assert!(told.starts_with("propane: a manager starts its warden by itself"), "{words:?}: {told}");
    }
    let help = app.bare(&["--help"]).output().unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("warden"));
}

#[test]
fn copies_that_collide_on_the_port_are_told_how_to_share_it() {
    if !has("python3") {
        return;
    }
    let app = App::new(
        "propaneAccessories = { workerCount = 2; respawnDelayMs = 0; respawnDelayMaxMs = 200; workerCommand = \"python3 -u serve.py\"; };",
    );
    app.write(
        "serve.py",
        "import os, socket\ns = socket.socket()\ns.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n\
         s.bind((os.environ['HOST'], int(os.environ['PORT'])))\ns.listen()\nwhile True: s.accept()\n",
    );
    let manager = app.start(&[]);
    let told = manager.wait_for_diagnostic("the workers collide on");
    assert!(told.contains("{fd}") && told.contains("SO_REUSEPORT"), "{told}");
    manager.wait_for("event=worker_port_collision");
    manager.wait_for_nth("event=worker_exited", 4);
    assert_eq!(manager.diagnostics().matches("collide").count(), 1, "once is enough");
    manager.stop();
}

#[test]
fn a_worker_that_goes_into_the_background_is_told_of() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 20; };");
    app.script("start", "#!/bin/sh\nsetsid sleep 1012 &\n");
    let manager = app.start(&["--worker-cmd", "./start {fd}"]);
    let told = manager.wait_for_diagnostic("stay in the foreground");
    let left = told.split_once("has left pid ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    manager.wait_for_nth("event=worker_exited", 3);
    manager.stop();
    wait_gone(left);
}

#[test]
fn a_reader_that_does_not_read_stalls_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 0; };");
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "lifecycle.log");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    drop(command);
    let events = |text: &str| fs::read_to_string(app.path("lifecycle.log")).unwrap_or_default().matches(text).count();
    eventually("the boot", || (events("event=manager_ready") == 1).then_some(()));
    // More than a pipe holds: TTIN writes a few hundred bytes each time.
    for count in 1..=400 {
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTTOU).unwrap();
        eventually("the resize", || (events("event=manager_workers_changed") >= count).then_some(()));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let status = eventually("the exit", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(text.lines().all(|line| line.starts_with("propane")), "whole lines only");
}

#[test]
fn a_closed_stdout_is_survived() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "lifecycle.log");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut child = command.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    drop((command, reader));
    eventually("the boot", || {
        fs::read_to_string(app.path("lifecycle.log")).ok().filter(|log| log.contains("event=manager_ready"))
    });
    assert_eq!(crate::support::get(app.address, "/").unwrap().0, 200);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(eventually("the exit", || child.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn notify_sockets_that_were_cleaned_away_are_made_anew() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let mut command = app.command(&[]);
    let temporary = app.path("tempdir");
    fs::create_dir(&temporary).unwrap();
    command.env("TMPDIR", &temporary);
    let manager = crate::support::Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    for entry in fs::read_dir(&temporary).unwrap().flatten() {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    kill(Pid::from_raw(manager.children()[0]), Signal::SIGKILL).unwrap();
    let ready = manager.wait_for_nth("event=worker_ready", 2);
    let socket = crate::support::notify_socket(crate::support::pid_in(&ready));
    assert!(socket.starts_with(&temporary) && socket.exists(), "{}", socket.display());
    manager.stop();
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn a_descendant_that_went_its_own_way_ends_with_the_manager() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let job = "setsid sh -c 'echo $$ > own.new; mv own.new own; exec sleep 1004' & exec sleep 1005";
    let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", job]);
    let own = eventually("its pid", || fs::read_to_string(app.path("own")).ok()?.trim().parse().ok());
    manager.stop();
    wait_gone(own);
}

#[test]
fn whoever_was_there_before_the_manager_outlives_its_end() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    // A start script with a sidecar, and with another one that leaves a child to the manager.
    let script = "sh -c 'echo $$ >> pids; exec sleep 1006' > /dev/null 2>&1 & \
                  (sh -c 'echo $$ >> pids; exec sleep 1007' & read x < go) > /dev/null 2>&1 & \
                  exec \"$@\"";
    assert!(Command::new("mkfifo").arg(app.path("go")).status().unwrap().success());
    let job = "setsid sh -c 'echo $$ > own.new; mv own.new own; exec sleep 1008' & exec sleep 1009";
    let propane = app.command(&["--job-worker-count", "1", "--job-worker-cmd", job]);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(propane.get_program()).args(propane.get_args());
    command.current_dir(app.root()).stdin(Stdio::null());
    for (name, _) in propane.get_envs() {
        command.env_remove(name);
    }
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    let others = pids(&app, 2);
    app.write("go", "\n");
    let own = eventually("its pid", || fs::read_to_string(app.path("own")).ok()?.trim().parse().ok());
    eventually("the adoption", || others.iter().all(|pid| manager.children().contains(pid)).then_some(()));
    manager.stop();
    wait_gone(own);
    for pid in others {
        assert!(is_alive(pid), "pid {pid} has nothing to do with the manager");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_gone(pid);
    }
}

#[test]
fn orphans_of_workers_are_reaped() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    // A grandchild that has left the group, whose parent is gone, and that ends when it is told to.
    let job = "(setsid sh -c 'echo $$ > stray; read x < go; kill -36 $$' &); exec sleep 1000";
    assert!(std::process::Command::new("mkfifo").arg(app.path("go")).status().unwrap().success());
    let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", job]);
    let stray: i32 = eventually("a stray", || fs::read_to_string(app.path("stray")).ok()?.trim().parse().ok());
    eventually("its adoption", || manager.children().contains(&stray).then_some(()));
    app.write("go", "\n");
    eventually("the reaping", || (!manager.children().contains(&stray)).then_some(()));
    manager.stop();
}

#[test]
fn a_lingering_group_gets_its_grace_time_and_no_more() {
    let app = App::new("propaneAccessories = { workerCount = 1; gracefulShutdownSeconds = 1; };");
    let job = "(trap '' TERM; echo > ready; sleep 1003) & wait";
    let manager = app.start_ready(&["--job-worker-count", "1", "--job-worker-cmd", job]);
    let shell = crate::support::pid_in(&manager.wait_for("event=async_worker_started"));
    eventually("the trap", || app.path("ready").exists().then_some(()));
    let deaf = children_of(shell)[0];
    let log = manager.stop();
    assert!(log.contains("signal=KILL reason=signal_term_grace_timeout"), "{log}");
    wait_gone(deaf);
}

#[test]
fn a_watchdog_replaces_a_worker_that_hangs() {
    let app = App::new("propaneAccessories = { workerCount = 1; workerTimeoutSeconds = 1; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    let worker = manager.children()[0];
    // A worker that was stopped before its first heartbeat is not watched: it goes on, and is stopped again.
    let line = eventually("a watchdog timeout", || {
        kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
        let line = manager.found_within(Duration::from_secs(5), "event=worker_watchdog_timeout");
        if line.is_none() {
            kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
        }
        line
    });
    assert_eq!(crate::support::pid_in(&line), worker);
    manager.wait_for("reason=respawn_after_exit");
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn descriptor_pressure_is_reported_and_the_worker_recycled() {
    let app = App::new(
        "propaneAccessories = { workerCount = 1; workerFDRetireCount = 3; workerFDCheckSeconds = 1; reloadOverlapSeconds = 0; };",
    );
    let manager = app.start_ready(&[]);
    let request = manager.wait_for("event=worker_fd_pressure_retire_requested");
    for key in
        ["role", "pid", "reason", "fd_count", "fd_soft_limit", "fd_usage_percent", "fd_remaining", "top_fd_targets"]
    {
        crate::support::field(&request, key);
    }
    assert!(request.contains("reason=fd_count_threshold"), "{request}");
    let start = manager.wait_for("reason=respawn_after_fd_pressure");
    let stop = manager.wait_for("reason=fd_pressure_retire");
    assert_ne!(crate::support::pid_in(&start), crate::support::pid_in(&stop));
    manager.stop();
}

/// What logs every program that is executed, from `/etc/ld.so.preload` say, may need more stack than a child has.
#[test]
fn a_preloaded_library_that_wraps_execve_breaks_nothing() {
    if !has("cc") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    app.write(
        "wrap.c",
        "#include <string.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int execve(const char *path, char *const argv[], char *const env[]) {\n\
         volatile char line[65536];\n\
         memset((char *)line, 65, sizeof line);\n\
         return syscall(SYS_execve, path, argv, env);\n}\n",
    );
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o", "wrap.so", "wrap.c"]).current_dir(app.root()).status();
    assert!(built.unwrap().success());
    let mut command = app.command(&[]);
    command.env("LD_PRELOAD", app.path("wrap.so"));
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    assert!(manager.reload(1).contains("manager_reload_completed"));
    manager.stop();
}
