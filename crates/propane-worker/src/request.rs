//! Around every request: what it is called, whether it may be served, what its answer says besides the app's words, and
//! that its end is known.

use std::convert::Infallible;
use std::future::poll_fn;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body_util::{Either, Full};
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::access_log::Record;
use crate::activity::{Activity, InFlight};
use crate::body::{Body, Failure};
use crate::endpoints::Endpoint;
use crate::guard::is_host;
use crate::identity::Identity;
use crate::life::BoxError;
use crate::listener::Peer;
use crate::refusal::{Refusal, Timings};
use crate::settings::RequestLimits;
use crate::turns::{QueueFull, Turn};
use crate::upgrade::Wish;
use crate::worker::Worker;

/// Of an answer over HTTP/2, as much as a frame takes.
const PIECE_BYTES: usize = 16 * 1024;

/// What the requests of one connection have in common.
pub(crate) struct RequestContext {
    pub(crate) worker: Arc<Worker>,
    pub(crate) activity: Arc<Activity>,
    pub(crate) peer: Peer,
}

/// The body of an answer: the app's, or the worker's own.
type AnswerBody<B> = Either<B, Full<Bytes>>;

/// A request that may go to the app, and where it is said if its body cannot be read.
type Asked = (Request<Body>, Option<Failure>);

/// An answer that may be given, and the place that it takes among the upgraded connections.
struct Granted<B> {
    response: Response<AnswerBody<B>>,
    turn: Option<Turn>,
    upgraded: Option<OwnedSemaphorePermit>,
    /// It has to be the last one of its connection.
    is_last: bool,
}

/// Answers a request, with the app's help.
pub(crate) fn respond<S, B>(
    context: Arc<RequestContext>,
    service: S,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<TrackedBody<AnswerBody<B>>>, Infallible>>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    // All that needs no waiting is done here, because what is alive where a future waits makes it large, and this one is
    // moved about for every request.
    let (parts, body) = request.into_parts();
    let manner = Manner::of(&parts);
    let mut tracked = Tracked::begin(context, &parts);
    let worker = &tracked.context.worker;
    let identity = Identity::of(&parts.headers, worker.settings.observability, &worker.numbers);
    if let Some(record) = &mut tracked.record {
        record.request_id.clone_from(&identity.request);
    }
    let asked = check(&parts, &body, &worker.settings.request_limits).map(|()| {
        let own = own_answer(worker, &parts);
        own.map_or_else(|| Either::Left(for_app(&tracked.context, parts, body, &identity)), Either::Right)
    });

    async move {
        let granted = match asked {
            Ok(Either::Left(asked)) => ask(&tracked.context.worker, service, asked, manner.wish).await,
            Ok(Either::Right(response)) => {
                Ok(Granted { response: response.map(Either::Right), turn: None, upgraded: None, is_last: false })
            }
            Err(refusal) => Err(refusal),
        };
        Ok(finish(tracked, granted, manner, identity))
    }
}

/// How a request was asked, as far as its answer depends on it.
#[derive(Clone, Copy)]
struct Manner {
    version: Version,
    is_head: bool,
    wish: Wish,
}

impl Manner {
    fn of(request: &Parts) -> Self {
        Self { version: request.version, is_head: request.method == Method::HEAD, wish: Wish::of(request) }
    }

    /// Whether the body is to be left out here. Over HTTP/1, hyper does that.
    fn leaves_body_out(self, status: StatusCode) -> bool {
        let has_none = self.is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        has_none && self.version == Version::HTTP_2
    }
}

/// What is known before the body is read.
fn check(parts: &Parts, body: &Incoming, limits: &RequestLimits) -> Result<(), Refusal> {
    if parts.version == Version::HTTP_2 {
        check_http2(parts, limits)?;
    }
    if body.size_hint().lower() > u64::from(limits.body_bytes) { Err(Refusal::PayloadTooLarge) } else { Ok(()) }
}

/// What the guard sees to over HTTP/1, as far as h2 does not: there are no tunnels, and it is clear who is meant.
fn check_http2(parts: &Parts, limits: &RequestLimits) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    if target.len() > usize::try_from(limits.line_bytes).unwrap_or(usize::MAX) {
        return Err(Refusal::HeadTooLarge);
    }
    let has_path = target.starts_with('/') || (target == "*" && parts.method == Method::OPTIONS);
    let mut hosts = parts.headers.get_all(HOST).iter();
    let is_known = match (hosts.next(), hosts.next()) {
        (None, _) => parts.uri.authority().is_some(),
        (Some(host), None) => is_host(host.as_bytes()),
        (Some(_), Some(_)) => false,
    };
    if parts.method != Method::CONNECT && has_path && is_known { Ok(()) } else { Err(Refusal::BadRequest) }
}

/// The answer of an endpoint.
fn own_answer(worker: &Worker, parts: &Parts) -> Option<Response<Full<Bytes>>> {
    let endpoint = Endpoint::of(&parts.method, parts.uri.path())?;
    let answer = || endpoint.answer(&parts.method, &parts.uri, &parts.headers, &worker.known());
    worker.settings.observability.endpoints.then(answer)
}

/// The request as the app gets it.
fn for_app(context: &RequestContext, mut parts: Parts, body: Incoming, identity: &Identity) -> Asked {
    let settings = &context.worker.settings;
    identity.tell_app(&mut parts.headers);
    prefer_target_host(&mut parts);
    if parts.version == Version::HTTP_2 {
        // Each may come by itself, which an app need not know (RFC 9113 §8.2.3).
        join(&mut parts.headers, &COOKIE, b"; ");
    }
    parts.extensions.insert(context.worker.shutdown.clone());
    parts.extensions.insert(context.peer);
    let (limit, patience) = (settings.request_limits.body_bytes.into(), settings.connection_timeout);
    let (body, failure) = Body::new(body, &parts.headers, limit, patience);
    (Request::from_parts(parts, body), failure)
}

/// A target that names a host is right, and what `Host` says is not (RFC 9112 §3.2.2).
fn prefer_target_host(parts: &mut Parts) {
    let Some(authority) = parts.uri.authority() else { return };
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    if parts.headers.get(HOST).is_none_or(|said| said != host)
        && let Ok(host) = HeaderValue::from_str(host)
    {
        parts.headers.insert(HOST, host);
    }
}

/// Makes one line of those that a list came in.
pub(crate) fn join(headers: &mut HeaderMap, name: &HeaderName, separator: &[u8]) {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (values.next(), values.next()) else { return };
    let joined = [first, second].into_iter().chain(values).collect::<Vec<_>>().join(separator);
    // Cannot fail, because a header's value and a separator are made of what may stand in one.
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(name, joined);
    }
}

/// The app's answer, when it is the request's turn. An app that fails or panics has an answer all the same, and takes
/// nobody with it.
async fn ask<S, B>(worker: &Worker, service: S, (request, failure): Asked, wish: Wish) -> Result<Granted<B>, Refusal>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: Into<BoxError>,
{
    let turn = worker.turns.take().await.map_err(|QueueFull| Refusal::HttpWorkerQueueFull)?;
    let mut future = pin!(service.oneshot(request));
    let response = poll_fn(|cx| {
        // What a panic leaves half done is the app's own, and it is not asked again for this request.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map_err(|error| {
                tracing::error!("the app failed: {}", error.into());
                Refusal::Internal
            }),
            Err(_) => Poll::Ready(Err(Refusal::Internal)),
        }
    })
    .await;
    // The client's fault comes first: what the app made of it, it could not know better.
    if let Some(refusal) = failure.as_ref().and_then(Failure::get) {
        return Err(refusal);
    }
    let response = response?;
    let upgraded = match (response.status(), wish) {
        (StatusCode::SWITCHING_PROTOCOLS, Wish::Orderly) => {
            Some(worker.take_websocket().await.ok_or(Refusal::WebSocketSessionLimit)?)
        }
        (StatusCode::SWITCHING_PROTOCOLS, Wish::Broken | Wish::None) => return Err(Refusal::InvalidUpgrade),
        _ => None,
    };
    let is_last = failure.as_ref().is_some_and(Failure::is_unread);
    Ok(Granted { response: response.map(Either::Left), turn: Some(turn), upgraded, is_last })
}

/// The answer as it is sent.
fn finish<B>(
    mut tracked: Tracked,
    granted: Result<Granted<B>, Refusal>,
    manner: Manner,
    identity: Identity,
) -> Response<TrackedBody<AnswerBody<B>>>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let Manner { version, is_head, wish } = manner;
    let worker = &tracked.context.worker;
    let now = Instant::now();
    let timings = tracked.timings(now);
    let mut is_last = worker.is_draining();
    let (mut response, upgraded) = match granted {
        Ok(mut granted) => {
            worker.own_headers.finish(granted.response.headers_mut(), worker.date(now), identity, timings);
            tracked.turn = granted.turn;
            is_last |= granted.is_last;
            (granted.response, granted.upgraded)
        }
        Err(refusal) => {
            worker.metrics.refused(refusal);
            let refused = refusal.to_response(worker.shown(timings), version == Version::HTTP_2);
            (refused.map(Either::Right), None)
        }
    };
    if wish != Wish::None {
        tracked.context.activity.decide(upgraded);
    }
    if is_last && ends_keep_alive(version, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tracked.status = Some(response.status());
    let is_left_out = manner.leaves_body_out(response.status());
    if is_left_out && is_head {
        say_length(&mut response);
    }
    let taking = (version == Version::HTTP_2).then(|| Box::new(Taking::new(&tracked.context.activity)));
    response.map(|body| TrackedBody { body, is_left_out, taking, tracked })
}

/// What an answer with the body would say.
fn say_length<B: hyper::body::Body>(response: &mut Response<B>) {
    let length = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    if let Some(length) = length {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
}

/// Whether `Connection: close` may be said: HTTP/2 has no such header, and an upgrade needs its own.
fn ends_keep_alive(version: Version, status: StatusCode) -> bool {
    version <= Version::HTTP_11 && status != StatusCode::SWITCHING_PROTOCOLS
}

/// What must live exactly as long as the request: its drop is the end.
struct Tracked {
    context: Arc<RequestContext>,
    record: Option<Box<Record>>,
    /// None where the client left before there was an answer.
    status: Option<StatusCode>,
    turn: Option<Turn>,
    in_flight: InFlight,
}

impl Tracked {
    fn begin(context: Arc<RequestContext>, request: &Parts) -> Self {
        let worker = &context.worker;
        worker.metrics.began();
        let record = worker.settings.log_format.map(|format| Box::new(Record::begin(format, context.peer, request)));
        let in_flight = context.activity.begin();
        Self { context, record, status: None, turn: None, in_flight }
    }

    fn timings(&self, now: Instant) -> Timings {
        let InFlight { arrived, begun } = self.in_flight;
        Timings { parse: begun - arrived, total: now - arrived }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // Given back first, so that whoever waits for it can begin.
        drop(self.turn.take());
        let now = Instant::now();
        self.context.activity.end(now);
        let took = now - self.in_flight.arrived;
        self.context.worker.metrics.ended(self.status.map(|status| status.as_u16()), took);
        if let Some(record) = &mut self.record {
            record.status = self.status;
            record.write();
        }
    }
}

/// How an answer goes out over HTTP/2, where it does not show in the socket whether its peer takes it.
///
/// hyper asks for the next piece when the peer has room for a byte of the last one, and h2 keeps the rest of that. So the
/// pieces are small: what has been asked for is nearly taken.
struct Taking {
    activity: Arc<Activity>,
    /// A piece, or the head of the answer, and nothing has been asked for since.
    given: bool,
    rest: Bytes,
}

impl Taking {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.gave();
        Self { activity: Arc::clone(activity), given: true, rest: Bytes::new() }
    }

    /// What is left of the last piece of the app's.
    fn next_of_rest(&mut self) -> Option<Frame<Bytes>> {
        self.took();
        let rest = mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| self.give(Frame::data(rest)))
    }

    fn give(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.given = true;
        self.activity.gave();
        frame.map_data(|mut data| {
            self.rest = data.split_off(data.len().min(PIECE_BYTES));
            data
        })
    }

    fn took(&mut self) {
        if mem::take(&mut self.given) {
            self.activity.took();
        }
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.took();
    }
}

pin_project! {
    /// A response body; when it is dropped, sent or not, the request is over.
    pub(crate) struct TrackedBody<B> {
        #[pin]
        body: B,
        // The head is all of it.
        is_left_out: bool,
        // Over HTTP/2, and on the heap, because most answers are not. Dropped before the request is over.
        taking: Option<Box<Taking>>,
        tracked: Tracked,
    }
}

impl<B: hyper::body::Body<Data = Bytes>> hyper::body::Body for TrackedBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(piece) = this.taking.as_mut().and_then(|taking| taking.next_of_rest()) {
            return Poll::Ready(Some(Ok(piece)));
        }
        let frame = ready!(this.body.poll_frame(cx));
        if let (Some(record), Some(Ok(frame))) = (&mut this.tracked.record, &frame) {
            record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        Poll::Ready(frame.map(|frame| match this.taking {
            Some(taking) => frame.map(|frame| taking.give(frame)),
            None => frame,
        }))
    }

    fn is_end_stream(&self) -> bool {
        let is_given = self.taking.as_ref().is_none_or(|taking| taking.rest.is_empty());
        self.is_left_out || is_given && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_given_in_small_ones_and_nothing_is_lost() {
        let all = Bytes::from(vec![b'x'; 2 * PIECE_BYTES + 1]);
        let mut taking = Taking::new(&Activity::new(Instant::now()));
        let mut given = vec![taking.give(Frame::data(all.clone()))];
        given.extend(std::iter::from_fn(|| taking.next_of_rest()));
        let sizes: Vec<usize> = given.iter().map(|frame| frame.data_ref().unwrap().len()).collect();
        assert_eq!(sizes, [PIECE_BYTES, PIECE_BYTES, 1]);
    }

    #[test]
    fn a_target_that_names_a_host_is_right() {
        let host = |target: &str, said: Option<&str>| {
            let mut request = Request::builder().uri(target);
            if let Some(said) = said {
                request = request.header(HOST, said);
            }
            let mut parts = request.body(()).unwrap().into_parts().0;
            prefer_target_host(&mut parts);
            parts.headers.get(HOST).map(|host| host.to_str().unwrap().to_owned())
        };
        assert_eq!(host("/", Some("a")).as_deref(), Some("a"));
        assert_eq!(host("http://user@b:80/", Some("a")).as_deref(), Some("b:80"));
        assert_eq!(host("http://b/", None).as_deref(), Some("b"));
    }

    #[test]
    fn over_http2_it_is_clear_what_is_asked_for_and_of_whom() {
        let limits = RequestLimits { line_bytes: 10, head_bytes: 100, body_bytes: 100 };
        let checked = |method: &str, target: &str, hosts: &[&str]| {
            let builder = Request::builder().method(method).uri(target);
            let request = hosts.iter().fold(builder, |request, host| request.header(HOST, *host));
            check_http2(&request.body(()).unwrap().into_parts().0, &limits)
        };
        for (method, target, hosts) in [
            ("GET", "http://a/", &[][..]),
            ("GET", "http://a/", &["b"]),
            ("GET", "/", &["a:80"]),
            ("OPTIONS", "*", &["a"]),
            ("GET", "/123456789", &["a"]),
        ] {
            assert_eq!(checked(method, target, hosts), Ok(()), "{method} {target} {hosts:?}");
        }
        for (method, target, hosts) in [
            ("CONNECT", "a:80", &[][..]),
            ("GET", "*", &["a"]),
            ("GET", "/", &[]),
            ("GET", "/", &["a", "a"]),
            ("GET", "http://a/", &["a", "b"]),
            ("GET", "/", &["a/b"]),
        ] {
            assert_eq!(checked(method, target, hosts), Err(Refusal::BadRequest), "{method} {target} {hosts:?}");
        }
        assert_eq!(checked("GET", "/1234567890", &["a"]), Err(Refusal::HeadTooLarge));
    }

    #[test]
    fn a_list_in_several_lines_becomes_one() {
        let joined = |values: &[&'static str]| {
            let mut headers: HeaderMap = values.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect();
            join(&mut headers, &COOKIE, b"; ");
            headers.get_all(COOKIE).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(joined(&[]), Vec::<String>::new());
        assert_eq!(joined(&["a=1; b=2"]), ["a=1; b=2"]);
        assert_eq!(joined(&["a=1", "b=2", "c=3"]), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn keep_alive_is_ended_only_where_the_protocol_has_it() {
        assert!(ends_keep_alive(Version::HTTP_10, StatusCode::OK));
        assert!(ends_keep_alive(Version::HTTP_11, StatusCode::NOT_FOUND));
        assert!(!ends_keep_alive(Version::HTTP_11, StatusCode::SWITCHING_PROTOCOLS));
        assert!(!ends_keep_alive(Version::HTTP_2, StatusCode::OK));
    }
}
