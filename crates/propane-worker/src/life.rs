//! The worker's life: accept, serve, drain, end.

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
use crate::connection::{ClientStream, Drain, First, Lease, close, first};
use crate::drive::drive;
use crate::listener::{AcceptFailure, Accepted, Listener};
use crate::notify::{Notifier, State};
use crate::refusal::Refusal;
use crate::request::{RequestContext, respond};
use crate::server::ServeError;
use crate::settings::Settings;
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

/// What makes connections of what is accepted.
pub(crate) struct Host<S> {
    pub(crate) worker: Arc<Worker>,
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
    pub(crate) fn new(settings: Settings, service: S) -> Self {
        let protocols = Arc::new(Protocols::new(&settings));
        Self { worker: Worker::new(settings), protocols, service, drain: watch::channel(None).0 }
    }

    pub(crate) async fn accept_until(
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
                        self.admit(accepted).await;
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
    async fn admit(&self, accepted: Accepted) {
        let Accepted { stream, peer } = accepted;
        let (place, refusal) = match self.worker.take_session().await {
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
    pub(crate) async fn serve_waiting(&self, listener: Listener) {
        match listener.close_and_take_waiting() {
            Ok(waiting) => {
                for accepted in waiting {
                    self.admit(accepted).await;
                }
            }
            Err(error) => tracing::warn!("connections that waited to be accepted are lost: {error}"),
        }
    }

    /// Lets every connection come to its end, as long as there is time.
    pub(crate) async fn finish(&self, notifier: &Notifier, watchdog: &mut Watchdog) {
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
pub(crate) fn spare(grace: Option<Duration>) -> Duration {
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
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn install() -> io::Result<Self> {
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
pub(crate) struct Watchdog(Option<Interval>);

impl Watchdog {
    pub(crate) fn new(settings: &Settings, notifier: &Notifier) -> Self {
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
