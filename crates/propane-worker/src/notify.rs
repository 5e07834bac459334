//! Tells the manager how the worker is: the datagrams of `sd_notify(3)`.
//!
//! Written out rather than taken from a crate because the address comes in as a value, not from the process
//! environment, and because a full queue at the manager must never block the event loop.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};

use tokio::net::UnixDatagram;

/// What can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Connections are being accepted. With a watchdog this is the first sign of life as well, so that a worker that
    /// hangs from here on is missed.
    Ready { watched: bool },
    /// The main loop is alive.
    Watchdog,
    /// No more connections are accepted; what is open is being finished.
    Stopping,
}

impl State {
    fn message(self) -> &'static str {
        match self {
            Self::Ready { watched: false } => "READY=1\n",
            Self::Ready { watched: true } => "READY=1\nWATCHDOG=1\n",
            Self::Watchdog => "WATCHDOG=1\n",
            Self::Stopping => "STOPPING=1\n",
        }
    }
}

/// The way to the manager, where there is one.
pub(crate) struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to `address`. A manager that cannot be reached is said and then done without: the worker can serve.
    pub(crate) fn connect(address: Option<&OsStr>) -> Self {
        Self(address.and_then(|address| match open(address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!("NOTIFY_SOCKET: cannot connect to {}: {error}", address.to_string_lossy());
                None
            }
        }))
    }

    /// Whether anybody hears what is sent.
    pub(crate) fn is_connected(&self) -> bool {
        self.0.is_some()
    }

    /// Sends `state`, waiting while the manager's queue is full.
    pub(crate) async fn send(&self, state: State) {
        if let Some(socket) = &self.0 {
            report(state, socket.send(state.message().as_bytes()).await);
        }
    }

    /// Sends `state` unless the manager's queue is full: a manager that does not listen must not stop the worker.
    pub(crate) fn send_if_heard(&self, state: State) {
        if let Some(socket) = &self.0 {
            match socket.try_send(state.message().as_bytes()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => report(state, sent),
            }
        }
    }
}

fn report(state: State, sent: io::Result<usize>) {
    if let Err(error) = sent {
        tracing::warn!("NOTIFY_SOCKET: cannot send {state:?}: {error}");
    }
}

fn open(address: &OsStr) -> io::Result<UnixDatagram> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = StdDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}
