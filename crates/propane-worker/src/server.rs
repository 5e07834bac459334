//! The worker's life: accept, serve, drain, end.

use std::ffi::OsString;
use std::fmt;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as HttpBody, Bytes};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use tower::Service;

use crate::activity::Activity;
use crate::body::Body;
use crate::connection::{ClientStream, Drain, First, Lease, close, drive, first};
use crate::listener::{AcceptFailure, Accepted, ListenError, Listener, Opened, Queue, open};
use crate::notify::{Notifier, State};
use crate::refusal::Refusal;
use crate::request::{RequestContext, respond};
use crate::settings::{Cluster, LONGEST_TIMEOUT, LogFormat, Settings, Socket, Turns};
use crate::stderr;
use crate::variables::BadVariables;
use crate::worker::Worker;

/// Any error of an app, as hyper takes it.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How soon to try again when descriptors have run out. Nothing tells when another process has given some back.
const EXHAUSTED_RETRY: Duration = Duration::from_millis(50);

/// How often it is said that they have.
const EXHAUSTED_TOLD_AGAIN: Duration = Duration::from_secs(10);

/// How long before the manager's patience ends an overdue worker ends by itself, so that its end is an orderly one: a
/// tenth of it, and no more than this.
const LAST_MOMENT: Duration = Duration::from_millis(500);

/// What hyper's HTTP/1 buffers hold at most unless they are told otherwise.
const HYPER_BUFFER_BYTES: usize = 8192 + 4096 * 100;

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
            host.serve_waiting(listener);
        } else {
            // Closed, never shut down: a shutdown would end the socket for everybody who holds it.
            drop(listener);
        }
        host.finish(&notifier, &mut watchdog).await;
        stderr::flush(spare(grace) / 2);
        ended
    }
}

/// What makes connections of what is accepted.
struct Host<S> {
    worker: Arc<Worker>,
    protocols: Arc<Protocols>,
    service: S,
    drain: watch::Sender<Option<Instant>>,
}

impl<S, B> Host<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn new(settings: Settings, service: S) -> Self {
        let protocols = Arc::new(Protocols::new(&settings));
        Self { worker: Worker::new(settings), protocols, service, drain: watch::channel(None).0 }
    }

    async fn accept_until(
        &self,
        stop: &mut Stop,
        listener: &Listener,
        notifier: &Notifier,
        watchdog: &mut Watchdog,
    ) -> Result<(), ServeError> {
        let mut ready = pin!(notifier.send(State::Ready { watched: watchdog.is_set() }));
        let mut said_ready = false;
        let mut exhausted = None;
        loop {
            tokio::select! {
                biased;
                () = ready.as_mut(), if !said_ready => said_ready = true,
                () = stop.requested() => return Ok(()),
                () = watchdog.due() => notifier.send_if_heard(State::Watchdog),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => {
                        self.admit(accepted);
                        if self.worker.settings.once {
                            return Ok(());
                        }
                    }
                    Err(error) => outlive(error, &mut exhausted).await?,
                },
            }
        }
    }

    /// Gives a connection its place and its task, or tells it that there is no place.
    fn admit(&self, accepted: Accepted) {
        let Accepted { stream, peer } = accepted;
        let (place, refusal) = match self.worker.take_session() {
            Some(place) => (Some(place), None),
            None => (self.worker.take_refused(), Some(Refusal::HttpSessionLimit)),
        };
        let activity = Activity::new(Instant::now());
        let Some(place) = place else {
            let answer = self.worker.refuse(Refusal::HttpSessionLimit, peer, &activity);
            return stream.turn_away(&answer);
        };
        let drain = self.drain.subscribe();
        let lease = Lease { _place: place, _open: drain.clone() };
        let refuse = {
            let (worker, activity) = (Arc::clone(&self.worker), Arc::clone(&activity));
            Box::new(move |refusal| worker.refuse(refusal, peer, &activity))
        };
        let stream = ClientStream::new(stream, Arc::clone(&activity), self.worker.head_limits(), lease, refuse);
        if refusal.is_some() {
            tokio::spawn(close(stream, refusal));
            return;
        }
        let context = Arc::new(RequestContext { worker: Arc::clone(&self.worker), activity, peer });
        tokio::spawn(serve_connection(stream, drain, context, self.service.clone(), Arc::clone(&self.protocols)));
    }

    /// Serves what waits in a queue that ends with this worker.
    fn serve_waiting(&self, listener: Listener) {
        match listener.close_and_take_waiting() {
            Ok(waiting) => waiting.into_iter().for_each(|accepted| self.admit(accepted)),
            Err(error) => tracing::warn!("connections that waited to be accepted are lost: {error}"),
        }
    }

    /// Lets every connection come to its end, as long as there is time.
    async fn finish(&self, notifier: &Notifier, watchdog: &mut Watchdog) {
        let began = Instant::now();
        self.worker.start_draining();
        self.drain.send_replace(Some(began));
        let mut stopping = pin!(notifier.send(State::Stopping));
        let mut said_stopping = false;
        let mut all_gone = pin!(self.drain.closed());
        let mut time_is_up = pin!(last_moment(began, self.worker.settings.graceful_shutdown));
        loop {
            tokio::select! {
                // Said before the end, also where everybody has gone already.
                biased;
                () = stopping.as_mut(), if !said_stopping => said_stopping = true,
                () = watchdog.due() => notifier.send_if_heard(State::Watchdog),
                () = all_gone.as_mut() => return,
                () = time_is_up.as_mut() => {
                    tracing::warn!("cut at the end of the grace time: {} connections", self.drain.receiver_count());
                    return;
                }
            }
        }
    }
}

/// Waits until the grace time is nearly over; for ever where there is none.
async fn last_moment(began: Instant, grace: Option<Duration>) {
    match grace {
        Some(grace) => sleep_until(began + grace - spare(Some(grace))).await,
        None => pending().await,
    }
}

/// What is kept of the grace time for an orderly end.
fn spare(grace: Option<Duration>) -> Duration {
    grace.map_or(LAST_MOMENT, |grace| LAST_MOMENT.min(grace / 10))
}

/// How HTTP/1.1 and HTTP/2 with prior knowledge are spoken.
struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    fn new(settings: &Settings) -> Self {
        let head_bytes = settings.request_limits.head_bytes;
        let buffer = usize::try_from(head_bytes).unwrap_or(usize::MAX).saturating_add(8192).max(HYPER_BUFFER_BYTES);
        let mut http1 = http1::Builder::new();
        // Each connection has one timer for the request head and for idling, in `activity`. The date is set with the
        // other headers, because the refusals have none.
        http1.timer(TokioTimer::new()).header_read_timeout(None).title_case_headers(true);
        http1.auto_date_header(false).max_buf_size(buffer);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2.timer(TokioTimer::new()).auto_date_header(false).max_header_list_size(head_bytes);
        // A peer that has vanished in the middle of a request is not waited for.
        http2.keep_alive_interval(settings.connection_timeout).keep_alive_timeout(settings.connection_timeout);
        Self { http1, http2 }
    }
}

async fn serve_connection<S, B>(
    mut stream: ClientStream,
    mut drain: Drain,
    context: Arc<RequestContext>,
    service: S,
    protocols: Arc<Protocols>,
) where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let patience = context.worker.settings.connection_timeout;
    let activity = Arc::clone(&context.activity);
    let speaks = first(&mut stream, &mut drain, patience).await;
    let requests = service_fn(move |request| respond(Arc::clone(&context), service.clone(), request));
    match speaks {
        First::Http1 => {
            let connection = protocols.http1.serve_connection(TokioIo::new(stream), requests).with_upgrades();
            drive(connection, http1::UpgradeableConnection::graceful_shutdown, &activity, drain, patience).await;
        }
        First::Http2 => {
            activity.speaks_http2();
            let connection = protocols.http2.serve_connection(TokioIo::new(stream), requests);
            // On the heap, because it is large and most connections are none.
            Box::pin(drive(connection, http2::Connection::graceful_shutdown, &activity, drain, patience)).await;
        }
        First::Refused(refusal) => close(stream, Some(refusal)).await,
        First::Gone => close(stream, None).await,
    }
}

/// Waits out a failed accept, or passes on that there will be no other. `told`: when it was last said that descriptors
/// have run out.
async fn outlive(error: io::Error, told: &mut Option<Instant>) -> Result<(), ServeError> {
    match AcceptFailure::of(&error) {
        AcceptFailure::Connection => Ok(()),
        AcceptFailure::Exhausted => {
            if told.is_none_or(|told| told.elapsed() >= EXHAUSTED_TOLD_AGAIN) {
                tracing::warn!("cannot accept connections for now: {error}");
                *told = Some(Instant::now());
            }
            sleep(EXHAUSTED_RETRY).await;
            Ok(())
        }
        AcceptFailure::Socket => Err(ServeError::Accept(error)),
    }
}

/// The signals that end a worker in an orderly way.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn install() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// When to say that the main loop is alive: twice in the time after which the manager would kill it.
struct Watchdog(Option<Interval>);

impl Watchdog {
    fn new(settings: &Settings, notifier: &Notifier) -> Self {
        let period = settings.watchdog.filter(|_| notifier.is_connected()).map(|period| period / 2);
        Self(period.map(|period| {
            let period = period.max(Duration::from_millis(1));
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        }))
    }

    fn is_set(&self) -> bool {
        self.0.is_some()
    }

    async fn due(&mut self) {
        match &mut self.0 {
            Some(ticks) => {
                ticks.tick().await;
            }
            None => pending().await,
        }
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
