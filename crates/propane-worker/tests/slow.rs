//! Clients that take their time, or take nothing; and whoever reads the log.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use support::{Client, LIMIT, Launch, Worker, local};

/// Of `/large`.
const LARGE: usize = 60_000_000;

/// What an HTTP/2 client says first, and that it takes nothing of any answer for now.
const HTTP2_TAKES_NOTHING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";

/// Kinds of frames, and the flag of an answer.
const DATA: u8 = 0;
const PING: u8 = 6;
const ACK: u8 = 1;

/// `GET /`, as the first stream and all of it.
const HTTP2_GET: &[u8] = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x86\x84\x41\x01a";

fn start(launch: Launch) -> (Worker, u16) {
    let port = propane_load::free_port();
    (launch.port(port).ready(), port)
}

/// Takes an answer so slowly that it lasts longer than the worker waits for a client that does nothing, or that is to
/// leave, but always something. The end is taken at once: the worker gave it to the kernel long before, and has been
/// waiting for the next request since.
#[expect(clippy::disallowed_methods, reason = "a client that is slow is what is tested")]
fn take_slowly(client: &mut Client) {
    const PIECES: usize = 45;
    const PIECE: usize = LARGE / 60;
    for _ in 0..PIECES {
        client.exactly(PIECE);
        sleep(Duration::from_millis(100));
    }
    client.exactly(LARGE - PIECES * PIECE);
}

#[test]
fn an_answer_in_memory_may_be_taken_slowly() {
    let (_worker, port) = start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "2"));
    let mut client = Client::connect(local(port));
    client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().status, 200);
    take_slowly(&mut client);
    assert_eq!(client.get("/").body, "hello\n", "and the connection is as good as before");
}

#[test]
fn an_answer_in_memory_may_be_taken_slowly_while_the_worker_ends() {
    let (worker, port) = start(Launch::app());
    let mut client = Client::connect(local(port));
    client.send("GET /large HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.head().status, 200);
    worker.terminate();
    take_slowly(&mut client);
    assert_eq!(client.rest(), b"");
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "as in `take_slowly`")]
fn over_http2_too_an_answer_in_memory_may_be_taken_slowly_while_the_worker_ends() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    const GET_LARGE: &[u8] = b"\0\0\x0d\x01\x05\0\0\0\x01\x82\x86\x04\x06/large\x41\x01a";
    let (worker, port) = start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "1"));
    let mut client = Client::connect(local(port));
    client.send([PREFACE, GET_LARGE].concat());
    let (mut taken, mut granted, mut is_told) = (0, 0, false);
    while taken < LARGE {
        let frame = client.http2_frame().expect("more of the answer");
        match frame.kind {
            DATA => taken += frame.content.len(),
            PING if frame.flags == 0 => {
                client.send([b"\0\0\x08\x06", &[ACK][..], b"\0\0\0\0", &frame.content].concat());
            }
            _ => {}
        }
        // What the client has room for: a fiftieth now and then, once the last one is used up.
        if taken + 60_000 > granted {
            granted += LARGE / 50;
            let room = u32::try_from(LARGE / 50).unwrap().to_be_bytes();
            for stream in [0, 1] {
                client.send([b"\0\0\x04\x08\0\0\0\0", &[stream][..], &room].concat());
            }
            sleep(Duration::from_millis(100));
        }
        if taken > LARGE / 2 && !is_told {
            worker.terminate();
            is_told = true;
        }
    }
    drop(client);
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn an_http2_client_that_takes_nothing_loses_the_connection_though_it_answers_pings() {
    let (_worker, port) = start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "1"));
    let mut client = Client::connect(local(port));
    client.send([HTTP2_TAKES_NOTHING, HTTP2_GET].concat());
    let began = Instant::now();
    while let Some(frame) = client.http2_frame() {
        assert!(began.elapsed() < LIMIT, "it still has its place");
        if frame.kind == PING && frame.flags == 0 {
            client.try_send(&[b"\0\0\x08\x06", &[ACK][..], b"\0\0\0\0", &frame.content].concat());
        }
    }
}

#[test]
fn an_http2_client_that_has_vanished_does_not_hold_the_end_up() {
    let (worker, port) = start(Launch::app());
    let mut client = Client::connect(local(port));
    client.send(HTTP2_TAKES_NOTHING);
    assert!(client.http2_frame().is_some());
    worker.terminate();
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn a_body_that_nobody_reads_may_come_later_than_the_answer() {
    let (_worker, port) = start(Launch::app());
    let mut client = Client::connect(local(port));
    for length in [1, 4096] {
        client.send(format!("POST /missing HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"));
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.header("connection")), (404, None));
        client.send("x".repeat(length));
        assert_eq!(client.get("/").body, "hello\n");
    }
    // Who waits to be asked for it will not be asked.
    client.send("POST /missing HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(client.answer("POST").header("connection"), Some("close"));
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let (worker, port) = start(Launch::app().set("ARLEN_LOG_FORMAT", "json"));
    let mut client = Client::connect(local(port));
    // Several times what a pipe holds, and more than waits for its reader.
    let path = format!("/{}", "x".repeat(1000));
    for _ in 0..2000 {
        assert_eq!(client.get(&path).status, 404);
    }
    drop(client);
    worker.terminate();
    let (code, log) = worker.end();
    assert_eq!(code, Some(0));
    assert!(log.starts_with("{\"bytes\":10,"), "what could be written was: {log}");
}
