//! The one place where the manager waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use propane_core::WorkerId;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// How many ready descriptors one wait reports; the rest come with the next. Few, because each may be a death, which takes
/// a quarter of a millisecond beside a thousand workers, and a signal is not to wait for more than that.
pub(crate) const BATCH: usize = 8;

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
    /// The time is over.
    Timer,
    /// A listener was shut down.
    HangUp,
    /// The warden has ended.
    Warden,
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Self::Signal => 0,
            Self::Timer => 3,
            Self::HangUp => 1 << 2 | 3,
            Self::Warden => 2 << 2 | 3,
            Self::Exit(worker) => worker.0 << 2 | 1,
            Self::Notify(worker) => worker.0 << 2 | 2,
        }
    }

    fn unpack(data: u64) -> Self {
        let worker = WorkerId(data >> 2);
        match data & 3 {
            1 => Self::Exit(worker),
            2 => Self::Notify(worker),
            3 if worker.0 == 0 => Self::Timer,
            3 if worker.0 == 1 => Self::HangUp,
            3 => Self::Warden,
            _ => Self::Signal,
        }
    }
}

const NO_TIME: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// An epoll instance with a timer: epoll's own timeout counts in milliseconds, which is too coarse for a respawn.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
}

impl Poller {
    /// A new one, that watches nothing.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let poller = Self { epoll, timer };
        poller.add(&poller.timer, Token::Timer)?;
        Ok(poller)
    }

    /// Watches a descriptor for input.
    pub(crate) fn add(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN)?)
    }

    /// Watches a listener for its end, which is told once. Whoever accepts from it is not disturbed.
    pub(crate) fn add_listener(&self, fd: impl AsFd) {
        let once = EventFlags::ONESHOT;
        // One that is watched already stays so; without a watch, the end of its worker brings it to light.
        let _ = epoll::add(&self.epoll, fd, EventData::new_u64(Token::HangUp.pack()), once);
    }

    /// Watches a descriptor for input that comes once and stays.
    pub(crate) fn add_once(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), flags)?)
    }

    /// Stops to watch. Before a descriptor is closed, because a child that has not execed yet may keep it open, and then
    /// it would still be reported.
    pub(crate) fn remove(&self, fd: impl AsFd) {
        // One that is not watched need not be removed.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits for input, or for `timeout`; for ever without one.
    pub(crate) fn wait(&self, timeout: Option<Duration>) -> io::Result<Vec<Token>> {
        let at_once = timeout.filter(Duration::is_zero).map(|_| &NO_TIME);
        if at_once.is_none() {
            self.set_timer(timeout)?;
        }
        let mut events = Vec::with_capacity(BATCH);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), at_once) {
            Ok(_) => Ok(events.iter().map(|event| Token::unpack(event.data.u64())).collect()),
            Err(rustix::io::Errno::INTR) => Ok(Vec::new()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Setting it also takes back what it has told already (`timerfd_create(2)`).
    fn set_timer(&self, timeout: Option<Duration>) -> io::Result<()> {
        // Zero switches the timer off, which is what no timeout means.
        let it_value =
            Timespec::try_from(timeout.unwrap_or_default()).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        let once = Itimerspec { it_interval: NO_TIME, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_its_time_is_over_and_not_before() {
        let poller = Poller::new().unwrap();
        assert_eq!(poller.wait(Some(Duration::ZERO)).unwrap(), []);
        for timeout in [Duration::from_micros(300), Duration::from_millis(2)] {
            let began = std::time::Instant::now();
            assert_eq!(poller.wait(Some(timeout)).unwrap(), [Token::Timer]);
            assert!(began.elapsed() >= timeout);
        }
    }

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [
            Token::Signal,
            Token::Timer,
            Token::HangUp,
            Token::Warden,
            Token::Exit(WorkerId(0)),
            Token::Notify(WorkerId(0)),
            Token::Exit(WorkerId(1 << 40)),
        ] {
            assert_eq!(Token::unpack(token.pack()), token);
        }
    }
}
