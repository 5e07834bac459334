//! Starts workers as processes, listens to what they notify, and speaks HTTP to them byte by byte.
//!
//! Every wait is for a condition and has a limit after which the test fails.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

/// Longer than anything here takes, on a machine that is busy with something else.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

const BINARY: &str = env!("CARGO_BIN_EXE_worker-fixture");

/// A worker to be started.
pub(crate) struct Launch {
    words: Vec<OsString>,
    variables: HashMap<String, OsString>,
    socket: Option<OwnedFd>,
}

impl Launch {
    /// The embedded worker.
    pub(crate) fn embedded(app_root: &Path) -> Self {
        Self::new("embedded").set("ARLEN_APP_ROOT", app_root)
    }

    /// The small app of the fixture.
    pub(crate) fn app() -> Self {
        Self::new("app")
    }

    fn new(word: &str) -> Self {
        Self { words: vec![word.into()], variables: HashMap::new(), socket: None }
    }

    pub(crate) fn word(mut self, word: &str) -> Self {
        self.words.push(word.into());
        self
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn port(self, port: u16) -> Self {
        self.set("ARLEN_PORT", port.to_string())
    }

    /// Passes a listening socket as descriptor 3, as the manager does.
    pub(crate) fn inherit(mut self, socket: impl Into<OwnedFd>) -> Self {
        self.socket = Some(socket.into());
        self
    }

    fn command(mut self) -> Command {
        let mut command = match self.socket.take() {
            None => Command::new(BINARY),
            Some(socket) => {
                // The shell moves its standard input to 3 and becomes the worker, so that the pid is known before exec.
                let mut command = Command::new("/bin/sh");
                command.args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh", BINARY]);
                command.stdin(Stdio::from(socket));
                command
            }
        };
        command.args(self.words).env_clear().envs(self.variables);
        command
    }

    /// Starts it, and waits until it is ready.
    pub(crate) fn ready(self) -> Worker {
        let told = if self.variables.contains_key("WATCHDOG_USEC") { "READY=1\nWATCHDOG=1\n" } else { "READY=1\n" };
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        let launch = self.set("NOTIFY_SOCKET", &path);
        let child = launch.command().stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let worker = Worker { child, notify, _home: home };
        assert_eq!(worker.told(), told);
        worker
    }

    /// Starts a worker that tells this address how it is, instead of this test.
    pub(crate) fn spawn_notifying(self, address: &str) -> Worker {
        let child = self.set("NOTIFY_SOCKET", address).command().stderr(Stdio::piped()).stdout(Stdio::null()).spawn();
        Worker { child: child.unwrap(), notify: UnixDatagram::unbound().unwrap(), _home: tempfile::tempdir().unwrap() }
    }

    /// Runs it to its end, which is near.
    pub(crate) fn output(self) -> Output {
        let child = self.command().stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_exit(&child);
        child.wait_with_output().unwrap()
    }
}

/// A running worker; it does not outlive the test.
pub(crate) struct Worker {
    child: Child,
    notify: UnixDatagram,
    _home: TempDir,
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next thing that the worker tells its manager.
    pub(crate) fn told(&self) -> String {
        let mut buffer = [0; 256];
        self.notify.set_read_timeout(Some(LIMIT)).unwrap();
        loop {
            match self.notify.recv(&mut buffer) {
                Ok(length) => return String::from_utf8_lossy(&buffer[..length]).into_owned(),
                // A wait with a limit is not resumed by the kernel.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the worker tells its manager something: {error}"),
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(&self.child), signal).unwrap();
    }

    /// Sends TERM, and waits until the worker has stopped accepting.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
        while self.told() != "STOPPING=1\n" {}
    }

    /// Waits for the exit; gives the exit code and everything on stderr.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        wait_for_exit(&self.child);
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.child.wait().unwrap().code(), stderr)
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn wait_for_exit(child: &Child) {
    let pidfd = pidfd_open(pid(child), PidfdFlags::empty()).unwrap();
    let limit = Timespec { tv_sec: i64::try_from(LIMIT.as_secs()).unwrap(), tv_nsec: 0 };
    let wait = || poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit));
    let ended = rustix::io::retry_on_intr(wait).unwrap();
    assert_eq!(ended, 1, "the worker ends within {LIMIT:?}");
}

/// A listening socket as the manager makes it, and its address.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, propane_load::free_port())).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// One connection.
pub(crate) struct Client(BufReader<TcpStream>);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A frame of HTTP/2.
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) content: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends, unless the other side has gone.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.0.get_mut().write_all(bytes);
    }

    /// Sends `piece` again and again, `most` bytes in all, until the other side refuses to take more. Gives how much
    /// was taken.
    pub(crate) fn send_until_refused(&mut self, piece: &[u8], most: usize) -> usize {
        let mut sent = 0;
        while sent < most {
            match self.0.get_mut().write(piece) {
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        sent
    }

    /// Sends a whole request, with these header lines, and reads the answer.
    pub(crate) fn ask(&mut self, method: &str, target: &str, headers: &[&str]) -> Answer {
        let first = format!("{method} {target} HTTP/1.1");
        let head = [&[&*first, "Host: test"], headers, &["", ""]].concat();
        self.send(head.join("\r\n"));
        self.answer(method)
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.ask("GET", target, &[])
    }

    /// Reads the answer to a request of this method.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let mut answer = self.head();
        let length = answer.header("content-length").map(|length| length.parse().unwrap());
        if method == "HEAD" || answer.status == 304 {
            return answer;
        }
        let mut body = vec![0; length.expect("a body of known length")];
        self.0.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Reads the head of an answer.
    pub(crate) fn head(&mut self) -> Answer {
        let first = self.line();
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("a status line, not {first:?}"));
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Answer { status, headers, body: String::new() }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end_matches("\r\n").to_owned()
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The next frame of an HTTP/2 connection; none where it has ended.
    pub(crate) fn http2_frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return None,
            read => read.unwrap(),
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let content = self.exactly(usize::try_from(length).unwrap());
        Some(Frame { kind: head[3], flags: head[4], content })
    }

    /// Waits this long, in which nothing may arrive.
    pub(crate) fn hears_nothing_for(&mut self, time: Duration) {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let error = loop {
            match self.0.fill_buf().map(<[u8]>::to_vec).unwrap_err() {
                error if error.kind() == std::io::ErrorKind::Interrupted => {}
                error => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(LIMIT)).unwrap();
    }

    /// Everything until the other side closes in an orderly way.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn shut_write(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }
}
