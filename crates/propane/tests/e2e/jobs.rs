//! Job workers.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{App, children_of, eventually, pid_in, wait_gone};

fn flags(command: &str) -> [&str; 8] {
    ["--workers", "1", "--job-worker-count", "1", "--job-worker-cmd", command, "--job-worker-respawn-delay-ms", "20"]
}

#[test]
fn a_killed_job_worker_is_replaced_and_term_ends_it() {
    let app = App::new("");
    let manager = app.start_ready(&flags("sleep 30"));
    let first = pid_in(&manager.wait_for("event=async_worker_started"));
    // While a process execs, its words are empty for a moment.
    eventually("the command's words", || {
        let words = fs::read_to_string(format!("/proc/{first}/cmdline")).unwrap();
        words.replace('\0', " ").contains("sleep 30").then_some(())
    });
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    manager.wait_for("event=async_worker_exited");
    let second = manager.wait_for_nth("event=async_worker_started", 2);
    assert!(second.contains("role=async") && second.contains("reason=respawn_after_exit"), "{second}");
    let log = manager.stop();
    assert!(log.contains("event=async_worker_stopped") && log.contains("role=async_worker"), "{log}");
    assert!(log.contains("propane: async workers count=1 respawnDelayMs=20"), "{log}");
    wait_gone(pid_in(&second));
}

#[test]
fn a_signal_reaches_the_whole_command() {
    let app = App::new("");
    // The shell stays, and its children are what must be told.
    let manager = app.start_ready(&flags("sleep 1001 & sleep 1002 & wait; echo over"));
    let shell = pid_in(&manager.wait_for("event=async_worker_started"));
    let sleepers = eventually("both sleepers", || Some(children_of(shell)).filter(|pids| pids.len() == 2));
    manager.stop();
    sleepers.into_iter().for_each(wait_gone);
}

#[test]
fn a_reload_never_runs_a_job_twice() {
    let app = App::new("propaneAccessories = { reloadOverlapSeconds = 0; };");
    let command = "mkdir lock || { echo twice >> twice; exit 1; }; trap 'rmdir lock; exit 0' TERM; while :; do sleep 1 & wait $!; done";
    let manager = app.start_ready(&flags(command));
    for generation in 1..=3 {
        eventually("the job's lock", || app.path("lock").exists().then_some(()));
        let end = manager.reload(generation);
        assert!(end.contains("active_async_workers=1"), "{end}");
    }
    eventually("the job's lock", || app.path("lock").exists().then_some(()));
    let log = manager.stop();
    assert!(!app.path("twice").exists(), "{log}");
    let http = log.find("event=http_worker_stop_requested").unwrap();
    let job = log.find("event=async_worker_stop_requested").unwrap();
    assert!(http < job, "the job's turn comes after the switch of the HTTP workers");
    let started = log.match_indices("event=async_worker_started").nth(1).unwrap().0;
    let completed = log.find("event=manager_reload_completed").unwrap();
    assert!(started < completed, "a reload is over when its job workers have been started");
}

#[test]
fn the_environment_variables_of_jobs_apply() {
    let app = App::new("propaneAccessories = { workerCount = 1; jobWorkerCount = 0; jobWorkerCommand = \"\"; };");
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_JOB_WORKER_COUNT", "2").env("ARLEN_PROPANE_JOB_WORKER_COMMAND", "sleep 1000");
    let manager = crate::support::Manager::spawn(command, app.address);
    manager.wait_for_nth("event=async_worker_started", 2);
    manager.stop();
}
