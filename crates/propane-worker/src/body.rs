//! The body of a request, as the app reads it: no longer than allowed, and not slower than a client may be.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::body::{Body as _, Bytes, Frame, Incoming, SizeHint};
use hyper::header::EXPECT;
use tokio::runtime;
use tokio::time::{Sleep, sleep};

use crate::refusal::Refusal;

/// What is left of a body that nobody reads, and that is still read to keep the connection.
const READ_IN_PASSING: u64 = 4096;

/// What arrives in pieces that are smaller than this is copied. A piece holds all of the buffer that it was read into, and
/// hyper's are at least so large: a client that sends one byte at a time would fill the memory of an app that collects them.
const COPIED_BYTES: usize = 8192;

/// The body of a request.
///
/// One that the app does not read to its end costs the connection, and the answer says so, unless little is left of it.
///
/// Reading it fails if it is longer than [`RequestLimits::body_bytes`](crate::RequestLimits::body_bytes), if nothing of
/// it arrives for [`Settings::connection_timeout`](crate::Settings::connection_timeout) although it is waited for, or if
/// it is malformed or cut off. Whatever the app then answers, the client gets 413, 408 or 400, unless the app's answer
/// had begun before.
#[derive(Debug)]
pub struct Body(Option<Box<Limited>>);

#[derive(Debug)]
struct Limited {
    body: Incoming,
    left: u64,
    patience: Duration,
    /// Runs while somebody waits for the next piece.
    stalled: Option<Pin<Box<Sleep>>>,
    failure: Failure,
    /// The client sends it only when it is asked for (`Expect: 100-continue`), and nobody has asked.
    is_withheld: bool,
}

/// Why a body could not be read; shared with the one who answers the request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failure(Arc<AtomicU8>);

/// Why a request body cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// It is longer than `ARLEN_MAX_BODY_BYTES`.
    #[error("the request body is longer than allowed")]
    TooLarge,
    /// Nothing of it has arrived for `ARLEN_CONNECTION_TIMEOUT_SECONDS`.
    #[error("nothing of the request body has arrived for too long")]
    Stalled,
    /// It is malformed, or its client went away.
    #[error("the request body is broken: {0}")]
    Broken(#[from] hyper::Error),
}

impl BodyError {
    fn refusal(&self) -> Refusal {
        match self {
            Self::TooLarge => Refusal::PayloadTooLarge,
            Self::Stalled => Refusal::RequestTimeout,
            Self::Broken(_) => Refusal::BadRequest,
        }
    }
}

impl Failure {
    const NONE: u8 = 0;
    const UNREAD: u8 = u8::MAX;

    fn set(&self, refusal: Refusal) {
        let number = Refusal::ALL.iter().position(|other| *other == refusal).unwrap_or(0);
        self.0.store(u8::try_from(number + 1).unwrap_or(1), Ordering::Relaxed);
    }

    /// The app has let go of it before its end, and so much is left that the connection has to end with the answer.
    pub(crate) fn is_unread(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::UNREAD
    }

    /// What its client is to be told.
    pub(crate) fn get(&self) -> Option<Refusal> {
        match self.0.load(Ordering::Relaxed) {
            Self::NONE | Self::UNREAD => None,
            number => Refusal::ALL.get(usize::from(number) - 1).copied(),
        }
    }
}

impl Body {
    /// The body, and where it is said if it cannot be read; nothing where there is none to read.
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, limit: u64, patience: Duration) -> (Self, Option<Failure>) {
        if body.is_end_stream() {
            return (Self(None), None);
        }
        let failure = Failure::default();
        let is_withheld = headers.contains_key(EXPECT);
        let limited = Limited { body, left: limit, patience, stalled: None, failure: failure.clone(), is_withheld };
        (Self(Some(Box::new(limited))), Some(failure))
    }
}

impl Limited {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.is_withheld = false;
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.stalled = None;
            return Poll::Ready(frame.map(|frame| self.count(frame?)));
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyError::Stalled)))
    }

    fn count(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.left = self.left.checked_sub(length).ok_or(BodyError::TooLarge)?;
        Ok(frame.map_data(on_its_own))
    }
}

/// A piece that holds no more memory than it has bytes, or than hyper's buffers have.
fn on_its_own(data: Bytes) -> Bytes {
    if data.len() < COPIED_BYTES { Bytes::copy_from_slice(&data) } else { data }
}

impl Limited {
    /// Nobody reads it any further.
    fn let_go(mut self: Box<Self>) {
        if self.body.is_end_stream() || self.failure.get().is_some() {
            return;
        }
        let is_short = self.body.size_hint().exact().is_some_and(|left| left <= READ_IN_PASSING);
        match runtime::Handle::try_current() {
            // It may well be still on its way.
            Ok(runtime) if is_short && !self.is_withheld => {
                runtime.spawn(async move { while let Some(Ok(_)) = poll_fn(|cx| self.poll_frame(cx)).await {} });
            }
            _ => self.failure.0.store(Failure::UNREAD, Ordering::Relaxed),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(limited) = self.0.take() {
            limited.let_go();
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(limited) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(limited.poll_frame(cx));
        if let Some(Err(error)) = &frame {
            limited.failure.set(error.refusal());
        }
        if !matches!(frame, Some(Ok(_))) {
            // Read to its end, of which a chunked body says nothing afterwards; or broken: what follows an error is not
            // asked for, and its connection is of no more use.
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|limited| limited.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |limited| limited.body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_piece_does_not_hold_what_it_was_cut_from() {
        let buffer = Bytes::from(vec![b'x'; 2 * COPIED_BYTES]);
        for (length, is_copied) in [(1, true), (COPIED_BYTES - 1, true), (COPIED_BYTES, false)] {
            let piece = on_its_own(buffer.slice(..length));
            assert_eq!(piece.len(), length);
            assert_eq!(piece.is_unique(), is_copied, "{length}");
        }
    }
}
