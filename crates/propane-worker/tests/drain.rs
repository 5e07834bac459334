//! Nothing is lost when a worker is told to end.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use propane_load::{Load, Mode};
use rustix::process::Signal;
use support::{Answer, Client, LIMIT, Launch, Worker, listener, local};

const HELLO: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// Begins a request that lasts until the last byte of its body is sent.
fn begin_collect(client: &mut Client) {
    client.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
}

fn assert_last(answer: &Answer, body: &str) {
    assert_eq!((answer.status, answer.body.as_str(), answer.header("connection")), (200, body, Some("close")));
}

fn app(port: u16) -> Worker {
    Launch::app().port(port).ready()
}

#[test]
fn a_request_in_flight_is_finished_however_often_term_comes() {
    let port = propane_load::free_port();
    let mut worker = app(port);
    let mut client = Client::connect(local(port));
    begin_collect(&mut client);
    worker.terminate();
    for signal in [Signal::TERM, Signal::INT, Signal::TERM] {
        worker.signal(signal);
    }
    assert!(std::net::TcpStream::connect(local(port)).is_err(), "nothing more is accepted");
    assert!(worker.is_running());
    client.send("cd");
    assert_last(&client.answer("POST"), "4 bytes\n");
    assert_eq!(client.rest(), b"", "the connection ends in an orderly way");
    drop(client);
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn interrupt_drains_too() {
    let port = propane_load::free_port();
    let worker = app(port);
    worker.signal(Signal::INT);
    assert_eq!(worker.told(), "STOPPING=1\n");
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn a_response_that_had_begun_is_finished_and_the_next_request_is_still_answered() {
    let port = propane_load::free_port();
    let worker = app(port);
    let mut client = Client::connect(local(port));
    client.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    assert_eq!(client.head().header("connection"), None, "it was promised that the connection stays");
    worker.terminate();
    client.send("2\r\ncd\r\n0\r\n\r\n");
    assert_eq!(client.exactly("2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n".len()), b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n");
    assert_last(&client.get("/"), "hello\n");
    assert_eq!(client.rest(), b"");
    drop(client);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_request_that_has_arrived_by_the_time_of_term_is_answered() {
    let port = propane_load::free_port();
    let worker = app(port);
    let mut kept = Client::connect(local(port));
    assert_eq!(kept.get("/").header("connection"), None);
    let mut fresh = Client::connect(local(port));
    // Accepted before `probe` is, whose answer proves that the worker has seen both.
    let mut probe = Client::connect(local(port));
    probe.get("/");

    // The worker stands still while the requests and then the signal reach it, so that it sees all of them at once.
    worker.signal(Signal::STOP);
    kept.send(HELLO);
    fresh.send(HELLO);
    worker.signal(Signal::TERM);
    worker.signal(Signal::CONT);
    // Whether the answer still says `keep-alive` depends on which of them it looks at first.
    for mut client in [kept, fresh] {
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello\n"));
    }
}

#[test]
fn a_request_that_has_arrived_when_the_rest_is_over_is_answered() {
    let port = propane_load::free_port();
    let worker = app(port);
    let mut kept = Client::connect(local(port));
    kept.get("/");
    worker.terminate();
    // When it goes on, its timer has run out and the request is there: the request wins.
    worker.signal(Signal::STOP);
    kept.send(HELLO);
    kept.hears_nothing_for(Duration::from_millis(1200));
    worker.signal(Signal::CONT);
    assert_last(&kept.answer("GET"), "hello\n");
}

#[test]
fn a_request_that_is_sent_shortly_after_term_is_answered() {
    let port = propane_load::free_port();
    let worker = app(port);
    let mut kept = Client::connect(local(port));
    kept.get("/");
    let mut half = Client::connect(local(port));
    half.get("/");
    half.send("GET / HT");
    worker.terminate();
    assert_last(&kept.get("/"), "hello\n");
    half.send("TP/1.1\r\nHost: test\r\n\r\n");
    assert_last(&half.answer("GET"), "hello\n");
}

#[test]
fn a_connection_at_rest_is_closed_after_a_second() {
    let port = propane_load::free_port();
    let worker = app(port);
    let mut kept = Client::connect(local(port));
    kept.get("/");
    let mut silent = Client::connect(local(port));
    let mut old = Client::connect(local(port));
    old.get("/");
    // As some clients do behind a body: no beginning of another request.
    old.send("\r\n");
    worker.terminate();
    let began = Instant::now();
    assert_eq!((kept.rest(), silent.rest(), old.rest()), (vec![], vec![], vec![]));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(500) && took < LIMIT / 2, "closed after {took:?}");
    drop((kept, silent, old));
    assert_eq!(worker.end().0, Some(0));
}

/// Connections that are in the kernel's queue, with their requests, when the worker learns that it must end.
fn queue_behind_term(worker: &Worker, address: std::net::SocketAddr) -> Vec<Client> {
    worker.signal(Signal::STOP);
    let queued = (0..50).map(|_| {
        let mut client = Client::connect(address);
        client.send(HELLO);
        client
    });
    let queued = queued.collect();
    worker.signal(Signal::TERM);
    worker.signal(Signal::CONT);
    queued
}

#[test]
fn what_waits_in_its_own_queue_is_served_before_it_goes() {
    let port = propane_load::free_port();
    let worker = app(port);
    for mut client in queue_behind_term(&worker, local(port)) {
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello\n"));
    }
    assert_eq!(worker.end(), (Some(0), String::new()));
}

#[test]
fn what_waits_in_an_inherited_queue_is_served_by_it_or_its_successor() {
    let (listener, address) = listener();
    let start = || Launch::app().inherit(listener.try_clone().unwrap()).ready();
    let worker = start();
    let queued = queue_behind_term(&worker, address);
    let _successor = start();
    for mut client in queued {
        let answer = client.answer("GET");
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello\n"));
    }
}

/// Replaces the worker on one inherited socket `times` times under load, as a reload does.
fn replace_under_load(mode: Mode, times: u64) {
    let (listener, address) = listener();
    let start = |listener: &TcpListener| Launch::app().inherit(listener.try_clone().unwrap()).ready();
    let mut worker = start(&listener);
    let load = Load::start(address, 16, mode);
    for _ in 0..times {
        load.wait_for_more(200, LIMIT).unwrap();
        let successor = start(&listener);
        worker.terminate();
        assert_eq!(worker.end(), (Some(0), String::new()));
        worker = successor;
    }
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    assert!(report.ok >= 200 * times, "{report}");
    assert_eq!(report.retried, 0, "every connection was told before it was closed: {report}");
}

#[test]
fn ten_successors_on_one_socket_lose_no_new_connection() {
    replace_under_load(Mode::NewConnections, 10);
}

#[test]
fn ten_successors_on_one_socket_lose_no_kept_connection() {
    replace_under_load(Mode::KeepAlive, 10);
}

/// The frames of an HTTP/2 client that knows what it talks to: its preface and SETTINGS, and a GET for `/`.
const HTTP2_HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x09\x01\x05\x00\x00\x00\x01\x82\x86\x84\x41\x04test";

/// Reads one frame: its type, its stream and its payload.
fn frame(client: &mut Client) -> (u8, u32, Vec<u8>) {
    let head = client.exactly(9);
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), client.exactly(length))
}

#[test]
fn an_http2_client_is_told_to_go_away() {
    const DATA: u8 = 0;
    const GOAWAY: u8 = 7;
    let port = propane_load::free_port();
    let worker = app(port);
    let mut client = Client::connect(local(port));
    client.send(HTTP2_HELLO);
    let answer = std::iter::repeat_with(|| frame(&mut client)).find(|(kind, ..)| *kind == DATA);
    assert_eq!(answer, Some((DATA, 1, b"hello\n".to_vec())));
    worker.terminate();
    let goaway = std::iter::repeat_with(|| frame(&mut client)).find(|(kind, ..)| *kind == GOAWAY).unwrap();
    assert_eq!(goaway.2[4..8], [0; 4], "no error");
}
