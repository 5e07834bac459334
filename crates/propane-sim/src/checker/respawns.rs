//! When a worker that ended by itself is replaced: exactly after the delay, growing in a crash loop, never before.

use std::collections::BTreeMap;
use std::time::Duration;

use propane_core::{Action, Event, Report, RespawnMode, Role, StartReason, Time, WorkerId};

use super::books::{Books, Entry};
use super::{Context, Violation, ensure};

const STABLE: Duration = Duration::from_secs(30);
const FLOOR: Duration = Duration::from_millis(100);
const LAW: &str = "respawn delays follow the law";

/// The rules about respawns.
#[derive(Debug, Default)]
pub(crate) struct Respawns {
    slots: BTreeMap<(Role, u32), Slot>,
    /// Before which time each worker might not have been asked for.
    asked: BTreeMap<WorkerId, Time>,
    /// Whether slots may have changed hands otherwise, which begins a crash loop's count anew.
    unsure: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Early deaths in a row, at most.
    early: u32,
    /// Before this time nobody is respawned.
    due: Time,
    /// Somebody has to be there from then on.
    pending: bool,
}

impl Respawns {
    pub(crate) fn action(&mut self, context: &Context, books: &Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Spawn { worker, role, slot, .. } => {
                let due = self.slots.get(&(*role, *slot)).map_or(Time::default(), |slot| slot.due);
                self.asked.insert(*worker, due);
                Ok(())
            }
            Action::Report(Report::WorkerExited { worker, respawn_in: Some(delay), .. }) => {
                books.get(*worker).map_or(Ok(()), |entry| self.planned(context, entry, *delay))
            }
            Action::Report(Report::WorkerSpawnFailed { role, slot, retry_in: Some(delay), .. }) => {
                self.judge(context, *role, *slot, Duration::ZERO, *delay)
            }
            Action::Report(Report::WorkerStarted { worker, reason: StartReason::RespawnAfterExit }) => {
                books.get(*worker).map_or(Ok(()), |entry| self.is_due(entry))
            }
            Action::Report(Report::ReloadStarted { .. }) if is_alone(context) => {
                // Who comes back after a reload that failed comes back at once.
                self.slots.iter_mut().for_each(|(_, slot)| (slot.due, slot.pending) = (Time::default(), false));
                self.unsure = true;
                Ok(())
            }
            Action::Report(
                Report::ReloadStarted { .. } | Report::WorkerRecycleRequested { .. } | Report::Resized { .. },
            ) => {
                self.unsure = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn planned(&mut self, context: &Context, entry: &Entry, delay: Duration) -> Result<(), Violation> {
        let lifetime = entry.spawned_at.map_or(Duration::ZERO, |at| context.now.since(at));
        self.judge(context, entry.role, entry.slot, lifetime, delay)
    }

    fn judge(
        &mut self,
        context: &Context,
        role: Role,
        slot: u32,
        lifetime: Duration,
        delay: Duration,
    ) -> Result<(), Violation> {
        ensure(context.policy.respawn == RespawnMode::Always, LAW, || "a respawn without leave".to_owned())?;
        let slot = self.slots.entry((role, slot)).or_default();
        slot.early = if lifetime >= STABLE { 0 } else { slot.early + 1 };
        slot.due = context.now + delay;
        slot.pending = true;
        let (least, most) = bounds(context, role, slot.early);
        let least = if self.unsure { base(context, role) } else { least };
        ensure((least..=most).contains(&delay), LAW, || format!("{delay:?} is not in {least:?}..={most:?}: {slot:?}"))
    }

    /// After a step: whoever is to be respawned is. `count` is how many slots there are.
    pub(crate) fn finish(
        &mut self,
        context: &Context,
        books: &Books,
        count: impl Fn(Role) -> u32,
        quiet: bool,
    ) -> Result<(), Violation> {
        for ((role, index), slot) in self.slots.iter_mut().filter(|(_, slot)| slot.pending) {
            let mut here = books.present().filter(|entry| (entry.role, entry.slot) == (*role, *index));
            slot.pending = *index < count(*role) && !here.any(Entry::is_wanted);
            let forgotten = slot.pending && slot.due <= context.now && context.is_time();
            ensure(!(forgotten && quiet), "respawns are not forgotten", || {
                format!("{role:?} slot {index}: {slot:?} at {}", context.now)
            })?;
        }
        Ok(())
    }

    fn is_due(&self, entry: &Entry) -> Result<(), Violation> {
        let due = self.asked.get(&entry.id).copied().unwrap_or_default();
        ensure(entry.asked_at >= due, "nobody is respawned before the delay is over", || {
            format!("{entry:?}, due {due}")
        })
    }
}

/// Whether the reload that begins makes the old workers leave first.
fn is_alone(context: &Context) -> bool {
    let new = matches!(context.event, Event::ConfigurationLoaded { policy } if !policy.overlap_allowed);
    new || !context.policy.overlap_allowed
}

fn base(context: &Context, role: Role) -> Duration {
    match role {
        Role::Http => context.policy.respawn_delay,
        Role::Job => context.policy.job_respawn_delay,
    }
}

/// The least and the greatest delay after so many early deaths in a row.
fn bounds(context: &Context, role: Role, early: u32) -> (Duration, Duration) {
    let (delay, delay_max) = (base(context, role), context.policy.respawn_delay_max);
    if early <= 1 || delay_max <= delay {
        return (delay, delay);
    }
    let grown = delay.max(FLOOR).saturating_mul(1 << (early - 2).min(20)).min(delay_max);
    ((grown * 8 / 10).clamp(delay, delay_max), (grown * 12 / 10).clamp(delay, delay_max))
}
