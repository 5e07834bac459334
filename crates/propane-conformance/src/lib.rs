//! What a worker must answer, byte for byte where the contract is: a table of requests and answers, put to any address
//! over raw sockets. It knows no worker's code, so that it can be pointed at every kind of worker.

mod answer;
mod rows;

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub use answer::Answer;
pub use rows::{End, Expected, Row, Source, rows};

/// How long an answer may take; far more than any does.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asked on a connection that should still be of use.
const AGAIN: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: conformance\r\nConnection: close\r\n\r\n";

/// What Arlen's workers answer to a connection for which there is no session, to the byte.
pub const SESSION_LIMIT: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 12\r\n\
    Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nServer: Arlen\r\n\
    X-Arlen-Backpressure-Reason: http_session_limit\r\n\r\nserver busy\n";

/// What the worker under test was started with, as far as the table depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "names carry their units")]
pub struct Limits {
    /// `requestLimits.maxRequestLineBytes`.
    pub line_bytes: usize,
    /// `requestLimits.maxHeaderBytes`.
    pub head_bytes: usize,
    /// `requestLimits.maxBodyBytes`.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { line_bytes: 4096, head_bytes: 32_768, body_bytes: 1_048_576 }
    }
}

/// How a worker differs from what a row expects.
#[derive(Debug)]
pub struct Difference {
    /// The row's name.
    pub row: String,
    /// What was sent, shortened.
    pub sent: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n    sent {}", self.row, self.problem, self.sent)
    }
}

/// Puts one row to the worker at `address`.
///
/// # Errors
/// What is different from what is expected.
pub fn check(address: SocketAddr, row: &Row) -> Result<(), Difference> {
    ask(address, row).map_err(|problem| Difference { row: row.name.to_owned(), sent: shortened(&row.request), problem })
}

/// Fills all of `sessions` places of the worker at `address`, and checks the answer to the connection after them.
///
/// # Errors
/// What is different from what is expected.
pub fn check_session_limit(address: SocketAddr, sessions: usize) -> Result<(), Difference> {
    let difference = |problem: String| Difference {
        row: format!("a connection over {sessions} sessions"),
        sent: "nothing".to_owned(),
        problem,
    };
    let failed = |error: io::Error| difference(error.to_string());
    // Each is known to have been accepted when the next one connects.
    let mut held = Vec::new();
    for _ in 0..sessions {
        let mut stream = connect(address).map_err(failed)?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: conformance\r\n\r\n").map_err(failed)?;
        let answer = read_answer(&mut stream, &mut Vec::new(), false).map_err(difference)?;
        if answer.status != 200 {
            return Err(difference(format!(
                "connection {} of {sessions} was answered {}",
                held.len() + 1,
                answer.status
            )));
        }
        held.push(stream);
    }
    let mut text = String::new();
    connect(address).and_then(|mut stream| stream.read_to_string(&mut text)).map_err(failed)?;
    if text == SESSION_LIMIT { Ok(()) } else { Err(difference(format!("expected {SESSION_LIMIT:?} but got {text:?}"))) }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn ask(address: SocketAddr, row: &Row) -> Result<(), String> {
    let mut stream = connect(address).map_err(|error| format!("cannot connect: {error}"))?;
    // A worker that answers before it has read everything may stop reading; its answer counts.
    let _ = stream.write_all(&row.request);
    let mut received = Vec::new();
    for expected in &row.answers {
        let answer = read_answer(&mut stream, &mut received, expected.is_head)?;
        expected.check(&answer)?;
    }
    match row.end {
        End::Closed => expect_end(&mut stream, &received),
        End::Open => {
            stream.write_all(AGAIN).map_err(|error| format!("the connection is of no more use: {error}"))?;
            let again = read_answer(&mut stream, &mut received, false)?;
            if again.status == 200 { Ok(()) } else { Err(format!("another request is answered {}", again.status)) }
        }
    }
}

/// Reads one answer; what follows it stays in `received`.
fn read_answer(stream: &mut TcpStream, received: &mut Vec<u8>, is_head: bool) -> Result<Answer, String> {
    loop {
        if let Some((answer, length)) = Answer::parse(received, is_head)? {
            received.drain(..length);
            if answer.status == 100 {
                continue;
            }
            return Ok(answer);
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return Err(format!("the connection ended after {:?}", String::from_utf8_lossy(received))),
            Ok(length) => received.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("{error} after {:?}", String::from_utf8_lossy(received))),
        }
    }
}

fn expect_end(stream: &mut TcpStream, received: &[u8]) -> Result<(), String> {
    let mut rest = received.to_vec();
    match stream.read_to_end(&mut rest) {
        Ok(_) if rest.is_empty() => Ok(()),
        Ok(_) => Err(format!("expected the end of the connection but got {:?}", String::from_utf8_lossy(&rest))),
        Err(error) => Err(format!("expected an orderly end of the connection but got: {error}")),
    }
}

fn shortened(request: &[u8]) -> String {
    const SHOWN: usize = 160;
    let text: String = String::from_utf8_lossy(&request[..request.len().min(SHOWN)]).escape_debug().collect();
    if request.len() > SHOWN { format!("\"{text}\"… ({} bytes)", request.len()) } else { format!("\"{text}\"") }
}
