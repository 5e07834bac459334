//! System calls of a child that shares the manager's memory, as the kernel has them: libc's wrappers keep what they know
//! about threads, signals and pids in that memory, and a preloaded library may have put itself before them.
#![expect(unsafe_code, reason = "system calls without a safe form; each block says why it holds")]

use std::ffi::CString;
use std::os::fd::RawFd;

use nix::libc;

use super::Step;

/// The highest signal number of Linux (`signal(7)`), and the size of the kernel's set of them in bytes.
const SIGNAL_MAX: libc::c_int = 64;
const SIGNAL_SET_BYTES: usize = 8;

/// The kernel's `struct sigaction` is 32 bytes at the most, its handler first; all zero means `SIG_DFL`, no flags, an empty
/// mask.
type Disposition = [u64; 8];

/// Which signals are not at their defaults.
pub(super) fn changed_signals() -> Vec<libc::c_int> {
    let is_changed = |signal: &libc::c_int| {
        let mut found = Disposition::default();
        // SAFETY: asks only, into room of the right size. A raw call, because libc keeps two signals for itself.
        unsafe { sigaction(*signal, std::ptr::null(), found.as_mut_ptr()) };
        found[0] != 0
    };
    (1..=SIGNAL_MAX).filter(is_changed).collect()
}

/// Handlers of the manager and ignored signals of whoever started it are not the worker's.
pub(super) fn reset_dispositions(changed: &[libc::c_int]) {
    let default = Disposition::default();
    for signal in changed {
        // SAFETY: plain system calls on values that live here.
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
pub(super) unsafe fn execve(program: &CString, argv: &[*const libc::c_char], env: &[*const libc::c_char]) {
    // SAFETY: the caller's.
    unsafe { libc::syscall(libc::SYS_execve, program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// In the child only, which needs none of them.
pub(super) unsafe fn close_from(first: RawFd, flags: libc::c_uint) -> Result<(), Step> {
    // SAFETY: a plain system call.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, flags) }, Step::Descriptors)
}

pub(super) fn check(result: libc::c_long, step: Step) -> Result<(), Step> {
    if result < 0 { Err(step) } else { Ok(()) }
}
