//! Looks at workers' resources, and what follows from them: at the right times, about the right workers, for a reason.

use std::time::Duration;

use propane_core::{
    Action, Event, FdSeverity, Policy, RecycleReason, Report, RespawnMode, Role, Sample, Time, WorkerId,
};

use super::books::{Books, Entry, Presence};
use super::{Context, Rule, Violation, ensure};

/// How many samples in a row must be over the limit.
const STRIKES: u32 = 3;

/// The rules about resources.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    /// When the next look is due, while there are looks.
    next_look: Option<Time>,
    has_looked: bool,
    /// What the sample of this step makes worth telling.
    pressure: Option<(WorkerId, FdSeverity)>,
    /// Whom the sample of this step makes too heavy.
    heavy: Option<(WorkerId, RecycleReason)>,
}

impl Resources {
    /// A sample came in: works out what has to follow.
    pub(crate) fn event(&mut self, policy: &Policy, books: &mut Books, event: &Event) {
        let Event::Sampled { worker, sample } = event else { return };
        let Some(entry) = books.get_mut(*worker).filter(|entry| entry.is_wanted()) else { return };
        let severity = severity(policy, sample);
        self.pressure = (severity > entry.severity).then_some((*worker, severity));
        entry.severity = severity;
        let over = policy.max_rss_kib.is_some_and(|max| sample.rss_kib > max);
        entry.rss_strikes = if over { entry.rss_strikes + 1 } else { 0 };
        let candidate = entry.serves() && entry.recycled_at.is_none();
        self.heavy = too_heavy(policy, sample, entry.rss_strikes).filter(|_| candidate).map(|reason| (*worker, reason));
    }

    pub(crate) fn action(&mut self, context: &Context, books: &mut Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Sample { worker } => {
                self.has_looked = true;
                let entry = books.known(*worker)?;
                let stays = entry.told.is_none() && entry.killed.is_none() && entry.aborted_at.is_none();
                let fit = entry.role == Role::Http && entry.is_present() && stays;
                ensure(fit, Rule::StayersLookedAt, || format!("{entry:?}"))
            }
            Action::Report(Report::WorkerFdPressure { worker, severity, .. }) => {
                let expected = self.pressure.take();
                ensure(expected == Some((*worker, *severity)), Rule::Pressure, || {
                    format!("{action:?}, not {expected:?}")
                })
            }
            Action::Report(Report::WorkerRecycleRequested { worker, reason, .. }) => {
                let entry = books.known(*worker)?;
                let due = match reason {
                    RecycleReason::MaxLifetime => is_old(context, entry),
                    _ => self.heavy.take() == Some((*worker, *reason)),
                };
                ensure(due && entry.serves() && entry.recycled_at.is_none(), Rule::Recycled, || {
                    format!("{action:?} of {entry:?}")
                })?;
                entry.recycled_at = Some(context.now);
                Ok(())
            }
            Action::Report(Report::WorkerReady { worker, .. }) => {
                books.known(*worker)?.lifetime = context.policy.max_lifetime;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// After a step: what had to follow has followed. `serving` is false once workers were told to stop.
    pub(crate) fn finish(&mut self, context: &Context, books: &Books, serving: bool) -> Result<(), Violation> {
        let (pressure, heavy) = (self.pressure.take(), self.heavy.take());
        ensure(pressure.is_none(), Rule::Pressure, || format!("{pressure:?} is not told"))?;
        ensure(heavy.is_none(), Rule::Recycled, || format!("{heavy:?} is not recycled"))?;
        let forgotten = books.present().find(|entry| context.is_time() && is_too_old(context, entry));
        ensure(forgotten.is_none(), Rule::Recycled, || format!("{forgotten:?} at {}", context.now))?;
        self.look_is_in_time(context, books, serving)
    }

    /// A look at once when looks are switched on, then one an interval, and none between.
    fn look_is_in_time(&mut self, context: &Context, books: &Books, serving: bool) -> Result<(), Violation> {
        let has_looked = std::mem::take(&mut self.has_looked);
        if !serving || !has_limits(context.policy) {
            self.next_look = None;
            let allowed = !has_looked || !serving;
            return ensure(allowed, Rule::Looks, || "nothing is to be looked for".to_owned());
        }
        let due = context.is_time() && self.next_look.is_none_or(|at| at <= context.now);
        if due {
            self.next_look = Some(context.now + context.policy.sample_interval);
        }
        let mut visible = books.present().filter(|entry| entry.role == Role::Http && entry.presence == Presence::Alive);
        let idle = !visible.any(Entry::is_wanted);
        ensure(has_looked == due || due && idle, Rule::Looks, || {
            format!("looked: {has_looked}, due: {due} at {}", context.now)
        })
    }
}

/// Whether anything about resources is limited.
fn has_limits(policy: &Policy) -> bool {
    let fds = policy.fd_limits;
    let limits = [fds.warn_percent, fds.critical_percent, fds.retire_percent, fds.retire_count];
    policy.respawn != RespawnMode::Once && (limits.iter().any(|limit| *limit > 0) || policy.max_rss_kib.is_some())
}

fn severity(policy: &Policy, sample: &Sample) -> FdSeverity {
    let reached = |percent: u32| percent > 0 && uses(sample, percent);
    match (reached(policy.fd_limits.warn_percent), reached(policy.fd_limits.critical_percent)) {
        (_, true) => FdSeverity::Critical,
        (true, false) => FdSeverity::Warning,
        (false, false) => FdSeverity::Fine,
    }
}

/// Whether a worker uses so much of its limit.
fn uses(sample: &Sample, percent: u32) -> bool {
    u128::from(sample.fd_count) * 100 >= u128::from(sample.fd_limit) * u128::from(percent)
}

fn too_heavy(policy: &Policy, sample: &Sample, rss_strikes: u32) -> Option<RecycleReason> {
    let (count, percent) = (u64::from(policy.fd_limits.retire_count), policy.fd_limits.retire_percent);
    if count > 0 && sample.fd_count >= count {
        Some(RecycleReason::FdCount)
    } else if percent > 0 && uses(sample, percent) {
        Some(RecycleReason::FdPercent)
    } else {
        (rss_strikes >= STRIKES).then_some(RecycleReason::MaxRss)
    }
}

/// A lifetime varies by a tenth.
fn is_old(context: &Context, entry: &Entry) -> bool {
    let least = entry.lifetime.map_or(Duration::MAX, |lifetime| lifetime * 9 / 10);
    entry.ready_at.is_some_and(|at| context.now.since(at) >= least)
}

fn is_too_old(context: &Context, entry: &Entry) -> bool {
    let most = entry.lifetime.map_or(Duration::MAX, |lifetime| lifetime * 11 / 10);
    entry.serves() && entry.recycled_at.is_none() && entry.ready_at.is_some_and(|at| context.now.since(at) > most)
}
