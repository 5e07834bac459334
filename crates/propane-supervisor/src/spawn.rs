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
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::libc;
use nix::sched::{CloneFlags, clone};
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::unistd::Pid;

/// The descriptor under which a worker finds its socket (`sd_listen_fds(3)`).
pub(crate) const LISTEN_FD: RawFd = 3;

/// Where a child looks for the room to write its own pid into.
const LISTEN_PID_ROOM: &[u8] = b"LISTEN_PID=0000000000";

/// Enough for the calls below, none of which recurses: the deepest is execve, which needs no user stack.
const STACK_BYTES: usize = 64 * 1024;

/// As whom a worker runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// A soft and a hard limit on descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdLimit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// Everything about a process that is to be started.
pub(crate) struct Child<'a> {
    /// The file to execute.
    pub(crate) program: CString,
    /// Its arguments, the name it is called by first.
    pub(crate) argv: Vec<CString>,
    /// Its environment.
    pub(crate) env: Vec<CString>,
    /// Whether `LISTEN_PID` is added to it.
    pub(crate) wants_listen_pid: bool,
    /// Its working directory.
    pub(crate) directory: CString,
    /// What it reads from.
    pub(crate) stdin: BorrowedFd<'a>,
    /// The socket that it gets as fd 3.
    pub(crate) listener: Option<BorrowedFd<'a>>,
    /// The descriptor limit to restore.
    pub(crate) fd_limit: Option<FdLimit>,
    /// The file mode mask, if not the manager's.
    pub(crate) umask: Option<u32>,
    /// As whom it runs, if not as the manager.
    pub(crate) identity: Option<Identity>,
}

/// What the child was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Clone,
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

/// Starts the process and returns its pid. It leads a process group of its own, has default signal dispositions and an
/// empty mask, holds no descriptor but 0, 1, 2 and its socket, and dies with the manager.
pub(crate) fn spawn(child: Child<'_>) -> Result<Pid, Failure> {
    let mut prepared = Prepared::new(child);
    let mut stack = vec![0u8; STACK_BYTES];
    let failed = |step, error| Failure { step, error };
    // A handler that ran in the child would run in the manager's memory.
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut mask))
        .map_err(|errno| failed(Step::Clone, errno.into()))?;
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: CLONE_VFORK keeps this thread still until the child has execed or exited, so `prepared` and `stack`
    // outlive the child's use of them and nobody else touches them. The manager has one thread. The callback makes
    // system calls only: no allocation, no lock, no panic.
    let cloned = unsafe { clone(Box::new(|| prepared.run_in_child()), &mut stack, flags, Some(libc::SIGCHLD)) };
    let restored = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    let pid = cloned.map_err(|errno| failed(Step::Clone, errno.into()))?;
    restored.map_err(|errno| failed(Step::Clone, errno.into()))?;
    match prepared.failure {
        None => Ok(pid),
        Some((step, errno)) => {
            // The child said that it exits, and nobody else reaps: this returns at once.
            crate::reaper::discard(pid.as_raw());
            Err(failed(step, io::Error::from_raw_os_error(errno)))
        }
    }
}

/// A child with every pointer that it needs made beforehand: between clone and exec nothing may be allocated.
struct Prepared<'a> {
    child: Child<'a>,
    argv: Vec<*const libc::c_char>,
    env: Vec<*const libc::c_char>,
    /// `LISTEN_PID=…`, whose digits the child writes.
    listen_pid: Vec<u8>,
    manager: libc::pid_t,
    failure: Option<(Step, i32)>,
}

impl<'a> Prepared<'a> {
    fn new(child: Child<'a>) -> Self {
        let mut listen_pid = LISTEN_PID_ROOM.to_vec();
        listen_pid.push(0);
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (mut argv, mut env) = (pointers(&child.argv), pointers(&child.env));
        argv.push(std::ptr::null());
        if child.wants_listen_pid {
            // A Vec's buffer does not move with the Vec, so this stays true when `listen_pid` is moved below.
            env.push(listen_pid.as_ptr().cast());
        }
        env.push(std::ptr::null());
        let manager = nix::unistd::getpid().as_raw();
        Self { child, argv, env, listen_pid, manager, failure: None }
    }

    /// Runs in the child. Returns only if it failed.
    fn run_in_child(&mut self) -> isize {
        if let Err(step) = self.become_worker() {
            self.failure = Some((step, nix::errno::Errno::last_raw()));
        }
        // SAFETY: ends the child without running anything of the manager's.
        unsafe { libc::syscall(libc::SYS_exit_group, 127) };
        127
    }

    fn become_worker(&mut self) -> Result<(), Step> {
        reset_dispositions();
        // SAFETY (all calls of this function): plain system calls on values that `self` owns; their results are checked.
        check(unsafe { libc::setpgid(0, 0) }.into(), Step::ProcessGroup)?;
        check(unsafe { libc::chdir(self.child.directory.as_ptr()) }.into(), Step::Directory)?;
        self.arrange_descriptors()?;
        self.restore_limits()?;
        self.take_identity()?;
        self.die_with_manager()?;
        self.write_listen_pid();
        self.exec()
    }

    /// fd 0 from `stdin`, fd 3 from `listener`, 1 and 2 as they are, nothing else.
    fn arrange_descriptors(&self) -> Result<(), Step> {
        let first_free = if self.child.listener.is_some() { LISTEN_FD + 1 } else { LISTEN_FD };
        // SAFETY: see `become_worker`. The descriptor table is the child's own copy (no CLONE_FILES).
        unsafe {
            check(libc::dup2(self.child.stdin.as_raw_fd(), 0).into(), Step::Descriptors)?;
            if let Some(listener) = &self.child.listener {
                // Through another number, because dup2 onto itself would leave close-on-exec set.
                let high = libc::fcntl(listener.as_raw_fd(), libc::F_DUPFD, LISTEN_FD + 1);
                check(high.into(), Step::Descriptors)?;
                check(libc::dup2(high, LISTEN_FD).into(), Step::Descriptors)?;
            }
            check(libc::syscall(libc::SYS_close_range, first_free, libc::c_uint::MAX, 0), Step::Descriptors)
        }
    }

    fn restore_limits(&self) -> Result<(), Step> {
        if let Some(FdLimit { soft, hard }) = self.child.fd_limit {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: see `become_worker`.
            check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }.into(), Step::Limits)?;
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
            libc::execve(self.child.program.as_ptr(), self.argv.as_ptr(), self.env.as_ptr());
        }
        Err(Step::Exec)
    }
}

/// The highest signal number of Linux (`signal(7)`), and the size of the kernel's set of them in bytes.
const SIGNAL_MAX: libc::c_int = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// Handlers of the manager and ignored signals of whoever started it are not the worker's.
fn reset_dispositions() {
    // The kernel's `struct sigaction` is 32 bytes at the most; all zero means SIG_DFL, no flags, an empty mask.
    let default = [0u64; 8];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: see `become_worker`. A raw call, because libc keeps two signals for itself and would refuse to reset
        // them. KILL and STOP refuse, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGNAL_SET_BYTES,
            )
        };
    }
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
