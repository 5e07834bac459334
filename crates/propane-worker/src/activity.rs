//! What one connection is doing, and how long it may go on doing it.
//!
//! The rule that loses no request: after TERM a connection is closed only when it has been at rest for a while. hyper's
//! own graceful shutdown closes an HTTP/1 connection that is between two requests at once, even if the next request
//! already waits in the socket, and so does it with a connection that was accepted but not yet read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use hyper::Version;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long after TERM a connection at rest is kept, so that a request that is on its way still gets its answer (with
/// `Connection: close`). Longer than any round trip, shorter than anybody's patience with a reload.
pub(crate) const DRAIN_REST: Duration = Duration::from_secs(1);

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
            ended: 0,
            head_is_held: false,
            read_at: now,
            switch: Switch::Never,
            write_blocked: None,
            half_closed: None,
        }
    }

    fn verdict(self, now: Instant, draining_since: Option<Instant>, timeout: Duration) -> Verdict {
        let stalled_since = self.write_blocked.into_iter().chain(self.half_closed).min();
        if self.multiplexed && draining_since.is_some() {
            return Verdict::GoAway;
        }
        let (close_at, then) = match (self.phase, draining_since) {
            (Phase::Serving { .. }, draining) => match stalled_since {
                Some(since) => (since + timeout, Verdict::Cut),
                None => return Verdict::Watch { until: now + draining.map_or(timeout, |_| DRAIN_REST) },
            },
            (Phase::Waiting { since, begun: false }, Some(draining)) => {
                (since.max(draining) + DRAIN_REST, Verdict::Close)
            }
            (Phase::Waiting { since, .. }, _) => (since + timeout, Verdict::Close),
        };
        if close_at > now { Verdict::Watch { until: close_at } } else { then }
    }

    fn bytes_arrived(&mut self, now: Instant) {
        self.read_at = now;
        if let Phase::Waiting { begun: false, .. } = self.phase {
            self.phase = Phase::Waiting { since: now, begun: true };
        }
    }

    /// Gives when the request's first byte arrived, and when its head was complete.
    fn begin(&mut self, multiplexed: bool) -> InFlight {
        self.multiplexed |= multiplexed;
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

    fn wrote(&mut self, now: Instant) {
        self.write_blocked = None;
        self.half_closed = self.half_closed.map(|_| now);
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

    /// A request has begun. It lasts until [`Self::end`].
    pub(crate) fn begin(&self, version: Version) -> InFlight {
        self.shared().state.begin(version == Version::HTTP_2)
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

    /// The peer takes nothing.
    pub(crate) fn write_blocked(&self) {
        self.shared().state.write_blocked.get_or_insert_with(Instant::now);
    }

    /// The peer has taken something.
    pub(crate) fn wrote(&self) {
        let mut shared = self.shared();
        if shared.state.write_blocked.is_some() || shared.state.half_closed.is_some() {
            shared.state.wrote(Instant::now());
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
            Verdict::Watch { until: first_byte + TIMEOUT },
            "TERM does not cut a request that has begun to arrive"
        );
        assert_eq!(state.verdict(first_byte + TIMEOUT, None, TIMEOUT), Verdict::Close);
    }

    #[test]
    fn a_request_in_flight_is_never_closed_and_rest_begins_at_its_end() {
        let start = Instant::now();
        let late = start + Duration::from_hours(1);
        let mut state = State::new(start);
        state.begin(false);
        state.begin(false);
        state.end(late);
        assert_eq!(state.verdict(late, Some(start), TIMEOUT), Verdict::Watch { until: late + DRAIN_REST });
        state.end(late);
        assert_eq!(state.phase, Phase::Waiting { since: late, begun: false });
    }

    #[test]
    fn the_start_of_the_next_head_is_not_forgotten_over_the_request_before_it() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.begin(false);
        state.head_is_held = true;
        state.end(start + second(1));
        assert_eq!(state.phase, Phase::Waiting { since: start + second(1), begun: true });
    }

    #[test]
    fn a_peer_that_does_not_go_on_is_cut() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.begin(false);
        state.write_blocked = Some(start + second(1));
        for draining in [None, Some(start)] {
            assert_eq!(
                state.verdict(start + second(30), draining, TIMEOUT),
                Verdict::Watch { until: start + second(31) }
            );
            assert_eq!(state.verdict(start + second(31), draining, TIMEOUT), Verdict::Cut);
        }
        state.half_closed = Some(start);
        state.wrote(start + second(40));
        assert_eq!(state.verdict(start + second(69), None, TIMEOUT), Verdict::Watch { until: start + second(70) });
        assert_eq!(state.verdict(start + second(70), None, TIMEOUT), Verdict::Cut, "half closed, and nothing taken");
    }

    #[test]
    fn http2_is_told_to_go_away_whatever_it_does() {
        let start = Instant::now();
        let mut state = State::new(start);
        state.begin(true);
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        state.end(start);
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Close);
    }
}
