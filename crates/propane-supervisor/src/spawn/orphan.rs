//! A process that is nobody's child.
#![expect(unsafe_code, reason = "system calls without a safe form; each block says why it holds")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;

use super::raw::{check, close_from, execve};
use super::{CStrings, Failure, SHARED, Spawner, Step, clone_apart};

/// The descriptor under which an orphan finds what it is given.
pub(crate) const GIFT_FD: RawFd = 3;

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

/// Starts an orphan, its parent on `stack`.
pub(super) fn start(mut prepared: PreparedOrphan<'_>, stack: &mut [u8]) -> Result<OwnedFd, Failure> {
    // SAFETY: see `run_in_between`, which keeps to what is asked for.
    let between = unsafe { clone_apart(stack, || prepared.run_in_between()) }?;
    // It ends as soon as the orphan has execed, and nobody else reaps.
    crate::reaper::discard(between.as_raw());
    prepared.outcome()
}

/// An orphan with everything that it needs made beforehand, and what becomes of it.
pub(super) struct PreparedOrphan<'a> {
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
    pub(super) fn new(spawner: &Spawner, orphan: &'a Orphan<'_>, stack: &'a mut [u8]) -> Self {
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
