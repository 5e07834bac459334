//! Takes over the listening socket that the manager, or systemd, passed as descriptor 3.
//!
//! The only unsafe code of this crate: the kernel hands descriptors over as bare numbers, and somebody has to vouch for
//! the number once.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{SockRef, Socket};

/// `SD_LISTEN_FDS_START` of `sd_listen_fds(3)`.
const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Descriptor 3 as a listening, close-on-exec, non-blocking socket.
///
/// `O_NONBLOCK` belongs to the open file description and is thus set for everybody who holds the socket. That is
/// harmless among event loops, which is what every worker on the same socket is.
///
/// # Errors
/// Nothing is open there, it is not a listening socket, or it was taken before.
pub(crate) fn take() -> io::Result<Socket> {
    check_listening()?;
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Err(io::Error::other("the inherited socket was already taken by this process"));
    }
    #[expect(unsafe_code, reason = "a descriptor arrives as a number")]
    // SAFETY: the descriptor is open (just checked), `LISTEN_PID` says that it was meant for this process, and `TAKEN`
    // makes this its only owner.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(FIRST) });
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn check_listening() -> io::Result<()> {
    #[expect(unsafe_code, reason = "a descriptor arrives as a number")]
    // SAFETY: borrowed only for one getsockopt, which answers EBADF or ENOTSOCK if the number means nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(FIRST) };
    match SockRef::from(&borrowed).is_listener() {
        Ok(true) => Ok(()),
        Ok(false) => Err(io::Error::other("the inherited descriptor 3 is a socket that does not listen")),
        Err(error) => Err(io::Error::new(error.kind(), format!("the inherited descriptor 3: {error}"))),
    }
}
