//! One `GET` on the readiness path, in steps that never wait.
//!
//! On a port that workers share, an answer proves only that somebody is ready. It counts when it names its process
//! (`X-Arlen-Worker-Pid`) or when the server's end of the connection is in the hands of the worker's processes.

use std::io::{self, Read, Write};

use nix::libc;
use socket2::{SockAddr, Socket};

use crate::sockets::Address;
use crate::{procinfo, sockdiag};

/// More than any sane answer's head; the body is not read.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What one step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Look again later.
    Pending,
    /// No answer, not 200, or somebody else's: begin anew.
    Failed,
    /// 200, from one of the worker's processes.
    Passed,
}

/// A request under way.
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
    pub(crate) fn begin(address: &Address, path: &str) -> io::Result<Self> {
        let (stream, server) = address.client()?;
        match stream.connect(&server) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let host = server.as_socket().map_or_else(|| "localhost".to_owned(), |server| server.to_string());
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: propane\r\nAccept: */*\r\n\r\n");
        Ok(Self { stream, server, request: request.into_bytes(), sent: 0, head: Vec::new() })
    }

    /// Goes on as far as possible without waiting.
    pub(crate) fn step(&mut self, family: &[i32]) -> Progress {
        match self.exchange() {
            Ok(Some(answer)) if answer.status == 200 && self.is_from(&answer, family) => Progress::Passed,
            Ok(None) => Progress::Pending,
            Err(error) if is_not_yet(&error) => Progress::Pending,
            Ok(Some(_)) | Err(_) => Progress::Failed,
        }
    }

    fn exchange(&mut self) -> io::Result<Option<Answer>> {
        while self.sent < self.request.len() {
            self.sent += self.stream.write(&self.request[self.sent..])?;
        }
        let mut buffer = [0u8; 4096];
        loop {
            let count = self.stream.read(&mut buffer)?;
            self.head.extend_from_slice(&buffer[..count]);
            if let Some(answer) = Answer::parse(&self.head) {
                return Ok(Some(answer));
            }
            if count == 0 || self.head.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn is_from(&self, answer: &Answer, family: &[i32]) -> bool {
        match answer.worker_pid {
            Some(pid) => family.contains(&pid),
            None => self.server_end().is_some_and(|inode| family.iter().any(|pid| procinfo::holds(*pid, inode))),
        }
    }

    fn server_end(&self) -> Option<u64> {
        match (self.stream.local_addr().ok()?.as_socket(), self.server.as_socket()) {
            (Some(client), Some(server)) => sockdiag::server_end(client, server).ok().flatten(),
            _ => sockdiag::unix_peer(rustix::fs::fstat(&self.stream).ok()?.st_ino).ok().flatten(),
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOTCONN)
}

/// The part of an answer's head that matters.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    worker_pid: Option<i32>,
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

    /// Steps until the probe has an answer; the server below answers at once, so this ends.
    fn outcome(mut probe: HttpProbe, mut server: impl Read + Write, answer: &str, family: &[i32]) -> Progress {
        while probe.sent < probe.request.len() {
            assert_eq!(probe.step(family), Progress::Pending);
        }
        let mut request = [0u8; 1024];
        assert!(server.read(&mut request).unwrap() > 0);
        server.write_all(answer.as_bytes()).unwrap();
        loop {
            match probe.step(family) {
                Progress::Pending => std::thread::yield_now(),
                decided => return decided,
            }
        }
    }

    #[test]
    fn only_an_answer_of_the_worker_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let (tcp, unix) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&path).unwrap());
        let addresses = [Address::Tcp(tcp.local_addr().unwrap()), Address::Unix(path)];
        let me = std::process::id().cast_signed();
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned();
        let named = |pid: i32| format!("HTTP/1.1 200 OK\r\nX-Arlen-Worker-Pid: {pid}\r\n\r\n");
        let table = [
            (ok.clone(), vec![me], Progress::Passed),
            (ok, vec![1], Progress::Failed),
            (named(4242), vec![4242], Progress::Passed),
            (named(4242), vec![me], Progress::Failed),
            ("HTTP/1.1 503 Busy\r\n\r\n".to_owned(), vec![me], Progress::Failed),
        ];
        for (answer, family, expected) in table {
            for address in &addresses {
                let probe = HttpProbe::begin(address, "/readyz").unwrap();
                let found = match address {
                    Address::Tcp(_) => outcome(probe, tcp.accept().unwrap().0, &answer, &family),
                    Address::Unix(_) => outcome(probe, unix.accept().unwrap().0, &answer, &family),
                };
                assert_eq!(found, expected, "{address} {answer:?} {family:?}");
            }
        }
    }
}
