//! What the next start needs to know if this manager is killed: whom it has started (DESIGN §3, "No orphans").

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::signal::Signal;
use procfs::process::Process;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::procinfo::{self, ProcessId};

/// Names the format of the file; another one is not read.
const FORMAT: &str = "propane-state/1";

/// The variable by which a process is known to be somebody's worker.
pub(crate) const MANAGER_PID_VARIABLE: &str = "ARLEN_PROPANE_PID";

/// The children of a manager. Each leads a process group that its pid names.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    format: String,
    boot_id: String,
    /// The manager's pid.
    pub(crate) manager_pid: u32,
    /// Where its notify sockets are.
    pub(crate) notify_directory: Option<PathBuf>,
    /// The children.
    pub(crate) workers: Vec<ProcessId>,
}

impl State {
    /// The state of this manager.
    pub(crate) fn new(notify_directory: Option<PathBuf>, workers: Vec<ProcessId>) -> Self {
        let boot_id = procinfo::boot_id().unwrap_or_default();
        Self { format: FORMAT.to_owned(), boot_id, manager_pid: std::process::id(), notify_directory, workers }
    }
}

/// The file beside the pid file: `propane.pid` -> `propane.state.json`.
pub(crate) fn path_for(pid_file: &Path) -> PathBuf {
    pid_file.with_extension("state.json")
}

/// The file of a running manager, written when its children have changed.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    stale: bool,
    failed: bool,
}

impl StateFile {
    /// The file at `path`, which is not written yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, stale: false, failed: false }
    }

    /// Notes that the children have changed.
    pub(crate) fn touch(&mut self) {
        self.stale = true;
    }

    /// Writes the file if it is out of date. A manager that cannot write it goes on without, and says so once: only the
    /// next start misses it.
    pub(crate) fn save_if_stale(&mut self, state: impl FnOnce() -> State) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let saved = save(&self.path, &state());
        if let Err(error) = &saved
            && !self.failed
        {
            tracing::warn!("cannot write {}: {error}", self.path.display());
        }
        self.failed = saved.is_err();
    }
}

/// Writes the file so that a reader finds the old or the new one whole.
fn save(path: &Path, state: &State) -> io::Result<()> {
    let scratch = path.with_extension("json.new");
    let mut file = create_private(&scratch)?;
    file.write_all(&serde_json::to_vec(state)?)?;
    fs::rename(&scratch, path)
}

/// Creates a file that only its owner can read, following no symlink; a leftover of the same name is replaced.
fn create_private(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        other => other,
    }
}

/// Kills what a killed manager has left behind, and returns whom. To be called with the pid file's lock held, so that
/// the manager that wrote the file is surely gone.
pub(crate) fn clear_leftovers(path: &Path) -> Vec<i32> {
    let state = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
    let Some(state) = state.filter(|state| state.format == FORMAT) else { return Vec::new() };
    if procinfo::boot_id().is_none_or(|boot_id| boot_id != state.boot_id) {
        return Vec::new();
    }
    if let Some(directory) = state.notify_directory.as_deref().filter(|directory| is_notify_directory(directory)) {
        // Best effort: it holds sockets that nobody listens on.
        let _ = fs::remove_dir_all(directory);
    }
    kill_members(&state)
}

fn is_notify_directory(directory: &Path) -> bool {
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("propane-"))
        && fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_dir())
}

fn kill_members(state: &State) -> Vec<i32> {
    let everybody = procfs::process::all_processes().into_iter().flatten().flatten();
    everybody.filter(|process| is_leftover(process, state)).filter_map(|process| kill(process.pid())).collect()
}

/// Whether a process belongs to a recorded group: same group number, not older than the group's leader, and told by
/// its environment that it is that manager's.
fn is_leftover(process: &Process, state: &State) -> bool {
    let Ok(stat) = process.stat() else { return false };
    let recorded = state.workers.iter().find(|leader| leader.pid == stat.pgrp);
    let is_of_group = recorded.is_some_and(|leader| {
        if stat.pid == leader.pid { stat.starttime == leader.start_time } else { stat.starttime >= leader.start_time }
    });
    is_of_group && is_worker_of(process, state.manager_pid)
}

fn is_worker_of(process: &Process, manager_pid: u32) -> bool {
    let told = |environment: std::collections::HashMap<std::ffi::OsString, std::ffi::OsString>| {
        environment.get(std::ffi::OsStr::new(MANAGER_PID_VARIABLE)).is_some_and(|pid| *pid == *manager_pid.to_string())
    };
    process.environ().is_ok_and(told)
}

fn kill(pid: i32) -> Option<i32> {
    let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
    let signal = rustix::process::Signal::from_named_raw(Signal::SIGKILL as i32)?;
    pidfd_send_signal(pidfd, signal).ok().map(|()| pid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_private_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = path_for(&directory.path().join("propane.pid"));
        let state = State::new(None, vec![ProcessId { pid: 7, start_time: 8 }]);
        for _ in 0..2 {
            save(&path, &state).unwrap();
        }
        assert_eq!(path.file_name().unwrap(), "propane.state.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(serde_json::from_slice::<State>(&fs::read(&path).unwrap()).unwrap(), state);
    }

    #[test]
    fn a_process_that_only_has_the_number_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("propane.state.json");
        let me = procinfo::identify(std::process::id().cast_signed()).unwrap();
        save(&path, &State::new(None, vec![me, ProcessId { start_time: 0, ..me }])).unwrap();
        assert_eq!(clear_leftovers(&path), Vec::<i32>::new(), "no variable says that we are a worker");
    }

    #[test]
    fn nonsense_is_no_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("propane.state.json");
        for text in ["", "{}", "[1]", "{\"format\":\"propane-state/9\"}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(clear_leftovers(&path), Vec::<i32>::new(), "{text}");
        }
    }
}
