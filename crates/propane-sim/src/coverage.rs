//! What schedules have come to: which faults struck, what the manager was doing when signals came, which rules were judged.
//!
//! A simulator that no longer gets into a corner would go on finding nothing wrong there, so every mark is counted, and
//! none may be missing. Marks are set where things happen, all over the world and the rules, and a schedule runs on one
//! thread from its beginning to its end: so they are kept by the thread, and nobody has to hand them around.

use std::cell::Cell;

use propane_core::{Event, StopSignal};

use crate::checker::Rule;

/// An enum whose variants have names for people.
macro_rules! named {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $text] $variant,)*
        }

        impl $name {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

pub(crate) use named;

named! {
    /// What goes wrong in the world, or is at least out of the ordinary.
    pub enum Fault {
        SpawnAgain = "a spawn fails: EAGAIN",
        SpawnNoMemory = "a spawn fails: ENOMEM",
        SpawnForGood = "a spawn fails for good",
        SpawnSlow = "a spawn is answered late",
        SpawnAbandoned = "a spawn is called off",
        CalledOffTooLate = "a spawn is called off that has begun",
        SlowBoot = "a boot is slow",
        NeverReady = "a worker is never ready",
        InstantDeath = "a worker dies at once",
        DiesStarting = "a worker dies before it is ready",
        DiesServing = "a worker dies while it serves",
        DiesDraining = "a worker dies while it drains",
        DiesAfterTerm = "a worker crashes over TERM",
        IgnoresTerm = "a worker ignores TERM",
        NeverDrains = "a worker never drains",
        ConnectionsCut = "connections are cut",
        GroupOutlives = "others of the group outlive the leader",
        GroupStays = "others of the group stay until they are killed",
        LateReport = "an exit is reported late",
        OutOfOrder = "exits are reported out of order",
        StrayEvent = "an event comes for a worker that is gone",
        NeverBeats = "a worker sends no heartbeat",
        Silence = "a worker falls silent",
        IgnoresAbort = "a worker ignores ABRT",
        FdsSwing = "descriptors swing: over, under, over",
        MemorySwings = "memory swings: over, under, over",
        Leak = "a worker leaks",
        SampleLost = "a look at a worker has no answer",
        ConfigurationRefused = "the configuration turns invalid",
        ConfigurationChanged = "the configuration changes",
        SickGeneration = "a generation is unfit",
        TurningAwayRefused = "connections can no longer be turned away",
        SocketRenewed = "a worker has ended the socket of all",
        Nap = "the manager does not run for a while",
        Freeze = "nobody runs for a while",
        Lag = "the driver is always late",
        TimersFirst = "a deadline and an event fall together, and the deadline is first",
        EventsFirst = "a deadline and an event fall together, and the event is first",
        Storm = "signals come at the same instant",
    }
}

named! {
    /// What the manager is doing, as far as it can be seen from outside.
    pub enum Step {
        Unbooted = "before the boot",
        Booting = "booting",
        Serving = "serving",
        Respawning = "waiting to respawn",
        Loading = "reading the configuration",
        CanaryBoots = "reload: the canary boots",
        BatchBoots = "reload: a batch boots",
        Settling = "reload: settling",
        OldLeave = "reload: the old leave",
        Vacating = "reload: the old leave first",
        RecycleBoots = "recycling: booting",
        RecycleSettles = "recycling: settling",
        RecycleLeaves = "recycling: the old leaves",
        Lasting = "stopping, still serving",
        Stopping = "stopping",
        Exited = "after the exit",
    }
}

named! {
    /// What an operator sends.
    pub enum Sent {
        Hup = "HUP",
        Ttin = "TTIN",
        Ttou = "TTOU",
        Usr1 = "USR1",
        Term = "TERM",
        Int = "INT",
        Quit = "QUIT",
    }
}

impl Sent {
    pub(crate) fn of(event: &Event) -> Option<Self> {
        Some(match event {
            Event::ReloadRequested => Self::Hup,
            Event::ScaleUpRequested => Self::Ttin,
            Event::ScaleDownRequested => Self::Ttou,
            Event::LogReopenRequested => Self::Usr1,
            Event::StopRequested { signal: StopSignal::Term } => Self::Term,
            Event::StopRequested { signal: StopSignal::Int } => Self::Int,
            Event::StopRequested { signal: StopSignal::Quit } => Self::Quit,
            _ => return None,
        })
    }
}

/// Something that schedules have to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A rule was judged.
    Rule(Rule),
    /// A fault struck.
    Fault(Fault),
    /// A signal came while the manager was doing something.
    Signal(Sent, Step),
}

const FAULTS_FROM: usize = Rule::ALL.len();
const SIGNALS_FROM: usize = FAULTS_FROM + Fault::ALL.len();
const MARKS: usize = SIGNALS_FROM + Sent::ALL.len() * Step::ALL.len();
const WORDS: usize = MARKS.div_ceil(64);

impl Mark {
    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        let signals = Sent::ALL.iter().flat_map(|sent| Step::ALL.iter().map(|step| Self::Signal(*sent, *step)));
        let faults = Fault::ALL.iter().map(|fault| Self::Fault(*fault));
        Rule::ALL.iter().map(|rule| Self::Rule(*rule)).chain(faults).chain(signals)
    }

    /// Its place in the order of `all`.
    fn index(self) -> usize {
        match self {
            Self::Rule(rule) => rule as usize,
            Self::Fault(fault) => FAULTS_FROM + fault as usize,
            Self::Signal(sent, step) => SIGNALS_FROM + sent as usize * Step::ALL.len() + step as usize,
        }
    }
}

thread_local! {
    /// The marks of the schedule that runs on this thread, a bit each.
    static SEEN: Cell<[u64; WORDS]> = const { Cell::new([0; WORDS]) };
}

/// Begins a schedule on this thread.
pub(crate) fn begin() {
    SEEN.set([0; WORDS]);
}

/// Sets a mark.
pub(crate) fn see(mark: Mark) {
    let index = mark.index();
    let mut words = SEEN.get();
    words[index / 64] |= 1 << (index % 64);
    SEEN.set(words);
}

/// A fault strikes.
pub(crate) fn strike(fault: Fault) {
    see(Mark::Fault(fault));
}

/// In how many schedules each mark was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage([u64; MARKS]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; MARKS])
    }
}

impl Coverage {
    /// What the schedule on this thread has come to.
    pub(crate) fn of_schedule() -> Self {
        let words = SEEN.get();
        Self(std::array::from_fn(|index| words[index / 64] >> (index % 64) & 1))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// In how many schedules a mark was set.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0[mark.index()]
    }

    /// What was never seen.
    pub fn missing(&self) -> Vec<Mark> {
        Mark::all().filter(|mark| self.count(*mark) == 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mark_has_a_place_of_its_own() {
        let places: Vec<_> = Mark::all().map(Mark::index).collect();
        assert_eq!(places, (0..MARKS).collect::<Vec<_>>());
    }

    #[test]
    fn a_mark_counts_once_a_schedule() {
        let mark = Mark::Signal(Sent::Quit, Step::Exited);
        let mut coverage = Coverage::default();
        for times in [2, 0, 1] {
            begin();
            (0..times).for_each(|_| see(mark));
            coverage.add(&Coverage::of_schedule());
        }
        assert_eq!(coverage.count(mark), 2);
        assert_eq!(coverage.missing().len(), MARKS - 1);
    }
}
