//! What a worker does of itself between clone and exec.
#![expect(unsafe_code, reason = "system calls without a safe form; each block says why it holds")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use super::raw::{check, close_from, execve, reset_dispositions};
use super::{Child, Failure, Identity, LISTEN_FD, Spawner, Step, clone_apart};

/// Where a child looks for the room to write its own pid into.
const LISTEN_PID_ROOM: &[u8] = b"LISTEN_PID=0000000000";

/// Starts a worker on `stack`.
pub(super) fn start(mut prepared: Prepared<'_>, stack: &mut [u8]) -> Result<Pid, Failure> {
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

/// A child with every pointer that it needs made beforehand: between clone and exec nothing may be allocated.
pub(super) struct Prepared<'a> {
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
    pub(super) fn new(spawner: &Spawner, child: Child<'a>, changed_signals: Vec<libc::c_int>) -> Self {
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
