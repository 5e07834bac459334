//! Starting one process: the only place where a child of the manager comes to life.
//!
//! `std::process` is not used because it takes the slow fork path as soon as anything must happen between fork and exec,
//! and passes blocked and ignored signals on. Here the child shares the manager's memory until it execs (`CLONE_VFORK`:
//! the manager stands still meanwhile), so the cost does not grow with the manager's memory, and a failure is told through
//! that memory. What the child has to do, and in which order, stands in [`worker`].
#![expect(unsafe_code, reason = "clone has no safe form; its block says why it holds")]

mod orphan;
mod raw;
mod stack;
mod strings;
mod worker;

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, dup3};

use crate::procinfo::{self, ProcessId};

use orphan::PreparedOrphan;
pub(crate) use orphan::{GIFT_FD, Orphan};
use stack::Stack;
pub(crate) use strings::{CStrings, c_string};
use worker::Prepared;

/// The descriptor under which a worker finds its socket (`sd_listen_fds(3)`).
pub(crate) const LISTEN_FD: RawFd = 3;

/// As whom a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Everything about a process that is to be started.
pub(crate) struct Child<'a> {
    /// The file to execute.
    pub(crate) program: CString,
    /// Its arguments, the name it is called by first.
    pub(crate) argv: CStrings,
    /// Its environment.
    pub(crate) env: CStrings,
    /// Whether `LISTEN_PID` is added to it.
    pub(crate) wants_listen_pid: bool,
    /// Its working directory.
    pub(crate) directory: CString,
    /// The socket that it gets as fd 3.
    pub(crate) listener: Option<BorrowedFd<'a>>,
    /// The file mode mask, if not the manager's.
    pub(crate) umask: Option<u32>,
    /// As whom it runs, if not as the manager.
    pub(crate) identity: Option<Identity>,
}

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
    Session,
    ProcessGroup,
    Directory,
    Descriptors,
    Limits,
    Identity,
    ParentDeath,
    Exec,
}

/// Why no process came to be.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) error: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.step {
            Step::Clone => "no process can be created",
            Step::Session => "no session can be made",
            Step::ProcessGroup => "no process group can be made",
            Step::Directory => "its directory cannot be entered",
            Step::Descriptors => "its descriptors cannot be arranged",
            Step::Limits => "its descriptor limit cannot be set",
            Step::Identity => "its user and groups cannot be taken on",
            Step::ParentDeath => "it cannot be tied to the manager",
            Step::Exec => "it cannot be executed",
        };
        // The program itself was found before.
        let hint = match (self.step, self.error.raw_os_error()) {
            (Step::Exec, Some(libc::ENOENT)) => {
                " (the interpreter that its first line names, or its loader, is missing)"
            }
            (Step::Exec, Some(libc::ENOEXEC)) => {
                " (neither a program for this machine nor a script with a first line such as #!/bin/sh)"
            }
            _ => "",
        };
        write!(f, "{what}: {}{hint}", self.error)
    }
}

impl Failure {
    /// Whether trying again cannot help.
    pub(crate) fn is_permanent(&self) -> bool {
        let hopeless = [
            libc::ENOENT,
            libc::EACCES,
            libc::ENOEXEC,
            libc::ENOTDIR,
            libc::ELOOP,
            libc::ENAMETOOLONG,
            libc::EPERM,
            libc::EISDIR,
            libc::EINVAL,
            libc::ELIBBAD,
        ];
        self.step == Step::Exec && self.error.raw_os_error().is_some_and(|errno| hopeless.contains(&errno))
    }
}

/// What every spawn needs. Made early, because its descriptors must be low: a child copies the manager's descriptors up
/// to them and no others, so that a manager of a thousand workers spawns as fast as one of four, and also when no
/// descriptor is free.
#[derive(Debug)]
pub(crate) struct Spawner {
    /// What workers read from.
    stdin: File,
    /// Where a worker's socket is put for the time of its spawn.
    seat: OwnedFd,
    /// The soft descriptor limit that workers get.
    fd_soft_limit: Option<u64>,
    /// By what they and all that descends from them is known to be this manager's.
    mark: Option<u64>,
    stack: Stack,
    /// The signals that are caught or ignored here, looked up at the first spawn: nothing changes them after that.
    changed_signals: Option<Vec<libc::c_int>>,
}

impl Spawner {
    /// Takes the manager's soft descriptor limit as it is now for the workers'.
    pub(crate) fn new() -> io::Result<Self> {
        let mark = procinfo::identify(std::process::id().cast_signed()).map(ProcessId::mark);
        let fd_soft_limit = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft);
        let stdin = File::open("/dev/null")?;
        let seat = stdin.try_clone()?.into();
        Ok(Self { stdin, seat, fd_soft_limit, mark, stack: Stack::new()?, changed_signals: None })
    }

    /// Starts the process and returns its pid. It leads a process group of its own, has default signal dispositions and
    /// an empty mask, holds no descriptor but 0, 1, 2 and its socket, and dies with the manager.
    pub(crate) fn spawn(&mut self, child: Child<'_>) -> Result<Pid, Failure> {
        // EBADF here means that the limit was lowered under the seat's own number.
        let full = |errno| if errno == Errno::EBADF { Errno::EMFILE } else { errno };
        let failed = |errno| Failure { step: Step::Descriptors, error: full(errno).into() };
        if let Some(listener) = child.listener {
            dup3(listener, &mut self.seat, OFlag::O_CLOEXEC).map_err(failed)?;
        }
        let has_listener = child.listener.is_some();
        let changed_signals = self.changed_signals.get_or_insert_with(raw::changed_signals).clone();
        let spawned = worker::start(Prepared::new(self, child, changed_signals), self.stack.bytes());
        // A listener that lingered here would outlive its slot. A worker that runs does so all the same.
        if has_listener && let Err(errno) = dup3(&self.stdin, &mut self.seat, OFlag::O_CLOEXEC) {
            tracing::warn!("the socket of the worker that was started last stays open here: {errno}");
        }
        spawned
    }

    /// Starts an orphan and returns its pidfd.
    pub(crate) fn spawn_orphan(&mut self, orphan: &Orphan<'_>) -> Result<OwnedFd, Failure> {
        let mut stack = Stack::new().map_err(|error| Failure { step: Step::Clone, error })?;
        orphan::start(PreparedOrphan::new(self, orphan, stack.bytes()), self.stack.bytes())
    }
}

/// What a child shares with who clones it, until it execs. With `CLONE_FILES` the kernel copies no descriptors here; the
/// child does, and only those that it keeps.
const SHARED: CloneFlags = CloneFlags::CLONE_VM.union(CloneFlags::CLONE_VFORK).union(CloneFlags::CLONE_FILES);

/// Runs `run` on `stack` in a child that shares this process's memory, and returns when the child has execed or ended.
///
/// # Safety
/// `run` makes system calls only: no allocation, no lock, no panic.
unsafe fn clone_apart(stack: &mut [u8], run: impl FnMut() -> isize) -> Result<Pid, Failure> {
    let failed = |errno: Errno| Failure { step: Step::Clone, error: errno.into() };
    // A handler that ran in the child would run in the manager's memory.
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask)).map_err(failed)?;
    // SAFETY: CLONE_VFORK keeps this thread still until the child has execed or exited, so what `run` uses and `stack`
    // outlive the child's use of them and nobody else touches them. The manager has one thread. The caller vouches for
    // the rest.
    let cloned = unsafe { clone(Box::new(run), stack, SHARED, Some(libc::SIGCHLD)) };
    let restored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    let pid = cloned.map_err(failed)?;
    restored.map_err(failed)?;
    Ok(pid)
}
