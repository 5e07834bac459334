//! When the queue of a listener that new connections are turned away from is empty for good, and the listeners of slots
//! that are given up (`socketStrategy = inherit`), which are empty at some time because others are served instead.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use propane_core::{Time, WorkerId};

use crate::sockdiag::{self, Listener};
use crate::sockets::Avoidance;

/// How long new connections must have gone elsewhere before the queue is believed: what was under way in the kernel when
/// the program came into force is there by then. Handshakes over a real network are looked for themselves.
const GRACE: Duration = Duration::from_millis(30);

/// How often in a row nothing may be seen waiting: between the queue and the worker's hands a connection is nowhere.
const QUIET_LOOKS: u32 = 3;

/// How long a handshake from before is waited for: after two repetitions the client is not there.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(3);

/// What the kernel's answer about the age of a handshake may be short of: it counts ticks of its clock, of which the
/// slowest has a hundred a second, and a timer that repeats an answer may be late by an eighth of its time.
fn inaccuracy(age: Duration) -> Duration {
    (age / 8).max(Duration::from_millis(10))
}

/// The handshakes on a port, asked for once a look.
#[derive(Debug)]
pub(crate) struct Handshakes {
    port: u16,
    oldest: OnceCell<Option<Duration>>,
}

impl Handshakes {
    pub(crate) fn on(port: u16) -> Self {
        Self { port, oldest: OnceCell::new() }
    }

    /// Whether one may be left from before the last `settled`.
    fn are_left(&self, settled: Duration) -> bool {
        let oldest = || sockdiag::oldest_handshake(self.port).ok().flatten();
        settled < HANDSHAKE_PATIENCE
            && self.oldest.get_or_init(oldest).is_some_and(|age| age + inaccuracy(age) >= settled)
    }
}

/// What looks at a queue have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Somebody waits, or may.
    Waiting,
    /// Nobody does, and nobody will.
    Empty,
    /// Somebody came although nobody should have been sent here.
    Leaking,
}

/// A queue that nobody new is sent to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    quiet_looks: u32,
}

impl Queue {
    /// Takes in a look: how long new connections have gone elsewhere, and whether anybody waits.
    pub(crate) fn look(&mut self, settled: Duration, waits: bool, handshakes: &Handshakes) -> Seen {
        if settled < GRACE || handshakes.are_left(settled) {
            self.quiet_looks = 0;
            return Seen::Waiting;
        }
        if waits {
            let was_empty = std::mem::take(&mut self.quiet_looks) >= QUIET_LOOKS;
            return if was_empty { Seen::Leaking } else { Seen::Waiting };
        }
        self.quiet_looks += 1;
        if self.quiet_looks >= QUIET_LOOKS { Seen::Empty } else { Seen::Waiting }
    }
}

/// The time between two looks at somebody who leaves: a small part of the time that it has taken.
pub(crate) fn interval(age: Duration) -> Duration {
    (age / 10).clamp(Duration::from_millis(5), Duration::from_millis(50))
}

/// How many times as long as a look at those who leave the manager does something else.
const LOOK_SHARE: u32 = 4;

/// When the manager may look again at those who leave, after a look that began and ended then.
pub(crate) fn rested(began: Time, ended: Time) -> Time {
    ended + ended.since(began) * LOOK_SHARE
}

/// A slot that is given up.
#[derive(Debug)]
struct LeavingSlot {
    inode: u64,
    /// Since when nobody new is sent there, once that is so.
    since: Option<Time>,
    waited: Option<u32>,
    queue: Queue,
}

/// The slots that are given up, by the workers that still serve them.
#[derive(Debug)]
pub(crate) struct LeavingSlots {
    port: u16,
    by_worker: BTreeMap<WorkerId, LeavingSlot>,
    next_look: Option<Time>,
}

impl LeavingSlots {
    pub(crate) fn new(port: u16) -> Self {
        Self { port, by_worker: BTreeMap::new(), next_look: None }
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Option<Time> {
        self.next_look
    }

    /// New connections are to go to other slots.
    pub(crate) fn add(&mut self, worker: WorkerId, inode: u64) {
        self.by_worker.insert(worker, LeavingSlot { inode, since: None, waited: None, queue: Queue::default() });
    }

    /// Takes in whether new connections go elsewhere, now that the kernel has been told. It is not taken for so before:
    /// whoever comes between the decision and the kernel's knowing of it is still sent there.
    pub(crate) fn avoided(&mut self, now: Time, avoidance: Avoidance) {
        for slot in self.by_worker.values_mut() {
            let since = match avoidance {
                Avoidance::Kept => slot.since.or(Some(now)),
                Avoidance::Anew => Some(now),
                Avoidance::Not => None,
            };
            if since.is_some() && since != slot.since {
                self.next_look = since;
            }
            slot.since = since;
        }
    }

    /// Whether anybody leaves a slot.
    pub(crate) fn any(&self) -> bool {
        !self.by_worker.is_empty()
    }

    /// The workers whose slot others serve, or are to serve, by its `inodes`: what waits there is not lost with them.
    pub(crate) fn forget_shared(&mut self, inodes: &BTreeSet<u64>) -> Vec<(WorkerId, u32)> {
        let shared = self.by_worker.extract_if(.., |_, slot| inodes.contains(&slot.inode));
        shared.map(|(worker, slot)| (worker, slot.waited.unwrap_or(0))).collect()
    }

    /// A worker was told, or is gone.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.by_worker.remove(&worker);
    }

    /// The workers whose queue has run dry, with how many waited there at first.
    pub(crate) fn look(&mut self, now: Time) -> Vec<(WorkerId, u32)> {
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        // Without an answer nothing is known, and the deadline decides.
        let listeners = sockdiag::listeners(self.port).unwrap_or_default();
        let handshakes = Handshakes::on(self.port);
        let look = |(worker, slot): (&WorkerId, &mut LeavingSlot)| {
            slot.is_empty(now, &listeners, &handshakes).then_some((*worker, slot.waited.unwrap_or(0)))
        };
        let empty: Vec<_> = self.by_worker.iter_mut().filter_map(look).collect();
        for (worker, _) in &empty {
            self.forget(*worker);
        }
        let since = self.by_worker.values().filter_map(|slot| slot.since).min();
        self.next_look = since.map(|since| now + interval(now.since(since)));
        empty
    }
}

impl LeavingSlot {
    fn is_empty(&mut self, now: Time, listeners: &[Listener], handshakes: &Handshakes) -> bool {
        let Some(since) = self.since else { return false };
        let Some(queued) = listeners.iter().find(|it| it.inode == self.inode).map(|it| it.queued) else { return false };
        self.waited.get_or_insert(queued);
        self.queue.look(now.since(since), queued > 0, handshakes) == Seen::Empty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_queue_is_empty_after_the_grace_and_three_looks_in_a_row() {
        use Seen::{Empty, Leaking, Waiting};
        let handshakes = Handshakes { port: 0, oldest: OnceCell::from(None) };
        let looks = [
            (0, false, Waiting),
            (29, false, Waiting),
            (30, false, Waiting),
            (35, true, Waiting),
            (40, false, Waiting),
            (45, false, Waiting),
            (50, false, Empty),
            (55, false, Empty),
            (60, true, Leaking),
            (65, false, Waiting),
            (70, false, Waiting),
            (75, false, Empty),
            // Somebody has left the group unasked, and for a moment the kernel chose by itself.
            (0, true, Waiting),
            (30, false, Waiting),
        ];
        let mut queue = Queue::default();
        for (settled, waits, expected) in looks {
            assert_eq!(queue.look(ms(settled), waits, &handshakes), expected, "at {settled} ms");
        }
    }

    #[test]
    fn a_handshake_from_before_is_waited_for_and_not_for_ever() {
        let table = [
            (None, 50, false),
            (Some(10), 50, false),
            (Some(39), 50, false),
            // One that began then may be told to be a tick younger.
            (Some(40), 50, true),
            (Some(50), 50, true),
            (Some(1_000), 1_126, false),
            (Some(1_000), 1_125, true),
            (Some(900), 50, true),
            (Some(9_000), 3_000, false),
        ];
        for (oldest, settled, left) in table {
            let handshakes = Handshakes { port: 0, oldest: OnceCell::from(oldest.map(ms)) };
            assert_eq!(handshakes.are_left(ms(settled)), left, "{oldest:?} {settled}");
        }
    }

    #[test]
    fn a_slot_is_avoided_from_when_the_kernel_knows_of_it() {
        use Avoidance::{Anew, Kept, Not};
        let at = |millis: u64| Time::from_micros(millis * 1000);
        let mut slots = LeavingSlots::new(0);
        slots.add(WorkerId(1), 11);
        assert_eq!(slots.next_look(), None);
        let table = [
            (5, Not, None),
            (6, Kept, Some(6)),
            (7, Kept, Some(6)),
            (8, Anew, Some(8)),
            (9, Not, None),
            (10, Anew, Some(10)),
        ];
        for (now, avoidance, since) in table {
            slots.avoided(at(now), avoidance);
            assert_eq!(slots.by_worker[&WorkerId(1)].since, since.map(at), "{now} {avoidance:?}");
        }
        assert_eq!(slots.next_look(), Some(at(10)));
    }

    #[test]
    fn a_slot_that_others_serve_is_not_waited_for() {
        let mut slots = LeavingSlots::new(0);
        slots.add(WorkerId(1), 11);
        slots.add(WorkerId(2), 12);
        assert_eq!(slots.forget_shared(&BTreeSet::from([10])), []);
        assert_eq!(slots.forget_shared(&BTreeSet::from([10, 12])), [(WorkerId(2), 0)]);
        assert!(slots.by_worker.keys().eq(&[WorkerId(1)]));
    }

    #[test]
    fn looks_get_rarer() {
        for (age, expected) in [(0, 5), (100, 10), (300, 30), (60_000, 50)] {
            assert_eq!(interval(ms(age)), ms(expected), "{age}");
        }
    }

    #[test]
    fn a_look_is_followed_by_a_rest_four_times_as_long() {
        let at = |millis: u64| Time::from_micros(millis * 1000);
        for (began, ended, expected) in [(7, 7, 7), (100, 101, 105), (100, 150, 350)] {
            assert_eq!(rested(at(began), at(ended)), at(expected), "{began} {ended}");
        }
    }
}
