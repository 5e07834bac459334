//! `cargo xtask bench`: what the manager costs and how fast it reacts, measured on the release binary.
//!
//! A machine is noisy, so medians are shown with their spread, and nothing here passes or fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const USAGE: &str = "\
Usage: cargo xtask bench [--seconds N]

  --seconds N  how long the idle manager is watched (default 20)
";

/// Enough for a median that holds, few enough to wait for.
const RUNS: usize = 100;
/// The default `respawnDelayMs`, and none.
const RESPAWN_DELAYS_MS: [u64; 2] = [0, 250];
/// What is measured is at most this much longer than it shows.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);
/// No wait here is anywhere near as long.
const PATIENCE: Duration = Duration::from_secs(30);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

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
    let app = tempfile::tempdir()?;
    fs::create_dir_all(app.path().join("config/environments"))?;
    fs::write(app.path().join("config/app.plist"), "{ propaneAccessories = { workerCount = 4; }; }\n")?;
    fs::write(app.path().join("config/environments/production.plist"), "{}\n")?;
    println!("binary: {} KiB", fs::metadata(&binary)?.len() / 1024);
    row("config print, whole process", &config_print(&binary, app.path())?);
    row("start to 4 workers ready", &starts(&binary, app.path())?);
    for delay in RESPAWN_DELAYS_MS {
        let name = format!("kill -9 to the replacement's exec, less respawnDelayMs = {delay}");
        row(&name, &respawns(&binary, app.path(), Duration::from_millis(delay))?);
    }
    idling(&binary, app.path(), idle)
}

fn build() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo).args(["build", "--quiet", "--release", "--package", "propane"]).status()?;
    if !built.success() {
        return Err("the release binary cannot be built".into());
    }
    let metadata = Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let target = metadata["target_directory"].as_str().ok_or("cargo names no target directory")?;
    Ok(Path::new(target).join("release/propane"))
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

/// A manager that is stopped when it goes out of scope.
struct Manager {
    child: Child,
    log: PathBuf,
}

impl Manager {
    fn start(binary: &Path, app: &Path, flags: &[&str]) -> Outcome<Self> {
        let log = app.join("lifecycle.log");
        // Absent before the first start.
        let _ = fs::remove_file(&log);
        let port = propane_load::free_port().to_string();
        let child = Command::new(binary)
            .args(["--env", "production", "--port", &port])
            .args(flags)
            .current_dir(app)
            .env("ARLEN_PROPANE_LIFECYCLE_LOG", &log)
            .stdout(Stdio::null())
            .spawn()?;
        let manager = Self { child, log };
        spin_until("the boot", || manager.has_logged("event=manager_ready"))?;
        Ok(manager)
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn has_logged(&self, text: &str) -> bool {
        fs::read_to_string(&self.log).is_ok_and(|log| log.contains(text))
    }

    fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    fn proc_number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // It is this process's child and not reaped yet, so the pid is its own.
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn spin_until(what: &str, condition: impl Fn() -> bool) -> Outcome<()> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > PATIENCE {
            return Err(format!("waited in vain for {what}").into());
        }
        // A look into /proc takes the very locks that a spawn needs.
        std::thread::park_timeout(LOOK_INTERVAL);
    }
    Ok(())
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
