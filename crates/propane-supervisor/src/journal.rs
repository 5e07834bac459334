//! What the manager says: plain lines and lifecycle events, to standard output and to the lifecycle log, and its state
//! to its own service manager.

use std::io;
use std::net::SocketAddr as TcpAddress;
use std::path::{Path, PathBuf};

use propane_core::{Report, WorkerId};

use crate::lifecycle::{self, Line, WorkerFacts};
use crate::neglect::Finding;
use crate::output::Sink;
use crate::service_manager::ServiceManager;
use crate::sockets::Address;

/// The manager's voice.
#[derive(Debug)]
pub(crate) struct Journal {
    stdout: Sink,
    log: Option<(PathBuf, Sink)>,
    service_manager: ServiceManager,
    manager_pid: u32,
}

impl Journal {
    /// Writes to standard output, and appends to `log` if there is one.
    pub(crate) fn open(log: Option<&Path>) -> std::io::Result<Self> {
        let log = log.map(|path| Ok::<_, std::io::Error>((path.to_owned(), Sink::append(path)?))).transpose()?;
        let stdout = Sink::standard(std::io::stdout());
        Ok(Self { stdout, log, service_manager: ServiceManager::default(), manager_pid: std::process::id() })
    }

    /// A line for people.
    pub(crate) fn plain(&mut self, text: &str) {
        self.say(&format!("propane: {}\n", on_one_line(text)));
    }

    /// The start of an event of the driver's own.
    pub(crate) fn event(&self, name: &str) -> Line {
        Line::event(name, self.manager_pid)
    }

    /// Writes an event.
    pub(crate) fn write(&mut self, line: Line) {
        self.write_event(&line.finish());
    }

    fn say(&mut self, line: &str) {
        if let Some(error) = self.stdout.write(line) {
            tell_trouble("standard output", &error);
        }
    }

    fn write_event(&mut self, line: &str) {
        self.say(line);
        if let Some((path, log)) = &mut self.log
            && let Some(error) = log.write(line)
        {
            tell_trouble(&format!("lifecycle log {}", path.display()), &error);
        }
    }

    /// Writes what the core reports.
    pub(crate) fn report(&mut self, report: &Report, facts: impl Fn(WorkerId) -> WorkerFacts) {
        let lines = lifecycle::render(report, self.manager_pid, facts);
        if let Some(trouble) = &lines.trouble {
            tracing::error!("{trouble}");
        }
        if let Some(plain) = lines.plain {
            self.say(&plain);
        }
        self.write_event(&lines.event);
        self.service_manager.tell(report, lines.trouble.as_deref());
    }

    /// Tells how to let workers share a port that they keep each other off.
    pub(crate) fn collision(&mut self, address: &Address, owner: i32, dead: i32) {
        tracing::error!(
            "the workers collide on {address}: pid {owner} holds it alone, and pid {dead} ended without it; \
             put {{fd}} into workerCommand (the socket is then handed down as that descriptor), \
             or let the server bind with SO_REUSEPORT"
        );
        let line = self.event("worker_port_collision").field("role", "http").field("pid", dead);
        self.write(line.field("owner_pid", owner).field("address", address));
    }

    /// Tells of a worker that lets clients wait in the socket that it was given.
    pub(crate) fn ignored_socket(&mut self, facts: WorkerFacts, finding: Finding) {
        let Finding { queued, elsewhere } = finding;
        let waiting =
            if queued > 0 { format!(": {queued} connections wait there, and none is taken") } else { String::new() };
        let place = elsewhere.map(|place| format!("; it listens on {place} by itself")).unwrap_or_default();
        tracing::error!(
            "pid {} (slot {}) does not accept from the socket that it was given as fd 3{waiting}{place}. Have it serve on \
             that descriptor, by {{fd}} in workerCommand or by LISTEN_FDS; or, if it can only bind by itself, set \
             socketStrategy = steer",
            facts.pid,
            facts.slot
        );
        let line = self.event("worker_ignores_socket").field("role", "http").field("pid", facts.pid);
        let line = line.field("queued_connections", queued).field("slot", facts.slot);
        let line = line.field("generation", facts.generation);
        self.write(elsewhere.into_iter().fold(line, |line, place| line.field("listens_on", place)));
    }

    /// Tells of a worker that binds by itself, and not where it should.
    pub(crate) fn listens_elsewhere(&mut self, facts: WorkerFacts, place: TcpAddress, expected: &Address) {
        tracing::error!(
            "pid {} (slot {}) listens on {place} instead of {expected}; have it bind the address that it is told \
             ({{host}} and {{port}} in workerCommand, HOST and PORT, ARLEN_HOST and ARLEN_PORT)",
            facts.pid,
            facts.slot
        );
        let line = self.event("worker_listens_elsewhere").field("role", "http").field("pid", facts.pid);
        let line = line.field("listens_on", place).field("address", expected);
        self.write(line.field("slot", facts.slot).field("generation", facts.generation));
    }

    /// Tells that steering is not to be had, and what comes of it.
    pub(crate) fn strategy_changed(&mut self, reason: &str) {
        tracing::warn!(
            "socketStrategy steer is not to be had, reuseport is used instead: {reason} \
             (a reload can reset connections that wait in a leaving worker's queue)"
        );
        let line = self.event("socket_strategy_changed").field("from", "steer").field("to", "reuseport");
        self.write(line.field("reason", reason));
    }

    /// Opens the lifecycle log again, after it was rotated away. Keeps the old one where that fails.
    pub(crate) fn reopen(&mut self) {
        let Some((path, log)) = &mut self.log else { return };
        match Sink::append(path) {
            Ok(reopened) => *log = reopened,
            Err(error) => tracing::error!("cannot reopen lifecycle log {}: {error}", path.display()),
        }
        let line = self.event("manager_log_reopened").field("signal", "USR1");
        self.write(line);
    }
}

/// The text with its control characters escaped: a line break in a value must not begin a line that looks like ours.
fn on_one_line(text: &str) -> String {
    let shown = |letter: char| if letter.is_control() { letter.escape_default().to_string() } else { letter.into() };
    text.chars().map(shown).collect()
}

fn tell_trouble(place: &str, error: &io::Error) {
    tracing::warn!("cannot write to {place}: {error}; lines are dropped until that works again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_is_one_line() {
        assert_eq!(
            on_one_line("name=a\r\npropane:lifecycle event=x\u{1b}[0m é"),
            "name=a\\r\\npropane:lifecycle event=x\\u{1b}[0m é"
        );
    }
}
