//! How the loop shares its time out: when spawns have had their turn, when deadlines may be judged, when what
//! nobody waits for is done, how long to wait. Pure: what is to be known of the world is an argument.

use std::time::Duration;

use propane_core::Time;

/// How often a group whose leader is gone is looked at: its last process may not be a child of this manager, and then
/// nothing tells of its end.
const LINGER_INTERVAL: Duration = Duration::from_millis(50);

/// How long spawns may go on before the world is looked at again: a signal waits no longer than this and one spawn, however
/// many workers are to be started.
const SPAWN_TURN: Duration = Duration::from_millis(2);

/// How long what nobody waits for may be put off while a crowd of workers is being started. The state file is written then,
/// with all of them in it each time.
const HOUSE_INTERVAL: Duration = Duration::from_millis(50);

/// How long deadlines may be put off by what is still to be heard: workers that talk without end must not keep others from
/// being replaced or killed. Less than what the core takes for having overslept, which it forgives everybody.
const PUT_OFF_MAX: Duration = Duration::from_millis(500);

/// Whether one more worker may be started in a turn that has lasted this long. One always may: else a manager that has too
/// much to hear would never start anybody.
pub(super) fn spawns_go_on(made: usize, elapsed: Duration) -> bool {
    made == 0 || elapsed < SPAWN_TURN
}

/// What there is to do before anything else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backlog {
    /// Workers that are to be started.
    pub(super) spawns: bool,
    /// There may be dead children that nobody has looked for.
    pub(super) deaths: bool,
    /// A deadline of the core is over: a worker is to be replaced at once, say.
    pub(super) deadlines: bool,
}

impl Backlog {
    /// Whether nothing is left to do. Until then, who has just died could be taken for one who neglects its socket.
    pub(super) fn is_empty(self) -> bool {
        !self.spawns && !self.deaths && !self.deadlines
    }
}

/// Since when deadlines are over that were not judged.
#[derive(Debug, Default)]
pub(super) struct Judge {
    put_off_since: Option<Time>,
}

impl Judge {
    /// Whether deadlines may be judged after a wait, which is taken as done: when nothing waits to be heard, because a
    /// deadline must not be judged before a word that met it; and where there is no end of what there is to hear, when every
    /// word that was there in time has long had its turn. `took_all` is whether the kernel had no more to tell than was
    /// taken.
    pub(super) fn may_judge(&mut self, now: Time, due: Option<Time>, took_all: bool, backlog: Backlog) -> bool {
        if due.is_none_or(|at| at > now) {
            self.put_off_since = None;
            return false;
        }
        let heard_all = took_all && !backlog.deaths;
        let may = heard_all || now.since(*self.put_off_since.get_or_insert(now)) >= PUT_OFF_MAX;
        if may {
            self.put_off_since = None;
        }
        may
    }
}

/// How long to wait: until the first of what is `due`, or not at all while there is more to do.
pub(super) fn timeout(
    now: Time,
    backlog: Backlog,
    lingers: bool,
    due: impl IntoIterator<Item = Option<Time>>,
) -> Option<Duration> {
    let own = [lingers.then(|| now + LINGER_INTERVAL), (!backlog.is_empty()).then_some(now)];
    due.into_iter().chain(own).flatten().min().map(|due| due.since(now))
}

/// Since when that which nobody waits for is put off: the state file, say.
#[derive(Debug, Default)]
pub(super) struct House {
    put_off_since: Option<Time>,
}

impl House {
    /// Whether it is to be done, which is taken as done: before the manager waits, and where there is no end of what there
    /// is to do, often enough.
    pub(super) fn is_due(&mut self, now: Time, backlog: Backlog) -> bool {
        if backlog.is_empty() {
            self.put_off_since = None;
            return true;
        }
        let is_due = now.since(*self.put_off_since.get_or_insert(now)) >= HOUSE_INTERVAL;
        if is_due {
            self.put_off_since = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Backlog = Backlog { spawns: false, deaths: false, deadlines: false };
    const SPAWNS: Backlog = Backlog { spawns: true, ..IDLE };
    const DEATHS: Backlog = Backlog { deaths: true, ..IDLE };
    const DEADLINES: Backlog = Backlog { deadlines: true, ..IDLE };

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn spawns_have_two_milliseconds_and_one_is_always_made() {
        let table =
            [(0, 0, true), (0, 900_000, true), (1, 0, true), (9, 1_999, true), (1, 2_000, false), (9, 9_999, false)];
        for (made, micros, expected) in table {
            assert_eq!(spawns_go_on(made, Duration::from_micros(micros)), expected, "{made} {micros}");
        }
    }

    #[test]
    fn deadlines_are_judged_when_everything_was_heard() {
        let table = [
            (Some(at(9)), true, IDLE, true),
            (Some(at(10)), true, IDLE, true),
            (Some(at(11)), true, IDLE, false),
            (None, true, IDLE, false),
            (Some(at(9)), false, IDLE, false),
            (Some(at(9)), true, DEATHS, false),
            // A spawn says nothing of what has happened.
            (Some(at(9)), true, SPAWNS, true),
            (Some(at(9)), true, DEADLINES, true),
        ];
        for (due, took_all, backlog, expected) in table {
            let may = Judge::default().may_judge(at(10), due, took_all, backlog);
            assert_eq!(may, expected, "{due:?} {took_all} {backlog:?}");
        }
    }

    #[test]
    fn deadlines_are_judged_half_a_second_late_at_the_latest() {
        const DUE: Option<Time> = Some(Time::from_micros(9_000));
        const LATER: Option<Time> = Some(Time::from_micros(2_000_000));
        let mut judge = Judge::default();
        // The manager itself may come late to the first: only what it could have heard since then counts.
        let table = [
            (900, DUE, false, IDLE, false),
            (901, DUE, false, DEATHS, false),
            (1_399, DUE, true, DEATHS, false),
            (1_400, DUE, false, IDLE, true),
            (1_401, DUE, false, IDLE, false),
            (1_402, DUE, true, IDLE, true),
            (1_900, DUE, false, IDLE, false),
            (1_901, LATER, false, IDLE, false),
            (2_400, DUE, false, IDLE, false),
            (2_900, DUE, false, IDLE, true),
        ];
        for (millis, due, took_all, backlog, expected) in table {
            assert_eq!(judge.may_judge(at(millis), due, took_all, backlog), expected, "{millis} {due:?}");
        }
    }

    #[test]
    fn a_wait_ends_with_the_first_that_is_due() {
        // What is to be done, whether anybody lingers, what is due -> milliseconds.
        type Row = (Backlog, bool, &'static [Option<Time>], Option<u64>);
        const LATE: Option<Time> = Some(Time::from_micros(70_000));
        const SOON: Option<Time> = Some(Time::from_micros(20_000));
        const PAST: Option<Time> = Some(Time::from_micros(3_000));
        let table: [Row; 9] = [
            (IDLE, false, &[], None),
            (IDLE, false, &[None, None], None),
            (IDLE, false, &[LATE, None, SOON], Some(10)),
            (IDLE, false, &[PAST], Some(0)),
            (IDLE, true, &[], Some(50)),
            (IDLE, true, &[SOON], Some(10)),
            (SPAWNS, true, &[SOON], Some(0)),
            (DEATHS, false, &[], Some(0)),
            (DEADLINES, false, &[], Some(0)),
        ];
        for (backlog, lingers, due, expected) in table {
            let waits = timeout(at(10), backlog, lingers, due.iter().copied());
            assert_eq!(waits, expected.map(Duration::from_millis), "{backlog:?} {lingers} {due:?}");
        }
    }

    #[test]
    fn house_is_kept_before_a_wait_and_twenty_times_a_second_in_a_crowd() {
        let mut house = House::default();
        let table = [
            (110, DEADLINES, false),
            (111, SPAWNS, false),
            (159, DEATHS, false),
            (160, SPAWNS, true),
            (170, SPAWNS, false),
            (171, IDLE, true),
            (172, SPAWNS, false),
            (221, SPAWNS, false),
            (222, SPAWNS, true),
            (223, IDLE, true),
            (224, IDLE, true),
        ];
        for (millis, backlog, expected) in table {
            assert_eq!(house.is_due(at(millis), backlog), expected, "{millis} {backlog:?}");
        }
    }
}
