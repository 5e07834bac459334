//! The warden: a process of its own that waits for the manager's end, and then ends what the manager could not.
//!
//! The kernel's parent death signal reaches the children of a manager that is killed, and not their descendants. The
//! warden is no child of the manager, holds nothing of it that anybody could wait for but standard error, takes no
//! signal, and looks at nothing until the manager has gone. A manager that ends in order ends its warden.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};

use crate::memory;
use crate::output::Sink;
use crate::plan::OWN_PROGRAM;
use crate::private_file::PrivateFile;
use crate::spawn::{CStrings, Failure, GIFT_FD, Orphan, Spawner, c_string};
use crate::state::{self, Record};

/// The word with which the manager starts it: this program again, with a command line of its own.
pub const WARDEN: &str = "warden";

/// What it means that there is none.
pub(crate) const WITHOUT_WARDEN: &str =
    "so should this manager be killed, what its workers have started lives on until the next start";

/// How long a killed warden may take to be gone. It has nothing that would hold it up.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long after its start it tidies up: the start of the workers is not to wait for that.
const SETTLING_TIME: Duration = Duration::from_millis(100);

/// How many pids a message names: a line is to stay one.
const PIDS_SHOWN: usize = 20;

/// What a wrong use of it is answered with.
const NOT_BY_HAND: &str = "propane: a manager starts its warden by itself, to end what it leaves behind when it is killed; \
     by hand there is nothing to start\n";

/// A warden that runs. It is ended, and waited for, when this goes out of scope.
#[derive(Debug)]
pub(crate) struct Warden {
    pidfd: OwnedFd,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoWarden {
    #[error("its manager cannot be watched: {0}")]
    Watch(#[from] rustix::io::Errno),
    #[error("there is no memory for what it has to know: {0}")]
    Memory(io::Error),
    #[error("{0}")]
    Spawn(Failure),
}

impl Warden {
    /// Starts the warden of this process. To be called before this process adopts orphans, because the warden is one.
    /// Returns it with the file that tells it whom to end.
    pub(crate) fn start(spawner: &mut Spawner) -> Result<(Self, PrivateFile), NoWarden> {
        let manager = pidfd_open(getpid(), PidfdFlags::empty())?;
        let record = state::share().map_err(NoWarden::Memory)?;
        let mut argv = CStrings::default();
        for word in ["propane", WARDEN, &std::process::id().to_string()] {
            argv.push(&[word.as_bytes()]);
        }
        let orphan = Orphan {
            program: c_string(OWN_PROGRAM),
            argv,
            stdin: manager.as_fd(),
            gift: record.descriptor().ok_or_else(|| NoWarden::Memory(io::ErrorKind::StorageFull.into()))?,
        };
        let pidfd = spawner.spawn_orphan(&orphan).map_err(NoWarden::Spawn)?;
        Ok((Self { pidfd }, record))
    }

    /// Ends it, without waiting for its end.
    pub(crate) fn dismiss(&self) {
        // One that has ended by itself need not be.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl AsFd for Warden {
    /// What becomes readable when it has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        self.dismiss();
        // It holds standard error, whose reader may wait for everybody's end.
        let _ = wait(self, Some(END_TIMEOUT));
    }
}

/// The warden itself, from what it was started with to its exit code.
pub fn main(words: &[OsString]) -> ExitCode {
    let Some(record) = record(words) else {
        Sink::standard(io::stderr()).write(NOT_BY_HAND);
        return ExitCode::from(2);
    };
    if watch(&io::stdin()).is_err() {
        return ExitCode::FAILURE;
    }
    let manager = record.manager();
    let killed = record.clear();
    if !killed.is_empty() {
        Sink::standard(io::stderr()).write(&format!(
            "propane: warning: the manager with pid {manager} was killed; its warden has killed what was left: {}\n",
            list(&killed)
        ));
    }
    ExitCode::SUCCESS
}

/// Waits for the manager's end, in as little memory as can be.
fn watch(manager: &impl AsFd) -> io::Result<()> {
    match wait(manager, Some(SETTLING_TIME)) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
        ended => return ended,
    }
    let files = memory::untouched_files();
    memory::give_back_heap();
    // From here on nothing runs but this and the wait.
    memory::give_back(&files);
    wait(manager, None)
}

/// Pids for a message, the first of many only.
fn list(pids: &[i32]) -> String {
    let shown: Vec<_> = pids.iter().take(PIDS_SHOWN).map(ToString::to_string).collect();
    let rest = pids.len() - shown.len();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    shown.join(", ") + &more
}

/// What it has been given, if it is a manager that has started it.
fn record(words: &[OsString]) -> Option<Record> {
    let [manager] = words else { return None };
    let record = Record::read(File::open(format!("/proc/self/fd/{GIFT_FD}")).ok()?)?;
    (*manager == *record.manager().to_string()).then_some(record)
}

/// Waits until a process has ended, for ever without a timeout.
fn wait(pidfd: &impl AsFd, timeout: Option<Duration>) -> io::Result<()> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    loop {
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::InvalidInput.into()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_a_few_pids() {
        let pids: Vec<i32> = (1..=22).collect();
        for (count, expected) in [(1, "1"), (2, "1, 2")] {
            assert_eq!(list(&pids[..count]), expected);
        }
        assert!(list(&pids[..20]).ends_with("19, 20"));
        assert!(list(&pids).ends_with("19, 20 and 2 more"));
    }
}
