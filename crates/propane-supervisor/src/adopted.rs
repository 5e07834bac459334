//! Children of the manager that are no workers: what workers have left to this subreaper, descendants that went their own
//! way, and whoever was there before, because a shell that became the manager (`exec`) had started it.

use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{procinfo, reaper, state};

/// From now on orphans of descendants become this process's children.
pub(crate) fn begin() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Who may be among the children at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adopted {
    /// Nobody was this process's child before it started anybody, so that all are its own.
    all_own: bool,
}

impl Adopted {
    /// To be asked before anybody is started.
    pub(crate) fn expected() -> Self {
        Self { all_own: children().is_empty() }
    }

    /// Ends what workers have left. Where others may be among the children, only who bears a sign is ended, as it would be
    /// if this manager were killed.
    pub(crate) fn end(self) {
        loop {
            let own: Vec<_> = children().into_iter().filter(|pid| self.all_own || state::is_own(*pid)).collect();
            if own.is_empty() {
                return;
            }
            for pid in own {
                // A child of this process that nobody else reaps: the number is its own.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                reaper::discard(pid);
            }
        }
    }
}

/// All children of this process, workers too.
pub(crate) fn children() -> Vec<i32> {
    procinfo::children(std::process::id().cast_signed())
}
