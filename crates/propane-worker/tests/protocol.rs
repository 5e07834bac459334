//! The protocols between a worker and its manager: sockets, readiness, watchdog, limits.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::net::{Ipv6Addr, TcpStream};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{Client, LIMIT, Launch, listener, local};

#[test]
fn an_inherited_socket_is_served_and_outlives_the_worker() {
    let (listener, address) = listener();
    let worker = Launch::app().inherit(listener.try_clone().unwrap()).ready();
    assert_eq!(Client::connect(address).ask("GET", "/", &["Connection: close"]).body, "hello\n");
    worker.terminate();
    assert_eq!(worker.end(), (Some(0), String::new()));

    let mut waiting = Client::connect(address);
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let _successor = Launch::app().inherit(listener).ready();
    assert_eq!(waiting.answer("GET").body, "hello\n", "the queue went on to the successor");
}

#[test]
fn an_inherited_unix_socket_is_served() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("app.sock");
    let worker = Launch::app().inherit(UnixListener::bind(&path).unwrap()).ready();
    let mut stream = UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let answer = std::io::read_to_string(&mut stream).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello\n"), "{answer}");
    drop(stream);
    worker.terminate();
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_socket_for_another_process_is_left_alone() {
    let port = propane_load::free_port();
    let _worker = Launch::app().set("LISTEN_FDS", "1").set("LISTEN_PID", "1").port(port).ready();
    assert_eq!(Client::connect(local(port)).get("/").body, "hello\n");
}

#[test]
fn a_descriptor_that_does_not_listen_is_refused() {
    let (_held, address) = listener();
    let connected = TcpStream::connect(address).unwrap();
    let output = Launch::app().inherit(connected).output();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("LISTEN_FDS: the inherited descriptor 3 is a socket that does not listen"), "{stderr}");
}

#[test]
fn ipv6_is_bound_and_the_wildcard_takes_both_families() {
    let port = propane_load::free_port();
    let _worker = Launch::app().set("ARLEN_HOST", "[::]").port(port).ready();
    assert_eq!(Client::connect((Ipv6Addr::LOCALHOST, port).into()).get("/").body, "hello\n");
    assert_eq!(Client::connect(local(port)).get("/").body, "hello\n");
}

#[test]
fn a_port_is_shared_only_when_that_was_asked_for() {
    let port = propane_load::free_port();
    let sharing = || Launch::app().port(port).set("ARLEN_ENABLE_REUSEPORT", "1");
    let (_first, _second) = (sharing().ready(), sharing().ready());
    let alone = Launch::app().port(port).output();
    assert_eq!(alone.status.code(), Some(1));
    assert!(String::from_utf8(alone.stderr).unwrap().contains("Address already in use"));
}

#[test]
fn ready_is_told_at_an_abstract_address_too() {
    let name = format!("propane-worker-test-{}", std::process::id());
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let port = propane_load::free_port();
    // Told to another address than the one that `Launch` sets, so this worker is held as it is.
    let worker = Launch::app().port(port).spawn_notifying(&format!("@{name}"));
    let mut told = [0; 64];
    let length = manager.recv(&mut told).unwrap();
    assert_eq!(&told[..length], b"READY=1\n");
    assert_eq!(Client::connect(local(port)).get("/").body, "hello\n");
    drop(worker);
}

#[test]
fn a_manager_that_is_gone_does_not_stop_the_worker() {
    let port = propane_load::free_port();
    let home = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(home.path()).port(port).word("--once");
    let worker = launch.spawn_notifying(home.path().join("nobody").to_str().unwrap());
    let answer = wait_for_connection(port).get("/healthz");
    assert_eq!(answer.body, "ok\n");
    let (code, stderr) = worker.end();
    assert_eq!(code, Some(0));
    assert!(stderr.contains("NOTIFY_SOCKET: cannot connect to"), "{stderr}");
}

/// Connects as soon as somebody listens.
fn wait_for_connection(port: u16) -> Client {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        if let Ok(stream) = TcpStream::connect(local(port)) {
            return Client::over(stream);
        }
        std::thread::yield_now();
    }
    panic!("nobody listens on {port}");
}

#[test]
fn the_watchdog_is_fed_also_while_draining() {
    let port = propane_load::free_port();
    let worker = Launch::app().port(port).set("WATCHDOG_USEC", "40000").ready();
    (0..3).for_each(|_| assert_eq!(worker.told(), "WATCHDOG=1\n"));
    let mut client = Client::connect(local(port));
    client.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
    worker.terminate();
    (0..3).for_each(|_| assert_eq!(worker.told(), "WATCHDOG=1\n"));
    client.send("cd");
    assert_eq!(client.answer("POST").body, "4 bytes\n");
    drop(client);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn a_manager_that_listens_no_more_does_not_hold_the_worker_up() {
    let port = propane_load::free_port();
    let worker = Launch::app().port(port).set("WATCHDOG_USEC", "2000").ready();
    // 750 messages that nobody reads, for a queue of 10 to 512 (net.unix.max_dgram_qlen).
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(Client::connect(local(port)).get("/").body, "hello\n");
    }
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.end().0, Some(0));
}

#[test]
fn over_the_session_limit_the_answer_is_the_contract_to_the_byte() {
    let expected = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 12\r\n\
        Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nServer: Arlen\r\n\
        X-Arlen-Backpressure-Reason: http_session_limit\r\n\r\nserver busy\n";
    let port = propane_load::free_port();
    let _worker = Launch::app().port(port).set("ARLEN_MAX_HTTP_SESSIONS", "2").ready();
    let mut idle = Client::connect(local(port));
    assert_eq!(idle.get("/").status, 200);
    let _silent = Client::connect(local(port));

    let mut refused = Client::connect(local(port));
    refused.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 51200\r\n\r\n");
    assert_eq!(String::from_utf8(refused.rest()).unwrap(), expected);
    // Had the worker closed its side altogether, these would be answered by resets, which make some systems throw away
    // an answer that was not read yet.
    (0..50).for_each(|_| refused.send([b'x'; 1024]));

    idle.shut_write();
    assert_eq!(idle.rest(), b"");
    drop(idle);
    let began = Instant::now();
    while Client::connect(local(port)).ask("GET", "/", &["Connection: close"]).status != 200 {
        assert!(began.elapsed() < LIMIT, "the place of a closed connection is free again");
    }
}

#[test]
fn who_leaves_a_place_may_take_it_again_at_once() {
    let port = propane_load::free_port();
    let _worker = Launch::app().port(port).set("ARLEN_MAX_HTTP_SESSIONS", "1").ready();
    for round in 0..300 {
        let answer = Client::connect(local(port)).get("/");
        assert_eq!(answer.status, 200, "in round {round}");
    }
}

#[test]
fn where_descriptors_run_out_clients_wait_and_it_is_said_once() {
    const DESCRIPTORS: u64 = 32;
    let home = tempfile::tempdir().unwrap();
    let port = propane_load::free_port();
    let worker = Launch::embedded(home.path()).port(port).ready();
    let limit = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    prlimit(Pid::from_raw(i32::try_from(worker.pid()).unwrap()), Resource::Nofile, limit).unwrap();
    let mut clients: Vec<Client> = (0..DESCRIPTORS).map(|_| Client::connect(local(port))).collect();
    assert_eq!(clients[0].get("/healthz").body, "ok\n", "who has a connection is served");
    let mut last = clients.pop().unwrap();
    last.send("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    last.hears_nothing_for(Duration::from_millis(500));
    drop(clients);
    assert_eq!(last.answer("GET").body, "ok\n");
    drop(last);
    worker.terminate();
    let (code, stderr) = worker.end();
    assert_eq!((code, stderr.matches("cannot accept connections for now").count()), (Some(0), 1), "{stderr}");
}

#[test]
fn a_listener_that_somebody_shuts_down_ends_the_worker_with_a_reason_and_without_loss() {
    let (listener, address) = listener();
    let worker = Launch::app().inherit(listener.try_clone().unwrap()).ready();
    let mut client = Client::connect(address);
    client.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
    // Accepted after it, so that the request is known to have been accepted.
    assert_eq!(Client::connect(address).get("/").status, 200);
    socket2::SockRef::from(&listener).shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(worker.told(), "STOPPING=1\n");
    client.send("cd");
    assert_eq!(client.answer("POST").body, "4 bytes\n");
    drop(client);
    let (code, stderr) = worker.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("the listening socket has ended"), "{stderr}");
}

#[test]
fn over_http2_too_an_answer_to_head_has_no_body() {
    const HEAD_LARGE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
        \0\0\x12\x01\x05\0\0\0\x01\x42\x04HEAD\x86\x04\x06/large\x41\x01a";
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    let port = propane_load::free_port();
    let _worker = Launch::app().port(port).ready();
    let mut client = Client::connect(local(port));
    client.send(HEAD_LARGE);
    let mut frames = std::iter::from_fn(|| client.http2_frame());
    let head = frames.find(|frame| frame.kind == HEADERS).unwrap();
    assert_eq!(head.flags & END_STREAM, END_STREAM, "it is all of the answer");
}
