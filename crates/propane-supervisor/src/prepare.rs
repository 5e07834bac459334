//! What has to succeed before workers can be started: compiling an Arlen app. May take minutes, and can be stopped.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use propane_config::PrepareStep;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::procinfo;
use crate::signals::{Caught, Signals};

/// How the step ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The worker is there now.
    Done,
    /// It failed, with this status.
    Failed(u8),
    /// The manager was told to stop meanwhile.
    Stopped,
}

/// Runs the step, in a process group of its own, with its standard output dropped.
pub(crate) fn run(step: &PrepareStep, signals: &mut Signals) -> io::Result<Outcome> {
    let variables = step.env.iter().map(|(name, value)| (name, value));
    let mut command = Command::new(&step.program);
    command.args(&step.args).envs(variables).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    // Should this manager be killed, its warden is to find whoever compiles.
    let mut child = procinfo::marked(|| command.spawn())?;
    if wait(&child, signals)? {
        let status = child.wait()?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
        return Ok(if status.success() { Outcome::Done } else { Outcome::Failed(u8::try_from(code).unwrap_or(1)) });
    }
    // The group may be gone by itself meanwhile, which is as good.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    child.wait()?;
    Ok(Outcome::Stopped)
}

/// Waits for the child's end; false if a stop came first.
fn wait(child: &Child, signals: &mut Signals) -> io::Result<bool> {
    let Some(pid) = rustix::process::Pid::from_raw(child.id().cast_signed()) else { return Ok(true) };
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        if signals.take().iter().any(|caught| matches!(caught, Caught::Term | Caught::Int | Caught::Quit)) {
            return Ok(false);
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        let pipes: Vec<_> = signals.descriptors().collect();
        fds.extend(pipes.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(true),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
