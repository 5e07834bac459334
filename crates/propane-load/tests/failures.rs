//! Every way in which a server can fail a client, done by a server of a few lines, and counted as what it is.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use propane_load::{Failure, Load, Mode, Report, Target, free_port};

const LIMIT: Duration = Duration::from_secs(20);
const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Serves one connection at a time, by its number, until it is dropped.
struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(serve: impl Fn(usize, TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                if until.load(Ordering::SeqCst) {
                    return;
                }
                serve(number, stream);
            }
        });
        Self { address, stopped, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Only a connection wakes the thread.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Reads a request and answers it with these bytes; false if there is none.
fn answered(mut stream: &TcpStream, bytes: &[u8]) -> bool {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return false,
        }
    }
    stream.write_all(bytes).is_ok()
}

fn answer(stream: &TcpStream, bytes: &[u8]) {
    answered(stream, bytes);
}

/// One client, until it has had five good answers between the others.
fn load(server: &Server, mode: Mode) -> Report {
    let target = Target { patience: Duration::from_millis(200), ..Target::at(server.address) };
    let load = Load::on(&target, 1, mode);
    load.wait_for_more(5, LIMIT).unwrap();
    load.stop()
}

/// Every second connection goes wrong in one way, and that is what the report says.
fn assert_only(misbehave: impl Fn(TcpStream) + Send + 'static, expected: Failure) {
    let server = Server::start(move |number, stream| match number % 2 {
        0 => misbehave(stream),
        _ => answer(&stream, GOOD),
    });
    let report = load(&server, Mode::NewConnections);
    assert!(report.count(expected) >= 5, "{report}");
    assert_eq!(report.failures(), report.count(expected), "{report}");
    assert_eq!(report.retried, 0, "nothing of this may be tried again: {report}");
    assert!(report.samples.iter().all(|sample| sample.failure == expected && !sample.detail.is_empty()));
}

#[test]
fn a_close_before_the_answer_is_a_short_read() {
    assert_only(|stream| answer(&stream, b""), Failure::ShortRead);
}

#[test]
fn a_close_in_the_middle_of_the_answer_is_a_short_read() {
    assert_only(|stream| answer(&stream, &GOOD[..GOOD.len() - 1]), Failure::ShortRead);
}

#[test]
fn a_reset_is_a_reset() {
    assert_only(
        |stream| {
            answer(&stream, b"");
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        },
        Failure::Reset,
    );
}

#[test]
fn a_refusal_by_status_is_a_bad_status() {
    let busy = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    assert_only(move |stream| answer(&stream, busy), Failure::BadStatus);
}

#[test]
fn an_answer_in_another_protocol_is_malformed() {
    assert_only(|stream| answer(&stream, b"220 mail.example ESMTP\r\n"), Failure::Malformed);
}

#[test]
fn silence_is_a_timeout() {
    let silent = |stream: TcpStream| {
        answer(&stream, b"");
        // Until the client has given up.
        let _ = (&stream).read(&mut [0]);
    };
    assert_only(silent, Failure::Timeout);
}

#[test]
fn nobody_there_is_a_connect_error() {
    let target = Target::at(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let report = Load::on(&target, 2, Mode::NewConnections).run_for(Duration::from_millis(50));
    assert!(report.count(Failure::Connect) > 0 && report.ok == 0, "{report}");
    assert_eq!(report.failures(), report.count(Failure::Connect), "{report}");
}

#[test]
fn a_kept_connection_that_closes_between_requests_is_retried_and_no_failure() {
    // Three answers on a connection, then its end without a word: what RFC 9112 §9.3.1 lets a client try again.
    let server = Server::start(|_, stream| (0..3).for_each(|_| answer(&stream, GOOD)));
    let report = load(&server, Mode::KeepAlive);
    assert_eq!(report.failures(), 0, "{report}");
    assert!(report.retried >= 1 && report.connections > report.retried, "{report}");
}

#[test]
fn a_kept_connection_that_closes_in_the_middle_of_an_answer_is_a_failure() {
    let server = Server::start(|number, stream| match number % 2 {
        0 => assert!(answered(&stream, GOOD) && answered(&stream, &GOOD[..10])),
        _ => answer(&stream, GOOD),
    });
    let report = load(&server, Mode::KeepAlive);
    assert!(report.count(Failure::ShortRead) >= 1, "{report}");
    assert_eq!(report.failures(), report.count(Failure::ShortRead), "{report}");
}

#[test]
fn a_connection_is_kept_until_the_server_says_otherwise() {
    let closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    let server = Server::start(move |_, stream| while answered(&stream, GOOD) && answered(&stream, closing) {});
    let report = load(&server, Mode::KeepAlive);
    assert_eq!((report.failures(), report.retried), (0, 0), "{report}");
    assert_eq!(report.connections, report.ok.div_ceil(2), "two requests each: {report}");
}
