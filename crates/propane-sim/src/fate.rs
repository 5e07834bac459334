//! What will become of a worker, decided when it is asked for.

use std::time::Duration;

use propane_core::{ExitStatus, Role, WorkerId};

use crate::plan::{FATE, Plan};
use crate::rng::Rng;

/// The longest that anything here can take. In milliseconds; bounds are computed from these.
pub(crate) const SPAWN_MS_MAX: u64 = 2_500;
pub(crate) const REPORT_MS_MAX: u64 = 600;
pub(crate) const BOOT_MS_MAX: u64 = 1_200;
pub(crate) const KILL_MS_MAX: u64 = 40;

/// How a request to start a worker ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    Succeeds,
    Fails { permanent: bool },
}

/// What TERM does to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnTerm {
    Leaves { after: Duration, status: ExitStatus },
    Ignores,
}

/// Other processes of a worker's group, when its leader is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Members {
    None,
    /// They leave by themselves.
    Leave(Duration),
    /// They stay until they are killed.
    Stay,
}

/// What becomes of a worker that new connections are turned away from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drain {
    /// It finishes what it has.
    Ends(Duration),
    /// It always has something left.
    Never,
    /// It crashes over it.
    Dies(Duration),
}

/// A worker's heartbeats, as parts of the timeout that it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beat {
    /// How many heartbeats it sends before it falls silent, if it does.
    pub(crate) count: Option<u64>,
}

/// What a worker uses of descriptors and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Appetite {
    /// Less than any limit.
    Modest,
    /// More with every look at it.
    Leaks,
    /// Now more than a limit, now less, so that what counts in a row begins anew.
    Swings,
}

/// Everything that will become of a worker, unless somebody ends it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fate {
    pub(crate) birth: Birth,
    pub(crate) birth_delay: Duration,
    pub(crate) ready_after: Option<Duration>,
    pub(crate) dies: Option<(Duration, ExitStatus)>,
    pub(crate) on_term: OnTerm,
    /// A drain that ends at once is also what a driver tells that cannot turn connections away.
    pub(crate) drain: Drain,
    /// How many connections are cut when its time is over.
    pub(crate) connections: u32,
    pub(crate) members: Members,
    pub(crate) beat: Option<Beat>,
    pub(crate) heeds_abort: bool,
    pub(crate) kill_delay: Duration,
    pub(crate) report_delay: Duration,
    pub(crate) appetite: Appetite,
    /// Its soft limit on descriptors.
    pub(crate) fd_limit: u64,
}

impl Fate {
    /// What becomes of a worker when nothing goes wrong.
    pub(crate) fn healthy(plan: &Plan, worker: WorkerId) -> Self {
        let mut rng = Rng::of(plan.seed, FATE, worker.0 | 1 << 40);
        Self {
            birth: Birth::Succeeds,
            birth_delay: Duration::from_millis(1),
            ready_after: Some(rng.ms(5, 300)),
            dies: None,
            on_term: OnTerm::Leaves { after: rng.ms(1, 400), status: ExitStatus::Code(0) },
            drain: Drain::Ends(rng.ms(0, 300)),
            connections: 0,
            members: Members::None,
            beat: Some(Beat { count: None }),
            heeds_abort: true,
            kill_delay: Duration::from_millis(1),
            report_delay: Duration::from_millis(1),
            appetite: Appetite::Modest,
            fd_limit: 1_000,
        }
    }

    /// What becomes of a worker while faults go on.
    pub(crate) fn of(plan: &Plan, worker: WorkerId, role: Role, generation: u32) -> Self {
        if plan.spared.contains(&worker.0) {
            return Self::healthy(plan, worker);
        }
        let mut rng = Rng::of(plan.seed, FATE, worker.0);
        let mix = &plan.mix;
        let sick = if plan.is_sick(generation) { 60 } else { 0 };
        Self {
            birth: birth(plan, &mut rng),
            birth_delay: if rng.chance(mix.spawn_is_slow) { rng.ms(10, SPAWN_MS_MAX) } else { rng.ms(1, 3) },
            ready_after: ready_after(plan, &mut rng, sick),
            dies: dies(plan, &mut rng, sick),
            on_term: on_term(plan, &mut rng),
            drain: drain(plan, &mut rng),
            connections: u32::try_from(rng.below(4)).unwrap_or(0),
            members: members(plan, &mut rng, role),
            beat: rng.chance(mix.beats).then(|| Beat { count: rng.chance(mix.falls_silent).then(|| rng.below(8)) }),
            heeds_abort: rng.chance(50),
            kill_delay: rng.ms(0, KILL_MS_MAX),
            report_delay: if rng.chance(mix.late_report) { rng.ms(5, REPORT_MS_MAX) } else { rng.ms(0, 2) },
            appetite: appetite(plan, &mut rng),
            fd_limit: rng.pick(&[1_000, 1_000, 1_000, 250, u64::MAX]),
        }
    }
}

fn birth(plan: &Plan, rng: &mut Rng) -> Birth {
    if rng.chance(plan.mix.spawn_fails) {
        Birth::Fails { permanent: rng.chance(plan.mix.spawn_fails_for_good) }
    } else {
        Birth::Succeeds
    }
}

fn ready_after(plan: &Plan, rng: &mut Rng, sick: u64) -> Option<Duration> {
    if rng.chance(plan.mix.never_ready.max(sick / 2)) {
        None
    } else if rng.chance(plan.mix.slow_boot) {
        Some(rng.ms(200, BOOT_MS_MAX))
    } else {
        Some(rng.ms(0, 300))
    }
}

fn dies(plan: &Plan, rng: &mut Rng, sick: u64) -> Option<(Duration, ExitStatus)> {
    let status = rng.pick(&[
        ExitStatus::Code(0),
        ExitStatus::Code(1),
        ExitStatus::Code(2),
        ExitStatus::Signal(9),
        ExitStatus::Signal(11),
    ]);
    if rng.chance(plan.mix.dies_young.max(sick)) {
        let (first, last) = rng.pick(&[(0, 0), (0, 2), (0, 400), (0, 400)]);
        Some((rng.ms(first, last), status))
    } else if rng.chance(plan.mix.dies_later) {
        let (first, last) = rng.pick(&[(300, 3_000), (1_000, 10_000), (29_000, 33_000)]);
        Some((rng.ms(first, last), status))
    } else {
        None
    }
}

fn on_term(plan: &Plan, rng: &mut Rng) -> OnTerm {
    if rng.chance(plan.mix.ignores_term) {
        return OnTerm::Ignores;
    }
    let status = if rng.chance(plan.mix.dies_draining) { ExitStatus::Signal(11) } else { ExitStatus::Code(0) };
    let (first, last) = rng.pick(&[(0, 5), (10, 900), (900, 1_100), (500, 11_000)]);
    OnTerm::Leaves { after: rng.ms(first, last), status }
}

fn drain(plan: &Plan, rng: &mut Rng) -> Drain {
    if rng.chance(plan.mix.never_drains) {
        Drain::Never
    } else if rng.chance(plan.mix.dies_draining) {
        Drain::Dies(rng.ms(0, 500))
    } else {
        let (first, last) = rng.pick(&[(0, 0), (1, 100), (500, 1_500), (800, 11_000)]);
        Drain::Ends(rng.ms(first, last))
    }
}

fn appetite(plan: &Plan, rng: &mut Rng) -> Appetite {
    if rng.chance(plan.mix.leaks) {
        Appetite::Leaks
    } else if rng.chance(plan.mix.swings) {
        Appetite::Swings
    } else {
        Appetite::Modest
    }
}

fn members(plan: &Plan, rng: &mut Rng, role: Role) -> Members {
    let often = match role {
        Role::Job => plan.mix.group_outlives,
        Role::Http => plan.mix.group_outlives / 3,
    };
    if !rng.chance(often) {
        Members::None
    } else if rng.chance(50) {
        Members::Leave(rng.ms(0, 3_000))
    } else {
        Members::Stay
    }
}
