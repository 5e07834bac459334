//! The listening socket, bound or inherited, and the streams that come out of it.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::inherited;
use crate::settings::Socket;

/// Why there is nothing to accept from.
///
/// Its `Debug` form is the text for people, too, because that is what a `main` shows that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is not one, or its name cannot be resolved.
    #[error("ARLEN_HOST: cannot use {host:?} as an address to listen on: {reason}")]
    Address {
        /// The host as it was given.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The socket could not be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address that was tried.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Descriptor 3 is not what `LISTEN_FDS` promised.
    #[error("LISTEN_FDS: {0}")]
    Inherited(io::Error),
}

impl fmt::Debug for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who made the listening socket, and so what its queue is when this worker leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// Somebody else keeps the socket: what waits in the queue is the successor's.
    Handed,
    /// It dies with this worker's socket: what waits in it must be accepted first.
    Own,
}

/// An open listening socket, not yet part of a runtime.
#[derive(Debug)]
pub(crate) struct Opened {
    socket: socket2::Socket,
    pub(crate) queue: Queue,
}

/// A listening socket in the runtime.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Opens what `source` asks for.
pub(crate) fn open(source: &Socket) -> Result<Opened, ListenError> {
    match source {
        Socket::Inherited => {
            let socket = inherited::take().map_err(ListenError::Inherited)?;
            Ok(Opened { socket, queue: Queue::Handed })
        }
        Socket::Bind { host, port, reuse_port, backlog } => {
            let address = resolve(host, *port)?;
            let socket =
                bind(address, *reuse_port, *backlog).map_err(|source| ListenError::Bind { address, source })?;
            Ok(Opened { socket, queue: Queue::Own })
        }
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr, ListenError> {
    let refuse = |reason: String| ListenError::Address { host: host.to_owned(), reason };
    if host.starts_with("unix:") {
        return Err(refuse("only the manager binds a UNIX socket; start this worker through it".to_owned()));
    }
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let mut addresses = (host, port).to_socket_addrs().map_err(|error| refuse(error.to_string()))?;
    addresses.next().ok_or_else(|| refuse("the name has no address".to_owned()))
}

fn bind(address: SocketAddr, reuse_port: bool, backlog: i32) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]` means both families everywhere, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

impl Opened {
    /// The address for people, like `http://127.0.0.1:3000`, of a socket that was bound here.
    pub(crate) fn own_url(&self) -> Option<String> {
        if self.queue == Queue::Handed {
            return None;
        }
        self.socket.local_addr().ok()?.as_socket().map(|address| format!("http://{address}"))
    }

    /// Hands the socket to the current runtime.
    pub(crate) fn register(self) -> io::Result<Listener> {
        if self.socket.domain()? == Domain::UNIX {
            return UnixListener::from_std(self.socket.into()).map(Listener::Unix);
        }
        TcpListener::from_std(self.socket.into()).map(Listener::Tcp)
    }
}

impl Listener {
    /// Waits for a connection. Nothing is lost if the future is dropped.
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(Accepted::from),
            Self::Unix(listener) => listener.accept().await.map(Accepted::from),
        }
    }

    /// Takes everything that waits in the queue, and closes the socket.
    ///
    /// Asks the kernel directly: the runtime only knows of what its last look at epoll has told it.
    pub(crate) fn close_and_take_waiting(self) -> io::Result<Vec<Accepted>> {
        match self {
            Self::Tcp(listener) => {
                let listener = listener.into_std()?;
                drain_queue(
                    || listener.accept(),
                    |(stream, address)| {
                        stream.set_nonblocking(true)?;
                        Ok((TcpStream::from_std(stream)?, address).into())
                    },
                )
            }
            Self::Unix(listener) => {
                let listener = listener.into_std()?;
                drain_queue(
                    || listener.accept(),
                    |(stream, address)| {
                        stream.set_nonblocking(true)?;
                        Ok((UnixStream::from_std(stream)?, address.into()).into())
                    },
                )
            }
        }
    }
}

fn drain_queue<T>(
    accept: impl Fn() -> io::Result<T>,
    register: impl Fn(T) -> io::Result<Accepted>,
) -> io::Result<Vec<Accepted>> {
    let mut waiting = Vec::new();
    loop {
        match accept() {
            // A connection that the runtime cannot take is closed, and the others are still served.
            Ok(connection) => waiting.extend(register(connection)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(waiting),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => match AcceptFailure::of(&error) {
                AcceptFailure::Connection => {}
                AcceptFailure::Exhausted | AcceptFailure::Socket => return Ok(waiting),
            },
        }
    }
}

/// A connection as it came out of the queue.
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
}

impl From<(TcpStream, SocketAddr)> for Accepted {
    fn from((stream, address): (TcpStream, SocketAddr)) -> Self {
        // A response is written in one go, so that waiting for more (Nagle) only delays it. A socket that refuses the
        // option works all the same.
        let _ = stream.set_nodelay(true);
        Self { stream: Stream::Tcp(stream), peer: Peer::Address(address) }
    }
}

impl From<(UnixStream, tokio::net::unix::SocketAddr)> for Accepted {
    fn from((stream, _): (UnixStream, tokio::net::unix::SocketAddr)) -> Self {
        Self { stream: Stream::Unix(stream), peer: Peer::Unix }
    }
}

/// Who is at the other end of a connection. Every request carries one as an extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// The next hop: a client, or the proxy before it.
    Address(SocketAddr),
    /// Somebody on this machine, over a UNIX socket.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// What a failed accept means for the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AcceptFailure {
    /// That one connection died in the queue; accept(2) says to go on as after EAGAIN.
    Connection,
    /// Descriptors or memory have run out; they come back when connections close.
    Exhausted,
    /// The socket itself has ended: somebody who shares it has shut it down, or the descriptor is gone.
    Socket,
}

impl AcceptFailure {
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Self::Exhausted,
            Some(Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP) => Self::Socket,
            _ => Self::Connection,
        }
    }
}

/// A connection's bytes.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Somebody else has them.
    Gone,
}

/// How much is thrown away at most of what a client that is turned away has sent already.
const THROWN_AWAY_BYTES: usize = 256 * 1024;

impl Stream {
    /// Says so in passing, and closes: what can be said and heard without waiting. What has arrived is read, because a
    /// close before that would be a reset, which eats the answer.
    pub(crate) fn turn_away(self, answer: &[u8]) {
        let socket = match &self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
            Self::Gone => return,
        };
        let mut scratch = [MaybeUninit::uninit(); 16 * 1024];
        let mut thrown_away = 0;
        // Who does not get it could not be told.
        let _ = socket.send(answer).and_then(|_| socket.shutdown(Shutdown::Write));
        while let Ok(count @ 1..) = socket.recv(&mut scratch) {
            thrown_away += count;
            if thrown_away > THROWN_AWAY_BYTES {
                return;
            }
        }
    }
}

macro_rules! forward {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Unix($stream) => $call,
            Stream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(self, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_in_every_usual_form() {
        let resolved = |host| resolve(host, 80).map(|address| address.to_string()).map_err(|error| error.to_string());
        assert_eq!(resolved("127.0.0.1"), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(resolved("0.0.0.0"), Ok("0.0.0.0:80".to_owned()));
        assert_eq!(resolved("::1"), Ok("[::1]:80".to_owned()));
        assert_eq!(resolved("[::]"), Ok("[::]:80".to_owned()));
        assert!(resolved("unix:/run/app.sock").unwrap_err().contains("only the manager binds a UNIX socket"));
        assert!(resolved("no.such.host.invalid").unwrap_err().starts_with("ARLEN_HOST: cannot use"));
    }

    #[test]
    fn only_a_dead_socket_ends_the_accept_loop() {
        let failure = |errno: Errno| AcceptFailure::of(&errno.into());
        assert_eq!(failure(Errno::CONNABORTED), AcceptFailure::Connection);
        assert_eq!(failure(Errno::NETUNREACH), AcceptFailure::Connection);
        assert_eq!(failure(Errno::MFILE), AcceptFailure::Exhausted);
        assert_eq!(failure(Errno::INVAL), AcceptFailure::Socket);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_is_turned_away_reads_why() {
        use std::io::{Read as _, Write as _};

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(&vec![b'x'; 100_000]).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
        Stream::Tcp(stream).turn_away(b"busy");
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "busy");
    }
}
