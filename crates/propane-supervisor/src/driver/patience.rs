//! How the loop waits for a lock that another process has: not at all at a time, and then again a little later.

use propane_core::Time;

use crate::sockets::{LOCK_INTERVAL, LOCK_PATIENCE};

/// Since when it is waited.
#[derive(Debug, Default)]
pub(super) struct Patience {
    since: Option<Time>,
    next: Option<Time>,
}

impl Patience {
    /// Whether there is some left.
    pub(super) fn is_left(&self, now: Time) -> bool {
        self.since.is_none_or(|since| now.since(since) < LOCK_PATIENCE)
    }

    /// The lock is somebody else's.
    pub(super) fn refused(&mut self, now: Time) {
        self.since.get_or_insert(now);
        self.next = Some(now + LOCK_INTERVAL);
    }

    /// There is nothing more to wait for.
    pub(super) fn over(&mut self) {
        *self = Self::default();
    }

    /// When the next try is due.
    pub(super) fn next_try(&self) -> Option<Time> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lock_is_tried_for_again_and_given_up_in_the_end() {
        let at = |since: Duration| Time::from_micros(7_000_000) + since;
        let mut patience = Patience::default();
        assert!(patience.is_left(at(Duration::ZERO)));
        for tries in 0..3u32 {
            let now = at(LOCK_INTERVAL * tries);
            patience.refused(now);
            assert_eq!(patience.next_try(), Some(now + LOCK_INTERVAL));
        }
        assert!(patience.is_left(at(LOCK_PATIENCE / 2)));
        assert!(!patience.is_left(at(LOCK_PATIENCE)), "it counts from the first refusal");
        patience.over();
        assert_eq!(patience.next_try(), None);
        assert!(patience.is_left(at(LOCK_PATIENCE)), "the next time it counts anew");
    }
}
