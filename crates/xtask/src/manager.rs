//! A manager of the release binary, driven and watched from outside by the tasks that measure.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What is measured is at most this much longer than it shows.
const LOOK_INTERVAL: Duration = Duration::from_micros(50);
/// No wait here is anywhere near as long.
const PATIENCE: Duration = Duration::from_mins(2);

/// Builds the release binary and returns its path.
pub(crate) fn build() -> Outcome<PathBuf> {
    release(&["--package", "propane"], "propane")
}

/// Builds the worker that supervisors run in comparisons, and returns its path.
pub(crate) fn build_worker() -> Outcome<PathBuf> {
    release(&["--package", "xtask", "--example", "bench_worker"], "examples/bench_worker")
}

/// Builds something for release, which is then to be found under this path.
pub(crate) fn release(what: &[&str], path: &str) -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(&cargo).args(["build", "--quiet", "--release"]).args(what).status()?;
    if !built.success() {
        return Err(format!("{path} cannot be built for release").into());
    }
    let metadata = Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout)?;
    let target = metadata["target_directory"].as_str().ok_or("cargo names no target directory")?;
    Ok(Path::new(target).join("release").join(path))
}

/// An app root that is served by four embedded workers unless flags say otherwise.
pub(crate) fn scratch_app() -> Outcome<tempfile::TempDir> {
    let app = tempfile::tempdir()?;
    fs::create_dir_all(app.path().join("config/environments"))?;
    fs::write(app.path().join("config/app.plist"), "{ propaneAccessories = { workerCount = 4; }; }\n")?;
    fs::write(app.path().join("config/environments/production.plist"), "{}\n")?;
    Ok(app)
}

/// The lifecycle log, read as it grows.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    text: String,
}

impl Log {
    fn read(&mut self) -> &str {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            // What cannot be read now is read next time; a wait for it ends with its patience.
            let _ = file.read_to_string(&mut self.text);
        }
        &self.text
    }
}

/// A manager that is stopped when it goes out of scope.
#[derive(Debug)]
pub(crate) struct Manager {
    child: Child,
    log: Log,
}

impl Manager {
    /// Starts one and waits until all its workers are ready.
    pub(crate) fn start(binary: &Path, app: &Path, flags: &[&str]) -> Outcome<Self> {
        let path = app.join("lifecycle.log");
        // Absent before the first start.
        let _ = fs::remove_file(&path);
        let port = propane_load::free_port().to_string();
        let child = Command::new(binary)
            .args(["--env", "production", "--port", &port])
            .args(flags)
            .current_dir(app)
            .env("ARLEN_PROPANE_LIFECYCLE_LOG", &path)
            .stdout(Stdio::null())
            .spawn()?;
        let mut manager = Self { child, log: Log { path, file: None, text: String::new() } };
        manager.wait_for("event=manager_ready", 1)?;
        Ok(manager)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// How many times `text` stands in the lifecycle log.
    pub(crate) fn count(&mut self, text: &str) -> usize {
        self.log.read().matches(text).count()
    }

    /// Waits until the lifecycle log has `text` that many times.
    pub(crate) fn wait_for(&mut self, text: &str, times: usize) -> Outcome<()> {
        spin_until(text, || self.count(text) >= times)
    }

    /// Forgets the log so far, so that looking at it stays cheap.
    pub(crate) fn forget_log(&mut self) {
        self.log.read();
        self.log.text.clear();
    }

    pub(crate) fn signal(&self, signal: Signal) -> Outcome<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    pub(crate) fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    pub(crate) fn proc_number(&self, file: &str, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// The processor time it has used (`proc_pid_stat(5)`: utime and stime, in clock ticks).
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|ticks| u64::try_from(ticks).ok());
        Duration::from_millis(ticks * 1000 / per_second.unwrap_or(100))
    }

    /// Stops it with TERM, and waits for its end.
    pub(crate) fn stop(mut self) -> Outcome<()> {
        self.signal(Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It is this process's child and not reaped yet, so the pid is its own.
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Waits for a condition that nobody tells of.
pub(crate) fn spin_until(what: &str, mut condition: impl FnMut() -> bool) -> Outcome<()> {
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
