//! One connection to the address that workers share, and `GET`s on the readiness path over it, in steps that never wait.
//!
//! On an address that workers share, an answer proves only that somebody is ready. So it is first seen who has accepted
//! the connection, and then asked: afterwards it could not be seen any more, because a server may close after its answer.

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::libc;
use socket2::{SockAddr, Socket};

use crate::sockdiag;
use crate::sockets::Address;

/// More than any sane answer's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// More of an answer's body is not read to keep a connection.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// What any request begins with.
const METHOD: &[u8] = b"GET ";

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Look again later.
    Pending,
    /// There is no answer, and there will be none.
    Failed,
    /// The head of an answer is there.
    Answered(Answer),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct HttpProbe {
    stream: Socket,
    server: SockAddr,
    request: Vec<u8>,
    sent: usize,
    head: Vec<u8>,
}

impl HttpProbe {
    /// Begins to connect.
    pub(crate) fn begin(address: &Address) -> io::Result<Self> {
        let (stream, server) = address.client()?;
        // Most connections are closed as soon as it is seen whose they are. In order, each would keep its port for a minute.
        stream.set_linger(Some(Duration::ZERO))?;
        match stream.connect(&server) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        Ok(Self { stream, server, request: Vec::new(), sent: 0, head: Vec::new() })
    }

    /// The inode of the server's end, once somebody has accepted it and until it is closed.
    pub(crate) fn server_end(&self) -> io::Result<Option<u64>> {
        match (self.stream.local_addr()?.as_socket(), self.server.as_socket()) {
            (Some(client), Some(server)) => sockdiag::server_end(client, server),
            _ => sockdiag::unix_peer(rustix::fs::fstat(&self.stream)?.st_ino),
        }
    }

    /// Begins a request without saying for what: some servers are given a connection only when something has come over it
    /// (`tcp(7)`, `TCP_DEFER_ACCEPT`).
    pub(crate) fn nudge(&mut self) -> Progress {
        if self.request.is_empty() {
            self.request = METHOD.to_vec();
        }
        self.step()
    }

    /// Asks for `path`, and goes on as far as possible without waiting.
    pub(crate) fn ask(&mut self, path: &str) -> Progress {
        let host = self.server.as_socket().map_or_else(|| "localhost".to_owned(), |server| server.to_string());
        let rest = format!("{path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: propane\r\nAccept: */*\r\n\r\n");
        self.request = [METHOD, rest.as_bytes()].concat();
        self.step()
    }

    /// Makes the connection ready for another request. Fails where the server has closed it, as it may after any answer.
    pub(crate) fn renew(&mut self) -> io::Result<()> {
        // What is there belongs to the answer before.
        let mut rest = Vec::new();
        match (&self.stream).take(BODY_BYTES_MAX as u64).read_to_end(&mut rest) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        (self.request, self.sent, self.head) = (Vec::new(), 0, Vec::new());
        Ok(())
    }

    /// Has the connection end in order when it is dropped, as its server may expect of one over which it has answered.
    pub(crate) fn end_in_order(&self) -> io::Result<()> {
        self.stream.set_linger(None)
    }

    /// Goes on as far as possible without waiting.
    pub(crate) fn step(&mut self) -> Progress {
        match self.exchange() {
            Ok(answer) => Progress::Answered(answer),
            Err(error) if is_not_yet(&error) => Progress::Pending,
            Err(_) => Progress::Failed,
        }
    }

    fn exchange(&mut self) -> io::Result<Answer> {
        while self.sent < self.request.len() {
            self.sent += self.stream.write(&self.request[self.sent..])?;
        }
        let mut buffer = [0u8; 4096];
        loop {
            let count = self.stream.read(&mut buffer)?;
            self.head.extend_from_slice(&buffer[..count]);
            if let Some(answer) = Answer::parse(&self.head) {
                return Ok(answer);
            }
            if count == 0 || self.head.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOTCONN)
}

/// The part of an answer's head that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Who says that it is his (`X-Arlen-Worker-Pid`).
    pub(crate) worker_pid: Option<i32>,
}

impl Answer {
    /// Reads a whole head; `None` while it is not whole.
    fn parse(head: &[u8]) -> Option<Self> {
        let end = head.windows(4).position(|window| window == b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&head[..end]);
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let worker_pid = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("x-arlen-worker-pid"))
            .and_then(|(_, value)| value.trim().parse().ok());
        Some(Self { status, worker_pid })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_whole() {
        let answer = |status, worker_pid| Some(Answer { status, worker_pid });
        let table: [(&[u8], _); 6] = [
            (b"HTTP/1.1 200 OK\r\n\r\n", answer(200, None)),
            (b"HTTP/1.1 200 OK\r\nX-ARLEN-Worker-Pid: 42\r\nA: b\r\n\r\nbody", answer(200, Some(42))),
            (b"HTTP/1.1 503 No\r\n\r\n", answer(503, None)),
            (b"nonsense\r\n\r\n", answer(0, None)),
            (b"HTTP/1.1 200 OK\r\nA: b\r\n", None),
            (b"", None),
        ];
        for (head, expected) in table {
            assert_eq!(Answer::parse(head), expected, "{:?}", String::from_utf8_lossy(head));
        }
    }

    /// Steps until something is decided; the servers below answer at once, so this ends.
    fn outcome(probe: &mut HttpProbe) -> Progress {
        loop {
            match probe.step() {
                Progress::Pending => std::thread::yield_now(),
                decided => return decided,
            }
        }
    }

    fn answered(status: u16) -> Progress {
        Progress::Answered(Answer { status, worker_pid: None })
    }

    fn converse(mut probe: HttpProbe, accept: impl FnOnce() -> (Box<dyn ReadWrite>, u64)) {
        assert_eq!(probe.server_end().unwrap(), None, "nobody has accepted it");
        let (mut server, inode) = accept();
        assert_eq!(probe.server_end().unwrap(), Some(inode));
        let mut hear = |answer: &str| {
            let mut request = [0u8; 1024];
            let count = server.read(&mut request).unwrap();
            server.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request[..count].to_vec()).unwrap()
        };
        assert_eq!(probe.nudge(), Progress::Pending);
        assert_eq!(hear(""), "GET ");
        assert_eq!(probe.ask("/readyz"), Progress::Pending);
        let request = hear("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy");
        assert!(request.starts_with("/readyz HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"), "{request:?}");
        assert_eq!(outcome(&mut probe), answered(503));
        probe.renew().unwrap();
        assert_eq!(probe.ask("/readyz"), Progress::Pending);
        assert!(hear("HTTP/1.1 200 OK\r\n\r\n").starts_with("GET /readyz HTTP/1.1\r\n"));
        assert_eq!(outcome(&mut probe), answered(200));
        drop(server);
        assert!(probe.renew().is_err(), "the server has closed it");
        assert_eq!(probe.server_end().unwrap(), None);
    }

    trait ReadWrite: Read + Write {}
    impl<T: Read + Write> ReadWrite for T {}

    fn inode(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn a_server_is_seen_before_it_is_asked_and_asked_again_over_the_same_connection() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        converse(HttpProbe::begin(&Address::Tcp(tcp.local_addr().unwrap())).unwrap(), || {
            let server = tcp.accept().unwrap().0;
            let inode = inode(&server);
            (Box::new(server), inode)
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let unix = UnixListener::bind(&path).unwrap();
        converse(HttpProbe::begin(&Address::Unix(path)).unwrap(), || {
            let server = unix.accept().unwrap().0;
            let inode = inode(&server);
            (Box::new(server), inode)
        });
    }
}
