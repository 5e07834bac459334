//! What a search does next, and when: how many connections it makes, whom it looks at, how long it rests. No socket and no
//! clock: it is told the time, what there is, and what has come of the moves that it asked for.

use std::collections::VecDeque;
use std::time::Duration;

use propane_core::{Time, WorkerId};

/// A look at a worker costs about 0.1 ms; with this much time for each, looks never fill the manager's time.
pub(crate) const LOOK_SHARE: Duration = Duration::from_micros(250);

/// How many connections there are at a time at least, and at most.
const WIDTH_MIN: usize = 4;
const WIDTH_MAX: usize = 128;

/// How many workers are looked at before others have their turn.
const TURN: usize = 8;

/// How many connections are made in a row, which takes some two milliseconds. On a socket that all wait on, the kernel wakes
/// them one after the other, and the first takes what is there: those who come later find something in a long row only.
const BURST: usize = 64;

/// The soonest that somebody can be expected to have accepted, and the longest until it is looked again.
const STEP: Duration = Duration::from_millis(1);
const STEP_MAX: Duration = Duration::from_millis(250);

/// How many connections there are to be at a time.
fn width(sought: usize, missed: usize) -> usize {
    sought.max(missed / 4).clamp(WIDTH_MIN, WIDTH_MAX)
}

/// How long to wait after `made` connections, when for so long nobody new was found.
fn pause(made: usize, calm: Duration) -> Duration {
    share(made).max(calm / 64).max(STEP)
}

/// The time in which this much work does not fill the manager's time.
fn share(work: usize) -> Duration {
    LOOK_SHARE * u32::try_from(work).unwrap_or(u32::MAX)
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// See what has become of the connections.
    TakeIn,
    /// See which of the connections these workers have.
    Inspect(Vec<WorkerId>),
    /// Give up what none of those who are sought has: they were all inspected.
    LetGo,
    /// Make so many connections, and tell how many there are now ([`Pace::made`]).
    Make(usize),
}

/// The connections of which it is not known whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    pub(super) count: usize,
    /// Whether an inspection of workers can tell of any of them whose it is.
    pub(super) tells: bool,
}

/// The moves come in this order, over and over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Resting,
    TakenIn,
    Inspecting,
    Filling,
}

/// The pace of a search.
#[derive(Debug, Default)]
pub(super) struct Pace {
    phase: Phase,
    /// Who is still to be inspected.
    uninspected: VecDeque<WorkerId>,
    look_at: Time,
    make_at: Time,
    /// Until when the connections that were made fill their share of the manager's time, whoever else comes to be sought.
    paid_until: Time,
    /// When the youngest connections were made.
    made_at: Time,
    /// How many more are to be made before there is a pause.
    batch: usize,
    /// Since when nobody new was sought or found.
    calm_since: Time,
    /// How many went to others of late.
    missed: usize,
    total: u64,
}

impl Pace {
    /// Somebody is sought who was not.
    pub(super) fn begin(&mut self, now: Time) {
        self.calm_since = now;
        self.make_at = self.make_at.min(self.paid_until.max(now));
    }

    /// Nobody is sought.
    pub(super) fn stop(&mut self) {
        self.phase = Phase::Resting;
        self.uninspected.clear();
        self.missed = 0;
        self.batch = 0;
    }

    /// Somebody was found. There are as many others as before.
    pub(super) fn found(&mut self, now: Time) {
        self.calm_since = now;
        self.missed /= 2;
    }

    /// So many connections went to others.
    pub(super) fn missed(&mut self, count: usize) {
        self.missed += count;
    }

    /// So many connections were made; fewer than asked for where descriptors or room in a queue are short.
    pub(super) fn made(&mut self, now: Time, count: usize) {
        self.total += count as u64;
        if count > 0 {
            self.made_at = now;
        }
        self.batch = if count == 0 { 0 } else { self.batch - count };
        let calm = if self.batch == 0 { self.calm(now) } else { Duration::ZERO };
        self.paid_until = now + pause(count, Duration::ZERO);
        self.make_at = now + pause(count, calm);
        self.rest(now);
    }

    /// How many connections were ever made.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// For how long nobody new was sought or found.
    pub(super) fn calm(&self, now: Time) -> Duration {
        now.since(self.calm_since)
    }

    /// When the next move is due while so many connections are open.
    pub(super) fn next(&self, open: usize) -> Time {
        match self.phase {
            Phase::Inspecting => self.look_at,
            _ if open == 0 => self.make_at,
            _ => self.look_at.min(self.make_at),
        }
    }

    /// What is to be done now, to find those who are sought; `None` if nothing is, until [`Pace::next`].
    pub(super) fn next_move(
        &mut self,
        now: Time,
        sought: impl ExactSizeIterator<Item = WorkerId>,
        open: Open,
    ) -> Option<Move> {
        if sought.len() == 0 {
            return None;
        }
        match self.phase {
            Phase::Resting if self.next(open.count) > now => None,
            Phase::Resting => {
                self.phase = Phase::TakenIn;
                Some(Move::TakeIn)
            }
            Phase::TakenIn if open.tells && self.is_worth_a_look(sought.len()) => {
                self.phase = Phase::Inspecting;
                self.uninspected.extend(sought);
                Some(self.inspect(now))
            }
            Phase::Inspecting if self.uninspected.is_empty() => {
                self.phase = Phase::Filling;
                Some(Move::LetGo)
            }
            Phase::Inspecting => (self.look_at <= now).then(|| self.inspect(now)),
            Phase::TakenIn | Phase::Filling => self.fill(now, sought.len(), open.count),
        }
    }

    /// Where many are to be looked at, a whole batch is worth it.
    fn is_worth_a_look(&self, sought: usize) -> bool {
        self.batch == 0 || sought <= TURN
    }

    fn inspect(&mut self, now: Time) -> Move {
        let turn: Vec<WorkerId> = self.uninspected.drain(..self.uninspected.len().min(TURN)).collect();
        self.look_at = now + share(turn.len()).max(STEP);
        Move::Inspect(turn)
    }

    fn fill(&mut self, now: Time, sought: usize, open: usize) -> Option<Move> {
        if self.make_at > now {
            self.rest(now);
            return None;
        }
        let width = width(sought, self.missed);
        if self.batch == 0 {
            self.batch = width;
        }
        let room = width.saturating_sub(open).min(self.batch).min(BURST);
        if room == 0 {
            self.made(now, 0);
            return None;
        }
        Some(Move::Make(room))
    }

    /// Until something can have become of a connection.
    fn rest(&mut self, now: Time) {
        self.phase = Phase::Resting;
        self.look_at = self.look_at.max(now + (now.since(self.made_at) / 4).clamp(STEP, STEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn more_connections_are_made_the_more_are_sought_and_the_more_others_there_are() {
        let table = [(1, 0, 4), (1, 16, 4), (1, 100, 25), (1, 9_999, 128), (32, 0, 32), (32, 200, 50), (1024, 0, 128)];
        for (sought, missed, expected) in table {
            assert_eq!(width(sought, missed), expected, "{sought} {missed}");
        }
    }

    #[test]
    fn pauses_bound_the_connections_of_a_second_and_grow_while_nobody_is_found() {
        let table = [(0, 0, 1_000), (1, 0, 1_000), (8, 0, 2_000), (4, 128, 2_000), (4, 64_000, 1_000_000)];
        for (made, calm_ms, micros) in table {
            let found = pause(made, Duration::from_millis(calm_ms));
            assert_eq!(found, Duration::from_micros(micros), "{made} {calm_ms}");
        }
    }

    #[test]
    fn whoever_comes_to_be_sought_does_not_make_connections_more_frequent_than_their_share() {
        let at = |micros| Time::from_micros(micros);
        let mut pace = Pace { make_at: at(9_000), paid_until: at(5_000), ..Pace::default() };
        for (now, expected) in [(1_000, 5_000), (4_000, 5_000), (6_000, 5_000)] {
            pace.begin(at(now));
            assert_eq!(pace.make_at, at(expected), "{now}");
        }
    }

    /// A pace, played against workers that accept at once, each connection by one of them at random. Those who are not
    /// sought, and not numbered, take what is left.
    struct Play {
        pace: Pace,
        now: Time,
        random: u64,
        sought: BTreeSet<WorkerId>,
        workers: u64,
        open: Vec<WorkerId>,
    }

    impl Play {
        fn new(sought: u64, others: u64) -> Self {
            let mut pace = Pace::default();
            pace.begin(Time::default());
            let everybody = (0..sought).map(WorkerId).collect();
            Self {
                pace,
                now: Time::default(),
                random: 1,
                sought: everybody,
                workers: sought + others,
                open: Vec::new(),
            }
        }

        fn anybody(&mut self) -> WorkerId {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            WorkerId((self.random >> 33) % self.workers)
        }

        /// Goes on when it is time to, and returns the moves of this moment.
        fn step(&mut self) -> Vec<Move> {
            self.now = self.now.max(self.pace.next(self.open.len()));
            let mut moves = Vec::new();
            loop {
                let open = Open { count: self.open.len(), tells: !self.open.is_empty() };
                let Some(next) = self.pace.next_move(self.now, self.sought.iter().copied(), open) else { return moves };
                self.perform(&next);
                moves.push(next);
            }
        }

        fn perform(&mut self, next: &Move) {
            match next {
                Move::TakeIn => {}
                Move::Inspect(workers) => workers.iter().for_each(|worker| self.inspect(*worker)),
                Move::LetGo => self.pace.missed(std::mem::take(&mut self.open).len()),
                Move::Make(count) => {
                    let new: Vec<WorkerId> = (0..*count).map(|_| self.anybody()).collect();
                    self.open.extend(new);
                    self.pace.made(self.now, *count);
                }
            }
        }

        fn inspect(&mut self, worker: WorkerId) {
            if let Some(nth) = self.open.iter().position(|owner| *owner == worker) {
                self.open.swap_remove(nth);
                self.sought.remove(&worker);
                self.pace.found(self.now);
            }
        }
    }

    #[test]
    fn everybody_is_found_soon_whoever_else_accepts() {
        // How many are sought, how many others accept as well, seconds.
        let table = [(1, 1, 1), (32, 0, 1), (1, 63, 1), (31, 33, 1), (200, 200, 3), (1, 2047, 6), (1024, 1024, 20)];
        for (sought, others, seconds) in table {
            let mut play = Play::new(sought, others);
            while !play.sought.is_empty() {
                play.step();
            }
            let took = play.now.since(Time::default());
            assert!(took < Duration::from_secs(seconds), "{sought} {others}: {took:?}");
        }
    }

    #[test]
    fn fewer_and_fewer_connections_are_made_while_nobody_is_found() {
        // Who is sought accepts nothing.
        let mut play = Play::new(1, u64::MAX / 2);
        // After so many seconds, connections made in a second at the most.
        for (after, most) in [(0, 4_000), (10, 800), (60, 140)] {
            let at = |second: u64| Time::from_micros(second * 1_000_000);
            let made = |play: &mut Play, until| {
                while play.pace.next(play.open.len()) < until {
                    play.step();
                }
                play.pace.total()
            };
            let before = made(&mut play, at(after));
            let count = made(&mut play, at(after + 1)) - before;
            // The second may begin and end within a row.
            assert!((1..=most + WIDTH_MAX as u64).contains(&count), "{after}: {count}");
        }
    }

    #[test]
    fn workers_are_inspected_in_turns_before_what_nobody_has_is_let_go() {
        let mut play = Play::new(10, 0);
        play.workers = 1;
        assert_eq!(play.step(), [Move::TakeIn, Move::Make(10)]);
        let all: Vec<WorkerId> = (0..10).map(WorkerId).collect();
        assert_eq!(play.step(), [Move::TakeIn, Move::Inspect(all[..TURN].to_vec())]);
        let before = play.now;
        assert_eq!(play.step(), [Move::Inspect(all[TURN..].to_vec()), Move::LetGo, Move::Make(9)]);
        assert_eq!(play.now.since(before), share(TURN));
        assert_eq!(play.pace.missed, 9);
        // What is not known yet needs no inspection.
        let mut quiet = Pace::default();
        quiet.begin(play.now);
        let open = Open { count: WIDTH_MAX, tells: false };
        assert_eq!(quiet.next_move(play.now, all.iter().copied(), open), Some(Move::TakeIn));
        assert_eq!(quiet.next_move(play.now, all.iter().copied(), open), None);
    }

    #[test]
    fn a_wide_row_is_made_in_bursts_and_inspected_as_a_whole() {
        let mut play = Play::new(200, u64::MAX / 2);
        assert_eq!(play.step(), [Move::TakeIn, Move::Make(BURST)]);
        let before = play.now;
        assert_eq!(play.step(), [Move::TakeIn]);
        while play.pace.batch > 0 {
            assert!(play.step().iter().all(|next| !matches!(next, Move::Inspect(_))));
        }
        assert_eq!((play.open.len(), play.now.since(before)), (WIDTH_MAX, share(BURST)));
        assert!(matches!(play.step().as_slice(), [Move::TakeIn, Move::Inspect(_)]));
    }

    #[test]
    fn where_none_can_be_made_it_is_tried_again_after_a_pause() {
        let mut pace = Pace::default();
        let next = |pace: &mut Pace| {
            let none = Open { count: 0, tells: false };
            pace.next_move(Time::default(), [WorkerId(1)].into_iter(), none)
        };
        assert_eq!(next(&mut pace), Some(Move::TakeIn));
        assert_eq!(next(&mut pace), Some(Move::Make(WIDTH_MIN)));
        pace.made(Time::default(), 0);
        assert_eq!(next(&mut pace), None);
        assert_eq!(pace.next(0), Time::default() + STEP);
    }
}
