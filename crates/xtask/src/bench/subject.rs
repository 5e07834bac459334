//! A peer that runs: its manager, its workers, and the things that are done to them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::manager::Outcome;

use super::launch::{self, Delays, Scene, Tools};
use super::peers::{Peer, Reload};
use super::probe;
use super::system::{self, Interrupt, LOOK_INTERVAL, SLOW_LOOK_INTERVAL, Usage};

/// No start, reload or stop that is measured here is anywhere near as long.
pub(super) const PATIENCE: Duration = Duration::from_mins(2);
/// How long processes may outlive their manager before they count as left behind.
pub(super) const LEFT_AFTER: Duration = Duration::from_secs(2);

/// Where a subject runs: kept apart, so that the files are there until all processes have gone.
#[derive(Debug)]
pub(super) struct Place {
    dir: TempDir,
    port: u16,
    workers: usize,
    delays: Delays,
}

impl Place {
    pub(super) fn new(workers: usize, delays: Delays) -> Outcome<Self> {
        let dir = tempfile::Builder::new().prefix("propane-bench-").tempdir()?;
        // Workers of another user must get at their files.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { dir, port: propane_load::free_port(), workers, delays })
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn scene<'a>(&'a self, tools: &'a Tools) -> Scene<'a> {
        Scene { tools, dir: self.dir.path(), port: self.port, workers: self.workers, delays: self.delays }
    }
}

/// Whose everything is ended when it goes out of scope.
pub(super) struct Subject<'a> {
    peer: &'a Peer,
    place: &'a Place,
    tools: &'a Tools,
    interrupt: &'a Interrupt,
    root: Child,
    began: Instant,
    /// Those that have answered, so far as they are known to live.
    workers: BTreeSet<i32>,
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        system::sweep();
        // It has been reaped by the sweep; this only forgets it.
        let _ = self.root.try_wait();
    }
}

impl<'a> Subject<'a> {
    pub(super) fn start(
        peer: &'a Peer,
        place: &'a Place,
        tools: &'a Tools,
        interrupt: &'a Interrupt,
        mut command: Command,
    ) -> Outcome<Self> {
        launch::as_from_a_shell(&mut command);
        let output = File::create(place.path().join("output"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // Ctrl-C is for the benchmark, which then ends the rest.
        command.process_group(0);
        let began = Instant::now();
        let root = command.spawn().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { peer, place, tools, interrupt, root, began, workers: BTreeSet::new() })
    }

    /// Starts a peer and waits until all its workers have answered. Returns how long that took.
    pub(super) fn serving(
        peer: &'a Peer,
        place: &'a Place,
        tools: &'a Tools,
        interrupt: &'a Interrupt,
    ) -> Outcome<(Self, Duration)> {
        let command = peer.serve(&place.scene(tools))?;
        let mut subject = Self::start(peer, place, tools, interrupt, command)?;
        let started = subject.all_answer();
        let took = started.map_err(|error| format!("{error}; it said: {}", subject.last_words()))?;
        Ok((subject, took))
    }

    fn all_answer(&mut self) -> Outcome<Duration> {
        let (port, interrupt) = (self.place.port, self.interrupt);
        probe::first_answer(port, PATIENCE, interrupt, || self.is_running())?;
        let wanted = self.place.workers;
        self.workers = probe::answering(self.place.port, PATIENCE, self.interrupt, |pids| pids.len() >= wanted)?;
        Ok(self.began.elapsed())
    }

    /// Fails once the process that was started has ended: nothing is to be waited for any more.
    pub(super) fn is_running(&mut self) -> Outcome<()> {
        system::ended(&mut self.root).map_or(Ok(()), |status| Err(format!("it has ended, {status}").into()))
    }

    /// The end of what it has written.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(self.place.path().join("output")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().replace('\n', " / ");
        text.chars().skip(text.chars().count().saturating_sub(300)).collect()
    }

    /// The process that manages: the one that was started, or who has taken its place.
    fn manager(&self) -> Outcome<i32> {
        let root = self.root.id().cast_signed();
        if system::is_alive(root) {
            return Ok(root);
        }
        let heir = self.workers.first().and_then(|pid| system::parent(*pid));
        heir.ok_or_else(|| "the manager has gone".into())
    }

    /// What the managing processes use while nothing happens, before and after some time.
    pub(super) fn idle(&self, duration: Duration) -> Outcome<(Usage, Usage)> {
        let managers = system::beside(|pid| self.workers.contains(&pid));
        let before = Usage::of(&managers);
        self.interrupt.let_pass(duration)?;
        Ok((before, Usage::of(&managers)))
    }

    /// Kills the `nth` worker. Returns the times until its replacement is there, and until it answers.
    pub(super) fn kill_worker(&mut self, nth: usize) -> Outcome<(Duration, Duration)> {
        self.interrupt.let_pass(self.peer.settles)?;
        let victim = *self.workers.iter().nth(nth % self.workers.len().max(1)).ok_or("there is no worker")?;
        let parent = system::parent(victim).ok_or("the worker has gone by itself")?;
        let before = system::children(parent);
        let is_there = |pid: &i32| {
            !before.contains(pid) && self.peer.executed.is_none_or(|words| contains(&system::command_line(*pid), words))
        };
        let began = Instant::now();
        kill(Pid::from_raw(victim), Signal::SIGKILL)?;
        self.interrupt.wait_for("a replacement", PATIENCE, LOOK_INTERVAL, || {
            system::children(parent).iter().any(is_there).then_some(())
        })?;
        let replaced = began.elapsed();
        self.workers.remove(&victim);
        let known = self.workers.clone();
        let is_new = |pids: &BTreeSet<i32>| pids.iter().any(|pid| !known.contains(pid));
        let mut seen = probe::answering(self.place.port, PATIENCE, self.interrupt, is_new)?;
        let answered = began.elapsed();
        self.workers.append(&mut seen);
        Ok((replaced, answered))
    }

    /// Kills the manager, and returns how many workers live on.
    pub(super) fn kill_manager(&mut self) -> Outcome<usize> {
        kill(Pid::from_raw(self.manager()?), Signal::SIGKILL)?;
        let began = Instant::now();
        loop {
            let left = self.workers.iter().filter(|pid| system::is_alive(**pid)).count();
            if left == 0 || began.elapsed() > LEFT_AFTER {
                return Ok(left);
            }
            self.interrupt.let_pass(SLOW_LOOK_INTERVAL)?;
        }
    }

    /// Reloads, and waits until the old workers have gone and as many new ones answer.
    pub(super) fn reload(&mut self) -> Outcome<Duration> {
        let began = Instant::now();
        self.ask_for_reload()?;
        let gone = || (!self.workers.iter().any(|pid| system::is_alive(*pid))).then_some(());
        self.interrupt.wait_for("the old workers' end", PATIENCE, SLOW_LOOK_INTERVAL, gone)?;
        let wanted = self.place.workers;
        self.workers = probe::answering(self.place.port, PATIENCE, self.interrupt, |pids| pids.len() >= wanted)?;
        Ok(began.elapsed())
    }

    fn ask_for_reload(&self) -> Outcome<()> {
        match &self.peer.reload {
            Reload::Signal(signal) => Ok(kill(Pid::from_raw(self.manager()?), *signal)?),
            Reload::Write { file, word } => Ok(fs::write(self.place.path().join(file), word)?),
            Reload::Commands(commands) => {
                let mut commands = commands(&self.place.scene(self.tools)).into_iter();
                commands.try_for_each(|mut command| self.interrupt.run(&mut command, PATIENCE))
            }
        }
    }

    /// Stops it as its manual says. Returns how long that took and how many processes are left.
    pub(super) fn stop(&mut self) -> Outcome<(Duration, usize)> {
        let manager = self.manager()?;
        let began = Instant::now();
        kill(Pid::from_raw(manager), self.peer.stop)?;
        self.interrupt.wait_for("the manager's end", PATIENCE, LOOK_INTERVAL, || self.has_ended(manager))?;
        let ended = began.elapsed();
        let rest = || system::descendants().len();
        // Some end before their workers do.
        while rest() > 0 && began.elapsed() < ended + LEFT_AFTER {
            self.interrupt.let_pass(SLOW_LOOK_INTERVAL)?;
        }
        let left = rest();
        let is_first_look = left == 0 && began.elapsed() < ended + SLOW_LOOK_INTERVAL;
        Ok((if left > 0 || is_first_look { ended } else { began.elapsed() }, left))
    }

    fn has_ended(&mut self, manager: i32) -> Option<()> {
        if manager == self.root.id().cast_signed() {
            return system::ended(&mut self.root).map(|_| ());
        }
        (!system::is_alive(manager)).then_some(())
    }
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

/// Sockets, FIFOs and pid files below a directory: what a manager should have removed.
pub(super) fn control_files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => control_files(&entry.path()),
        Ok(kind) if kind.is_socket() || kind.is_fifo() => 1,
        Ok(_) => usize::from(entry.path().extension().is_some_and(|extension| extension == "pid")),
        Err(_) => 0,
    };
    entries.map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_files_are_found_below_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        fs::write(dir.path().join("tmp/a.pid"), "1").unwrap();
        fs::write(dir.path().join("log"), "").unwrap();
        let _socket = std::os::unix::net::UnixDatagram::bind(dir.path().join("socket")).unwrap();
        assert_eq!(control_files(dir.path()), 2);
    }

    #[test]
    fn words_are_found_in_a_command_line() {
        assert!(contains(b"/x/propane\0worker\0--env\0", b"propane\0worker\0"));
        assert!(!contains(b"/x/propane\0--env\0", b"propane\0worker\0"));
        assert!(!contains(b"", b"x"));
    }
}
