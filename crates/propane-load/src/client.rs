//! One client: a request at a time, for as long as the load runs.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::report::{Failure, Report, Sample};
use crate::response::{self, Answer, Unanswered};
use crate::{Mode, Place, Shared, Target};

/// A connection that has carried at least one request.
type Connection = BufReader<Stream>;

/// The bytes of a connection.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(target: &Target) -> io::Result<Self> {
        let patience = Some(target.patience);
        match &target.place {
            Place::Address(address) => {
                let stream = TcpStream::connect_timeout(address, target.patience)?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Place::File(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_read_timeout(patience)?;
                // Connecting waits for room in the queue for so long.
                socket.set_write_timeout(patience)?;
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(Self::Unix(socket.into()))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) fn run(target: &Target, mode: Mode, began: Instant, shared: &Shared) -> Report {
    let request = request(target, mode);
    let mut client = Client { target, mode, request, kept: None, report: Report::default() };
    while !shared.stopped.load(Ordering::Relaxed) {
        let asked = Instant::now();
        match client.exchange() {
            Ok(()) => {
                client.report.succeeded(asked.elapsed());
                shared.answered_one();
            }
            Err((failure, detail)) => {
                client.report.failed(Sample { at: began.elapsed(), failure, detail });
                shared.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    client.report
}

fn request(target: &Target, mode: Mode) -> Vec<u8> {
    let connection = match mode {
        Mode::NewConnections => "close",
        Mode::KeepAlive => "keep-alive",
    };
    format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", target.path, target.host).into_bytes()
}

struct Client<'a> {
    target: &'a Target,
    mode: Mode,
    request: Vec<u8>,
    /// The connection of the last request, if it may carry another.
    kept: Option<Connection>,
    report: Report,
}

impl Client<'_> {
    fn exchange(&mut self) -> Result<(), (Failure, String)> {
        if let Some(connection) = self.kept.take() {
            match self.ask(connection) {
                Ok(answer) => return judge(answer),
                Err(unanswered) if may_retry(&unanswered) => self.report.retried += 1,
                Err(unanswered) => return Err((unanswered.failure, unanswered.detail)),
            }
        }
        let connection = self.connect()?;
        let answer = self.ask(connection).map_err(|unanswered| (unanswered.failure, unanswered.detail))?;
        judge(answer)
    }

    fn connect(&mut self) -> Result<Connection, (Failure, String)> {
        let failed = |error: std::io::Error| match response::kind(&error) {
            Failure::Timeout => (Failure::Timeout, format!("connect: {error}")),
            _ => (Failure::Connect, error.to_string()),
        };
        let stream = Stream::connect(self.target).map_err(failed)?;
        self.report.connections += 1;
        Ok(BufReader::new(stream))
    }

    fn ask(&mut self, mut connection: Connection) -> Result<Answer, Unanswered> {
        // A server may answer and close before it has read anything, so a failed write is no reason not to read.
        let written = connection.get_mut().write_all(&self.request);
        let answer = response::read(&mut connection).map_err(|mut unanswered| {
            if let Err(error) = written {
                unanswered.failure = response::kind(&error);
                unanswered.detail = format!("write: {error}; then: {}", unanswered.detail);
            }
            unanswered
        })?;
        // A server may leave open what it was asked to close.
        if answer.keeps_alive && self.mode == Mode::KeepAlive {
            self.kept = Some(connection);
        }
        Ok(answer)
    }
}

/// RFC 9112 §9.3.1: closed before the first byte of the reply. A server that says nothing at all is another matter.
fn may_retry(unanswered: &Unanswered) -> bool {
    unanswered.before_first_byte && unanswered.failure != Failure::Timeout
}

fn judge(answer: Answer) -> Result<(), (Failure, String)> {
    match answer.status {
        200..300 => Ok(()),
        status => Err((Failure::BadStatus, format!("status {status}"))),
    }
}
