//! Signals as events: each signal is a byte on a pipe of its own, so that none is lost, none counts twice, and the
//! signal mask that workers would inherit stays empty. Handlers also take the place of "ignored" as `nohup` sets it.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use signal_hook::consts::signal::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};

/// A signal that the manager acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caught {
    /// Reload.
    Hup,
    /// Stop gracefully.
    Term,
    /// As TERM.
    Int,
    /// Stop at once.
    Quit,
    /// One worker more.
    Ttin,
    /// One worker less.
    Ttou,
    /// Open the lifecycle log again.
    Usr1,
    /// Kept for a later use; caught, because its default would end the manager.
    Usr2,
    /// A child ended.
    Chld,
}

/// TERM, INT and QUIT stand first: when several are waiting, a stop wins.
const SIGNALS: [(i32, Caught); 9] = [
    (SIGQUIT, Caught::Quit),
    (SIGTERM, Caught::Term),
    (SIGINT, Caught::Int),
    (SIGHUP, Caught::Hup),
    (SIGTTIN, Caught::Ttin),
    (SIGTTOU, Caught::Ttou),
    (SIGUSR1, Caught::Usr1),
    (SIGUSR2, Caught::Usr2),
    (SIGCHLD, Caught::Chld),
];

/// The pipes of all signals.
#[derive(Debug)]
pub(crate) struct Signals {
    pipes: Vec<(UnixStream, Caught)>,
}

impl Signals {
    /// Catches every signal from here on, also where whoever started this process has blocked it.
    pub(crate) fn catch() -> io::Result<Self> {
        let pipes = SIGNALS.iter().map(|(number, caught)| {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signal_hook::low_level::pipe::register(*number, write)?;
            Ok((read, *caught))
        });
        let pipes = pipes.collect::<io::Result<_>>()?;
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
        Ok(Self { pipes })
    }

    /// The descriptors to wait on, by index.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.pipes.iter().map(|(pipe, _)| pipe.as_fd())
    }

    /// What came in since the last look, once for each time that the kernel delivered it.
    pub(crate) fn take(&mut self) -> Vec<Caught> {
        let mut taken = Vec::new();
        for (pipe, caught) in &mut self.pipes {
            let mut bytes = [0u8; 256];
            while let Ok(count @ 1..) = pipe.read(&mut bytes) {
                taken.extend(std::iter::repeat_n(*caught, count));
            }
        }
        taken
    }
}
