//! Around every request: what it is called, whether it may be served, what its answer says besides the app's words, and
//! that its end is known.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body_util::{Either, Full};
use hyper::body::{Body as _, Buf, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, DATE, HeaderValue, SERVER};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;
use tower::{Service, ServiceExt as _};

use crate::access_log::Record;
use crate::activity::{Activity, InFlight};
use crate::body::{Body, Failure};
use crate::endpoints::Endpoint;
use crate::identity::Identity;
use crate::listener::Peer;
use crate::refusal::{Refusal, TIMING_HEADERS, Timings};
use crate::server::BoxError;
use crate::turns::{QueueFull, Turn};
use crate::upgrade::Wish;
use crate::worker::Worker;

/// What the requests of one connection have in common.
pub(crate) struct RequestContext {
    pub(crate) worker: Arc<Worker>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) peer: Peer,
}

/// The body of an answer: the app's, or the worker's own.
type AnswerBody<B> = Either<B, Full<Bytes>>;

/// An answer that may be given, and the place that it takes among the upgraded connections.
struct Granted<B> {
    response: Response<AnswerBody<B>>,
    turn: Option<Turn>,
    upgraded: Option<OwnedSemaphorePermit>,
}

/// Answers a request, with the app's help.
pub(crate) async fn respond<S, B>(
    context: Arc<RequestContext>,
    service: S,
    request: Request<Incoming>,
) -> Result<Response<TrackedBody<AnswerBody<B>>>, Infallible>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let worker = &context.worker;
    let (parts, body) = request.into_parts();
    let version = parts.version;
    let mut tracked = Tracked::begin(&context, &parts);
    let wish = Wish::of(&parts);
    let identity = Identity::of(&parts.headers, worker.settings.observability, &worker.numbers);
    if let Some(record) = &mut tracked.record {
        record.request_id.clone_from(&identity.request);
    }

    let granted = answer(&context, service, parts, body, wish, &identity).await;
    let timings = worker.shown(tracked.timings());
    let (mut response, upgraded) = match granted {
        Ok(mut granted) => {
            finish(worker, granted.response.headers_mut(), identity, timings);
            tracked.turn = granted.turn;
            (granted.response, granted.upgraded)
        }
        Err(refusal) => {
            worker.metrics.refused(refusal);
            (refusal.to_response(timings, version == Version::HTTP_2).map(Either::Right), None)
        }
    };
    if wish != Wish::None {
        context.activity.decide(upgraded);
    }
    if worker.is_draining() && ends_keep_alive(version, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tracked.status = Some(response.status());
    Ok(response.map(|body| TrackedBody { body, tracked }))
}

/// The app's answer, or the worker's own.
async fn answer<S, B>(
    context: &RequestContext,
    service: S,
    mut parts: Parts,
    body: Incoming,
    wish: Wish,
    identity: &Identity,
) -> Result<Granted<B>, Refusal>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let worker = &context.worker;
    let limits = &worker.settings.request_limits;
    check_size(&parts, &body, limits)?;
    if worker.settings.observability.endpoints
        && let Some(endpoint) = Endpoint::of(&parts.method, parts.uri.path())
    {
        let response = endpoint.answer(&parts.method, &parts.uri, &parts.headers, &worker.known());
        return Ok(Granted { response: response.map(Either::Right), turn: None, upgraded: None });
    }
    let turn = worker.turns.take().await.map_err(|QueueFull| Refusal::HttpWorkerQueueFull)?;
    identity.tell_app(&mut parts.headers);
    parts.extensions.insert(worker.shutdown.clone());
    parts.extensions.insert(context.peer);
    let (body, failure) = Body::new(body, limits.body_bytes.into(), worker.settings.connection_timeout);
    let response = call(service, Request::from_parts(parts, body)).await;
    // The client's fault comes first: what the app made of it, it could not know better.
    if let Some(refusal) = failure.as_ref().and_then(Failure::get) {
        return Err(refusal);
    }
    let response = response?;
    let upgraded = match (response.status(), wish) {
        (StatusCode::SWITCHING_PROTOCOLS, Wish::Orderly) => {
            Some(worker.take_websocket().ok_or(Refusal::WebSocketSessionLimit)?)
        }
        (StatusCode::SWITCHING_PROTOCOLS, Wish::Broken | Wish::None) => return Err(Refusal::InvalidUpgrade),
        _ => None,
    };
    Ok(Granted { response: response.map(Either::Left), turn: Some(turn), upgraded })
}

/// The limits that are known before the body is read. HTTP/1 request lines have been measured by the guard.
fn check_size(parts: &Parts, body: &Incoming, limits: &crate::settings::RequestLimits) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if parts.version == Version::HTTP_2 && target > usize::try_from(limits.line_bytes).unwrap_or(usize::MAX) {
        return Err(Refusal::HeadTooLarge);
    }
    if body.size_hint().lower() > u64::from(limits.body_bytes) { Err(Refusal::PayloadTooLarge) } else { Ok(()) }
}

/// Asks the app. One that fails or panics has an answer all the same, and takes nobody with it.
async fn call<S, B>(service: S, request: Request<Body>) -> Result<Response<B>, Refusal>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let mut future = pin!(service.oneshot(request));
    std::future::poll_fn(|cx| {
        // What a panic leaves half done is the app's own, and it is not asked again for this request.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map_err(|error| {
                tracing::error!("the app failed: {}", error.into());
                Refusal::Internal
            }),
            Err(_) => Poll::Ready(Err(Refusal::Internal)),
        }
    })
    .await
}

/// Server, date, two numbers, two of the trace, four times.
const OWN_HEADERS: usize = 10;

/// What every answer says besides the app's own words.
fn finish(worker: &Worker, headers: &mut HeaderMap, identity: Identity, timings: Option<Timings>) {
    headers.reserve(OWN_HEADERS + worker.cluster_headers.len());
    headers.entry(SERVER).or_insert(HeaderValue::from_static("Arlen"));
    headers.entry(DATE).or_insert_with(|| worker.date());
    for (name, value) in &worker.cluster_headers {
        headers.insert(name, value.clone());
    }
    identity.tell_client(headers);
    if let Some(timings) = timings {
        for (name, value) in TIMING_HEADERS.into_iter().zip(timings.values()) {
            headers.insert(name, value);
        }
    }
}

/// Whether `Connection: close` may be said: HTTP/2 has no such header, and an upgrade needs its own.
fn ends_keep_alive(version: Version, status: StatusCode) -> bool {
    version <= Version::HTTP_11 && status != StatusCode::SWITCHING_PROTOCOLS
}

/// What must live exactly as long as the request: its drop is the end.
struct Tracked {
    worker: Arc<Worker>,
    record: Option<Box<Record>>,
    /// None where the client left before there was an answer.
    status: Option<StatusCode>,
    turn: Option<Turn>,
    in_flight: InFlight,
}

impl Tracked {
    fn begin(context: &RequestContext, request: &Parts) -> Self {
        let worker = Arc::clone(&context.worker);
        worker.metrics.began();
        let record = worker.settings.log_format.map(|format| Box::new(Record::begin(format, context.peer, request)));
        Self { worker, record, status: None, turn: None, in_flight: context.activity.begin(request.version) }
    }

    fn timings(&self) -> Timings {
        Timings { parse: self.in_flight.begun - self.in_flight.arrived, total: self.in_flight.arrived.elapsed() }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // Given back first, so that whoever waits for it can begin.
        drop(self.turn.take());
        let took = self.in_flight.end();
        self.worker.metrics.ended(self.status.map(|status| status.as_u16()), took);
        if let Some(record) = &mut self.record {
            record.status = self.status;
            record.write();
        }
    }
}

pin_project! {
    /// A response body; when it is dropped, sent or not, the request is over.
    pub(crate) struct TrackedBody<B> {
        #[pin]
        body: B,
        tracked: Tracked,
    }
}

impl<B: hyper::body::Body> hyper::body::Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(record), Some(Ok(frame))) = (&mut this.tracked.record, &frame) {
            record.bytes += frame.data_ref().map_or(0, |data| data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keep_alive_is_ended_only_where_the_protocol_has_it() {
        assert!(ends_keep_alive(Version::HTTP_10, StatusCode::OK));
        assert!(ends_keep_alive(Version::HTTP_11, StatusCode::NOT_FOUND));
        assert!(!ends_keep_alive(Version::HTTP_11, StatusCode::SWITCHING_PROTOCOLS));
        assert!(!ends_keep_alive(Version::HTTP_2, StatusCode::OK));
    }
}
