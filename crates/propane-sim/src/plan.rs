//! What a seed stands for: the policies, the mix of faults, and what the operator and the machine do when.
//!
//! Every schedule draws its own mix ("swarm testing"): most faults are off in most schedules, so that each is also seen
//! without the others in its way.

use std::collections::BTreeSet;
use std::time::Duration;

use propane_core::{FdLimits, Policy, RespawnMode, StopSignal, Time, TurnAway};

use crate::coverage::Step;
use crate::rng::Rng;

/// What the generators of a plan are for.
const PLAN: u64 = 1;
const CONFIGURATION: u64 = 2;
/// The generators of workers' fates.
pub(crate) const FATE: u64 = 3;
/// The generators of answers to samples.
pub(crate) const SAMPLE: u64 = 4;

/// The limit on a worker's memory, where there is one.
pub(crate) const RSS_LIMIT_KIB: u64 = 1_000;

/// How late a driver may be that is slow, but not asleep.
pub(crate) const LAG_MS_MAX: u64 = 700;

/// How often each fault strikes, in percent of the cases in which it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mix {
    pub(crate) spawn_fails: u64,
    pub(crate) spawn_fails_for_good: u64,
    pub(crate) spawn_is_slow: u64,
    pub(crate) never_ready: u64,
    pub(crate) slow_boot: u64,
    pub(crate) dies_young: u64,
    pub(crate) dies_later: u64,
    pub(crate) dies_draining: u64,
    pub(crate) ignores_term: u64,
    pub(crate) never_drains: u64,
    pub(crate) group_outlives: u64,
    pub(crate) late_report: u64,
    pub(crate) beats: u64,
    pub(crate) falls_silent: u64,
    pub(crate) leaks: u64,
    pub(crate) swings: u64,
    pub(crate) sample_lost: u64,
    pub(crate) stray_events: u64,
    pub(crate) refused: u64,
    pub(crate) changed: u64,
    pub(crate) sick_generation: u64,
}

impl Mix {
    fn draw(rng: &mut Rng) -> Self {
        Self {
            spawn_fails: rng.pick(&[0, 0, 0, 5, 40]),
            spawn_fails_for_good: rng.pick(&[0, 0, 0, 20]),
            spawn_is_slow: rng.pick(&[0, 0, 20, 60]),
            never_ready: rng.pick(&[0, 0, 0, 10, 40]),
            slow_boot: rng.pick(&[0, 0, 30]),
            dies_young: rng.pick(&[0, 0, 0, 10, 50]),
            dies_later: rng.pick(&[0, 0, 20, 60]),
            dies_draining: rng.pick(&[0, 0, 20]),
            ignores_term: rng.pick(&[0, 0, 15, 50]),
            never_drains: rng.pick(&[0, 0, 15, 50]),
            group_outlives: rng.pick(&[0, 0, 20, 60]),
            late_report: rng.pick(&[0, 0, 30, 80]),
            beats: rng.pick(&[100, 100, 50]),
            falls_silent: rng.pick(&[0, 0, 20, 50]),
            leaks: rng.pick(&[0, 0, 30]),
            swings: rng.pick(&[0, 30, 80]),
            sample_lost: rng.pick(&[0, 0, 30]),
            stray_events: rng.pick(&[0, 0, 30]),
            refused: rng.pick(&[0, 0, 25]),
            changed: rng.pick(&[0, 50, 90]),
            sick_generation: rng.pick(&[0, 0, 0, 40]),
        }
    }
}

/// What does not come from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Hup,
    Ttin,
    Ttou,
    Usr1,
    Stop(StopSignal),
    /// The kernel does not let the driver turn connections away any more.
    Refusal,
    /// A worker shuts the socket down that all of them hold.
    Renewal,
    /// The driver does not run for a while.
    Nap(Duration),
    /// Nobody runs for a while: the machine, or all of a container, is paused.
    Freeze(Duration),
}

/// One schedule.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) policy: Policy,
    pub(crate) mix: Mix,
    /// What the operator and the machine do, in order of time.
    pub(crate) script: Vec<(Time, Deed)>,
    /// What the operator does right after a step, in order of steps: between two things that belong together, say.
    pub(crate) ambushes: Vec<(u32, Deed)>,
    /// What the operator does as soon as the manager does something, in the worst moment for it.
    pub(crate) lurking: Vec<(Step, Deed)>,
    /// When faults stop.
    pub(crate) calm_at: Time,
    /// How late the driver is for its deadlines when nothing is wrong.
    pub(crate) lag: Duration,
    /// Whether the time passes before what happens at the same instant is heard of.
    pub(crate) timers_first: bool,
    /// What the operator does before the boot.
    pub(crate) early: Option<Deed>,
    /// Whether there is one more reload when everything has come right.
    pub(crate) last_reload: bool,
    /// The second signal of the final stop, if there is one, and how long after the first.
    pub(crate) hurry: Option<(Duration, StopSignal)>,
    /// Workers that nothing befalls. Only shrinking fills this.
    pub(crate) spared: BTreeSet<u64>,
    /// Generations that change nothing and befall nobody. Only shrinking fills this.
    pub(crate) tamed: BTreeSet<u32>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = Rng::of(seed, PLAN, 0);
        let respawn = match rng.below(10) {
            0 => RespawnMode::Never,
            1 => RespawnMode::Once,
            _ => RespawnMode::Always,
        };
        let policy = policy(&mut rng, respawn);
        let mix = Mix::draw(&mut rng);
        let calm_at = Time::default() + rng.pick(&[2, 5, 10, 20, 40].map(Duration::from_secs));
        Self {
            seed,
            policy,
            mix,
            script: script(&mut rng, calm_at),
            ambushes: ambushes(&mut rng),
            lurking: lurking(&mut rng),
            calm_at,
            lag: Duration::from_millis(rng.pick(&[0, 0, 1, LAG_MS_MAX])),
            timers_first: rng.chance(50),
            early: rng.chance(3).then(|| rng.pick(&SIGNALS)),
            last_reload: rng.chance(50),
            hurry: rng
                .chance(30)
                .then(|| (rng.ms(0, 2_000), rng.pick(&[StopSignal::Term, StopSignal::Int, StopSignal::Quit]))),
            spared: BTreeSet::new(),
            tamed: BTreeSet::new(),
        }
    }

    /// What a reload reads: a policy, or nothing usable. `current` is what the last good one read.
    pub(crate) fn configuration(&self, generation: u32, current: &Policy) -> Option<Policy> {
        let mut rng = Rng::of(self.seed, CONFIGURATION, u64::from(generation));
        if self.tamed.contains(&generation) {
            return Some(current.clone());
        }
        if rng.chance(self.mix.refused) {
            return None;
        }
        let next = if rng.chance(self.mix.changed) { policy(&mut rng, current.respawn) } else { current.clone() };
        Some(next)
    }

    /// Whether the workers of a generation are mostly unfit.
    pub(crate) fn is_sick(&self, generation: u32) -> bool {
        let mut rng = Rng::of(self.seed, CONFIGURATION, u64::from(generation) | 1 << 40);
        generation > 0 && !self.tamed.contains(&generation) && rng.chance(self.mix.sick_generation)
    }
}

fn policy(rng: &mut Rng, respawn: RespawnMode) -> Policy {
    let overlap_allowed = !rng.chance(15);
    let ms = |rng: &mut Rng, choices: &[u64]| Duration::from_millis(rng.pick(choices));
    Policy {
        http_workers: if overlap_allowed { rng.pick(&[1, 2, 2, 3, 4, 6, 9]) } else { 1 },
        job_workers: rng.pick(&[0, 0, 1, 2]),
        respawn_delay: ms(rng, &[0, 50, 250, 1_000]),
        respawn_delay_max: ms(rng, &[0, 400, 2_000, 30_000]),
        job_respawn_delay: ms(rng, &[0, 250, 1_000]),
        graceful_timeout: ms(rng, &[1_000, 2_000, 10_000]),
        reload_overlap: ms(rng, &[0, 100, 1_000, 3_000]),
        reload_max_surge: rng.pick(&[0, 0, 1, 2, 3]),
        overlap_allowed,
        turn_away: rng.pick(&[TurnAway::Nobody, TurnAway::LeavingSlots, TurnAway::Everybody]),
        boot_timeout: ms(rng, &[1_000, 3_000, 20_000]),
        heartbeat_timeout: rng.pick(&[None, None, Some(2_000), Some(10_000)]).map(Duration::from_millis),
        max_lifetime: rng.pick(&[None, None, Some(6_000), Some(30_000)]).map(Duration::from_millis),
        max_rss_kib: rng.pick(&[None, None, Some(RSS_LIMIT_KIB)]),
        fd_limits: fd_limits(rng),
        sample_interval: ms(rng, &[1_000, 5_000, 15_000]),
        start_limit_burst: rng.pick(&[0, 0, 0, 1, 3, 8]),
        shutdown_drain: ms(rng, &[0, 0, 0, 1_000, 5_000]),
        respawn,
    }
}

fn fd_limits(rng: &mut Rng) -> FdLimits {
    let (warn_percent, critical_percent) = rng.pick(&[(0, 0), (0, 0), (80, 90), (50, 60)]);
    let (retire_percent, retire_count) = rng.pick(&[(0, 0), (0, 0), (95, 0), (0, 900), (95, 900)]);
    FdLimits { warn_percent, critical_percent, retire_percent, retire_count }
}

fn script(rng: &mut Rng, calm_at: Time) -> Vec<(Time, Deed)> {
    let end = calm_at.as_micros() / 1_000;
    let mut script = Vec::new();
    let reloads = rng.pick(&[0, 40, 60, 90]);
    let mut at = 0;
    for _ in 0..rng.pick(&[0, 2, 5, 12, 25, 50]) {
        // Storms: what comes next often comes at once, or within the time that one step of a reload takes.
        at = match rng.below(4) {
            0 => at,
            1 => at + rng.below(20),
            2 => at + rng.below(1_500),
            _ => rng.below(end),
        };
        script.push((Time::from_micros(at.min(end - 1) * 1_000), deed(rng, reloads)));
    }
    if rng.chance(20) {
        let at = Time::from_micros(rng.below(end) * 1_000);
        let signal = rng.pick(&[StopSignal::Term, StopSignal::Term, StopSignal::Int, StopSignal::Quit]);
        script.push((at, Deed::Stop(signal)));
    }
    script.sort_by_key(|(at, _)| *at);
    script
}

fn ambushes(rng: &mut Rng) -> Vec<(u32, Deed)> {
    let mut ambushes = Vec::new();
    let reloads = rng.pick(&[30, 70]);
    for _ in 0..rng.pick(&[0, 0, 1, 3, 9]) {
        let span = rng.pick(&[8, 40, 200]);
        let step = 1 + rng.below(span);
        let deed = if rng.chance(5) { Deed::Stop(StopSignal::Term) } else { deed(rng, reloads) };
        ambushes.push((u32::try_from(step).unwrap_or(1), deed));
    }
    ambushes.sort_by_key(|(step, _)| *step);
    ambushes
}

/// Everything that an operator can send.
const SIGNALS: [Deed; 7] = [
    Deed::Hup,
    Deed::Ttin,
    Deed::Ttou,
    Deed::Usr1,
    Deed::Stop(StopSignal::Term),
    Deed::Stop(StopSignal::Int),
    Deed::Stop(StopSignal::Quit),
];

fn lurking(rng: &mut Rng) -> Vec<(Step, Deed)> {
    let count = rng.pick(&[0, 0, 0, 1, 1, 2, 4]);
    (0..count).map(|_| (rng.pick(Step::ALL), rng.pick(&SIGNALS))).collect()
}

fn deed(rng: &mut Rng, reloads: u64) -> Deed {
    if rng.chance(reloads) {
        return Deed::Hup;
    }
    match rng.below(12) {
        0 => rng.pick(&[Deed::Usr1, Deed::Usr1, Deed::Refusal, Deed::Renewal]),
        1 => {
            let time = Duration::from_millis(rng.pick(&[500, 1_500, 15_000, 90_000]));
            rng.pick(&[Deed::Nap(time), Deed::Nap(time), Deed::Freeze(time)])
        }
        2..=6 => Deed::Ttin,
        _ => Deed::Ttou,
    }
}
