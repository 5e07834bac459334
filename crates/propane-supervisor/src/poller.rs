//! The one place where the manager waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use propane_core::WorkerId;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// How many ready descriptors one wait reports; the rest come with the next.
const BATCH: usize = 64;

/// What has become readable. Names rather than descriptors, because a number can be taken by another file before its
/// last event is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A signal came in.
    Signal,
    /// A child ended.
    Exit(WorkerId),
    /// A worker said something.
    Notify(WorkerId),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Signal => 0,
            Self::Exit(worker) => worker.0 << 2 | 1,
            Self::Notify(worker) => worker.0 << 2 | 2,
        }
    }

    fn unpack(data: u64) -> Self {
        let worker = WorkerId(data >> 2);
        match data & 3 {
            1 => Self::Exit(worker),
            2 => Self::Notify(worker),
            _ => Self::Signal,
        }
    }
}

/// An epoll instance.
#[derive(Debug)]
pub(crate) struct Poller(OwnedFd);

impl Poller {
    /// A new one, that watches nothing.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(CreateFlags::CLOEXEC)?))
    }

    /// Watches a descriptor for input.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(token.pack()), EventFlags::IN)?)
    }

    /// Stops to watch. Before a descriptor is closed, because a child that has not execed yet may keep it open, and then
    /// it would still be reported.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // One that is not watched need not be removed.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits for input, or for `timeout`; for ever without one.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = Vec::with_capacity(BATCH);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) => Ok(events.iter().map(|event| Token::unpack(event.data.u64())).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in
            [Token::Signal, Token::Exit(WorkerId(0)), Token::Notify(WorkerId(0)), Token::Exit(WorkerId(1 << 40))]
        {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
