//! What the library does around an app's requests: timeouts, queue, upgrades, headers, counts, log.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use std::time::{Duration, Instant};

use support::{Answer, Client, LIMIT, Launch, Worker, local};

fn start(launch: Launch) -> (Worker, u16) {
    let port = propane_load::free_port();
    (launch.port(port).ready(), port)
}

fn client(port: u16) -> Client {
    Client::connect(local(port))
}

/// The answer to a request that was refused, after which the connection ends.
fn refused(client: &mut Client, method: &str) -> (u16, String) {
    let answer = client.answer(method);
    assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    assert_eq!(client.rest(), b"", "the connection ends in an orderly way");
    (answer.status, answer.body)
}

const TIMED_OUT: (u16, &str) = (408, "request timeout\n");

fn as_pair((status, body): &(u16, String)) -> (u16, &str) {
    (*status, body)
}

#[test]
fn whoever_dawdles_over_a_first_request_is_told_and_later_just_closed() {
    let (_worker, port) = start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "1"));
    let began = Instant::now();
    let mut silent = client(port);
    let mut slow_head = client(port);
    slow_head.send("GET / HTTP/1.1\r\nHost: te");
    let mut half_preface = client(port);
    half_preface.send("PRI * HT");
    let mut slow_body = client(port);
    slow_body.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nab");
    let mut idle = client(port);
    assert_eq!(idle.get("/").status, 200);
    let mut second = client(port);
    assert_eq!(second.get("/").status, 200);
    second.send("GET / HTTP/1.1\r\nHo");
    for client in [&mut silent, &mut slow_head, &mut half_preface, &mut slow_body] {
        assert_eq!(as_pair(&refused(client, "GET")), TIMED_OUT);
    }
    assert_eq!((idle.rest(), second.rest()), (vec![], vec![]));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(900) && took < LIMIT / 2, "closed after {took:?}");
}

#[test]
fn empty_lines_are_no_request_that_was_cut_off() {
    let (_worker, port) = start(Launch::app());
    let mut fresh = client(port);
    fresh.send("\r\n\r\n");
    fresh.shut_write();
    let mut old = client(port);
    old.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nabcd\r\n");
    old.shut_write();
    assert_eq!(old.answer("POST").body, "4 bytes\n");
    assert_eq!((fresh.rest(), old.rest()), (vec![], vec![]));
}

#[test]
fn a_body_that_nobody_reads_ends_the_connection_and_the_answer_says_so() {
    const MOST: usize = 1_048_576;
    let (_worker, port) = start(Launch::app());
    let mut client = client(port);
    let mut send = |target: &str, length: usize| {
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        ));
        let answer = client.answer("POST");
        (answer.status, answer.header("connection").map(str::to_owned))
    };
    assert_eq!(send("/collect", MOST), (200, None));
    assert_eq!(send("/missing", 100), (404, None));
    assert_eq!(send("/missing", MOST), (404, Some("close".to_owned())));
    assert_eq!(client.rest(), b"");
}

#[test]
fn a_chunked_body_that_was_read_to_its_end_costs_no_connection() {
    let (_worker, port) = start(Launch::app());
    let mut client = client(port);
    for trailer in ["", "X-Sum: 1\r\n", ""] {
        let head = "POST /collect HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(format!("{head}4\r\nabcd\r\n0\r\n{trailer}\r\n"));
        let answer = client.answer("POST");
        assert_eq!((answer.body.as_str(), answer.header("connection")), ("4 bytes\n", None));
    }
}

#[test]
fn a_body_that_keeps_coming_may_take_longer_than_the_timeout() {
    let (_worker, port) = start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "1"));
    let mut client = client(port);
    client.send("POST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n");
    for _ in 0..4 {
        client.hears_nothing_for(Duration::from_millis(600));
        client.send("x");
    }
    assert_eq!(client.answer("POST").body, "4 bytes\n");
}

#[test]
fn who_takes_no_answer_loses_the_connection() {
    let (_worker, port) =
        start(Launch::app().set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "1").set("ARLEN_MAX_BODY_BYTES", "100000000"));
    let mut greedy = client(port);
    greedy.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    // What comes back is not taken, so that the pipe fills up in both directions.
    let sent = greedy.send_until_refused(&[b'x'; 16_384], 100_000_000);
    assert!(sent < 100_000_000, "the worker gave up");
}

#[test]
fn a_thousand_dribbling_clients_stop_nobody() {
    let launch = Launch::app().set("ARLEN_MAX_HTTP_SESSIONS", "2000").set("ARLEN_CONNECTION_TIMEOUT_SECONDS", "2");
    let (_worker, port) = start(launch);
    let mut dribbling: Vec<Client> = (0..1000).map(|_| client(port)).collect();
    let head = b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy";
    for piece in head.chunks(4) {
        for client in &mut dribbling {
            client.try_send(piece);
        }
        assert_eq!(client(port).get("/").body, "hello\n");
    }
    for client in &mut dribbling {
        assert_eq!(as_pair(&refused(client, "GET")), TIMED_OUT);
    }
}

#[test]
fn a_broken_body_is_a_bad_request_whatever_the_app_made_of_it() {
    let (_worker, port) = start(Launch::app().set("ARLEN_MAX_BODY_BYTES", "10"));
    let chunked = "POST /collect HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let ask = |body: &str| {
        let mut client = client(port);
        client.send(format!("{chunked}{body}"));
        refused(&mut client, "POST")
    };
    for body in ["x\r\n", "3\nabc\r\n", "3\r\nabcd\r\n", "3 \r\nabc\r\n", "0\r\nx\r\n\r\n"] {
        assert_eq!(as_pair(&ask(body)), (400, "bad request\n"), "{body:?}");
    }
    assert_eq!(as_pair(&ask("b\r\n01234567890\r\n0\r\n\r\n")), (413, "payload too large\n"));
    let mut fits = client(port);
    fits.send(format!("{chunked}a\r\n0123456789\r\n0\r\n\r\n"));
    assert_eq!(fits.answer("POST").body, "10 bytes\n");
}

#[test]
fn a_half_closed_client_is_still_answered() {
    let (_worker, port) = start(Launch::app());
    let mut client = client(port);
    client.send(
        "GET / HTTP/1.1\r\nHost: test\r\n\r\nPOST /collect HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nab",
    );
    client.shut_write();
    assert_eq!(client.answer("GET").body, "hello\n");
    assert_eq!(client.answer("POST").body, "2 bytes\n");
    assert_eq!(client.rest(), b"");
}

const QUEUE_FULL: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 12\r\n\
    Content-Type: text/plain; charset=utf-8\r\nRetry-After: 1\r\nServer: Arlen\r\n\
    X-Arlen-Backpressure-Reason: http_worker_queue_full\r\n\r\nserver busy\n";

#[test]
fn one_request_works_one_waits_and_the_third_is_refused() {
    let launch = Launch::app().set("ARLEN_MAX_HTTP_WORKERS", "1").set("ARLEN_MAX_QUEUED_HTTP_CONNECTIONS", "1");
    let (_worker, port) = start(launch);
    let mut working = client(port);
    working.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
    working.head();
    assert_eq!(working.exactly(1), b"a");
    let mut waiting = client(port);
    waiting.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    let refused = || {
        let mut third = client(port);
        third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        String::from_utf8(third.rest()).unwrap()
    };
    // The second waits as soon as its request is read; nothing but the third's answer shows it.
    let began = Instant::now();
    while client(port).get("/healthz").body != "ok\n" || refused() != QUEUE_FULL {
        assert!(began.elapsed() < LIMIT, "the queue fills up");
    }
    assert_eq!(client(port).get("/healthz").body, "ok\n", "health does not queue");
    working.send("b");
    assert_eq!(working.exactly(1), b"b");
    assert_eq!(waiting.answer("GET").body, "hello\n");
}

/// Asks for another protocol; gives the head of the answer.
fn upgrade(client: &mut Client, protocol: &str, headers: &str) -> Answer {
    client.send(format!(
        "GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n{headers}\r\n"
    ));
    client.head()
}

#[test]
fn upgraded_connections_are_the_apps_and_their_number_is_limited() {
    let (_worker, port) = start(Launch::app().set("ARLEN_MAX_WEBSOCKET_SESSIONS", "1"));
    let mut first = client(port);
    assert_eq!(upgrade(&mut first, "shout", "").status, 101);
    first.send("get / http/1.1\n\r\n\0");
    assert_eq!(first.exactly(18), b"GET / HTTP/1.1\n\r\n\0", "the guard lets everything pass");

    let mut second = client(port);
    let answer = upgrade(&mut second, "shout", "");
    assert_eq!(answer.status, 503);
    for (name, value) in [
        ("x-arlen-backpressure-reason", "websocket_session_limit"),
        ("retry-after", "1"),
        ("connection", "close"),
        ("content-type", "text/plain; charset=utf-8"),
        ("server", "Arlen"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    for name in ["x-arlen-parse-ms", "x-arlen-response-write-ms", "x-arlen-total-ms", "x-mojo-total-ms"] {
        assert!(answer.header(name).is_some_and(|value| value.parse::<f64>().is_ok()), "{name} in {answer:?}");
    }
    assert_eq!(answer.header("x-request-id"), None);
    assert_eq!(second.rest(), b"server busy\n");

    first.shut_write();
    assert_eq!(first.rest(), b"");
    drop(first);
    let began = Instant::now();
    while upgrade(&mut client(port), "shout", "").status != 101 {
        assert!(began.elapsed() < LIMIT, "the place of a closed connection is free again");
    }
}

#[test]
fn what_is_sent_right_behind_an_upgrade_is_not_lost() {
    let (_worker, port) = start(Launch::app());
    let mut eager = client(port);
    eager.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nhello");
    assert_eq!(eager.head().status, 101);
    assert_eq!(eager.exactly(5), b"HELLO");
    let mut refused = client(port);
    refused.send("GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\nGET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((refused.answer("GET").body, refused.answer("GET").body), ("hello\n".to_owned(), "hello\n".to_owned()));
}

#[test]
fn an_upgrade_that_is_none_is_refused() {
    let (_worker, port) = start(Launch::app());
    for headers in [
        "",
        "Sec-WebSocket-Version: 13\r\n",
        "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        let mut client = client(port);
        let answer = upgrade(&mut client, "websocket", headers);
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{headers:?}");
        assert_eq!(client.rest(), b"invalid websocket upgrade\n");
    }
    let mut unasked = client(port);
    let answer = unasked.get("/upgrade");
    assert_eq!((answer.status, answer.body.as_str()), (400, "invalid websocket upgrade\n"));
}

#[test]
fn an_upgraded_connection_hears_of_the_end_and_one_that_does_not_end_is_cut() {
    let (worker, port) = start(Launch::app());
    let mut polite = client(port);
    upgrade(&mut polite, "shout", "");
    worker.terminate();
    assert_eq!(polite.rest(), b"goodbye\n");
    drop(polite);
    assert_eq!(worker.end(), (Some(0), String::new()));

    let (worker, port) = start(Launch::app().set("ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS", "1"));
    let mut endless = client(port);
    endless.send("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\na");
    endless.head();
    worker.terminate();
    assert_eq!(worker.end().0, Some(0), "an orderly end, before the manager's patience is over");
    assert_ne!(endless.rest(), b"ab", "what could not be finished is cut");
}

#[test]
fn an_app_that_panics_has_an_answer_and_takes_nobody_with_it() {
    let (_worker, port) = start(Launch::app());
    let mut client = client(port);
    let answer = client.get("/panic");
    assert_eq!((answer.status, answer.body.as_str()), (500, "internal server error\n"));
    assert_eq!(Client::connect(local(port)).get("/").body, "hello\n");
}

#[test]
fn every_answer_says_which_request_and_which_node_it_is() {
    let launch = Launch::app()
        .set("ARLEN_CLUSTER_ENABLED", "1")
        .set("ARLEN_CLUSTER_NAME", "blue")
        .set("ARLEN_CLUSTER_NODE_ID", "a1")
        .set("ARLEN_CLUSTER_EXPECTED_NODES", "2")
        .set("ARLEN_READINESS_REQUIRES_CLUSTER_QUORUM", "1")
        .set("ARLEN_CLUSTER_OBSERVED_NODES", "1");
    let (worker, port) = start(launch);
    let mut client = client(port);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let answer = client.ask("GET", "/headers", &["X-Request-Id: r-1", &format!("traceparent: {trace}")]);
    let pid = worker.pid().to_string();
    for (name, value) in [
        ("x-request-id", "r-1"),
        ("x-correlation-id", "r-1"),
        ("x-trace-id", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("x-arlen-cluster", "blue"),
        ("x-arlen-node", "a1"),
        ("x-arlen-worker-pid", &pid),
        ("x-arlen-cluster-status", "degraded"),
        ("x-arlen-cluster-observed-nodes", "1"),
        ("x-arlen-cluster-expected-nodes", "2"),
        ("server", "Arlen"),
        ("x-arlen-response-write-ms", "0.000"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{answer:?}");
    }
    assert!(answer.header("date").is_some_and(|date| date.ends_with(" GMT")), "{answer:?}");
    let span = answer.header("traceparent").unwrap();
    assert!(answer.body.contains(span) && !answer.body.contains(trace), "the app is told of its own span: {answer:?}");
    let not_ready = client.get("/readyz");
    assert_eq!((not_ready.status, not_ready.body.as_str()), (503, "not_ready\n"));
    let clusterz = client.get("/clusterz").body;
    for part in [
        "\"enabled\":true",
        "\"name\":\"blue\"",
        "\"node_id\":\"a1\"",
        "\"expected_nodes\":2",
        "\"mode\":\"multi_node\"",
    ] {
        assert!(clusterz.contains(part), "{part} in {clusterz}");
    }
}

#[test]
fn the_headers_can_be_switched_off() {
    let launch = Launch::app()
        .set("ARLEN_RESPONSE_IDENTITY_HEADERS_ENABLED", "0")
        .set("ARLEN_TRACE_PROPAGATION_ENABLED", "0")
        .set("ARLEN_PERFORMANCE_LOGGING", "0");
    let (_worker, port) = start(launch);
    let names: Vec<String> = client(port).get("/").headers.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["server", "date", "content-type", "content-length"]);
}

#[test]
fn what_happens_is_counted() {
    let (_worker, port) = start(Launch::app());
    let mut client = client(port);
    client.get("/");
    client.get("/missing");
    let mut bad = Client::connect(local(port));
    bad.send("nonsense\r\n\r\n");
    assert_eq!(refused(&mut bad, "GET").0, 400);
    let metrics = client.get("/metrics").body;
    for line in [
        "aln_http_requests_total 2",
        "aln_http_status_200_total 1",
        "aln_http_status_404_total 1",
        "aln_http_requests_active 1",
        "aln_http_refused_total{reason=\"bad_request\"} 1",
        "aln_http_request_duration_seconds_count 2",
    ] {
        assert!(metrics.lines().any(|other| other == line), "{line} in\n{metrics}");
    }
    let json = client.ask("GET", "/metrics", &["Accept: application/json"]);
    assert_eq!(json.header("content-type"), Some("application/json; charset=utf-8"));
    assert!(json.body.contains("\"http_request_duration_ms\""), "{}", json.body);
}

#[test]
fn prometheus_finds_nothing_to_complain_of() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    let promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("skipped: promtool is not installed");
        return;
    };
    let (_worker, port) = start(Launch::app());
    for path in ["/", "/panic"] {
        client(port).get(path);
    }
    let metrics = client(port).get("/metrics").body;
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{metrics}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn no_request_can_forge_a_line_of_the_log() {
    let (worker, port) = start(Launch::app().set("ARLEN_LOG_FORMAT", "json"));
    let mut asker = client(port);
    let forged = "X-Request-Id: x\", \"status\":999";
    asker.ask("GET", "/a%0Ab\"c?token=secret", &[forged, "Authorization: Bearer secret", "Cookie: secret"]);
    let mut bad = client(port);
    bad.send("GET /secret HTTP/9.9\r\n\r\n");
    refused(&mut bad, "GET");
    drop((asker, bad));
    worker.terminate();
    let (_, log) = worker.end();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!((&lines[0]["path"], &lines[0]["status"]), (&"/a%0Ab\"c".into(), &404.into()));
    assert_eq!((&lines[1]["path"], &lines[1]["status"]), (&"-".into(), &400.into()));
    assert!(!log.contains("secret") && !log.contains("\"status\":999"), "{log}");
}
