//! What one connection is doing, and how long it may go on doing it.
//!
//! The rule that loses no request: after TERM a connection is closed only when it has been at rest for a while. hyper's
//! own graceful shutdown closes an HTTP/1 connection that is between two requests at once, even if the next request
//! already waits in the socket, and so does it with a connection that was accepted but not yet read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::Version;
use tokio::time::Instant;

/// How long after TERM a connection at rest is kept, so that a request that is on its way still gets its answer (with
/// `Connection: close`). Longer than any round trip, shorter than anybody's patience with a reload.
pub(crate) const DRAIN_REST: Duration = Duration::from_secs(1);

/// One connection, as seen by its reader, its requests and its driver.
pub(crate) struct Activity(Mutex<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    phase: Phase,
    /// HTTP/2: can be told to go away without losing what is on its way.
    multiplexed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No request is being served. `begun`: part of the next one has arrived, `since` then.
    Waiting { since: Instant, begun: bool },
    /// This many requests are being served; their responses are not yet written out.
    Serving { requests: usize },
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
}

impl State {
    fn verdict(self, now: Instant, draining_since: Option<Instant>, timeout: Duration) -> Verdict {
        if self.multiplexed && draining_since.is_some() {
            return Verdict::GoAway;
        }
        let close_at = match (self.phase, draining_since) {
            (Phase::Serving { .. }, None) => now + timeout,
            (Phase::Serving { .. }, Some(_)) => now + DRAIN_REST,
            (Phase::Waiting { since, begun: false }, Some(draining)) => since.max(draining) + DRAIN_REST,
            (Phase::Waiting { since, .. }, _) => since + timeout,
        };
        if close_at > now { Verdict::Watch { until: close_at } } else { Verdict::Close }
    }

    fn bytes_arrived(&mut self, now: Instant) {
        if let Phase::Waiting { begun: false, .. } = self.phase {
            self.phase = Phase::Waiting { since: now, begun: true };
        }
    }

    fn begin(&mut self, multiplexed: bool) {
        self.multiplexed |= multiplexed;
        self.phase = match self.phase {
            Phase::Waiting { .. } => Phase::Serving { requests: 1 },
            Phase::Serving { requests } => Phase::Serving { requests: requests + 1 },
        };
    }

    fn end(&mut self, now: Instant) {
        self.phase = match self.phase {
            Phase::Serving { requests } if requests > 1 => Phase::Serving { requests: requests - 1 },
            // `Waiting` cannot happen, because every end has had its beginning.
            Phase::Serving { .. } | Phase::Waiting { .. } => Phase::Waiting { since: now, begun: false },
        };
    }
}

impl Activity {
    /// A connection that was just accepted.
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        let phase = Phase::Waiting { since: now, begun: false };
        Arc::new(Self(Mutex::new(State { phase, multiplexed: false })))
    }

    /// What is to be done, given how long a connection may rest or dawdle over a request head.
    pub(crate) fn verdict(&self, now: Instant, draining_since: Option<Instant>, timeout: Duration) -> Verdict {
        self.state().verdict(now, draining_since, timeout)
    }

    pub(crate) fn bytes_arrived(&self) {
        self.state().bytes_arrived(Instant::now());
    }

    /// A request has begun; it lasts until the returned value is dropped.
    pub(crate) fn begin(self: &Arc<Self>, version: Version) -> InFlight {
        self.state().begin(version == Version::HTTP_2);
        InFlight(Arc::clone(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half written, because every write is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is being served.
pub(crate) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.state().end(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn fresh(now: Instant) -> State {
        State { phase: Phase::Waiting { since: now, begun: false }, multiplexed: false }
    }

    #[test]
    fn at_rest_it_lives_for_the_timeout_and_after_term_for_the_drain_rest() {
        let start = Instant::now();
        let state = fresh(start);
        assert_eq!(state.verdict(start, None, TIMEOUT), Verdict::Watch { until: start + TIMEOUT });
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Close);

        let term = start + Duration::from_secs(5);
        assert_eq!(state.verdict(term, Some(term), TIMEOUT), Verdict::Watch { until: term + DRAIN_REST });
        assert_eq!(state.verdict(term + DRAIN_REST, Some(term), TIMEOUT), Verdict::Close);
    }

    #[test]
    fn one_byte_of_a_request_buys_the_whole_timeout_but_only_once() {
        let start = Instant::now();
        let mut state = fresh(start);
        let first_byte = start + Duration::from_secs(29);
        state.bytes_arrived(first_byte);
        state.bytes_arrived(first_byte + Duration::from_secs(10));
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
        let mut state = fresh(start);
        state.begin(false);
        state.begin(false);
        state.end(late);
        assert_eq!(state.verdict(late, Some(start), TIMEOUT), Verdict::Watch { until: late + DRAIN_REST });
        state.end(late);
        assert_eq!(state, fresh(late));
    }

    #[test]
    fn http2_is_told_to_go_away_whatever_it_does() {
        let start = Instant::now();
        let mut state = fresh(start);
        state.begin(true);
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        state.end(start);
        assert_eq!(state.verdict(start, Some(start), TIMEOUT), Verdict::GoAway);
        assert_eq!(state.verdict(start + TIMEOUT, None, TIMEOUT), Verdict::Close);
    }
}
