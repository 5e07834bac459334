//! The worker's life: accept, serve, drain, end.

use std::ffi::OsString;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep};
use tower::Service;

use crate::activity::Activity;
use crate::connection::{ClientStream, Lease, drive, refuse};
use crate::listener::{AcceptFailure, Accepted, ListenError, Listener, Opened, Queue, open};
use crate::notify::{Notifier, State};
use crate::request::{RequestContext, respond};
use crate::settings::Settings;
use crate::variables::BadVariables;

/// Any error of an app, as hyper takes it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connections over the session limit that are told so at the same time. Each takes a descriptor for up to a second;
/// beyond this number they are just closed, so that a flood cannot use up the descriptors of those that have a place.
const REFUSALS: usize = 256;

/// How soon to try again when descriptors have run out. Nothing tells when another process has given some back.
const EXHAUSTED_RETRY: Duration = Duration::from_millis(50);

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The environment says something unusable.
    #[error(transparent)]
    Variables(#[from] BadVariables),
    /// There is no socket to listen on.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The runtime took no signal handler or no socket.
    #[error("cannot start serving: {0}")]
    Start(io::Error),
    /// The listening socket stopped working, for instance because somebody who shares it has shut it down.
    #[error("the listening socket has ended: {0}")]
    Accept(io::Error),
}

/// An HTTP/1.1 and cleartext HTTP/2 server that behaves as the manager expects of a worker.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    opened: Opened,
}

impl Server {
    /// A server as the process environment describes it; its socket listens when this returns.
    ///
    /// # Errors
    /// Unusable variables (all of them), or no socket.
    pub fn from_env() -> Result<Self, StartError> {
        let lookup = |name: &str| -> Option<OsString> { std::env::var_os(name) };
        Ok(Self::open(Settings::read(&lookup, std::process::id())?)?)
    }

    /// A server with these settings; its socket listens when this returns.
    ///
    /// # Errors
    /// The address cannot be used or is taken, or descriptor 3 is no listening socket.
    pub fn open(settings: Settings) -> Result<Self, ListenError> {
        let opened = open(&settings.socket)?;
        Ok(Self { settings, opened })
    }

    /// The address for people, like `http://127.0.0.1:3000`, if this worker bound it; of an inherited socket the
    /// manager has told already.
    pub fn own_url(&self) -> Option<String> {
        self.opened.own_url()
    }

    /// Serves `service` until SIGTERM or SIGINT, and then until every connection is done.
    ///
    /// After the signal: nothing more is accepted (what waits in an inherited socket is the successor's; what waits in
    /// an own one is accepted first), responses carry `Connection: close`, HTTP/2 peers get GOAWAY, a connection at
    /// rest is closed after one second, and there is no limit to what a request may take: that is the manager's to set.
    /// Further signals change nothing.
    ///
    /// Must run inside a tokio runtime with I/O and time enabled; one thread is enough.
    ///
    /// # Errors
    /// The worker could not start serving; or its listening socket broke, after the connections that it had were done.
    pub async fn serve<S, B>(self, service: S) -> Result<(), ServeError>
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        // First of all, so that a TERM from here on is an orderly one.
        let mut stop = Stop::install().map_err(ServeError::Start)?;
        let notifier = Notifier::connect(self.settings.notify_socket.as_deref());
        let queue = self.opened.queue;
        let listener = self.opened.register().map_err(ServeError::Start)?;
        let mut watchdog = Watchdog::new(&self.settings, &notifier);
        let host = Host::new(self.settings, service);

        let ended = host.accept_until(&mut stop, &listener, &notifier, &mut watchdog).await;
        if queue == Queue::Own && !host.settings.once {
            host.serve_waiting(listener);
        } else {
            // Closed, never shut down: a shutdown would end the socket for everybody who holds it.
            drop(listener);
        }
        host.finish(&notifier, &mut watchdog).await;
        ended
    }
}

/// What all connections share.
struct Host<S> {
    settings: Settings,
    service: S,
    http: auto::Builder<TokioExecutor>,
    sessions: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    drain: watch::Sender<Option<Instant>>,
}

impl<S, B> Host<S>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    fn new(settings: Settings, service: S) -> Self {
        let sessions = usize::try_from(settings.max_http_sessions).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            sessions: Arc::new(Semaphore::new(sessions)),
            refusals: Arc::new(Semaphore::new(REFUSALS)),
            drain: watch::channel(None).0,
            http: protocols(),
            settings,
            service,
        }
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
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => {
                        self.admit(accepted);
                        if self.settings.once {
                            return Ok(());
                        }
                    }
                    Err(error) => outlive(error).await?,
                },
                () = ready.as_mut(), if !said_ready => said_ready = true,
                () = watchdog.due() => notifier.send_if_heard(State::Watchdog),
                () = stop.requested() => return Ok(()),
            }
        }
    }

    /// Gives a connection its place and its task, or tells it that there is no place.
    fn admit(&self, accepted: Accepted) {
        let activity = Activity::new(Instant::now());
        let drain = self.drain.subscribe();
        if let Ok(place) = Arc::clone(&self.sessions).try_acquire_owned() {
            let lease = Lease { _place: place, _open: drain.clone() };
            let stream = ClientStream::new(accepted.stream, Arc::clone(&activity), lease);
            let context = RequestContext { activity, drain, log_format: self.settings.log_format, peer: accepted.peer };
            self.spawn_connection(stream, context);
        } else if let Ok(place) = Arc::clone(&self.refusals).try_acquire_owned() {
            let lease = Lease { _place: place, _open: drain };
            tokio::spawn(refuse(ClientStream::new(accepted.stream, activity, lease)));
        }
    }

    fn spawn_connection(&self, stream: ClientStream, context: RequestContext) {
        let (activity, drain) = (Arc::clone(&context.activity), context.drain.clone());
        let service = self.service.clone();
        let requests = service_fn(move |request| respond(context.clone(), service.clone(), request));
        let connection = self.http.serve_connection_with_upgrades(TokioIo::new(stream), requests).into_owned();
        let patience = self.settings.connection_timeout;
        tokio::spawn(async move { drive(connection, &activity, drain, patience).await });
    }

    /// Serves what waits in a queue that ends with this worker.
    fn serve_waiting(&self, listener: Listener) {
        match listener.close_and_take_waiting() {
            Ok(waiting) => waiting.into_iter().for_each(|accepted| self.admit(accepted)),
            Err(error) => tracing::warn!("connections that waited to be accepted are lost: {error}"),
        }
    }

    /// Lets every connection come to its end.
    async fn finish(&self, notifier: &Notifier, watchdog: &mut Watchdog) {
        self.drain.send_replace(Some(Instant::now()));
        let mut stopping = pin!(notifier.send(State::Stopping));
        let mut said_stopping = false;
        let mut all_gone = pin!(self.drain.closed());
        loop {
            tokio::select! {
                // Said before the end, also where everybody has gone already.
                biased;
                () = stopping.as_mut(), if !said_stopping => said_stopping = true,
                () = watchdog.due() => notifier.send_if_heard(State::Watchdog),
                () = all_gone.as_mut() => return,
            }
        }
    }
}

/// HTTP/1.1 and HTTP/2 with prior knowledge, told apart by the first bytes.
fn protocols() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Each connection has one timer for the request head and for idling, in `activity`.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None);
    builder.http2().timer(TokioTimer::new());
    builder
}

/// Waits out a failed accept, or passes on that there will be no other.
async fn outlive(error: io::Error) -> Result<(), ServeError> {
    match AcceptFailure::of(&error) {
        AcceptFailure::Connection => Ok(()),
        AcceptFailure::Exhausted => {
            tracing::warn!("cannot accept connections for now: {error}");
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
