//! Around every request: counts it as work of its connection, ends keep-alive while the worker drains, and logs it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Buf, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service as _;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::service::TowerToHyperService;
use pin_project_lite::pin_project;
use tower::Service;

use crate::access_log::Record;
use crate::activity::{Activity, InFlight};
use crate::connection::Drain;
use crate::listener::Peer;
use crate::settings::LogFormat;

/// What the requests of one connection have in common.
#[derive(Clone)]
pub(crate) struct RequestContext {
    pub(crate) activity: Arc<Activity>,
    pub(crate) drain: Drain,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) peer: Peer,
}

/// Asks `service`, and makes its response one that this worker can send.
pub(crate) async fn respond<S, B>(
    context: RequestContext,
    service: S,
    request: Request<Incoming>,
) -> Result<Response<TrackedBody<B>>, S::Error>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
{
    let version = request.version();
    let mut tracked = Tracked {
        record: context.log_format.map(|format| Box::new(Record::begin(format, context.peer, &request))),
        _in_flight: context.activity.begin(version),
    };
    let mut response = TowerToHyperService::new(service).call(request).await?;
    if context.drain.borrow().is_some() && ends_keep_alive(version, response.status()) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some(record) = &mut tracked.record {
        record.status = Some(response.status());
    }
    Ok(response.map(|body| TrackedBody { body, tracked }))
}

/// Whether `Connection: close` may be said: HTTP/2 has no such header, and an upgrade needs its own.
fn ends_keep_alive(version: Version, status: StatusCode) -> bool {
    version <= Version::HTTP_11 && status != StatusCode::SWITCHING_PROTOCOLS
}

/// What must live exactly as long as the request: its drop is the end.
struct Tracked {
    record: Option<Box<Record>>,
    _in_flight: InFlight,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        if let Some(record) = &self.record {
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

impl<B: Body> Body for TrackedBody<B> {
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
