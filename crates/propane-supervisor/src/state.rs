//! What the next start needs to know if this manager is killed: whom it has started (docs/operations.md, "Processes").

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
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
use crate::procinfo::{self, ProcessId, Relative};

/// Names the format of the file; another one is not read.
const FORMAT: &str = "propane-state/1";

/// The variable by which a process is known to be somebody's worker.
pub(crate) const MANAGER_PID_VARIABLE: &str = "ARLEN_PROPANE_PID";

/// No state of a thousand workers comes near; a bound, because the file may be anything.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How long a killed process may take to let its sockets go.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long killed processes are waited for before it is looked whom they have started meanwhile.
const ROUND_TIMEOUT: Duration = Duration::from_millis(50);

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

/// What the warden of this manager is given: a file in memory, which then says what the state file does.
pub(crate) fn share() -> io::Result<PrivateFile> {
    let mut copy = PrivateFile::in_memory("propane-state")?;
    copy.write(&State::new(None, Vec::new()));
    Ok(copy)
}

/// The file of a running manager, written when its children have changed.
#[derive(Debug)]
pub(crate) struct StateFile {
    file: PrivateFile,
    /// The same for the warden, which no disk can fail and no cleaner remove.
    copy: Option<PrivateFile>,
    stale: bool,
}

impl StateFile {
    /// Creates the file. `copy` is what the warden was given, if there is one.
    pub(crate) fn create(path: &Path, copy: Option<PrivateFile>) -> Self {
        Self { file: PrivateFile::create(path), copy, stale: false }
    }

    /// Notes that the children have changed.
    pub(crate) fn touch(&mut self) {
        self.stale = true;
    }

    /// Writes the file if it is out of date.
    pub(crate) fn save_if_stale(&mut self, state: impl FnOnce() -> State) {
        if std::mem::take(&mut self.stale) {
            let bytes = serde_json::to_vec(&state()).unwrap_or_default();
            if let Some(copy) = &mut self.copy {
                copy.write_bytes(bytes.clone());
            }
            self.file.write_bytes(bytes);
        }
    }
}

/// What the warden has been given.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    /// What it said first.
    first: State,
}

impl Record {
    /// Reads it, if it is one.
    pub(crate) fn read(file: File) -> Option<Self> {
        let first = parse(&private_file::read_open(&file, FILE_BYTES_MAX).ok()?)?;
        Some(Self { file, first })
    }

    /// The manager's pid.
    pub(crate) fn manager(&self) -> i32 {
        self.first.manager.pid
    }

    /// Kills what the manager has left behind, if it has gone. Returns whom.
    pub(crate) fn clear(self) -> Vec<i32> {
        if procinfo::is_alive(self.first.manager) {
            return Vec::new();
        }
        let last = private_file::read_open(&self.file, FILE_BYTES_MAX).ok().and_then(|bytes| parse(&bytes));
        // A manager that was killed while it wrote has left half a state. Whom it had started still tells by itself.
        last.unwrap_or(self.first).clear()
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
    Before::Cleared(state.clear())
}

/// The state of another manager of this boot, if that is what the file is. Only one of this user's counts, because what
/// it says will be killed.
fn read(path: &Path) -> Option<State> {
    let is_ours = |metadata: &fs::Metadata| metadata.uid() == Uid::effective().as_raw();
    let state = parse(&private_file::read(path, FILE_BYTES_MAX, is_ours).ok()?)?;
    procinfo::boot_id().is_some_and(|boot_id| boot_id == state.boot_id).then_some(state)
}

fn parse(bytes: &[u8]) -> Option<State> {
    serde_json::from_slice::<State>(bytes).ok().filter(|state| state.format == FORMAT)
}

fn is_notify_directory(directory: &Path) -> bool {
    let is_ours = |metadata: fs::Metadata| metadata.is_dir() && metadata.uid() == Uid::effective().as_raw();
    directory.file_name().is_some_and(|name| name.to_string_lossy().starts_with("propane-"))
        && fs::symlink_metadata(directory).is_ok_and(is_ours)
}

/// What a process tells of whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Its mark is the manager's.
    Marked,
    /// It has no mark, and its environment says that it is the manager's.
    Told,
    /// It has another mark, or says nothing.
    Another,
}

impl State {
    /// Kills what this manager, which has gone, has left behind, and waits until it is gone. Returns whom.
    fn clear(&self) -> Vec<i32> {
        if let Some(directory) = self.notify_directory.as_deref().filter(|directory| is_notify_directory(directory)) {
            // Best effort: it holds sockets that nobody listens on.
            let _ = fs::remove_dir_all(directory);
        }
        let deadline = Instant::now() + KILL_TIMEOUT;
        let (mut seen, mut killed) = (BTreeSet::new(), Vec::new());
        while Instant::now() < deadline {
            let found = self.leftovers(&procinfo::everybody(), |pid| sign_of(pid, self.manager));
            let new: Vec<_> = found.into_iter().filter(|id| seen.insert(*id)).collect();
            if new.is_empty() {
                break;
            }
            killed.extend(new.into_iter().filter_map(|id| Some((id.pid, kill(id)?))));
            // Some may have started others before they were killed.
            wait_for_all(killed.iter().map(|(_, pidfd)| pidfd), Instant::now() + ROUND_TIMEOUT);
        }
        wait_for_all(killed.iter().map(|(_, pidfd)| pidfd), deadline);
        killed.into_iter().map(|(pid, _)| pid).collect()
    }

    /// Who has been left behind: recorded children, younger processes with a sign that they are this manager's, and what
    /// descends from any of these. Never this process itself.
    fn leftovers(&self, everybody: &[Relative], sign: impl Fn(i32) -> Sign) -> BTreeSet<ProcessId> {
        // Who has got the manager's pid meanwhile may be a manager itself, and then tells its own workers of this pid.
        let successor = everybody.iter().map(|process| process.id).find(|id| id.pid == self.manager.pid);
        let has_sign = |id: ProcessId| match sign(id.pid) {
            Sign::Marked => true,
            Sign::Told => successor.is_none_or(|successor| id.start_time < successor.start_time),
            Sign::Another => false,
        };
        let is_one =
            |id: &ProcessId| self.workers.contains(id) || id.start_time >= self.manager.start_time && has_sign(*id);
        let others: Vec<_> = everybody.iter().filter(|process| process.id.pid != self_pid()).collect();
        let mut found: BTreeSet<_> = others.iter().map(|process| process.id).filter(is_one).collect();
        loop {
            let (pids, before) = (found.iter().map(|id| id.pid).collect::<BTreeSet<_>>(), found.len());
            found.extend(others.iter().filter(|process| pids.contains(&process.parent)).map(|process| process.id));
            if found.len() == before {
                return found;
            }
        }
    }
}

fn self_pid() -> i32 {
    std::process::id().cast_signed()
}

/// Kills a process. The pidfd is opened first, so that who was looked at is who is killed.
fn kill(id: ProcessId) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(id.pid)?, PidfdFlags::empty()).ok()?;
    (procinfo::identify(id.pid) == Some(id)).then_some(())?;
    pidfd_send_signal(&pidfd, Signal::KILL).ok()?;
    Some(pidfd)
}

/// Whether a process has a sign that it is this manager's.
pub(crate) fn is_own(pid: i32) -> bool {
    procinfo::identify(self_pid()).is_some_and(|manager| sign_of(pid, manager) != Sign::Another)
}

fn sign_of(pid: i32, manager: ProcessId) -> Sign {
    match procinfo::mark(pid) {
        Some(mark) if mark == manager.mark() => Sign::Marked,
        None if is_told_of(pid, manager.pid) => Sign::Told,
        _ => Sign::Another,
    }
}

fn is_told_of(pid: i32, manager: i32) -> bool {
    let environment = Process::new(pid).and_then(|process| process.environ());
    environment.is_ok_and(|environment| {
        environment.get(OsStr::new(MANAGER_PID_VARIABLE)).is_some_and(|pid| *pid == *manager.to_string())
    })
}

/// Waits for processes to end, for a bounded time: one that hangs in the kernel must not keep the next manager off.
fn wait_for_all<'a>(pidfds: impl Iterator<Item = &'a OwnedFd>, deadline: Instant) {
    for pidfd in pidfds {
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
        let mut file = StateFile::create(&path, None);
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
        while !is_told_of(told.pid, 77) || !is_told_of(other.pid, 78) {
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

    /// Who lives beside a bystander, the signs they have, and who is found.
    type Case<'a> = (&'a str, Vec<Relative>, &'a [(i32, Sign)], &'a [i32]);

    #[test]
    fn who_is_a_leftover() {
        let id = |pid, start_time| ProcessId { pid, start_time };
        let state = State { manager: id(50, 100), ..State::new(None, vec![id(60, 110), id(61, 111)]) };
        let process = |pid, start_time, parent| Relative { id: id(pid, start_time), parent };
        let me = self_pid();
        let table: [Case<'_>; 10] = [
            ("a recorded child", vec![process(60, 110, 1)], &[], &[60]),
            ("its pid, used again", vec![process(60, 999, 1)], &[], &[]),
            ("one that is told", vec![process(70, 120, 1)], &[(70, Sign::Told)], &[70]),
            ("one that is told and older", vec![process(70, 99, 1)], &[(70, Sign::Told)], &[]),
            ("one that is marked", vec![process(70, 120, 1)], &[(70, Sign::Marked)], &[70]),
            ("descendants", vec![process(72, 9, 71), process(60, 110, 1), process(71, 120, 60)], &[], &[60, 71, 72]),
            ("a stranger and its child", vec![process(70, 120, 1), process(71, 121, 70)], &[], &[]),
            (
                "workers of another manager that got the same pid",
                vec![process(50, 200, 1), process(70, 150, 1), process(71, 200, 50), process(72, 210, 1)],
                &[(70, Sign::Told), (71, Sign::Told), (72, Sign::Marked)],
                &[70, 72],
            ),
            ("this process", vec![process(me, 120, 60)], &[(me, Sign::Marked)], &[]),
            ("nobody", vec![], &[], &[]),
        ];
        for (what, mut everybody, signs, expected) in table {
            everybody.push(process(12, 105, 1));
            let sign = |pid| signs.iter().find(|(of, _)| *of == pid).map_or(Sign::Another, |(_, sign)| *sign);
            let found = state.leftovers(&everybody, sign);
            assert_eq!(found.iter().map(|id| id.pid).collect::<Vec<_>>(), expected, "{what}");
        }
    }

    #[test]
    fn the_warden_is_given_what_the_file_says() {
        let directory = tempfile::tempdir().unwrap();
        // It cannot be written, and the copy is not the worse for it.
        let copy = share().unwrap();
        let given = copy.descriptor().unwrap().try_clone_to_owned().unwrap();
        let mut file = StateFile::create(&directory.path().join("not/there/propane.state.json"), Some(copy));
        let record = Record::read(File::from(given)).unwrap();
        assert_eq!(record.first, State::new(None, Vec::new()));
        let child = ProcessId { pid: 7, start_time: 8 };
        file.touch();
        file.save_if_stale(|| State::new(None, vec![child]));
        assert_eq!(Record::read(record.file.try_clone().unwrap()).unwrap().first.workers, [child]);
        assert_eq!(record.clear(), Vec::<i32>::new(), "this process lives");
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
