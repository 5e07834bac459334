//! What one connection is doing, and how long it may go on doing it.
//!
//! The rule that loses no request: after TERM a connection is closed only when it has been at rest for a while. hyper's
//! own graceful shutdown closes an HTTP/1 connection that is between two requests at once, even if the next request
//! already waits in the socket, and so does it with a connection that was accepted but not yet read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long after TERM a connection at rest is kept, so that a request that is on its way still gets its answer (with
/// `Connection: close`). Longer than any round trip, shorter than anybody's patience with a reload.
pub(crate) const DRAIN_REST: Duration = Duration::from_secs(1);

/// How long an HTTP/2 peer may keep silent after it was told to go away. Who is there answers within a round trip.
const GOODBYE: Duration = Duration::from_secs(3);

/// What is written to an HTTP/2 peer that takes nothing of its answers: to a ping and to settings, one at a time.
const LONGEST_CONTROL_FRAME: usize = 64;

/// One connection, as seen by its reader, its requests and its driver.
pub(crate) struct Activity(Mutex<Shared>);

struct Shared {
    state: State,
    /// The reader, where it waits for a request to end or to be answered.
    reader: Option<Waker>,
    /// Its place among the upgraded connections.
    upgraded: Option<OwnedSemaphorePermit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    phase: Phase,
    /// HTTP/2: can be told to go away without losing what is on its way.
    multiplexed: bool,
    /// It has been told so.
    told_to_go: bool,
    /// HTTP/2 answers of which the peer has not yet taken what it was given, and when it last took something of any. An
    /// answer over HTTP/1 is blocked in the socket.
    untaken: usize,
    taken_at: Instant,
    /// Requests that have ended.
    ended: u64,
    /// Part of a head has arrived while another request was being served.
    head_is_held: bool,
    /// When something last arrived.
    read_at: Instant,
    /// Whether another protocol was asked for, and what came of it.
    switch: Switch,
    /// The peer has not taken what was sent since then.
    write_blocked: Option<Instant>,
    /// The peer sends no more since then, or since it last took something. It may have gone altogether: that looks the
    /// same.
    half_closed: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No request is being served. `begun`: part of the next one has arrived, `since` then.
    Waiting { since: Instant, begun: bool },
    /// This many requests are being served; their responses are not yet written out.
    Serving { requests: usize },
}

/// Whether another protocol was asked for, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    Never,
    /// The reader has not heard of it yet where `told` is false.
    Refused {
        told: bool,
    },
    Granted,
}

/// What is to be done with a connection now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Let it work, and look again then.
    Watch { until: Instant },
    /// Tell the peer to open no more streams; it ends when those that are open are done.
    GoAway,
    /// Close it.
    Close,
    /// Drop it in the middle of a request, because its peer does not go on.
    Cut,
}

impl State {
    fn new(now: Instant) -> Self {
        Self {
            phase: Phase::Waiting { since: now, begun: false },
            multiplexed: false,
            told_to_go: false,
            untaken: 0,
            taken_at: now,
            ended: 0,
            head_is_held: false,
            read_at: now,
            switch: Switch::Never,
            write_blocked: None,
            half_closed: None,
        }
    }

    fn verdict(self, now: Instant, draining_since: Option<Instant>, timeout: Duration) -> Verdict {
        let (close_at, then) = match (self.phase, draining_since) {
            (_, Some(_)) if self.multiplexed && !self.told_to_go => return Verdict::GoAway,
            (Phase::Serving { .. }, _) => (self.answer_ends(now, timeout), Verdict::Cut),
            // What is left of the last answer is still on its way.
            (Phase::Waiting { .. }, _) if self.write_blocked.is_some() => {
                (self.answer_ends(now, timeout), Verdict::Cut)
            }
            // It ends by itself as soon as its peer has heard of it and has taken everything.
            (Phase::Waiting { since, .. }, Some(draining)) if self.multiplexed => {
                (since.max(draining).max(self.read_at) + GOODBYE, Verdict::Cut)
            }
            (Phase::Waiting { since, begun: false }, Some(draining)) => {
                (since.max(draining) + DRAIN_REST, Verdict::Close)
            }
            (Phase::Waiting { since, .. }, _) => (since + timeout, Verdict::Close),
        };
        if close_at <= now {
            return then;
        }
        // What becomes of it in a drain is to be seen soon.
        let soon = draining_since.map(|_| now + DRAIN_REST);
        Verdict::Watch { until: soon.map_or(close_at, |soon| soon.min(close_at)) }
    }

    /// When the peer will have kept all answers from going on for too long.
    fn answer_ends(self, now: Instant, timeout: Duration) -> Instant {
        let takes_nothing = match self.phase {
            Phase::Serving { requests } if self.untaken >= requests => Some(self.taken_at),
            Phase::Serving { .. } | Phase::Waiting { .. } => None,
        };
        let stalled_since = [takes_nothing, self.write_blocked, self.half_closed].into_iter().flatten().min();
        stalled_since.map_or(now + timeout.max(DRAIN_REST), |since| since + timeout)
    }

    fn bytes_arrived(&mut self, now: Instant) {
        self.read_at = now;
        if let Phase::Waiting { begun: false, .. } = self.phase {
            self.phase = Phase::Waiting { since: now, begun: true };
        }
    }

    /// Gives when the request's first byte arrived, and when its head was complete.
    fn begin(&mut self) -> InFlight {
        self.taken_at = self.read_at;
        self.head_is_held = false;
        let begun = self.read_at;
        match self.phase {
            Phase::Waiting { since, begun: has_begun } => {
                self.phase = Phase::Serving { requests: 1 };
                // One that was sent behind another begins when that is over.
                let begun = begun.max(since);
                InFlight { arrived: if has_begun && !self.multiplexed { since } else { begun }, begun }
            }
            Phase::Serving { requests } => {
                self.phase = Phase::Serving { requests: requests + 1 };
                InFlight { arrived: begun, begun }
            }
        }
    }

    fn end(&mut self, now: Instant) {
        self.ended += 1;
        self.phase = match self.phase {
            Phase::Serving { requests } if requests > 1 => Phase::Serving { requests: requests - 1 },
            // `Waiting` cannot happen, because every end has had its beginning.
            Phase::Serving { .. } | Phase::Waiting { .. } => Phase::Waiting { since: now, begun: self.head_is_held },
        };
    }

    fn wrote(&mut self, now: Instant, bytes: usize) {
        self.half_closed = self.half_closed.map(|_| now);
        let was_blocked = self.write_blocked.take().is_some();
        let is_answer = self.multiplexed && bytes > LONGEST_CONTROL_FRAME;
        if is_answer {
            self.taken_at = now;
        }
        // Rest begins where the answer has gone.
        if (was_blocked || is_answer)
            && let Phase::Waiting { since, .. } = &mut self.phase
        {
            *since = now;
        }
    }
}

impl Activity {
    /// A connection that was just accepted.
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Shared { state: State::new(now), reader: None, upgraded: None })))
    }

    /// What is to be done, given how long a connection may rest or dawdle over a request head.
    pub(crate) fn verdict(&self, now: Instant, draining_since: Option<Instant>, timeout: Duration) -> Verdict {
        self.shared().state.verdict(now, draining_since, timeout)
    }

    /// Something has arrived that may begin a request. `held`: of which a part waits for the rest of its head.
    pub(crate) fn bytes_arrived(&self, held: bool) {
        let mut shared = self.shared();
        shared.state.head_is_held = held;
        shared.state.bytes_arrived(Instant::now());
    }

    /// It is HTTP/2.
    pub(crate) fn speaks_http2(&self) {
        self.shared().state.multiplexed = true;
    }

    /// A request has begun. It lasts until [`Self::end`].
    pub(crate) fn begin(&self) -> InFlight {
        self.shared().state.begin()
    }

    /// A request has ended, now.
    pub(crate) fn end(&self, now: Instant) {
        let mut shared = self.shared();
        shared.state.end(now);
        wake(shared);
    }

    /// Whether so many requests have ended and all that was written is sent. If not, wakes the reader when it may be so.
    pub(crate) fn has_answered(&self, requests: u64, reader: &Waker) -> bool {
        let mut shared = self.shared();
        let answered = shared.state.ended >= requests && shared.state.write_blocked.is_none();
        if !answered {
            shared.reader = Some(reader.clone());
        }
        answered
    }

    /// Since when the connection waits for a request, or for its rest.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        match self.shared().state.phase {
            Phase::Waiting { since, .. } => Some(since),
            Phase::Serving { .. } => None,
        }
    }

    /// The reader waits for [`Activity::end`] or [`Activity::decide`].
    pub(crate) fn wait_as_reader(&self, waker: &Waker) {
        self.shared().reader = Some(waker.clone());
    }

    /// A request that asked for another protocol has its answer. `place`: it was switched, and holds this.
    pub(crate) fn decide(&self, place: Option<OwnedSemaphorePermit>) {
        let mut shared = self.shared();
        shared.state.switch = if place.is_some() { Switch::Granted } else { Switch::Refused { told: false } };
        shared.upgraded = place;
        wake(shared);
    }

    /// Whether the connection is to be switched to another protocol, as soon as that is decided.
    pub(crate) fn take_decision(&self) -> Option<bool> {
        let switch = &mut self.shared().state.switch;
        match *switch {
            Switch::Never | Switch::Refused { told: true } => None,
            Switch::Refused { told: false } => {
                *switch = Switch::Refused { told: true };
                Some(false)
            }
            Switch::Granted => Some(true),
        }
    }

    /// Whether the connection has been switched to another protocol.
    pub(crate) fn is_switched(&self) -> bool {
        self.shared().state.switch == Switch::Granted
    }

    /// The connection is gone, and with it its place among the upgraded. Gives whether it could have been one of them.
    pub(crate) fn gone(&self) -> bool {
        let mut shared = self.shared();
        shared.upgraded = None;
        matches!(shared.state.switch, Switch::Refused { .. })
    }

    /// The peer has been told to open no more streams.
    pub(crate) fn told_to_go(&self) {
        self.shared().state.told_to_go = true;
    }

    /// An HTTP/2 answer waits until its peer takes what it was given.
    pub(crate) fn gave(&self) {
        let mut shared = self.shared();
        shared.state.untaken += 1;
        shared.state.taken_at = Instant::now();
    }

    /// It waits no longer.
    pub(crate) fn took(&self) {
        let mut shared = self.shared();
        shared.state.untaken -= 1;
        shared.state.taken_at = Instant::now();
    }

    /// The peer takes nothing.
    pub(crate) fn write_blocked(&self) {
        self.shared().state.write_blocked.get_or_insert_with(Instant::now);
    }

    /// The peer has taken so many bytes.
    pub(crate) fn wrote(&self, bytes: usize) {
        let mut shared = self.shared();
        let State { write_blocked, half_closed, multiplexed, .. } = shared.state;
        if multiplexed || write_blocked.is_some() || half_closed.is_some() {
            shared.state.wrote(Instant::now(), bytes);
            wake(shared);
        }
    }

    /// The peer sends no more.
    pub(crate) fn half_closed(&self) {
        self.shared().state.half_closed.get_or_insert_with(Instant::now);
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A panic cannot leave the state half written, because every write is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut shared: MutexGuard<'_, Shared>) {
    let reader = shared.reader.take();
    drop(shared);
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// A request that is being served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InFlight {
    /// When its first byte arrived.
    pub(crate) arrived: Instant,
    /// When its head was complete.
    pub(crate) begun: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn second(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn at_rest_it_lives_for_the_timeout_and_after_term_for_the_drain_rest() {
        let start = Instant::now();
        let state = State::new(start);
        assert_eq!(state.verdict(start, None, TIMEOUT), Verdict::Watch { until: start + TIMEOUT });
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Close);

        let term = start + second(5);
        assert_eq!(state.verdict(term, Some(term), TIMEOUT), Verdict::Watch { until: term + DRAIN_REST });
        assert_eq!(state.verdict(term + DRAIN_REST, Some(term), TIMEOUT), Verdict::Close);
    }

    #[test]
    fn one_byte_of_a_request_buys_the_whole_timeout_but_only_once() {
        let start = Instant::now();
        let mut state = State::new(start);
        let first_byte = start + second(29);
        state.bytes_arrived(first_byte);
        state.bytes_arrived(first_byte + second(10));
        assert_eq!(state.verdict(first_byte, None, TIMEOUT), Verdict::Watch { until: first_byte + TIMEOUT });
        assert_eq!(
            state.verdict(first_byte, Some(first_byte), TIMEOUT),
            Verdict::Watch { until: first_byte + DRAIN_REST },
            "TERM does not cut a request that has begun to arrive"
        );
        assert_eq!(state.verdict(first_byte + TIMEOUT, None, TIMEOUT), Verdict::Close);
    }

    #[test]
    fn a_request_in_flight_is_never_closed_and_rest_begins_at_its_end() {
        let start = Instant::now();
        let late = start + Duration::from_hours(1);
        let mut state = State::new(start);
        state.begin();
        state.begin();
        state.end(late);
        assert_eq!(state.verdict(late, Some(start), TIMEOUT), Verdict::Watch { until: late + DRAIN_REST });
        state.end(late);
        assert_eq!(state.phase, Phase::Waiting { since: late, begun: false });
    }

    #[test]
    fn the_start_of_the_next_head_is_not_forgotten_over_the_request_before_it() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.begin();
        state.head_is_held = true;
        state.end(start + second(1));
        assert_eq!(state.phase, Phase::Waiting { since: start + second(1), begun: true });
    }

    #[test]
    fn a_peer_that_does_not_go_on_is_cut() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.begin();
        state.write_blocked = Some(start + second(1));
        for draining in [None, Some(start)] {
            assert_eq!(
                state.verdict(start + second(30), draining, TIMEOUT),
                Verdict::Watch { until: start + second(31) }
            );
            assert_eq!(state.verdict(start + second(31), draining, TIMEOUT), Verdict::Cut);
        }
        state.half_closed = Some(start);
        state.wrote(start + second(40), 1);
        assert_eq!(state.verdict(start + second(69), None, TIMEOUT), Verdict::Watch { until: start + second(70) });
        assert_eq!(state.verdict(start + second(70), None, TIMEOUT), Verdict::Cut, "half closed, and nothing taken");
    }

    #[test]
    fn an_answer_that_is_taken_slowly_is_not_over_before_all_of_it_has_gone() {
        let (start, mut state) = (Instant::now(), State::new(Instant::now()));
        state.begin();
        state.write_blocked = Some(start);
        state.end(start);
        let much_later = start + second(100);
        state.wrote(much_later, 1);
        state.write_blocked = Some(much_later);
        assert_eq!(state.verdict(much_later, None, TIMEOUT), Verdict::Watch { until: much_later + TIMEOUT });
        for draining in [None, Some(start)] {
            assert_ne!(state.verdict(much_later + second(29), draining, TIMEOUT), Verdict::Cut);
            assert_eq!(state.verdict(much_later + second(30), draining, TIMEOUT), Verdict::Cut, "it is taken no more");
        }
        let gone = much_later + second(10);
        state.wrote(gone, 1);
        assert_eq!(
            state.verdict(gone, None, TIMEOUT),
            Verdict::Watch { until: gone + TIMEOUT },
            "at rest from here on"
        );
        assert_eq!(state.verdict(gone + DRAIN_REST, Some(start), TIMEOUT), Verdict::Close);
    }

    #[test]
    fn http2_is_told_to_go_away_whatever_it_does_and_lives_as_long_as_it_answers() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.multiplexed = true;
        state.begin();
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        state.end(start);
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Close);

        state.told_to_go = true;
        state.begin();
        assert_ne!(state.verdict(start + second(100), Some(start), TIMEOUT), Verdict::Cut, "a request is served");
        state.end(start + second(100));
        state.bytes_arrived(start + second(101));
        assert_ne!(state.verdict(start + second(103), Some(start), TIMEOUT), Verdict::Cut);
        assert_eq!(
            state.verdict(start + second(104), Some(start), TIMEOUT),
            Verdict::Cut,
            "it has said nothing for long"
        );
    }

    #[test]
    fn an_http2_peer_that_takes_nothing_of_all_its_answers_is_cut() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.multiplexed = true;
        state.begin();
        state.begin();
        state.untaken = 1;
        assert_ne!(state.verdict(start + second(100), None, TIMEOUT), Verdict::Cut, "the app still works on the other");
        state.untaken = 2;
        state.wrote(start + second(50), LONGEST_CONTROL_FRAME);
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Cut, "a ping is not an answer");
        state.wrote(start + second(50), LONGEST_CONTROL_FRAME + 1);
        assert_ne!(state.verdict(start + second(79), None, TIMEOUT), Verdict::Cut);
        assert_eq!(state.verdict(start + second(80), None, TIMEOUT), Verdict::Cut);
    }
}
