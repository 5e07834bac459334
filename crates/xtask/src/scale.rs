//! `cargo xtask scale`: what a thousand workers cost the manager, beside fewer, so that growth shows.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::manager::{Manager, Outcome, build, scratch_app};
use crate::words::{misused, number_flags};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask scale [--workers N]

  --workers N  the most workers (1000); an eighth, a quarter and a half of it are measured as well

For each number: how long boot, reload, a kill of everybody and a stop take, and the manager's own processor time a
worker. It grows linearly if that last figure stays what it is. `reaction` is the longest time from a USR1 to its event
while everybody is being replaced.
";

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let [workers] = match number_flags(words, [("--workers", 1000)]) {
        Ok(numbers) => numbers,
        Err(problem) => return misused("scale", &problem, USAGE),
    };
    match measure(workers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(most: usize) -> Outcome<()> {
    let (binary, app) = (build()?, scratch_app()?);
    println!(
        "workers | boot ms | reload ms | kill all ms | stop ms | manager's CPU us a worker and step | reaction ms"
    );
    for workers in [most / 8, most / 4, most / 2, most].into_iter().filter(|workers| *workers > 0) {
        let row = Row::measure(&binary, app.path(), workers)?;
        println!("{row}");
    }
    Ok(())
}

struct Row {
    workers: usize,
    boot: Duration,
    reload: Duration,
    kill_all: Duration,
    stop: Duration,
    cpu: Duration,
    reaction: Duration,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let steps = u32::try_from(self.workers * 3).unwrap_or(u32::MAX);
        write!(
            f,
            "{:7} | {:7.0} | {:9.0} | {:11.0} | {:7.0} | {:34.0} | {:11.1}",
            self.workers,
            millis(self.boot),
            millis(self.reload),
            millis(self.kill_all),
            millis(self.stop),
            (self.cpu / steps).as_secs_f64() * 1e6,
            millis(self.reaction),
        )
    }
}

impl Row {
    /// Boot, reload and the kill of everybody start each worker once: three steps.
    fn measure(binary: &std::path::Path, app: &std::path::Path, workers: usize) -> Outcome<Self> {
        let count = workers.to_string();
        let flags = [
            ["--workers", &count],
            ["--respawn-delay-ms", "0"],
            ["--reload-overlap-seconds", "0"],
            ["--graceful-shutdown-seconds", "60"],
            ["--worker-fd-check-seconds", "86400"],
        ];
        let began = Instant::now();
        let mut manager = Manager::start(binary, app, &flags.concat())?;
        let boot = began.elapsed();
        let reload = timed(|| {
            manager.signal(Signal::SIGHUP)?;
            manager.wait_for("event=manager_reload_completed", 1)
        })?;
        manager.forget_log();
        let mut reaction = Duration::ZERO;
        let kill_all = timed(|| {
            for child in manager.children() {
                kill(Pid::from_raw(child), Signal::SIGKILL)?;
            }
            while manager.count("event=worker_ready") < workers {
                reaction = reaction.max(react(&mut manager)?);
            }
            Ok(())
        })?;
        let cpu = manager.cpu();
        let stop = timed(|| manager.stop())?;
        Ok(Self { workers, boot, reload, kill_all, stop, cpu, reaction })
    }
}

/// How long a USR1 takes to show.
fn react(manager: &mut Manager) -> Outcome<Duration> {
    let told = manager.count("event=manager_log_reopened");
    timed(|| {
        manager.signal(Signal::SIGUSR1)?;
        manager.wait_for("event=manager_log_reopened", told + 1)
    })
}

fn timed(act: impl FnOnce() -> Outcome<()>) -> Outcome<Duration> {
    let began = Instant::now();
    act()?;
    Ok(began.elapsed())
}
