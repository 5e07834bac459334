//! Starting one process: the only place where a child of the manager comes to life.
//!
//! `std::process` is not used because it takes the slow fork path as soon as anything must happen between fork and exec,
//! and passes blocked and ignored signals on. Here the child shares the manager's memory until it execs (`CLONE_VFORK`:
//! the manager stands still meanwhile), so the cost does not grow with the manager's memory, and a failure is told through
//! that memory. What the child has to do is in LINUX-NOTES §4.
#![expect(
    unsafe_code,
    reason = "clone and what runs between it and exec have no safe form; each block says why it holds"
)]

use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::{Pid, dup3};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use crate::procinfo::{self, ProcessId};

/// The descriptor under which a worker finds its socket (`sd_listen_fds(3)`).
pub(crate) const LISTEN_FD: RawFd = 3;

/// The descriptor under which an orphan finds what it is given.
pub(crate) const GIFT_FD: RawFd = 3;

/// Where a child looks for the room to write its own pid into.
const LISTEN_PID_ROOM: &[u8] = b"LISTEN_PID=0000000000";

/// Enough for the calls below, none of which recurses, also where a preloaded library has put itself before one of them.
const STACK_BYTES: usize = 128 * 1024;

/// What lies below a stack: a multiple of every page size that Linux has on the machines that Rust runs on.
const GUARD_BYTES: usize = 64 * 1024;

/// What a child runs on until it execs. Below it lies memory that nobody may touch: a call that goes too deep ends the
/// child, and spoils nothing of the manager's. Only what is used of it takes memory.
#[derive(Debug)]
struct Stack {
    base: NonNull<libc::c_void>,
}

impl Stack {
    fn new() -> io::Result<Self> {
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: new memory, at a place of the kernel's choice.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), GUARD_BYTES + STACK_BYTES, access, kind) }?;
        let stack = Self { base: NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)? };
        // SAFETY: the lower part of that memory, which nobody uses yet.
        unsafe { mprotect(base, GUARD_BYTES, MprotectFlags::empty()) }?;
        Ok(stack)
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the upper part of memory that is this value's alone, is all zero at first, and lasts as long as it.
        unsafe { std::slice::from_raw_parts_mut(self.base.cast().add(GUARD_BYTES).as_ptr(), STACK_BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: what `new` has mapped; nothing borrows it any more. It cannot fail.
        let _ = unsafe { munmap(self.base.as_ptr(), GUARD_BYTES + STACK_BYTES) };
    }
}

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

/// Strings as `execve(2)` wants them, in one piece: a worker has a hundred variables.
#[derive(Debug, Default)]
pub(crate) struct CStrings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl CStrings {
    /// Adds a string made of `parts`; a NUL inside ends it, as it would for any other program.
    pub(crate) fn push(&mut self, parts: &[&[u8]]) {
        self.starts.push(self.bytes.len());
        let start = self.bytes.len();
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        // `contains` is quick, and a NUL is rare.
        if self.bytes[start..].contains(&0) {
            let end = self.bytes[start..].iter().position(|byte| *byte == 0).unwrap_or_default();
            self.bytes.truncate(start + end);
        }
        self.bytes.push(0);
    }

    /// A pointer to each. They hold until a string is added.
    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast()).collect()
    }
}

/// A process that is to be nobody's child: its parent ends at once, and whoever adopts orphans adopts it. It is in a
/// session of its own, takes no signal, has no environment, and stands in `/`.
pub(crate) struct Orphan<'a> {
    /// The file to execute.
    pub(crate) program: CString,
    /// Its arguments, the name it is called by first.
    pub(crate) argv: CStrings,
    /// What it gets as fd 0.
    pub(crate) stdin: BorrowedFd<'a>,
    /// What it gets as [`GIFT_FD`].
    pub(crate) gift: BorrowedFd<'a>,
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
        write!(f, "{what}: {}", self.error)
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
        let changed_signals = self.changed_signals.get_or_insert_with(changed_signals).clone();
        let spawned = start(Prepared::new(self, child, changed_signals), self.stack.bytes());
        if has_listener {
            // A listener that lingered here would outlive its slot.
            dup3(&self.stdin, &mut self.seat, OFlag::O_CLOEXEC).map_err(failed)?;
        }
        spawned
    }

    /// Starts an orphan and returns its pidfd.
    pub(crate) fn spawn_orphan(&mut self, orphan: &Orphan<'_>) -> Result<OwnedFd, Failure> {
        let mut stack = Stack::new().map_err(|error| Failure { step: Step::Clone, error })?;
        let mut prepared = PreparedOrphan::new(self, orphan, stack.bytes());
        // SAFETY: see `run_in_between`, which keeps to what is asked for.
        let between = unsafe { clone_apart(self.stack.bytes(), || prepared.run_in_between()) }?;
        // It ends as soon as the orphan has execed, and nobody else reaps.
        crate::reaper::discard(between.as_raw());
        prepared.outcome()
    }
}

fn start(mut prepared: Prepared<'_>, stack: &mut [u8]) -> Result<Pid, Failure> {
    // SAFETY: see `run_in_child`, which keeps to what is asked for.
    let pid = unsafe { clone_apart(stack, || prepared.run_in_child()) }?;
    match prepared.failure {
        None => Ok(pid),
        Some((step, errno)) => {
            // The child said that it exits, and nobody else reaps: this returns at once.
            crate::reaper::discard(pid.as_raw());
            Err(Failure { step, error: io::Error::from_raw_os_error(errno) })
        }
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

/// A child with every pointer that it needs made beforehand: between clone and exec nothing may be allocated.
struct Prepared<'a> {
    child: Child<'a>,
    stdin: RawFd,
    seat: RawFd,
    fd_soft_limit: Option<u64>,
    mark: Option<u64>,
    changed_signals: Vec<libc::c_int>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// `LISTEN_PID=…`, whose digits the child writes.
    listen_pid: Vec<u8>,
    manager: libc::pid_t,
    failure: Option<(Step, i32)>,
}

impl<'a> Prepared<'a> {
    fn new(spawner: &Spawner, child: Child<'a>, changed_signals: Vec<libc::c_int>) -> Self {
        let mut listen_pid = LISTEN_PID_ROOM.to_vec();
        listen_pid.push(0);
        // A Vec's buffer does not move with the Vec, so these stay true when `child` is moved below.
        let (mut argv, mut env) = (child.argv.pointers(), child.env.pointers());
        argv.push(std::ptr::null());
        if child.wants_listen_pid {
            env.push(listen_pid.as_ptr().cast());
        }
        env.push(std::ptr::null());
        let manager = nix::unistd::getpid().as_raw();
        let (stdin, seat) = (spawner.stdin.as_raw_fd(), spawner.seat.as_raw_fd());
        let (fd_soft_limit, mark) = (spawner.fd_soft_limit, spawner.mark);
        Self { child, stdin, seat, fd_soft_limit, mark, changed_signals, argv, env, listen_pid, manager, failure: None }
    }

    /// Runs in the child. Returns only if it failed.
    fn run_in_child(&mut self) -> isize {
        if let Err(step) = self.become_worker() {
            self.failure = Some((step, Errno::last_raw()));
        }
        // SAFETY: ends the child without running anything of the manager's.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
        127
    }

    fn become_worker(&mut self) -> Result<(), Step> {
        reset_dispositions(&self.changed_signals);
        // SAFETY (all calls of this function): plain system calls on values that `self` owns; their results are checked.
        check(unsafe { libc::setpgid(0, 0) }.into(), Step::ProcessGroup)?;
        check(unsafe { libc::chdir(self.child.directory.as_ptr()) }.into(), Step::Directory)?;
        self.arrange_descriptors()?;
        self.set_limits()?;
        self.take_identity()?;
        self.die_with_manager()?;
        self.write_listen_pid();
        self.exec()
    }

    /// fd 0 from `stdin`, fd 3 from the seat, 1 and 2 as they are, nothing else. Takes no new number, so that a full
    /// table is no obstacle.
    fn arrange_descriptors(&self) -> Result<(), Step> {
        let has_listener = self.child.listener.is_some();
        let first_free = if has_listener { LISTEN_FD + 1 } else { LISTEN_FD };
        // SAFETY: see `become_worker`. The table is the manager's until the first call has made it the child's own.
        unsafe {
            close_from(self.stdin.max(self.seat) + 1, libc::CLOSE_RANGE_UNSHARE)?;
            check(libc::dup2(self.stdin, 0).into(), Step::Descriptors)?;
            if has_listener && self.seat == LISTEN_FD {
                // dup2 onto itself would leave close-on-exec set.
                check(libc::fcntl(LISTEN_FD, libc::F_SETFD, 0).into(), Step::Descriptors)?;
            } else if has_listener {
                check(libc::dup2(self.seat, LISTEN_FD).into(), Step::Descriptors)?;
            }
            close_from(first_free, 0)
        }
    }

    /// The soft limit that the manager was started with, or the hard one where that was lowered meanwhile; and the mark.
    fn set_limits(&self) -> Result<(), Step> {
        if let Some(soft) = self.fd_soft_limit {
            // SAFETY: see `become_worker`; all-zero is a valid limit.
            unsafe {
                let mut limit = std::mem::zeroed::<libc::rlimit>();
                check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit).into(), Step::Limits)?;
                limit.rlim_cur = soft.min(limit.rlim_max);
                check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit).into(), Step::Limits)?;
            }
        }
        if let Some(mark) = self.mark {
            let limit = libc::rlimit { rlim_cur: mark, rlim_max: mark };
            // SAFETY: see `become_worker`. Where it may not be set, by somebody's limit on it, the environment has to do.
            unsafe { libc::setrlimit(libc::RLIMIT_LOCKS, &raw const limit) };
        }
        if let Some(mask) = self.child.umask {
            // SAFETY: umask cannot fail.
            unsafe { libc::umask(mask) };
        }
        Ok(())
    }

    /// Groups first, then the group, then the user: each step needs the right that the last one gives up.
    fn take_identity(&self) -> Result<(), Step> {
        let Some(Identity { uid, gid, groups }) = &self.child.identity else { return Ok(()) };
        // SAFETY: see `become_worker`. Raw calls, because libc's wrappers would change every thread's identity, and the
        // memory in which libc keeps its threads is the manager's.
        unsafe {
            check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()), Step::Identity)?;
            check(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid), Step::Identity)?;
            check(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid), Step::Identity)
        }
    }

    /// After the identity, because changing it clears the setting (`prctl(2)`).
    fn die_with_manager(&self) -> Result<(), Step> {
        // SAFETY: see `become_worker`.
        unsafe {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL).into(), Step::ParentDeath)?;
            // The manager may have died before the line above took effect; then nobody would ever send the signal.
            if libc::syscall(libc::SYS_getppid) != libc::c_long::from(self.manager) {
                return Err(Step::ParentDeath);
            }
        }
        Ok(())
    }

    /// `LISTEN_PID` must name the process that execs, which only it knows.
    fn write_listen_pid(&mut self) {
        // SAFETY: getpid cannot fail. A raw call, because the answer must be the child's.
        let pid = unsafe { libc::syscall(libc::SYS_getpid) };
        let mut rest = u64::try_from(pid).unwrap_or(0);
        let mut digits = [0u8; 10];
        let mut count = 0;
        while count == 0 || rest > 0 {
            digits[count] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            count += 1;
        }
        let start = b"LISTEN_PID=".len();
        for (place, digit) in self.listen_pid[start..].iter_mut().zip(digits[..count].iter().rev()) {
            *place = *digit;
        }
        self.listen_pid[start + count] = 0;
    }

    fn exec(&self) -> Result<(), Step> {
        // SAFETY: both arrays end with a null pointer and point to strings that `self` owns. The mask is emptied last,
        // so that no signal is taken before the dispositions are the worker's.
        unsafe {
            let mut empty = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut());
            execve(&self.child.program, &self.argv, &self.env);
        }
        Err(Step::Exec)
    }
}

/// An orphan with everything that it needs made beforehand, and what becomes of it.
struct PreparedOrphan<'a> {
    program: &'a CString,
    argv: Vec<*const libc::c_char>,
    env: [*const libc::c_char; 1],
    stdin: RawFd,
    gift: RawFd,
    null: RawFd,
    stack_top: *mut libc::c_void,
    pidfd: RawFd,
    failure: Option<(Step, i32)>,
}

impl<'a> PreparedOrphan<'a> {
    fn new(spawner: &Spawner, orphan: &'a Orphan<'_>, stack: &'a mut [u8]) -> Self {
        let argv = orphan.argv.pointers().into_iter().chain([std::ptr::null()]).collect();
        let top = stack.as_mut_ptr_range().end;
        // Stacks grow down from a multiple of 16 (the ABIs of all of Linux's machines).
        let stack_top = top.wrapping_sub(top.addr() % 16).cast();
        Self {
            program: &orphan.program,
            argv,
            env: [std::ptr::null()],
            stdin: orphan.stdin.as_raw_fd(),
            gift: orphan.gift.as_raw_fd(),
            null: spawner.stdin.as_raw_fd(),
            stack_top,
            pidfd: -1,
            failure: None,
        }
    }

    /// Runs in the child that is the orphan's parent, and ends it.
    fn run_in_between(&mut self) -> isize {
        let this = std::ptr::from_mut(self);
        let flags = SHARED.bits() | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: as in `clone_apart`: this thread stands still until the orphan has execed or exited. The pidfd is put
        // into the table that all three share, and so is the manager's.
        unsafe {
            let pidfd = &raw mut (*this).pidfd;
            if libc::clone(run_orphan, (*this).stack_top, flags, this.cast(), pidfd) < 0 {
                (*this).failure = Some((Step::Clone, Errno::last_raw()));
            }
            libc::syscall(libc::SYS_exit_group, 0);
        }
        0
    }

    fn become_orphan(&self) -> Result<(), Step> {
        // SAFETY (all calls of this function): plain system calls on values that `self` owns; their results are checked.
        unsafe {
            check(libc::setsid().into(), Step::Session)?;
            check(libc::chdir(c"/".as_ptr()).into(), Step::Directory)?;
            close_from(self.stdin.max(self.gift).max(self.null) + 1, libc::CLOSE_RANGE_UNSHARE)?;
            let spare = |fd: RawFd| libc::fcntl(fd, libc::F_DUPFD, GIFT_FD + 1);
            let (stdin, gift) = (spare(self.stdin), spare(self.gift));
            for (fd, place) in [(self.null, 1), (stdin, 0), (gift, GIFT_FD)] {
                check(libc::dup2(fd, place).into(), Step::Descriptors)?;
            }
            close_from(GIFT_FD + 1, 0)?;
            // The mask stays full.
            execve(self.program, &self.argv, &self.env);
        }
        Err(Step::Exec)
    }

    /// What became of it, once it has execed or ended.
    fn outcome(self) -> Result<OwnedFd, Failure> {
        // SAFETY: a number that is not -1 is that of a descriptor that the kernel has just opened for this process, and
        // nobody else has it.
        let pidfd = (self.pidfd != -1).then(|| unsafe { OwnedFd::from_raw_fd(self.pidfd) });
        match (pidfd, self.failure) {
            (Some(pidfd), None) => Ok(pidfd),
            (_, Some((step, errno))) => Err(Failure { step, error: io::Error::from_raw_os_error(errno) }),
            // A kernel that knows no CLONE_PIDFD ignores it.
            (None, None) => Err(Failure { step: Step::Clone, error: io::ErrorKind::Unsupported.into() }),
        }
    }
}

extern "C" fn run_orphan(prepared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `run_in_between` hands this to `clone` and stands still while it is used.
    let prepared = unsafe { &mut *prepared.cast::<PreparedOrphan<'_>>() };
    if let Err(step) = prepared.become_orphan() {
        prepared.failure = Some((step, Errno::last_raw()));
    }
    // SAFETY: ends the child without running anything of the manager's.
    unsafe { libc::syscall(libc::SYS_exit_group, 127) };
    127
}

/// The highest signal number of Linux (`signal(7)`), and the size of the kernel's set of them in bytes.
const SIGNAL_MAX: libc::c_int = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// The kernel's `struct sigaction` is 32 bytes at the most, its handler first; all zero means `SIG_DFL`, no flags, an empty
/// mask.
type Disposition = [u64; 8];

/// Which signals are not at their defaults.
fn changed_signals() -> Vec<libc::c_int> {
    let is_changed = |signal: &libc::c_int| {
        let mut found = Disposition::default();
        // SAFETY: asks only, into room of the right size. A raw call, because libc keeps two signals for itself.
        unsafe { sigaction(*signal, std::ptr::null(), found.as_mut_ptr()) };
        found[0] != 0
    };
    (1..=SIGNAL_MAX).filter(is_changed).collect()
}

/// Handlers of the manager and ignored signals of whoever started it are not the worker's.
fn reset_dispositions(changed: &[libc::c_int]) {
    let default = Disposition::default();
    for signal in changed {
        // SAFETY: see `become_worker`.
        unsafe { sigaction(*signal, default.as_ptr(), std::ptr::null_mut()) };
    }
}

/// # Safety
/// As for `rt_sigaction(2)`.
unsafe fn sigaction(signal: libc::c_int, new: *const u64, old: *mut u64) {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SIGNAL_SET_BYTES) };
}

/// Executes a program. Returns only if that failed. A raw call, because a preloaded library that logs what is executed puts
/// more on the stack than is there.
///
/// # Safety
/// As for `execve(2)`: both arrays end with a null pointer.
unsafe fn execve(program: &CString, argv: &[*const libc::c_char], env: &[*const libc::c_char]) {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_execve, program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// In the child only, which needs none of them.
unsafe fn close_from(first: RawFd, flags: libc::c_uint) -> Result<(), Step> {
    // SAFETY: a plain system call.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) }, Step::Descriptors)
}

fn check(result: libc::c_long, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}

/// `text` as C wants it; a NUL inside ends it, as it would for any other program.
pub(crate) fn c_string(text: impl Into<Vec<u8>>) -> CString {
    let mut bytes = text.into();
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    // Cannot fail, because the first NUL and all behind it are cut off.
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_stand_one_behind_the_other_and_end_at_a_nul() {
        let mut strings = CStrings::default();
        let table: [(&[&[u8]], &[u8]); 5] = [
            (&[b"PATH", b"=", b"/bin"], b"PATH=/bin"),
            (&[b"EMPTY", b"=", b""], b"EMPTY="),
            (&[b"CUT", b"=", b"here\0not there", b"nor there"], b"CUT=here"),
            (&[], b""),
            (&["LÄNGE=ß".as_bytes()], "LÄNGE=ß".as_bytes()),
        ];
        for (parts, _) in table {
            strings.push(parts);
        }
        let found = strings.starts.iter().map(|start| std::ffi::CStr::from_bytes_until_nul(&strings.bytes[*start..]));
        let expected = table.map(|(_, text)| text);
        assert!(found.map(|text| text.unwrap().to_bytes()).eq(expected), "{strings:?}");
    }
}
