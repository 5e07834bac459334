//! What the next start needs to know if this manager is killed: whom it has started (DESIGN §3, "No orphans").

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Uid;
use procfs::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::private_file::{self, PrivateFile};
use crate::procinfo::{self, ProcessId};

/// Names the format of the file; another one is not read.
const FORMAT: &str = "propane-state/1";

/// The variable by which a process is known to be somebody's worker.
pub(crate) const MANAGER_PID_VARIABLE: &str = "ARLEN_PROPANE_PID";

/// No state of a thousand workers comes near; a bound, because the file may be anything.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a killed process may take to let its sockets go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The children of a manager. Each leads a process group that its pid names.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: String,
    boot_id: String,
    /// The manager.
    manager: ProcessId,
    /// Where its notify sockets are.
    notify_directory: Option<PathBuf>,
    /// The children.
    workers: Vec<ProcessId>,
}

impl State {
    /// The state of this manager.
    pub(crate) fn new(notify_directory: Option<PathBuf>, workers: Vec<ProcessId>) -> Self {
        let pid = std::process::id().cast_signed();
        Self {
            format: FORMAT.to_owned(),
            boot_id: procinfo::boot_id().unwrap_or_default(),
            manager: procinfo::identify(pid).unwrap_or(ProcessId { pid, start_time: 0 }),
            notify_directory,
            workers,
        }
    }
}

/// The file beside the pid file.
pub(crate) fn path_for(pid_file: &Path) -> PathBuf {
    private_file::beside(pid_file, "state.json")
}

/// The file of a running manager, written when its children have changed.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: PrivateFile,
    stale: bool,
}

impl StateFile {
    /// Creates the file.
    pub(crate) fn create(path: &Path) -> Self {
        Self { file: PrivateFile::create(path), stale: false }
    }

    /// Notes that the children have changed.
    pub(crate) fn touch(&mut self) {
        self.stale = true;
    }

    /// Writes the file if it is out of date.
    pub(crate) fn save_if_stale(&mut self, state: impl FnOnce() -> State) {
        if std::mem::take(&mut self.stale) {
            self.file.write(&state());
        }
    }
}

/// What a manager before this one has left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// These processes, which are killed now.
    Cleared(Vec<i32>),
    /// Itself: it runs, although its pid file is gone.
    Running(i32),
}

/// Kills what a killed manager has left behind, and waits until it is gone.
pub(crate) fn clear_leftovers(path: &Path) -> Before {
    let Some(state) = read(path) else { return Before::Cleared(Vec::new()) };
    if procinfo::is_alive(state.manager) {
        return Before::Running(state.manager.pid);
    }
    if let Some(directory) = state.notify_directory.as_deref().filter(|directory| is_notify_directory(directory)) {
        // Best effort: it holds sockets that nobody listens on.
        let _ = fs::remove_dir_all(directory);
    }
    let everybody = procfs::process::all_processes().into_iter().flatten().flatten();
    let killed: Vec<_> = everybody.filter_map(|process| kill_leftover(&process, &state)).collect();
    wait_for_all(killed.iter().map(|(_, pidfd)| pidfd).collect());
    Before::Cleared(killed.into_iter().map(|(pid, _)| pid).collect())
}

/// The state of another manager of this boot, if that is what the file is. Only one of this user's counts, because what
/// it says will be killed.
fn read(path: &Path) -> Option<State> {
    let is_ours = |metadata: &fs::Metadata| metadata.uid() == Uid::effective().as_raw();
    let bytes = private_file::read(path, FILE_BYTES_MAX, is_ours).ok()?;
    let state = serde_json::from_slice::<State>(&bytes).ok()?;
    (state.format == FORMAT && procinfo::boot_id().is_some_and(|boot_id| boot_id == state.boot_id)).then_some(state)
}

fn is_notify_directory(directory: &Path) -> bool {
    let is_ours = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == Uid::effective().as_raw();
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("propane-"))
        && fs::symlink_metadata(directory).is_ok_and(is_ours)
}

/// Kills a process if it is a leftover. The pidfd is opened first, so that what was looked at is what is killed.
fn kill_leftover(process: &Process, state: &State) -> Option<(i32, OwnedFd)> {
    let pidfd = pidfd_open(Pid::from_raw(process.pid())?, PidfdFlags::empty()).ok()?;
    if !is_leftover(process, state) {
        return None;
    }
    pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
    Some((process.pid(), pidfd))
}

/// A recorded child, or a process that is told by its environment that it is that manager's and is younger than it.
fn is_leftover(process: &Process, state: &State) -> bool {
    let Some(id) = procinfo::identify(process.pid()) else { return false };
    let is_descendant = || id.start_time >= state.manager.start_time && is_worker_of(process, state.manager.pid);
    id.pid != std::process::id().cast_signed() && (state.workers.contains(&id) || is_descendant())
}

fn is_worker_of(process: &Process, manager: i32) -> bool {
    let told = |environment: std::collections::HashMap<OsString, OsString>| {
        environment.get(OsStr::new(MANAGER_PID_VARIABLE)).is_some_and(|pid| *pid == *manager.to_string())
    };
    process.environ().is_ok_and(told)
}

/// Waits for processes to end, for a bounded time: one that hangs in the kernel must not keep the next manager off.
fn wait_for_all(mut pidfds: Vec<&OwnedFd>) {
    let deadline = Instant::now() + KILL_TIMEOUT;
    while let Some(pidfd) = pidfds.pop() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        // An interruption only means that the rest is waited for a little less.
        let _ = poll(&mut fds, timeout.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_private_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_for(&directory.path().join("propane.pid"));
        let mut file = StateFile::create(&path);
        let state = |workers: &[ProcessId]| State::new(None, workers.to_vec());
        let child = ProcessId { pid: 7, start_time: 8 };
        for workers in [[child; 9].as_slice(), &[child], &[], &[child]] {
            file.touch();
            file.save_if_stale(|| state(workers));
        }
        let state = state(&[child]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(serde_json::from_slice::<State>(&fs::read(&path).unwrap()).unwrap(), state);
    }

    fn write(path: &Path, state: &State) {
        fs::write(path, serde_json::to_vec(state).unwrap()).unwrap();
    }

    #[test]
    fn a_manager_that_lives_is_found_without_its_pid_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("propane.state.json");
        write(&path, &State::new(None, Vec::new()));
        assert_eq!(clear_leftovers(&path), Before::Running(std::process::id().cast_signed()));
    }

    #[test]
    fn only_children_of_the_dead_manager_are_killed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("propane.state.json");
        let mut sleepers = [77, 78].map(|manager: i32| {
            let mut command = std::process::Command::new("sleep");
            command.arg("1000").env(MANAGER_PID_VARIABLE, manager.to_string()).spawn().unwrap()
        });
        let id = |child: &std::process::Child| procinfo::identify(child.id().cast_signed()).unwrap();
        let [told, other] = [id(&sleepers[0]), id(&sleepers[1])];
        // The child may not have execed yet, and then its environment is still this process's.
        while !is_worker_of(&Process::new(told.pid).unwrap(), 77)
            || !is_worker_of(&Process::new(other.pid).unwrap(), 78)
        {
            std::thread::yield_now();
        }
        let reused = ProcessId { start_time: other.start_time + 1, ..other };
        // Pid 77 may well exist; not with this start time.
        let manager = ProcessId { pid: 77, start_time: told.start_time };
        write(&path, &State { manager, ..State::new(None, vec![reused]) });
        assert_eq!(clear_leftovers(&path), Before::Cleared(vec![told.pid]));
        assert!(sleepers[1].try_wait().unwrap().is_none(), "the other one lives");
        for sleeper in &mut sleepers {
            let _ = sleeper.kill();
            sleeper.wait().unwrap();
        }
    }

    #[test]
    fn nonsense_is_no_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("propane.state.json");
        for text in ["", "{}", "[1]", "{\"format\":\"propane-state/9\"}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(clear_leftovers(&path), Before::Cleared(Vec::new()), "{text}");
        }
    }
}
