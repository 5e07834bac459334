//! One accepted connection: its bytes, its end, and the task that drives it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::activity::{Activity, Verdict};
use crate::listener::Stream;

/// How long a closed connection is read on, so that the last answer is not eaten by the reset that the kernel sends
/// when bytes arrive for a socket that is gone. The peer normally closes within a round trip.
const LINGERING_CLOSE: Duration = Duration::from_secs(1);

/// Since when the worker is draining, or `None` while it accepts connections.
///
/// Every open connection holds a receiver, so that the sender also learns when the last one has gone.
pub(crate) type Drain = watch::Receiver<Option<Instant>>;

/// The stream between the kernel and hyper: it reports arriving bytes, and closes so that the peer gets everything.
pub(crate) struct ClientStream {
    stream: Stream,
    activity: Arc<Activity>,
    closing: Closing,
    /// Kept as long as the bytes flow, also where an upgrade has handed them to the app.
    _lease: Lease,
}

/// What an open connection holds.
pub(crate) struct Lease {
    /// Its place among the sessions, or among those that are told that there is none.
    pub(crate) _place: OwnedSemaphorePermit,
    /// Its voice in "not everybody has gone yet".
    pub(crate) _open: Drain,
}

enum Closing {
    Open,
    /// The write side is shut; what still arrives is thrown away until the peer closes or this ends.
    Discarding(Pin<Box<Sleep>>),
}

impl ClientStream {
    pub(crate) fn new(stream: Stream, activity: Arc<Activity>, lease: Lease) -> Self {
        Self { stream, activity, closing: Closing::Open, _lease: lease }
    }

    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0_u8; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => return Poll::Ready(()),
                Ok(()) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.activity.bytes_arrived();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.closing, Closing::Open) {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            self.closing = Closing::Discarding(Box::pin(sleep(LINGERING_CLOSE)));
        }
        if self.discard(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        match &mut self.closing {
            Closing::Discarding(deadline) => deadline.as_mut().poll(cx).map(Ok),
            // Cannot happen, because `Open` was replaced above.
            Closing::Open => Poll::Ready(Ok(())),
        }
    }
}

/// Runs a connection to its end: as long as it has work, is within its timeouts, and the worker is not draining.
pub(crate) async fn drive<C>(connection: C, activity: &Activity, mut drain: Drain, patience: Duration)
where
    C: GracefulConnection,
{
    let mut connection = pin!(connection);
    let mut now = Instant::now();
    loop {
        let draining_since = *drain.borrow_and_update();
        match activity.verdict(now, draining_since, patience) {
            Verdict::Watch { until } => tokio::select! {
                // The connection first: a request that has arrived when the time is up is read before it is judged.
                biased;
                _ = connection.as_mut() => return,
                looked_at = until_or_drain(until, &mut drain) => now = looked_at,
            },
            Verdict::GoAway => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
                return;
            }
            Verdict::Close => {
                connection.as_mut().graceful_shutdown();
                // It has nothing to say: only a peer that takes no bytes could keep it longer than its own close does.
                let _ = timeout(2 * LINGERING_CLOSE, connection).await;
                return;
            }
        }
    }
}

/// Waits for `until` or for the drain to begin, whichever comes first, and then has the runtime look at the sockets
/// once more. Gives the time before that look: what is judged by it has been read up to it.
///
/// Without the look, a timer that fires although the sockets were not looked at (the wait for them was interrupted, as
/// by SIGCONT) closes a connection whose next request has long arrived; with a later time, so does a process that
/// stands still in between.
async fn until_or_drain(until: Instant, drain: &mut Drain) -> Instant {
    let changed = async {
        if drain.changed().await.is_err() {
            // The server is gone, and with it the only one who could start a drain.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = sleep_until(until) => {}
        () = changed => {}
    }
    let looked_at = Instant::now();
    tokio::task::yield_now().await;
    looked_at
}

/// The answer to a connection over the session limit, byte for byte Arlen's.
const SESSION_LIMIT: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Connection: close\r\n\
    Content-Length: 12\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\
    Retry-After: 1\r\n\
    Server: Arlen\r\n\
    X-Arlen-Backpressure-Reason: http_session_limit\r\n\
    \r\n\
    server busy\n";

/// Tells a connection that there is no place for it, without reading its request, so that it really hears it.
pub(crate) async fn refuse(mut stream: ClientStream) {
    let answer = async {
        stream.write_all(SESSION_LIMIT).await?;
        stream.shutdown().await
    };
    if let Err(error) = answer.await {
        tracing::debug!("a connection over the session limit went away: {error}");
    }
}
