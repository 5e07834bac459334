//! The table.

use crate::{Answer, Limits};

/// Who says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Arlen's workers, and whoever takes their place.
    Contract,
    /// RFC 9110 and RFC 9112, where they leave no choice, or the choice that lets nobody smuggle a request.
    Standard,
}

/// What becomes of the connection after the last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It can be used again.
    Open,
    /// It ends, and nothing more comes.
    Closed,
}

/// A request, and what a worker must make of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is about.
    pub name: &'static str,
    /// Who says so.
    pub source: Source,
    /// The bytes to send, at once.
    pub request: Vec<u8>,
    /// The answers, in this order.
    pub answers: Vec<Expected>,
    /// And then.
    pub end: End,
}

/// What must be true of an answer.
#[derive(Debug, Clone)]
pub struct Expected {
    /// One of these.
    pub statuses: Vec<u16>,
    /// These headers have these values.
    pub headers: Vec<(&'static str, &'static str)>,
    /// The whole body.
    pub body: Option<&'static str>,
    /// Parts of the body.
    pub contains: Vec<&'static str>,
    /// The request was a HEAD.
    pub is_head: bool,
}

impl Expected {
    /// Compares an answer.
    pub(crate) fn check(&self, answer: &Answer) -> Result<(), String> {
        let body = String::from_utf8_lossy(&answer.body);
        if !self.statuses.contains(&answer.status) {
            return Err(format!("expected status {:?} but got {} with {body:?}", self.statuses, answer.status));
        }
        for (name, value) in &self.headers {
            if answer.header(name) != Some(value) {
                return Err(format!("expected {name}: {value} but got {:?}", answer.header(name)));
            }
        }
        if let Some(expected) = self.body
            && body != expected
        {
            return Err(format!("expected the body {expected:?} but got {body:?}"));
        }
        match self.contains.iter().find(|part| !body.contains(**part)) {
            Some(part) => Err(format!("expected {part:?} in the body but got {body:?}")),
            None => Ok(()),
        }
    }

    fn status(status: u16) -> Self {
        Self { statuses: vec![status], headers: vec![], body: None, contains: vec![], is_head: false }
    }

    fn any(statuses: &[u16]) -> Self {
        Self { statuses: statuses.to_vec(), ..Self::status(0) }
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    fn body(mut self, body: &'static str) -> Self {
        self.body = Some(body);
        self
    }

    fn contains(mut self, part: &'static str) -> Self {
        self.contains.push(part);
        self
    }

    fn head(mut self) -> Self {
        self.is_head = true;
        self
    }

    fn plain(status: u16, body: &'static str) -> Self {
        Self::status(status).header("content-type", PLAIN).body(body)
    }

    fn json(self) -> Self {
        self.header("content-type", "application/json; charset=utf-8")
    }

    /// An answer before the app is asked.
    fn refusal(status: u16, body: &'static str) -> Self {
        Self::plain(status, body).header("connection", "close").header("server", "Arlen")
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn row(name: &'static str, source: Source, request: impl Into<Vec<u8>>, answers: Vec<Expected>, end: End) -> Row {
    Row { name, source, request: request.into(), answers, end }
}

/// A request without a body.
fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: conformance\r\n{headers}\r\n")
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /conformance HTTP/1.1\r\nHost: conformance\r\n{headers}\r\n{body}")
}

/// All rows, for a worker with these limits.
pub fn rows(limits: Limits) -> Vec<Row> {
    [endpoints(), connections(), limited(limits), malformed(), smuggled()].concat()
}

fn endpoints() -> Vec<Row> {
    let contract = |name, request: String, answer| row(name, Source::Contract, request, vec![answer], End::Open);
    let head = |target: &str| format!("HEAD {target} HTTP/1.1\r\nHost: conformance\r\n\r\n");
    let empty = || Expected::status(200).header("content-type", PLAIN).head();
    vec![
        contract("healthz", get("/healthz", ""), Expected::plain(200, "ok\n")),
        contract("readyz", get("/readyz", ""), Expected::plain(200, "ready\n")),
        contract("livez", get("/livez", ""), Expected::plain(200, "live\n")),
        contract("healthz with a query", get("/healthz?x=y", ""), Expected::plain(200, "ok\n")),
        contract("HEAD healthz", head("/healthz"), empty()),
        contract("HEAD livez", head("/livez"), empty()),
        contract(
            "healthz as JSON",
            get("/healthz", "Accept: application/json\r\n"),
            Expected::status(200).json().contains("\"signal\":\"health\"").contains("\"uptime_seconds\":"),
        ),
        contract(
            "readyz as JSON by query",
            get("/readyz?format=json", ""),
            Expected::status(200).json().contains("\"signal\":\"ready\"").contains("\"cluster_quorum\":"),
        ),
        contract(
            "clusterz",
            get("/clusterz", ""),
            Expected::status(200)
                .json()
                .contains("\"membership_source\":\"static_config\"")
                .contains("\"cross_node_request_routing\":\"external_load_balancer_required\"")
                .contains("\"worker_pid\":"),
        ),
        contract(
            "metrics",
            get("/metrics", ""),
            Expected::status(200)
                .header("content-type", "text/plain; version=0.0.4; charset=utf-8")
                .contains("\naln_http_requests_total ")
                .contains("# TYPE aln_http_requests_active gauge\n"),
        ),
        contract("an unknown path", get("/conformance/missing", ""), Expected::plain(404, "not found\n")),
    ]
}

fn connections() -> Vec<Row> {
    use Source::{Contract, Standard};
    let ok = || Expected::plain(200, "ok\n");
    let health = get("/healthz", "");
    vec![
        row(
            "close is granted",
            Contract,
            get("/healthz", "Connection: close\r\n"),
            vec![ok().header("connection", "close")],
            End::Closed,
        ),
        row("HTTP/1.0 ends with its answer", Contract, "GET /healthz HTTP/1.0\r\n\r\n", vec![ok()], End::Closed),
        row(
            "HTTP/1.0 may ask to stay",
            Contract,
            "GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            vec![ok().header("connection", "keep-alive")],
            End::Open,
        ),
        row(
            "pipelined requests are answered in order",
            Standard,
            [&*health, &get("/livez", ""), &health].concat(),
            vec![ok(), Expected::plain(200, "live\n"), ok()],
            End::Open,
        ),
        row(
            "an error after good requests comes last",
            Standard,
            [&*health, "nonsense\r\n\r\n"].concat(),
            vec![ok(), Expected::refusal(400, "bad request\n")],
            End::Closed,
        ),
        row(
            "empty lines before a request are skipped",
            Standard,
            ["\r\n\r\n", &health].concat(),
            vec![ok()],
            End::Open,
        ),
        row(
            "a host that is an address with a port",
            Standard,
            "GET /healthz HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
            vec![ok()],
            End::Open,
        ),
        row("an empty host", Standard, "GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", vec![ok()], End::Open),
        row("an absolute target", Standard, get("http://conformance/healthz", ""), vec![ok()], End::Open),
        row(
            "a wish for another protocol that nobody speaks",
            Standard,
            get("/healthz", "Connection: upgrade\r\nUpgrade: conformance/1\r\n"),
            vec![ok()],
            End::Open,
        ),
        row(
            "field names in any case",
            Standard,
            "GET /healthz HTTP/1.1\r\nhOST: conformance\r\ncONNECTION: cLOSE\r\n\r\n",
            vec![ok()],
            End::Closed,
        ),
    ]
}

fn limited(limits: Limits) -> Vec<Row> {
    let line = |length: usize| "/".repeat(length - "GET  HTTP/1.1".len());
    let head = |length: usize| {
        let frame = get("/healthz", "X-Fill: \r\n");
        frame.replace("X-Fill: ", &format!("X-Fill: {}", "x".repeat(length - frame.len())))
    };
    let too_large = || vec![Expected::refusal(431, "request headers too large\n")];
    let contract = |name, request: String, answers, end| row(name, Source::Contract, request, answers, end);
    vec![
        contract("a head of the largest size", head(limits.head_bytes), vec![Expected::plain(200, "ok\n")], End::Open),
        contract("a head over the limit", head(limits.head_bytes + 1), too_large(), End::Closed),
        contract(
            "a head that does not end",
            head(limits.head_bytes * 2).trim_end().to_owned(),
            too_large(),
            End::Closed,
        ),
        row(
            "a request line over the limit",
            Source::Standard,
            get(&line(limits.line_bytes + 1), ""),
            too_large(),
            End::Closed,
        ),
        row(
            "more fields than anybody needs",
            Source::Standard,
            get("/healthz", &"A: b\r\n".repeat(1000)),
            too_large(),
            End::Closed,
        ),
        contract(
            "a body over the limit",
            post(&format!("Content-Length: {}\r\n", limits.body_bytes + 1), ""),
            vec![Expected::refusal(413, "payload too large\n")],
            End::Closed,
        ),
        contract(
            "a body far over the limit, already sent",
            post(&format!("Content-Length: {}\r\n", limits.body_bytes * 2), &"x".repeat(limits.body_bytes * 2)),
            vec![Expected::refusal(413, "payload too large\n")],
            End::Closed,
        ),
    ]
}

fn malformed() -> Vec<Row> {
    use Source::{Contract, Standard};
    let bad = |name, source, request: &str| {
        row(name, source, request, vec![Expected::refusal(400, "bad request\n")], End::Closed)
    };
    vec![
        bad("not HTTP", Contract, "nonsense\r\n\r\n"),
        bad("not HTTP at all", Contract, "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
        bad("an unknown version", Contract, "GET /healthz HTTP/9.9\r\nHost: a\r\n\r\n"),
        bad("a field without a colon", Contract, "GET /healthz HTTP/1.1\r\nHost: a\r\nnothing\r\n\r\n"),
        bad("a blank in a field name", Contract, "GET /healthz HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n"),
        bad("a NUL in a field", Contract, "GET /healthz HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n"),
        bad("a NUL in a field's name", Contract, "GET /healthz HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n"),
        bad(
            "a letter beyond ASCII in a field's name",
            Standard,
            "GET /healthz HTTP/1.1\r\nHost: a\r\nX\u{e4}: b\r\n\r\n",
        ),
        bad("a length that is no number", Contract, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"),
        bad("a negative length", Contract, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
        bad("no host", Standard, "GET /healthz HTTP/1.1\r\n\r\n"),
        bad("two hosts", Standard, "GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        bad("a host with a path", Standard, "GET /healthz HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        bad("a host with a blank", Standard, "GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n"),
        bad("a host with a user", Standard, "GET /healthz HTTP/1.1\r\nHost: u@a\r\n\r\n"),
        bad("a host beyond ASCII", Standard, "GET /healthz HTTP/1.1\r\nHost: \u{e4}\r\n\r\n"),
        bad("a host whose port is no number", Standard, "GET /healthz HTTP/1.1\r\nHost: a:x\r\n\r\n"),
        bad("a NUL in the target", Standard, "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a blank in the target", Standard, "GET / b HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a relative target", Standard, "GET healthz HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("a tunnel", Standard, "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
        bad("HTTP/0.9", Standard, "GET /healthz\r\n\r\n"),
    ]
}

fn smuggled() -> Vec<Row> {
    let inner = get("/smuggled", "");
    let refused = |name, head: &str, body: &str| {
        let request = post(head, &format!("{body}{inner}"));
        row(name, Source::Standard, request, vec![Expected::refusal(400, "bad request\n")], End::Closed)
    };
    // The app may have answered before it could be known that the body is malformed; then nothing follows its answer.
    let ended = |name, body: &str| {
        let request = post("Transfer-Encoding: chunked\r\n", &format!("{body}{inner}"));
        row(name, Source::Standard, request, vec![Expected::any(&[400, 404, 405])], End::Closed)
    };
    vec![
        refused("two different lengths", "Content-Length: 0\r\nContent-Length: 5\r\n", ""),
        refused("two equal lengths", "Content-Length: 0\r\nContent-Length: 0\r\n", ""),
        refused("a list of lengths", "Content-Length: 0, 0\r\n", ""),
        refused("a signed length", "Content-Length: +0\r\n", ""),
        refused("a length before a coding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        refused("a coding before a length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        refused("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
        refused("an unknown coding", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        refused("a coding with a control character", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
        refused("a blank before the colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        refused("a folded coding", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        refused("a folded field", "X: y\r\n z\r\n", ""),
        refused("a field that begins with a blank", " Content-Length: 5\r\n", ""),
        refused("a bare LF between fields", "X: y\nContent-Length: 0\r\n", ""),
        refused("a bare LF at the end of the head", "X: y\n", ""),
        refused("a bare CR in a field", "X: y\rContent-Length: 5\r\n", ""),
        row(
            "a coding in HTTP/1.0",
            Source::Standard,
            format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
            vec![Expected::refusal(400, "bad request\n")],
            End::Closed,
        ),
        row(
            "bare LFs throughout",
            Source::Standard,
            "GET /healthz HTTP/1.1\nHost: a\n\n",
            vec![Expected::refusal(400, "bad request\n")],
            End::Closed,
        ),
        ended("a chunk size with a sign", "+0\r\n\r\n"),
        ended("a chunk size with a prefix", "0x0\r\n\r\n"),
        ended("a chunk size behind a blank", " 0\r\n\r\n"),
        ended("a chunk size that ends in a bare LF", "0\n\r\n"),
        ended("a chunk size that overflows", "10000000000000000\r\n\r\n"),
        ended("a chunk that is longer than it says", "1\r\nab\r\n0\r\n\r\n"),
        ended("a chunk extension with a bare LF", "0;x\ny\r\n\r\n"),
        ended("a trailer that is folded", "0\r\nX: y\r\n z\r\n\r\n"),
        ended("more trailers than anybody needs", &format!("0\r\n{}\r\n", "A: b\r\n".repeat(1000))),
    ]
}
