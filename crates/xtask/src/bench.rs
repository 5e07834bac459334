//! `cargo xtask bench`: what the manager costs and how fast it reacts, measured on the release binary.
//!
//! A machine is noisy, so medians are shown with their spread, and nothing here passes or fails.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::manager::{Manager, Outcome, build, scratch_app, spin_until};

const USAGE: &str = "\
Usage: cargo xtask bench [--seconds N]

  --seconds N  how long the idle manager is watched (default 20)
";

/// Enough for a median that holds, few enough to wait for.
const RUNS: usize = 100;
/// The default `respawnDelayMs`, and none.
const RESPAWN_DELAYS_MS: [u64; 2] = [0, 250];
/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<String> = words.collect();
    let seconds = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Some(20),
        ["--seconds", seconds] => seconds.parse().ok(),
        _ => None,
    };
    let Some(seconds) = seconds else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    match measure(Duration::from_secs(seconds)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(idle: Duration) -> Outcome<()> {
    let binary = build()?;
    let app = scratch_app()?;
    println!("binary: {} KiB", fs::metadata(&binary)?.len() / 1024);
    row("config print, whole process", &config_print(&binary, app.path())?);
    row("start to 4 workers ready", &starts(&binary, app.path())?);
    for delay in RESPAWN_DELAYS_MS {
        let name = format!("kill -9 to the replacement's exec, less respawnDelayMs = {delay}");
        row(&name, &respawns(&binary, app.path(), Duration::from_millis(delay))?);
    }
    idling(&binary, app.path(), idle)
}

/// Prints the median and the extremes of some times.
fn row(name: &str, times: &[Duration]) {
    let mut times = times.to_vec();
    times.sort_unstable();
    let millis = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    println!(
        "{name}: median {:.2} ms (min {:.2}, max {:.2}, n = {})",
        millis(times.get(times.len() / 2)),
        millis(times.first()),
        millis(times.last()),
        times.len()
    );
}

fn config_print(binary: &Path, app: &Path) -> Outcome<Vec<Duration>> {
    let run = |_| {
        let began = Instant::now();
        let mut print = Command::new(binary);
        print.args(["config", "print", "--env", "production"]).current_dir(app).stdout(Stdio::null());
        let status = print.status()?;
        if status.success() { Ok(began.elapsed()) } else { Err("config print failed".into()) }
    };
    (0..RUNS).map(run).collect()
}

fn starts(binary: &Path, app: &Path) -> Outcome<Vec<Duration>> {
    let start = |_| {
        let began = Instant::now();
        let manager = Manager::start(binary, app, &[])?;
        let took = began.elapsed();
        drop(manager);
        Ok(took)
    };
    (0..RUNS / 5).map(start).collect()
}

/// Kills workers one after the other, and takes the time until the replacement has execed, less the delay.
fn respawns(binary: &Path, app: &Path, delay: Duration) -> Outcome<Vec<Duration>> {
    let millis = delay.as_millis().to_string();
    // Without growth, because every worker here dies early.
    let manager = Manager::start(binary, app, &["--respawn-delay-ms", &millis, "--respawn-delay-max-ms", "0"])?;
    let runs = if delay.is_zero() { RUNS } else { RUNS / 5 };
    (0..runs).map(|_| Ok(respawn(&manager)?.saturating_sub(delay))).collect()
}

fn respawn(manager: &Manager) -> Outcome<Duration> {
    let before = manager.children();
    let victim = *before.first().ok_or("there is no worker")?;
    // A child that has not execed yet still has the manager's words.
    let has_execed =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| words.starts_with(b"propane\0worker\0"));
    let began = Instant::now();
    kill(Pid::from_raw(victim), Signal::SIGKILL)?;
    spin_until("a replacement", || manager.children().iter().any(|pid| !before.contains(pid) && has_execed(pid)))?;
    let took = began.elapsed();
    spin_until("four workers", || manager.children().len() == 4)?;
    Ok(took)
}

/// An idle manager: its size, and how often it wakes up. Descriptor checks, the one thing it does by the clock, are put
/// out of reach.
fn idling(binary: &Path, app: &Path, idle: Duration) -> Outcome<()> {
    let manager = Manager::start(binary, app, &["--worker-fd-check-seconds", "86400"])?;
    let switches = || manager.proc_number("status", "voluntary_ctxt_switches:");
    let before = switches();
    let began = Instant::now();
    while began.elapsed() < idle {
        std::thread::park_timeout(idle.saturating_sub(began.elapsed()));
    }
    println!("idle: {} voluntary context switches in {} s", switches() - before, idle.as_secs());
    println!(
        "memory with 4 workers: RSS {} KiB, PSS {} KiB, anonymous {} KiB",
        manager.proc_number("status", "VmRSS:"),
        manager.proc_number("smaps_rollup", "Pss:"),
        manager.proc_number("status", "RssAnon:")
    );
    Ok(())
}
