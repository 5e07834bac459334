//! When a worker that ended by itself is replaced: exactly after the delay, growing in a crash loop, never before.

use std::collections::BTreeMap;
use std::time::Duration;

use propane_core::{Action, Event, Generation, Report, RespawnMode, Role, StartReason, StopReason, Time, WorkerId};

use super::books::{Books, Entry};
use super::{Context, Rule, Violation, ensure};

const STABLE: Duration = Duration::from_secs(30);
const FLOOR: Duration = Duration::from_millis(100);

/// The rules about respawns.
#[derive(Debug, Default)]
pub(crate) struct Respawns {
    slots: BTreeMap<(Role, u32), Slot>,
    asked: BTreeMap<WorkerId, Asked>,
}

/// A worker that was asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    /// Before this time it should not have been.
    due: Time,
    /// Whether its slot was waiting for somebody to come back.
    is_respawn: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Early deaths in a row, at least and at most.
    early: (u32, u32),
    /// Before this time nobody is respawned.
    due: Time,
    /// Somebody has to be there from then on.
    pending: bool,
    /// That of the last one who was asked for.
    generation: Generation,
}

impl Respawns {
    pub(crate) fn action(&mut self, context: &Context, books: &Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Spawn { worker, role, slot, generation } => {
                let slot = self.slots.entry((*role, *slot)).or_default();
                // A job worker of another generation is there because a reload hands over, at this very moment perhaps.
                let is_same = *role == Role::Http || slot.generation == *generation;
                let is_respawn = is_same && slot.pending && slot.due <= context.now && context.is_time();
                slot.generation = *generation;
                self.asked.insert(*worker, Asked { due: slot.due, is_respawn });
                Ok(())
            }
            Action::Report(Report::WorkerExited { worker, respawn_in: Some(delay), .. }) => {
                books.get(*worker).map_or(Ok(()), |entry| self.ended(context, entry, *delay))
            }
            Action::Report(Report::WorkerExited { worker, respawn_in: None, .. }) => {
                // It may have had its slot, and may have been about to have it.
                if let Some(entry) = books.get(*worker).filter(|entry| has_taken_over(entry)) {
                    self.slots.entry((entry.role, entry.slot)).or_default().early.0 = 0;
                }
                Ok(())
            }
            Action::Report(Report::WorkerSpawnFailed { role, slot, retry_in: Some(delay), .. }) => {
                self.unborn(context, *role, *slot, *delay)
            }
            Action::Report(Report::WorkerStarted { worker, reason: StartReason::RespawnAfterExit }) => {
                books.get(*worker).map_or(Ok(()), |entry| self.is_due(entry))
            }
            Action::Report(Report::WorkerTurnedAway { worker, reason }) if is_of_a_rollout(*reason) => {
                self.hands_over(context, books.get(*worker));
                Ok(())
            }
            Action::Report(Report::WorkerStopRequested { worker, reason, kill: false, .. })
                if is_of_a_rollout(*reason) =>
            {
                // One that was turned away from has handed its slot over long ago.
                let at_once = |entry: &&Entry| entry.told.is_some_and(|told| !told.turned_away);
                self.hands_over(context, books.get(*worker).filter(at_once));
                Ok(())
            }
            Action::Report(Report::Resized { from, to }) => {
                let is_other = |index: u32| index >= (*from).min(*to);
                let others = self.slots.iter_mut().filter(|((role, index), _)| *role == Role::Http && is_other(*index));
                others.for_each(|(_, slot)| slot.early = (0, 0));
                Ok(())
            }
            Action::Report(Report::ReloadStarted { .. }) if is_alone(context) => {
                // Who comes back after a reload that failed comes back at once.
                self.slots.iter_mut().for_each(|(_, slot)| (slot.due, slot.pending) = (Time::default(), false));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether somebody is to come back.
    pub(crate) fn is_waiting(&self) -> bool {
        self.slots.values().any(|slot| slot.pending)
    }

    /// A worker gives its slot to another: it had it, and so the slot's count began anew with it or begins anew now.
    /// One that was told before it existed has handed it over long ago as well.
    fn hands_over(&mut self, context: &Context, entry: Option<&Entry>) {
        if let Some(entry) = entry.filter(|entry| has_taken_over(entry) && entry.spawned_at != Some(context.now)) {
            self.slots.entry((entry.role, entry.slot)).or_default().early = (0, 0);
        }
    }

    /// A worker that served its slot has ended by itself. Only one that came back after another counts on: whoever has
    /// taken a slot over begins anew.
    fn ended(&mut self, context: &Context, entry: &Entry, delay: Duration) -> Result<(), Violation> {
        let lifetime = entry.spawned_at.map_or(Duration::ZERO, |at| context.now.since(at));
        let slot = self.slots.entry((entry.role, entry.slot)).or_default();
        if has_taken_over(entry) {
            slot.early = (0, 0);
        }
        self.judge(context, entry.role, entry.slot, lifetime, delay)
    }

    /// A worker that was to serve a slot could not be started. Why it was asked for nobody has said.
    fn unborn(&mut self, context: &Context, role: Role, slot: u32, delay: Duration) -> Result<(), Violation> {
        let Event::SpawnFailed { worker, .. } = context.event else { return Ok(()) };
        if !self.asked.get(worker).is_some_and(|asked| asked.is_respawn) {
            self.slots.entry((role, slot)).or_default().early.0 = 0;
        }
        self.judge(context, role, slot, Duration::ZERO, delay)
    }

    fn judge(
        &mut self,
        context: &Context,
        role: Role,
        slot: u32,
        lifetime: Duration,
        delay: Duration,
    ) -> Result<(), Violation> {
        ensure(context.policy.respawn == RespawnMode::Always, Rule::RespawnDelay, || {
            "a respawn without leave".to_owned()
        })?;
        let slot = self.slots.entry((role, slot)).or_default();
        let after = |early| if lifetime >= STABLE { 0 } else { early + 1 };
        slot.early = (after(slot.early.0), after(slot.early.1));
        slot.due = context.now + delay;
        slot.pending = true;
        let (least, most) = (bounds(context, role, slot.early.0).0, bounds(context, role, slot.early.1).1);
        ensure((least..=most).contains(&delay), Rule::RespawnDelay, || {
            format!("{delay:?} is not in {least:?}..={most:?}: {slot:?}")
        })
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
            ensure(!(forgotten && quiet), Rule::RespawnRemembered, || {
                format!("{role:?} slot {index}: {slot:?} at {}", context.now)
            })?;
        }
        Ok(())
    }

    fn is_due(&self, entry: &Entry) -> Result<(), Violation> {
        let due = self.asked.get(&entry.id).copied().unwrap_or_default().due;
        ensure(entry.asked_at >= due, Rule::RespawnNotEarly, || format!("{entry:?}, due {due}"))
    }
}

/// Whether a worker that served its slot had not come back after another.
fn has_taken_over(entry: &Entry) -> bool {
    entry.reason != Some(StartReason::RespawnAfterExit)
}

/// Whether a worker leaves because another one takes its slot over.
fn is_of_a_rollout(reason: StopReason) -> bool {
    matches!(reason, StopReason::ReloadRetire(_) | StopReason::Recycle(_))
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
