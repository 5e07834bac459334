//! One accepted connection: its bytes, what the first of them say it is, and how it closes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio::{runtime, task};

use crate::activity::{Activity, Verdict};
use crate::drive::until_or_drain;
use crate::guard::{Admitted, Fault, Guard, HeadLimits, Place};
use crate::listener::Stream;
use crate::refusal::Refusal;

/// How long a closed connection is read on, so that the last answer is not eaten by the reset that the kernel sends
/// when bytes arrive for a socket that is gone. The peer normally closes within a round trip.
pub(crate) const LINGERING_CLOSE: Duration = Duration::from_secs(1);

/// How much is read at once while a head is incomplete.
const READ_BYTES: usize = 4096;

/// Up to how much is gathered before it is written.
const GATHERED_BYTES: usize = 2048;

/// How much is kept for whoever gets the connection after a request that asks for another protocol.
const UNDECIDED_BYTES: usize = 16 * 1024;

/// How much is written before the other connections have their turn: who takes an answer as fast as it is given would
/// keep the thread for as long as it lasts.
const TURN_BYTES: usize = 1024 * 1024;

/// Since when the worker is draining, or `None` while it accepts connections.
///
/// Every open connection holds a receiver, so that the sender also learns when the last one has gone.
pub(crate) type Drain = watch::Receiver<Option<Instant>>;

/// The stream between the kernel and hyper: only what the guard admits gets through, and it closes so that the peer
/// gets everything.
pub(crate) struct ClientStream {
    stream: Stream,
    activity: Arc<Activity>,
    guard: Guard,
    /// Read, and not passed on yet.
    held: Vec<u8>,
    /// So much of `held`, from its front, may be passed on.
    cleared: usize,
    /// Heads that were passed on.
    heads: u64,
    ended: bool,
    refuse: Refuse,
    closing: Closing,
    turn: Turn,
    /// Who may use it besides whom it is switched to.
    driver: Option<task::Id>,
    /// Kept as long as the bytes flow, also where an upgrade has handed them to the app.
    lease: Option<Lease>,
}

/// What an open connection holds.
pub(crate) struct Lease {
    /// Its place among the sessions, or among those that are told that there is none.
    pub(crate) _place: OwnedSemaphorePermit,
    /// Its voice in "not everybody has gone yet".
    pub(crate) _open: Drain,
}

/// Makes the bytes of a refusal, at the moment at which it is given.
pub(crate) type Refuse = Box<dyn Fn(Refusal) -> Vec<u8> + Send + Sync>;

/// How a connection comes to its end.
#[derive(Default)]
struct Closing {
    /// The answer to a broken head, which hyper has never seen. What is left of it is still to be written.
    farewell: Vec<u8>,
    /// Set when the write side is shut: what still arrives is thrown away until the peer closes or this ends.
    linger: Option<Pin<Box<Sleep>>>,
}

impl Closing {
    fn poll(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.farewell.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(cx, &self.farewell))?;
            self.farewell.drain(..written);
        }
        if self.linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
        }
        let linger = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGERING_CLOSE)));
        if discard(stream, cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        linger.as_mut().poll(cx).map(Ok)
    }
}

/// What has been written since the other connections had theirs.
#[derive(Default)]
struct Turn {
    written: usize,
}

impl Turn {
    fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes);
    }

    /// Ready unless others are to have their turn first, who are those that the sockets have something for.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.written < TURN_BYTES {
            return Poll::Ready(());
        }
        self.written = 0;
        pin!(task::yield_now()).poll(cx)
    }
}

/// A short answer goes out in one piece: to gather it here takes less than to have the kernel do it.
fn poll_write_all_of(stream: &mut Stream, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > GATHERED_BYTES {
        return Pin::new(stream).poll_write_vectored(cx, bufs);
    }
    let mut gathered = [const { MaybeUninit::uninit() }; GATHERED_BYTES];
    let mut gathered = ReadBuf::uninit(&mut gathered);
    for buf in bufs {
        gathered.put_slice(buf);
    }
    Pin::new(stream).poll_write(cx, gathered.filled())
}

fn discard(stream: &mut Stream, cx: &mut Context<'_>) -> Poll<()> {
    let mut scratch = [0_u8; READ_BYTES];
    loop {
        let mut buf = ReadBuf::new(&mut scratch);
        match ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf)) {
            Ok(()) if buf.filled().is_empty() => return Poll::Ready(()),
            Ok(()) => {}
            Err(_) => return Poll::Ready(()),
        }
    }
}

/// What a new connection turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    Http1,
    Http2,
    Refused(Refusal),
    /// It went, or is to go, without a word.
    Gone,
}

impl ClientStream {
    pub(crate) fn new(
        stream: Stream,
        activity: Arc<Activity>,
        limits: HeadLimits,
        lease: Lease,
        refuse: Refuse,
    ) -> Self {
        Self {
            stream,
            activity,
            guard: Guard::new(limits),
            held: Vec::new(),
            cleared: 0,
            heads: 0,
            ended: false,
            refuse,
            closing: Closing::default(),
            turn: Turn::default(),
            driver: None,
            lease: Some(lease),
        }
    }

    /// Waits until it is known what the client speaks. Nothing is lost if the future is dropped.
    async fn first(&mut self) -> First {
        poll_fn(|cx| self.poll_first(cx)).await
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        loop {
            match self.guard.place() {
                Place::Raw => return Poll::Ready(First::Http2),
                Place::BadHead(fault) if self.heads == 0 => return Poll::Ready(First::Refused(fault.into())),
                _ if self.heads > 0 => return Poll::Ready(First::Http1),
                _ => {}
            }
            match ready!(self.poll_hold(cx)) {
                Ok(0) if !self.holds_a_start() => return Poll::Ready(First::Gone),
                Ok(0) => return Poll::Ready(First::Refused(Refusal::BadRequest)),
                Ok(_) => {}
                Err(_) => return Poll::Ready(First::Gone),
            }
        }
    }

    /// Reads more into `held`, and has the guard look at it.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        self.held.resize(before + READ_BYTES, 0);
        let mut buf = ReadBuf::new(&mut self.held[before..]);
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let count = buf.filled().len();
        self.held.truncate(before + count);
        ready!(read)?;
        if count > 0 {
            self.look_at_held();
        }
        Poll::Ready(Ok(count))
    }

    fn look_at_held(&mut self) {
        let admitted = self.guard.admit(&mut self.held[self.cleared..]);
        self.cleared += admitted.bytes;
        self.heads += admitted.heads;
        self.note_arrival(admitted);
    }

    /// Empty lines begin nothing: some clients send one behind a body (RFC 9112 §2.2). Neither does what is left of a body.
    fn note_arrival(&mut self, admitted: Admitted) {
        let holds_a_start = self.holds_a_start();
        let begins = admitted.heads > 0 || admitted.bytes > 0 && self.guard.place() == Place::Raw;
        if begins || holds_a_start {
            self.activity.bytes_arrived(holds_a_start);
        }
    }

    /// Whether the beginning of a request waits for its rest.
    fn holds_a_start(&self) -> bool {
        self.held[self.cleared..].iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// Passes on what has been cleared.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.drain(..count);
        self.cleared -= count;
        if self.held.is_empty() {
            // An idle connection holds nothing.
            self.held = Vec::new();
        }
    }

    /// Reads straight into `buf`, which is where nearly everything goes, and keeps back what may not pass yet.
    fn poll_read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let arrived = &mut buf.filled_mut()[before..];
        let count = arrived.len();
        if count > 0 {
            let admitted = self.guard.admit(arrived);
            self.held.extend_from_slice(&arrived[admitted.bytes..]);
            self.heads += admitted.heads;
            buf.set_filled(before + admitted.bytes);
            self.note_arrival(admitted);
        }
        Poll::Ready(Ok(count))
    }

    /// At a place where bytes wait for something else than the network.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Gate>> {
        match self.guard.place() {
            Place::Head | Place::Body | Place::Raw if !self.ended => Poll::Ready(Ok(Gate::Open)),
            Place::BadBody => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the request body is malformed")))
            }
            Place::Undecided => self.poll_decision(cx),
            // In the middle of a body, the end is an error that its reader must learn of at once.
            Place::Body | Place::Raw => Poll::Ready(Ok(Gate::Closed)),
            Place::Head | Place::BadHead(_) => self.poll_last_answer(cx),
        }
    }

    /// Waits until it is clear whose the bytes behind an upgrade are, and goes on reading them meanwhile.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Gate>> {
        if let Some(switched) = self.activity.take_decision() {
            self.guard.decide(switched);
            self.look_at_held();
            return Poll::Ready(Ok(Gate::Again));
        }
        self.activity.wait_as_reader(cx.waker());
        while !self.ended && self.held.len() < UNDECIDED_BYTES {
            if ready!(self.poll_hold(cx))? == 0 {
                self.end();
            }
        }
        Poll::Pending
    }

    /// Waits until everything that has passed is answered, and then ends the stream for hyper.
    fn poll_last_answer(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Gate>> {
        // hyper takes an end before the last answer is written out for the end of that answer, too.
        if !self.activity.has_answered(self.heads, cx.waker()) {
            return Poll::Pending;
        }
        match self.guard.place() {
            Place::BadHead(fault) => self.say(fault.into()),
            _ if self.holds_a_start() => self.say(Fault::Malformed.into()),
            _ => {}
        }
        Poll::Ready(Ok(Gate::Closed))
    }

    fn end(&mut self) {
        self.ended = true;
        self.activity.half_closed();
    }

    fn say(&mut self, refusal: Refusal) {
        self.closing.farewell = (self.refuse)(refusal);
    }

    /// hyper hands a connection on which another protocol was asked for to the app when it ends, also when that was not
    /// granted. Only the task that drives it may use it then.
    fn check_user(&self) -> io::Result<()> {
        if self.driver.is_none() || self.driver == task::try_id() || self.activity.is_switched() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::NotConnected, "the connection was not switched to another protocol"))
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => self.activity.write_blocked(),
            Poll::Ready(written) => {
                let bytes = *written.as_ref().unwrap_or(&0);
                self.turn.wrote(bytes);
                self.activity.wrote(bytes);
            }
        }
    }
}

enum Gate {
    Open,
    /// Something has changed: look again.
    Again,
    /// Nothing will come any more.
    Closed,
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let was_asked_to_switch = self.activity.gone();
        // hyper ends such a connection by dropping it; the last answer is to arrive all the same.
        if was_asked_to_switch
            && self.closing.linger.is_none()
            && let Ok(runtime) = runtime::Handle::try_current()
        {
            let (mut stream, mut closing) =
                (mem::replace(&mut self.stream, Stream::Gone), mem::take(&mut self.closing));
            let lease = self.lease.take();
            runtime.spawn(async move {
                let _ = timeout(2 * LINGERING_CLOSE, poll_fn(|cx| closing.poll(&mut stream, cx))).await;
                drop((stream, lease));
            });
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check_user()?;
        loop {
            if this.cleared > 0 {
                this.pass(buf);
                return Poll::Ready(Ok(()));
            }
            match ready!(this.poll_gate(cx))? {
                Gate::Open => {}
                Gate::Again => continue,
                Gate::Closed => return Poll::Ready(Ok(())),
            }
            let before = buf.filled().len();
            let arrived =
                if this.held.is_empty() { ready!(this.poll_read_through(cx, buf)) } else { ready!(this.poll_hold(cx)) };
            if arrived? == 0 {
                this.end();
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_user()?;
        ready!(self.turn.poll(cx));
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_user()?;
        ready!(self.turn.poll(cx));
        let written = poll_write_all_of(&mut self.stream, cx, bufs);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.closing.poll(&mut this.stream, cx)
    }
}

/// Waits until a new connection has said what it is. One that takes too long is told so; one that has said nothing by
/// the time the worker ends is not.
pub(crate) async fn first(stream: &mut ClientStream, drain: &mut Drain, patience: Duration) -> First {
    let activity = Arc::clone(&stream.activity);
    stream.driver = task::try_id();
    let mut now = Instant::now();
    loop {
        let draining_since = *drain.borrow_and_update();
        let Verdict::Watch { until } = activity.verdict(now, draining_since, patience) else {
            let silent = draining_since.is_some() && stream.held.is_empty();
            return if silent { First::Gone } else { First::Refused(Refusal::RequestTimeout) };
        };
        tokio::select! {
            // The connection first: a request that has arrived when the time is up is read before it is judged.
            biased;
            first = stream.first() => return first,
            looked_at = until_or_drain(until, drain) => now = looked_at,
        }
    }
}

/// Ends a connection with an answer, or without one, so that what was said really arrives.
pub(crate) async fn close(mut stream: ClientStream, refusal: Option<Refusal>) {
    if let Some(refusal) = refusal {
        stream.say(refusal);
    }
    // Only a peer that takes no bytes could keep it longer than its own close does.
    if let Ok(Err(error)) = timeout(2 * LINGERING_CLOSE, stream.shutdown()).await {
        tracing::debug!("a connection went away before it was told why: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_turn_ends_with_a_megabyte_and_the_next_begins() {
        let mut turn = Turn::default();
        let mut cx = Context::from_waker(Waker::noop());
        for (written, goes_on) in [(TURN_BYTES - 1, true), (1, false), (1, true), (usize::MAX, false), (0, true)] {
            turn.wrote(written);
            assert_eq!(turn.poll(&mut cx).is_ready(), goes_on, "after {written} more");
        }
    }
}
