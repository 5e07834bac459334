//! Taking the status of dead children. Not through a crate's wrapper, because nix knows no real-time signals: it would
//! reap a child that died of one and then say that nothing was found.
#![expect(unsafe_code, reason = "waitid fills in a siginfo_t, whose fields have no safe accessors")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use propane_core::ExitStatus;

/// Takes the status of the child behind a pidfd, if it is dead.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).ok()?;
    wait(libc::P_PIDFD, id, 0).map(|(_, status)| status)
}

/// The pid of some dead child, which stays to be reaped.
pub(crate) fn peek() -> Option<i32> {
    wait(libc::P_ALL, 0, libc::WNOWAIT).map(|(pid, _)| pid)
}

/// Reaps a child of whom nothing is wanted but that it is gone; waits for its end.
pub(crate) fn discard(pid: i32) {
    if let Ok(id) = libc::id_t::try_from(pid) {
        // SAFETY: a null pointer for the information that is not wanted is allowed (`waitid(2)`).
        while unsafe { libc::waitid(libc::P_PID, id, std::ptr::null_mut(), libc::WEXITED) } == -1
            && nix::errno::Errno::last() == nix::errno::Errno::EINTR
        {}
    }
}

fn wait(kind: libc::idtype_t, id: libc::id_t, flags: libc::c_int) -> Option<(i32, ExitStatus)> {
    // SAFETY: all zero is a valid `siginfo_t`, and `waitid` writes no more than one.
    let (result, info) = unsafe {
        let mut info = std::mem::zeroed::<libc::siginfo_t>();
        (libc::waitid(kind, id, &raw mut info, libc::WEXITED | libc::WNOHANG | flags), info)
    };
    // SAFETY: after a success these fields are those of SIGCHLD, or zero where no child is dead (`waitid(2)`).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let status = if info.si_code == libc::CLD_EXITED { ExitStatus::Code(status) } else { ExitStatus::Signal(status) };
    (result == 0 && pid != 0).then_some((pid, status))
}
