//! Development only: an HTTP load that tells every kind of failure apart.
//!
//! It exists to prove that a reload loses nothing, so it counts what other generators fold together, and it forgives
//! exactly one thing: the retry that RFC 9112 §9.3.1 allows when a server closes a re-used connection before the first
//! byte of its reply. Blocking sockets and a thread a client, so that an error is seen where it happens.
//!
//! ```no_run
//! use propane_load::{Load, Mode};
//!
//! let load = Load::start("127.0.0.1:3000".parse().unwrap(), 64, Mode::NewConnections);
//! load.wait_for_more(10_000, std::time::Duration::from_secs(30)).unwrap();
//! let report = load.stop();
//! assert_eq!(report.failures(), 0, "{report}");
//! ```

mod client;
mod ports;
mod report;
mod response;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use ports::free_port;
pub use report::{Failure, Report, Sample};

/// How a client treats its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A connection for each request (`Connection: close`).
    NewConnections,
    /// One connection for as long as the server keeps it.
    KeepAlive,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An IP address and a port.
    Address(SocketAddr),
    /// A UNIX socket.
    File(PathBuf),
}

/// What is asked for, of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub place: Place,
    /// The `Host` header.
    pub host: String,
    /// The request target, with its leading slash.
    pub path: String,
    /// The longest a connect, and each wait for bytes, may take before it counts as a timeout.
    pub patience: Duration,
}

/// Not a URL that this load can be put on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?}: {reason}")]
pub struct BadUrl {
    url: String,
    reason: String,
}

/// How long a client waits unless told otherwise: longer than any drain, so that a timeout means a lost connection.
const PATIENCE: Duration = Duration::from_secs(15);

impl Target {
    /// `/` on `address`.
    pub fn at(address: SocketAddr) -> Self {
        Self { place: Place::Address(address), host: address.to_string(), path: "/".to_owned(), patience: PATIENCE }
    }

    /// `/` of the server on the UNIX socket at `file`.
    pub fn on_file(file: PathBuf) -> Self {
        Self { place: Place::File(file), host: "localhost".to_owned(), path: "/".to_owned(), patience: PATIENCE }
    }

    /// The same with another path.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        path.clone_into(&mut self.path);
        self
    }

    /// Reads `http://host[:port][/path]`.
    ///
    /// # Errors
    /// Another scheme, or a host that does not resolve.
    pub fn parse(url: &str) -> Result<Self, BadUrl> {
        let bad = |reason: &str| BadUrl { url: url.to_owned(), reason: reason.to_owned() };
        let rest = url.strip_prefix("http://").ok_or_else(|| bad("expected http://host:port/path"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = with_port.to_socket_addrs().map_err(|error| bad(&error.to_string()))?;
        let address = addresses.next().ok_or_else(|| bad("the host has no address"))?;
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { host: authority.to_owned(), path: path.to_owned(), ..Self::at(address) })
    }
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Report>>,
    began: Instant,
}

/// What the clients and their owner both see.
#[derive(Debug, Default)]
struct Shared {
    stopped: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Wakes the owner when `answered` passes the number it waits for.
    wanted: Mutex<u64>,
    reached: Condvar,
}

/// The load did not get as far as was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only {answered} of {wanted} requests were answered in {waited:?}")]
pub struct TooSlow {
    /// Answers since the wait began.
    pub answered: u64,
    /// What was waited for.
    pub wanted: u64,
    /// How long.
    pub waited: Duration,
}

impl Load {
    /// Puts `clients` clients on `/` of `address`, each with one request at a time.
    pub fn start(address: SocketAddr, clients: usize, mode: Mode) -> Self {
        Self::on(&Target::at(address), clients, mode)
    }

    /// Puts `clients` clients on `target`, each with one request at a time.
    ///
    /// # Panics
    /// No thread can be had.
    pub fn on(target: &Target, clients: usize, mode: Mode) -> Self {
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let spawn = |_| {
            let (target, shared) = (target.clone(), Arc::clone(&shared));
            let client = thread::Builder::new().stack_size(256 * 1024);
            client.spawn(move || client::run(&target, mode, began, &shared)).expect("a thread for a client of the load")
        };
        let clients = (0..clients).map(spawn).collect();
        Self { shared, clients, began }
    }

    /// Requests answered well so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Requests that were not answered well so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have been answered well.
    ///
    /// # Errors
    /// It took longer than `limit`.
    pub fn wait_for_more(&self, count: u64, limit: Duration) -> Result<(), TooSlow> {
        let before = self.answered();
        let mut wanted = self.shared.wanted();
        *wanted = before + count;
        let unreached = |_: &mut u64| self.answered() < before + count;
        let (_wanted, timed_out) =
            self.shared.reached.wait_timeout_while(wanted, limit, unreached).unwrap_or_else(PoisonError::into_inner);
        if timed_out.timed_out() {
            return Err(TooSlow { answered: self.answered() - before, wanted: count, waited: limit });
        }
        Ok(())
    }

    /// Lets the load run for `duration`, then stops it.
    pub fn run_for(self, duration: Duration) -> Report {
        // Never reached, so this waits exactly as long.
        let _ = self.wait_for_more(u64::MAX / 2, duration);
        self.stop()
    }

    /// Lets every client finish the request it is at, and says how it went.
    ///
    /// # Panics
    /// A client panicked.
    pub fn stop(self) -> Report {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for client in self.clients {
            report.merge(client.join().expect("no client of the load panicked"));
        }
        report.elapsed = self.began.elapsed();
        report
    }
}

impl Shared {
    fn wanted(&self) -> std::sync::MutexGuard<'_, u64> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered_one(&self) {
        let answered = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if answered == *self.wanted() {
            self.reached.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("http://127.0.0.1:3000/a/b?c").unwrap();
        let address = |target: &Target| match &target.place {
            Place::Address(address) => address.to_string(),
            Place::File(path) => path.display().to_string(),
        };
        assert_eq!((address(&target).as_str(), target.path.as_str()), ("127.0.0.1:3000", "/a/b?c"));
        assert_eq!(target.host, "127.0.0.1:3000");
        let target = Target::parse("http://[::1]").unwrap();
        assert_eq!((address(&target).as_str(), target.path.as_str()), ("[::1]:80", "/"));
        assert!(Target::parse("https://127.0.0.1/").is_err());
        assert!(Target::parse("http://no.such.host.invalid/").is_err());
    }
}
