//! What a worker is made of: its settings, its socket, its app.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes};
use hyper::{Request, Response};
use tower::Service;

use crate::body::Body;
use crate::life::{BoxError, Host, Stop, Watchdog, spare};
use crate::listener::{ListenError, Opened, Queue, open};
use crate::notify::Notifier;
use crate::settings::{Cluster, LONGEST_TIMEOUT, LogFormat, Settings, Socket, Turns};
use crate::stderr;
use crate::variables::BadVariables;

/// Why a worker ended before it was told to.
///
/// Its `Debug` form is the text for people, too, because that is what a `main` shows that returns it.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is no socket to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The runtime took no signal handler or no socket.
    #[error("cannot start serving: {0}")]
    Start(io::Error),
    /// The listening socket stopped working, for instance because somebody who shares it has shut it down.
    #[error("the listening socket has ended: {0}")]
    Accept(io::Error),
}

impl fmt::Debug for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An HTTP/1.1 and cleartext HTTP/2 server that behaves as the manager expects of a worker.
///
/// It starts from the environment, and every setting can be changed before it serves.
#[derive(Debug, Clone)]
pub struct Server {
    settings: Settings,
}

/// A server whose socket listens.
#[derive(Debug)]
pub struct Listening {
    settings: Settings,
    opened: Opened,
}

/// One setter for each setting: its documentation is the setting's own.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($value:ident: $kind:ty) => $($field:ident).+ $(= $wrap:expr)?;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $value: $kind) -> Self {
            self.settings.$($field).+ = setters!(@value $value $($wrap)?);
            self
        })*
    };
    (@value $value:ident) => { $value };
    (@value $value:ident $wrap:expr) => { $wrap };
}

impl Server {
    /// A server as the process environment describes it.
    ///
    /// # Errors
    /// Unusable variables, all of them at once.
    pub fn from_env() -> Result<Self, BadVariables> {
        let lookup = |name: &str| -> Option<OsString> { std::env::var_os(name) };
        Settings::read(&lookup, std::process::id()).map(Self::new)
    }

    /// A server with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// What it would serve with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Binds this address and port (`ARLEN_HOST`, `ARLEN_PORT`), unless a socket was inherited, which has its address.
    #[must_use]
    pub fn address(mut self, host: impl Into<String>, port: u16) -> Self {
        if let Socket::Bind { host: old_host, port: old_port, .. } = &mut self.settings.socket {
            (*old_host, *old_port) = (host.into(), port);
        }
        self
    }

    /// Shares the port with other processes of the same user (`ARLEN_ENABLE_REUSEPORT`), unless a socket was inherited.
    #[must_use]
    pub fn reuse_port(mut self, on: bool) -> Self {
        if let Socket::Bind { reuse_port, .. } = &mut self.settings.socket {
            *reuse_port = on;
        }
        self
    }

    /// Lets so many connections wait to be accepted (`ARLEN_LISTEN_BACKLOG`, from 1), unless a socket was inherited.
    #[must_use]
    pub fn listen_backlog(mut self, connections: i32) -> Self {
        if let Socket::Bind { backlog, .. } = &mut self.settings.socket {
            *backlog = connections;
        }
        self
    }

    setters! {
        /// Where connections come from, whatever the environment says.
        socket(socket: Socket) => socket;
        /// [`Settings::connection_timeout`], at most a day.
        connection_timeout(timeout: Duration) => connection_timeout = timeout.min(LONGEST_TIMEOUT);
        /// [`Limits::http_sessions`](crate::Limits::http_sessions).
        max_http_sessions(count: u32) => limits.http_sessions;
        /// [`Limits::websocket_sessions`](crate::Limits::websocket_sessions).
        max_websocket_sessions(count: u32) => limits.websocket_sessions;
        /// [`Limits::turns`](crate::Limits::turns): requests at work and requests that wait; `None` for no limit.
        max_requests(turns: Option<Turns>) => limits.turns;
        /// [`RequestLimits::line_bytes`](crate::RequestLimits::line_bytes).
        max_request_line_bytes(bytes: u32) => request_limits.line_bytes;
        /// [`RequestLimits::head_bytes`](crate::RequestLimits::head_bytes).
        max_head_bytes(bytes: u32) => request_limits.head_bytes;
        /// [`RequestLimits::body_bytes`](crate::RequestLimits::body_bytes).
        max_body_bytes(bytes: u32) => request_limits.body_bytes;
        /// What the answers say about the cluster.
        cluster(cluster: Cluster) => cluster;
        /// [`Observability::endpoints`](crate::Observability::endpoints).
        endpoints(on: bool) => observability.endpoints;
        /// [`Observability::health_details`](crate::Observability::health_details).
        health_details(on: bool) => observability.health_details;
        /// [`Observability::metrics`](crate::Observability::metrics).
        metrics(on: bool) => observability.metrics;
        /// [`Observability::readiness_requires_startup`](crate::Observability::readiness_requires_startup).
        readiness_requires_startup(on: bool) => observability.readiness_requires_startup;
        /// [`Observability::readiness_requires_quorum`](crate::Observability::readiness_requires_quorum).
        readiness_requires_quorum(on: bool) => observability.readiness_requires_quorum;
        /// [`Observability::identity_headers`](crate::Observability::identity_headers).
        identity_headers(on: bool) => observability.identity_headers;
        /// [`Observability::trace_headers`](crate::Observability::trace_headers).
        trace_headers(on: bool) => observability.trace_headers;
        /// [`Observability::performance_headers`](crate::Observability::performance_headers).
        performance_headers(on: bool) => observability.performance_headers;
        /// [`Settings::notify_socket`].
        notify_socket(address: Option<OsString>) => notify_socket;
        /// [`Settings::watchdog`].
        watchdog(period: Option<Duration>) => watchdog;
        /// [`Settings::graceful_shutdown`].
        graceful_shutdown(limit: Option<Duration>) => graceful_shutdown;
        /// [`Settings::log_format`].
        log_format(format: Option<LogFormat>) => log_format;
        /// [`Settings::once`].
        once(on: bool) => once;
    }

    /// Opens the socket, so that connections can queue up from here on.
    ///
    /// # Errors
    /// The address cannot be used or is taken, or descriptor 3 is no listening socket.
    pub fn listen(self) -> Result<Listening, ListenError> {
        let opened = open(&self.settings.socket)?;
        Ok(Listening { settings: self.settings, opened })
    }

    /// [`listen`](Self::listen), and then [`Listening::serve`].
    ///
    /// # Errors
    /// There is no socket to listen on, or as there.
    pub async fn serve<S, B>(self, service: S) -> Result<(), ServeError>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.listen()?.serve(service).await
    }
}

impl Listening {
    /// The address for people, like `http://127.0.0.1:3000`, if this worker bound it; of an inherited socket the
    /// manager has told already.
    pub fn own_url(&self) -> Option<String> {
        self.opened.own_url()
    }

    /// Serves `service` until SIGTERM or SIGINT, and then until every connection is done.
    ///
    /// After the signal: nothing more is accepted (what waits in an inherited socket is the successor's; what waits in
    /// an own one is accepted first), responses carry `Connection: close`, HTTP/2 peers get GOAWAY, a connection at
    /// rest is closed after one second, and every request's [`Shutdown`](crate::Shutdown) is requested. What is still
    /// open when [`Settings::graceful_shutdown`] is nearly over is left open; it is closed when the process ends.
    /// Further signals change nothing.
    ///
    /// Must run inside a tokio runtime with I/O and time enabled; one thread is enough.
    ///
    /// # Errors
    /// The worker could not start serving; or its listening socket broke, after the connections that it had were done.
    pub async fn serve<S, B>(self, service: S) -> Result<(), ServeError>
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        // First of all, so that a TERM from here on is an orderly one.
        let mut stop = Stop::install().map_err(ServeError::Start)?;
        let notifier = Notifier::connect(self.settings.notify_socket.as_deref());
        let queue = self.opened.queue;
        let grace = self.settings.graceful_shutdown;
        let mut watchdog = Watchdog::new(&self.settings, &notifier);
        let host = Host::new(self.settings, service);
        // Last of all: from here on it can be seen that the worker accepts, and soon after it says so itself.
        let listener = self.opened.register().map_err(ServeError::Start)?;

        let ended = host.accept_until(&mut stop, &listener, &notifier, &mut watchdog).await;
        if queue == Queue::Own && !host.worker.settings.once {
            host.serve_waiting(listener).await;
        } else {
            // Closed, never shut down: a shutdown would end the socket for everybody who holds it.
            drop(listener);
        }
        host.finish(&notifier, &mut watchdog).await;
        stderr::flush(spare(grace) / 2);
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_its_method() {
        let variables = [
            ("ARLEN_HOST", "::1"),
            ("ARLEN_PORT", "8080"),
            ("ARLEN_ENABLE_REUSEPORT", "1"),
            ("ARLEN_LISTEN_BACKLOG", "7"),
            ("ARLEN_CONNECTION_TIMEOUT_SECONDS", "8"),
            ("ARLEN_MAX_HTTP_SESSIONS", "9"),
            ("ARLEN_MAX_WEBSOCKET_SESSIONS", "10"),
            ("ARLEN_MAX_HTTP_WORKERS", "11"),
            ("ARLEN_MAX_QUEUED_HTTP_CONNECTIONS", "12"),
            ("ARLEN_MAX_REQUEST_LINE_BYTES", "13"),
            ("ARLEN_MAX_HEADER_BYTES", "14"),
            ("ARLEN_MAX_BODY_BYTES", "15"),
            ("ARLEN_CLUSTER_ENABLED", "1"),
            ("ARLEN_CLUSTER_NAME", "blue"),
            ("ARLEN_CLUSTER_NODE_ID", "a1"),
            ("ARLEN_CLUSTER_EXPECTED_NODES", "3"),
            ("ARLEN_CLUSTER_OBSERVED_NODES", "2"),
            ("ARLEN_CLUSTER_EMIT_HEADERS", "0"),
            ("ARLEN_HEALTH_DETAILS_ENABLED", "0"),
            ("ARLEN_METRICS_ENABLED", "0"),
            ("ARLEN_READINESS_REQUIRES_STARTUP", "1"),
            ("ARLEN_READINESS_REQUIRES_CLUSTER_QUORUM", "1"),
            ("ARLEN_RESPONSE_IDENTITY_HEADERS_ENABLED", "0"),
            ("ARLEN_TRACE_PROPAGATION_ENABLED", "0"),
            ("ARLEN_PERFORMANCE_LOGGING", "0"),
            ("NOTIFY_SOCKET", "@manager"),
            ("WATCHDOG_USEC", "16000000"),
            ("ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS", "17"),
            ("ARLEN_LOG_FORMAT", "json"),
        ];
        let read = |variables: &[(&str, &str)]| {
            let lookup = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            Server::new(Settings::read(&lookup, 1).unwrap())
        };
        let (name, node_id) = ("blue".to_owned(), "a1".to_owned());
        let cluster =
            Cluster { enabled: true, name, node_id, expected_nodes: 3, observed_nodes: 2, emit_headers: false };
        let in_code = read(&[])
            .address("::1", 8080)
            .reuse_port(true)
            .listen_backlog(7)
            .connection_timeout(Duration::from_secs(8))
            .max_http_sessions(9)
            .max_websocket_sessions(10)
            .max_requests(Some(Turns { running: 11, waiting: 12 }))
            .max_request_line_bytes(13)
            .max_head_bytes(14)
            .max_body_bytes(15)
            .cluster(cluster)
            .health_details(false)
            .metrics(false)
            .readiness_requires_startup(true)
            .readiness_requires_quorum(true)
            .identity_headers(false)
            .trace_headers(false)
            .performance_headers(false)
            .notify_socket(Some("@manager".into()))
            .watchdog(Some(Duration::from_secs(16)))
            .graceful_shutdown(Some(Duration::from_secs(17)))
            .log_format(Some(LogFormat::Json));
        assert_eq!(in_code.settings(), read(&variables).settings());
    }
}
