//! What a worker is told through its environment.
//!
//! The names are those that the manager exports (`ARLEN_*`) and systemd's socket and notify protocols (`LISTEN_*`,
//! `NOTIFY_SOCKET`, `WATCHDOG_*`). Nothing else is read from the environment by this library.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::variables::{BadVariables, Variables};

/// The largest number that the manager exports for a limit.
const LARGEST: u32 = i32::MAX as u32;

/// The longest time that makes sense, and that no clock overflows at.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_hours(24);

const DEFAULT_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// Everything that shapes a [`Server`](crate::Server).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where connections come from.
    pub socket: Socket,
    /// How long a client may take over a request head, over the next piece of a request body or to take the next piece
    /// of an answer, and how long it may stay idle between two requests. `ARLEN_CONNECTION_TIMEOUT_SECONDS`, 1 to
    /// 86400 s, default 30 s.
    pub connection_timeout: Duration,
    /// How many of everything at once.
    pub limits: Limits,
    /// What is refused of one request.
    pub request_limits: RequestLimits,
    /// What the answers say about the cluster.
    pub cluster: Cluster,
    /// What the worker tells of itself over HTTP.
    pub observability: Observability,
    /// The datagram socket that hears `READY=1`, `STOPPING=1` and `WATCHDOG=1`: a path, or an abstract name after `@`.
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// How long the manager waits for a `WATCHDOG=1`; it is sent twice as often. `WATCHDOG_USEC`, ignored where
    /// `WATCHDOG_PID` names another process.
    pub watchdog: Option<Duration>,
    /// How long the worker may take over its end, from the signal on, before the manager kills it. What is still open
    /// shortly before is cut, so that the end is an orderly one. `ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS`, 1 to
    /// 86400 s; unset: no limit.
    pub graceful_shutdown: Option<Duration>,
    /// One line for each request on stderr, in this form, written by a thread of its own; none where unset.
    /// `ARLEN_LOG_FORMAT`.
    pub log_format: Option<LogFormat>,
    /// Serve one connection, then end in an orderly way.
    pub once: bool,
}

/// How many of everything at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections held at once, idle ones included; the next one is answered 503. `ARLEN_MAX_HTTP_SESSIONS`,
    /// default 256.
    pub http_sessions: u32,
    /// Upgraded connections at once, counted from the answer 101 to the close; the next upgrade is
    /// answered 503. `ARLEN_MAX_WEBSOCKET_SESSIONS`, default 256.
    pub websocket_sessions: u32,
    /// Requests that the app works on at once, and how many more may wait; none where neither variable is set.
    pub turns: Option<Turns>,
}

/// Requests at work and requests that wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Requests at work at once, each until its answer is handed over or its connection upgraded.
    /// `ARLEN_MAX_HTTP_WORKERS`, 8 where only the other is set.
    pub running: u32,
    /// Requests that wait; the next one is answered 503. `ARLEN_MAX_QUEUED_HTTP_CONNECTIONS`, 256 where only the other
    /// is set.
    pub waiting: u32,
}

/// What is refused of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "names carry their units")]
pub struct RequestLimits {
    /// Bytes of the request line, without its end; over it 431. `ARLEN_MAX_REQUEST_LINE_BYTES`, default 4096.
    pub line_bytes: u32,
    /// Bytes of the whole head; over it 431. `ARLEN_MAX_HEADER_BYTES`, default 32768.
    pub head_bytes: u32,
    /// Bytes of the body; over it 413. `ARLEN_MAX_BODY_BYTES`, default 1048576.
    pub body_bytes: u32,
}

/// What the answers say about the cluster that this worker's node is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// `ARLEN_CLUSTER_ENABLED`, default no.
    pub enabled: bool,
    /// Without control characters. `ARLEN_CLUSTER_NAME`, default `default`.
    pub name: String,
    /// Without control characters. `ARLEN_CLUSTER_NODE_ID`, default `node`.
    pub node_id: String,
    /// `ARLEN_CLUSTER_EXPECTED_NODES`, from 1, default 1.
    pub expected_nodes: u32,
    /// `ARLEN_CLUSTER_OBSERVED_NODES`, from 0, default as many as expected.
    pub observed_nodes: u32,
    /// Six headers on every answer, where the cluster is enabled. `ARLEN_CLUSTER_EMIT_HEADERS`, default yes.
    pub emit_headers: bool,
}

/// What the worker tells of itself over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "switches that have nothing to do with each other")]
pub struct Observability {
    /// Answer `/healthz`, `/readyz`, `/livez`, `/clusterz` and `/metrics` before the app. Default yes; no variable.
    pub endpoints: bool,
    /// The three health endpoints speak JSON to whom asks for it. `ARLEN_HEALTH_DETAILS_ENABLED`, default yes.
    pub health_details: bool,
    /// Count, and answer `/metrics` with something. `ARLEN_METRICS_ENABLED`, default yes.
    pub metrics: bool,
    /// `/readyz` is 503 before the app has started. `ARLEN_READINESS_REQUIRES_STARTUP`, default no.
    pub readiness_requires_startup: bool,
    /// `/readyz` is 503 while fewer nodes are observed than expected. `ARLEN_READINESS_REQUIRES_CLUSTER_QUORUM`,
    /// default no.
    pub readiness_requires_quorum: bool,
    /// `X-Request-Id` and `X-Correlation-Id` on every answer. `ARLEN_RESPONSE_IDENTITY_HEADERS_ENABLED`, default yes.
    pub identity_headers: bool,
    /// `traceparent` and `X-Trace-Id` on every answer. `ARLEN_TRACE_PROPAGATION_ENABLED`, default yes.
    pub trace_headers: bool,
    /// `X-Arlen-Total-Ms` and its three companions on every answer. `ARLEN_PERFORMANCE_LOGGING`, default yes.
    pub performance_headers: bool,
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// File descriptor 3 is a listening socket (`LISTEN_FDS=1`, and `LISTEN_PID` is this process). Its queue belongs to
    /// whoever made it, and goes on to the successor.
    Inherited,
    /// The worker binds a socket of its own.
    Bind {
        /// A host name or an address; an IPv6 address with or without brackets. `ARLEN_HOST`, default `127.0.0.1`.
        host: String,
        /// 1 to 65535. `ARLEN_PORT`, default 3000.
        port: u16,
        /// Share the port with other processes of the same user. `ARLEN_ENABLE_REUSEPORT`, default no.
        reuse_port: bool,
        /// Connections that may wait to be accepted, from 1. `ARLEN_LISTEN_BACKLOG`, default 128.
        backlog: i32,
    },
}

/// The form of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` words.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// Reads the settings through `lookup`; `pid` is this process, which `LISTEN_PID` must name.
    ///
    /// # Errors
    /// All variables that are set to something unusable, also those that the others make irrelevant.
    pub fn read(lookup: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Result<Self, BadVariables> {
        let mut variables = Variables::new(lookup);
        let settings = Self {
            socket: socket(&mut variables, pid),
            connection_timeout: seconds(&mut variables, "ARLEN_CONNECTION_TIMEOUT_SECONDS")
                .unwrap_or(DEFAULT_CONNECTION_TIMEOUT),
            limits: limits(&mut variables),
            request_limits: request_limits(&mut variables),
            cluster: cluster(&mut variables),
            observability: observability(&mut variables),
            notify_socket: notify_socket(&mut variables),
            watchdog: watchdog(&mut variables, pid),
            graceful_shutdown: seconds(&mut variables, "ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS"),
            log_format: log_format(&mut variables),
            once: false,
        };
        variables.finish().map(|()| settings)
    }
}

/// A time of 1 s to a day.
fn seconds(variables: &mut Variables<'_>, name: &'static str) -> Option<Duration> {
    variables.integer(name, 1..=86_400).map(Duration::from_secs)
}

fn limits(variables: &mut Variables<'_>) -> Limits {
    Limits {
        http_sessions: variables.integer("ARLEN_MAX_HTTP_SESSIONS", 1..=LARGEST).unwrap_or(256),
        websocket_sessions: variables.integer("ARLEN_MAX_WEBSOCKET_SESSIONS", 1..=LARGEST).unwrap_or(256),
        turns: turns(variables),
    }
}

fn turns(variables: &mut Variables<'_>) -> Option<Turns> {
    let running = variables.integer("ARLEN_MAX_HTTP_WORKERS", 1..=u32::from(u16::MAX));
    let waiting = variables.integer("ARLEN_MAX_QUEUED_HTTP_CONNECTIONS", 1..=LARGEST);
    let is_set = running.is_some() || waiting.is_some();
    is_set.then(|| Turns { running: running.unwrap_or(8), waiting: waiting.unwrap_or(256) })
}

fn request_limits(variables: &mut Variables<'_>) -> RequestLimits {
    RequestLimits {
        line_bytes: variables.integer("ARLEN_MAX_REQUEST_LINE_BYTES", 1..=LARGEST).unwrap_or(4096),
        head_bytes: variables.integer("ARLEN_MAX_HEADER_BYTES", 1..=LARGEST).unwrap_or(32_768),
        body_bytes: variables.integer("ARLEN_MAX_BODY_BYTES", 1..=LARGEST).unwrap_or(1_048_576),
    }
}

fn cluster(variables: &mut Variables<'_>) -> Cluster {
    let expected_nodes = variables.integer("ARLEN_CLUSTER_EXPECTED_NODES", 1..=u32::from(u16::MAX)).unwrap_or(1);
    Cluster {
        enabled: variables.boolean("ARLEN_CLUSTER_ENABLED").unwrap_or(false),
        name: printable(variables, "ARLEN_CLUSTER_NAME").unwrap_or_else(|| "default".to_owned()),
        node_id: printable(variables, "ARLEN_CLUSTER_NODE_ID").unwrap_or_else(|| "node".to_owned()),
        expected_nodes,
        observed_nodes: variables
            .integer("ARLEN_CLUSTER_OBSERVED_NODES", 0..=u32::from(u16::MAX))
            .unwrap_or(expected_nodes),
        emit_headers: variables.boolean("ARLEN_CLUSTER_EMIT_HEADERS").unwrap_or(true),
    }
}

/// Text that can stand in a header.
fn printable(variables: &mut Variables<'_>, name: &'static str) -> Option<String> {
    let text = variables.text(name)?;
    if !text.contains(char::is_control) {
        return Some(text);
    }
    variables.problem(name, &text, "text without control characters, because it stands in a header");
    None
}

fn observability(variables: &mut Variables<'_>) -> Observability {
    let mut switch = |name, default| variables.boolean(name).unwrap_or(default);
    Observability {
        endpoints: true,
        health_details: switch("ARLEN_HEALTH_DETAILS_ENABLED", true),
        metrics: switch("ARLEN_METRICS_ENABLED", true),
        readiness_requires_startup: switch("ARLEN_READINESS_REQUIRES_STARTUP", false),
        readiness_requires_quorum: switch("ARLEN_READINESS_REQUIRES_CLUSTER_QUORUM", false),
        identity_headers: switch("ARLEN_RESPONSE_IDENTITY_HEADERS_ENABLED", true),
        trace_headers: switch("ARLEN_TRACE_PROPAGATION_ENABLED", true),
        performance_headers: switch("ARLEN_PERFORMANCE_LOGGING", true),
    }
}

fn socket(variables: &mut Variables<'_>, pid: u32) -> Socket {
    let host = variables.text("ARLEN_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = variables.integer("ARLEN_PORT", 1..=u16::MAX).unwrap_or(3000);
    let reuse_port = variables.boolean("ARLEN_ENABLE_REUSEPORT").unwrap_or(false);
    let backlog = variables.integer("ARLEN_LISTEN_BACKLOG", 1..=i32::MAX).unwrap_or(128);
    if inherits(variables, pid) { Socket::Inherited } else { Socket::Bind { host, port, reuse_port, backlog } }
}

/// `LISTEN_FDS` counts for the process that `LISTEN_PID` names and no other, because both survive into grandchildren.
fn inherits(variables: &mut Variables<'_>, pid: u32) -> bool {
    let ours = variables.integer("LISTEN_PID", 1..=LARGEST) == Some(pid);
    match variables.integer::<u32>("LISTEN_FDS", 0..=LARGEST) {
        Some(1) if ours => true,
        Some(count) if ours && count > 1 => {
            variables.problem("LISTEN_FDS", &count.to_string(), "1, because a worker serves one socket");
            false
        }
        _ => false,
    }
}

fn notify_socket(variables: &mut Variables<'_>) -> Option<OsString> {
    let address = variables.raw("NOTIFY_SOCKET")?;
    if matches!(address.as_bytes(), [b'/' | b'@', _, ..]) {
        return Some(address);
    }
    variables.problem("NOTIFY_SOCKET", &address.to_string_lossy(), "an absolute path, or a name after @");
    None
}

fn watchdog(variables: &mut Variables<'_>, pid: u32) -> Option<Duration> {
    let period = variables.integer("WATCHDOG_USEC", 1..=u64::MAX).map(Duration::from_micros)?;
    let ours = variables.integer("WATCHDOG_PID", 1..=LARGEST).is_none_or(|watched| watched == pid);
    ours.then_some(period)
}

fn log_format(variables: &mut Variables<'_>) -> Option<LogFormat> {
    let text = variables.text("ARLEN_LOG_FORMAT")?;
    match text.trim().to_ascii_lowercase().as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => {
            variables.problem("ARLEN_LOG_FORMAT", &text, "text or json");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, BadVariables> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Settings::read(&lookup, 77)
    }

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let expected = Settings {
            socket: Socket::Bind { host: "127.0.0.1".to_owned(), port: 3000, reuse_port: false, backlog: 128 },
            connection_timeout: Duration::from_secs(30),
            limits: Limits { http_sessions: 256, websocket_sessions: 256, turns: None },
            request_limits: RequestLimits { line_bytes: 4096, head_bytes: 32_768, body_bytes: 1_048_576 },
            cluster: Cluster {
                enabled: false,
                name: "default".to_owned(),
                node_id: "node".to_owned(),
                expected_nodes: 1,
                observed_nodes: 1,
                emit_headers: true,
            },
            observability: Observability {
                endpoints: true,
                health_details: true,
                metrics: true,
                readiness_requires_startup: false,
                readiness_requires_quorum: false,
                identity_headers: true,
                trace_headers: true,
                performance_headers: true,
            },
            notify_socket: None,
            watchdog: None,
            graceful_shutdown: None,
            log_format: None,
            once: false,
        };
        assert_eq!(read(&[]), Ok(expected.clone()));
        assert_eq!(read(&[("ARLEN_PORT", ""), ("LISTEN_FDS", "")]), Ok(expected), "an empty variable is an unset one");
    }

    #[test]
    fn a_socket_is_inherited_only_by_the_process_it_was_meant_for() {
        let inherited = |pairs| read(pairs).map(|settings| settings.socket == Socket::Inherited);
        assert_eq!(inherited(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "77")]), Ok(true));
        assert_eq!(inherited(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "78")]), Ok(false));
        assert_eq!(inherited(&[("LISTEN_FDS", "1")]), Ok(false));
        assert_eq!(inherited(&[("LISTEN_FDS", "0"), ("LISTEN_PID", "77")]), Ok(false));
        assert!(inherited(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "77")]).is_err());
    }

    #[test]
    fn every_bad_variable_is_named_at_once() {
        let bad = read(&[
            ("ARLEN_PORT", "tcp://10.0.0.1:3000"),
            ("ARLEN_LISTEN_BACKLOG", "0"),
            ("ARLEN_ENABLE_REUSEPORT", "maybe"),
            ("ARLEN_MAX_HTTP_SESSIONS", "-1"),
            ("NOTIFY_SOCKET", "relative"),
            ("WATCHDOG_USEC", "soon"),
            ("ARLEN_LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        let names: Vec<&str> = bad.0.iter().map(|problem| problem.variable).collect();
        assert_eq!(
            names,
            [
                "ARLEN_PORT",
                "ARLEN_ENABLE_REUSEPORT",
                "ARLEN_LISTEN_BACKLOG",
                "ARLEN_MAX_HTTP_SESSIONS",
                "NOTIFY_SOCKET",
                "WATCHDOG_USEC",
                "ARLEN_LOG_FORMAT"
            ]
        );
        assert_eq!(
            bad.0[0].to_string(),
            r#"ARLEN_PORT: expected a whole number from 1 to 65535 but got "tcp://10.0.0.1:3000""#
        );
    }

    #[test]
    fn one_half_of_the_queue_gives_the_other_its_default() {
        let turns = |pairs| read(pairs).map(|settings| settings.limits.turns);
        assert_eq!(turns(&[("ARLEN_MAX_HTTP_WORKERS", "1")]), Ok(Some(Turns { running: 1, waiting: 256 })));
        assert_eq!(turns(&[("ARLEN_MAX_QUEUED_HTTP_CONNECTIONS", "1")]), Ok(Some(Turns { running: 8, waiting: 1 })));
        assert!(turns(&[("ARLEN_MAX_HTTP_WORKERS", "0")]).is_err());
    }

    #[test]
    fn the_cluster_observes_what_it_expects_and_fits_into_headers() {
        let cluster = |pairs| read(pairs).map(|settings| settings.cluster);
        assert_eq!(cluster(&[("ARLEN_CLUSTER_EXPECTED_NODES", "3")]).unwrap().observed_nodes, 3);
        assert_eq!(cluster(&[("ARLEN_CLUSTER_OBSERVED_NODES", "0")]).unwrap().observed_nodes, 0);
        assert!(cluster(&[("ARLEN_CLUSTER_NAME", "a\r\nSet-Cookie: b")]).is_err());
    }

    #[test]
    fn a_watchdog_for_another_process_is_none() {
        let watchdog = |pairs| read(pairs).map(|settings| settings.watchdog);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "2000000")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "77")]), Ok(Some(Duration::from_micros(5))));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "78")]), Ok(None));
    }
}
