//! Replacing workers make-before-break: the reload of all slots and the recycling of one are the same transaction.
//!
//! A rollout boots the new workers batch by batch beside the old ones, lets them settle, and only then lets the new take
//! the slots over and the old drain. Until that switch a failure of any new worker ends it with the old ones untouched.
//! Where old and new cannot share the port, all old ones leave before the first new one starts, and come back if that fails.
//!
//! How a rollout begins is in [`reload`] and [`recycle`], how it ends badly in [`failure`].

mod failure;
mod recycle;
mod reload;

use std::collections::VecDeque;

use crate::event::{Generation, Role, WorkerId};
use crate::policy::Policy;
use crate::report::{RecycleReason, Report, StartReason, StopReason};
use crate::time::Time;
use crate::worker::{State, Worker};

use super::{Slot, Supervisor};

/// Why workers are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Reload { generation: Generation },
    Recycle { worker: WorkerId, reason: RecycleReason },
}

impl Cause {
    fn start_reason(self) -> StartReason {
        match self {
            Self::Reload { generation } => StartReason::Reload(generation),
            Self::Recycle { reason, .. } => StartReason::Recycle(reason),
        }
    }

    fn stop_reason(self) -> StopReason {
        match self {
            Self::Reload { generation } => StopReason::ReloadRetire(generation),
            Self::Recycle { reason, .. } => StopReason::Recycle(reason),
        }
    }

    fn abort_reason(self) -> StopReason {
        match self {
            Self::Reload { generation } => StopReason::ReloadAbort(generation),
            Self::Recycle { .. } => StopReason::RecycleAbort,
        }
    }
}

/// How far the batch under way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Where old and new cannot run side by side: the old ones leave first.
    Vacating,
    /// The new ones start.
    Booting,
    /// The new ones are ready and show that they stay so.
    Settling { until: Time },
    /// The new ones serve, the old ones finish.
    Draining,
}

/// A replacement under way.
#[derive(Clone, Debug)]
pub(super) struct Rollout {
    cause: Cause,
    stage: Stage,
    batch: Vec<u32>,
    queue: VecDeque<Vec<u32>>,
    /// Whether each batch takes over by itself (`reloadMaxSurge`), or all together at the end.
    by_batch: bool,
    /// Whether all old workers have to leave before the first new one starts.
    vacates: bool,
    /// The policy to return to if a reload replaces nobody.
    previous_policy: Option<Box<Policy>>,
    started_at: Time,
    /// HTTP slots before a reload.
    previous: u32,
    /// HTTP slots that a reload wants.
    target: u32,
    replaced: u32,
    killed: u32,
    cut: u32,
}

impl Rollout {
    /// One that has nothing to do yet.
    fn new(now: Time, cause: Cause) -> Self {
        Self {
            cause,
            stage: Stage::Draining,
            batch: Vec::new(),
            queue: VecDeque::new(),
            by_batch: true,
            vacates: false,
            previous_policy: None,
            started_at: now,
            previous: 0,
            target: 0,
            replaced: 0,
            killed: 0,
            cut: 0,
        }
    }
}

/// The order in which slots are replaced: one canary, then the rest, `surge` at a time where that is limited.
fn batches(target: u32, surge: u32) -> VecDeque<Vec<u32>> {
    let rest: Vec<u32> = (1..target).collect();
    let size = if surge == 0 { rest.len().max(1) } else { surge as usize };
    std::iter::once(vec![0]).chain(rest.chunks(size).map(<[u32]>::to_vec)).collect()
}

impl Supervisor {
    fn begin_rollout(&mut self, now: Time, rollout: Rollout) {
        self.rollout = Some(rollout);
        self.advance_rollout(now);
    }

    /// Goes on with the rollout as far as it can.
    pub(super) fn advance_rollout(&mut self, now: Time) {
        while let Some(rollout) = &self.rollout {
            let went_on = match rollout.stage {
                Stage::Vacating => self.port_is_free() && self.boot_batch(now),
                Stage::Booting => self.batch_is_ready() && self.settle_or_go_on(now),
                Stage::Settling { .. } => false, // until its deadline is judged
                Stage::Draining => self.old_are_gone() && self.next_batch_or_finish(now),
            };
            if !went_on {
                return;
            }
        }
    }

    pub(super) fn rollout_deadline(&self) -> Option<Time> {
        match self.rollout.as_ref()?.stage {
            Stage::Settling { until } => Some(until),
            _ => None,
        }
    }

    /// The new workers have stayed for as long as they had to.
    pub(super) fn fire_settling(&mut self, now: Time) {
        if self.rollout_deadline().is_some_and(|until| until <= now) {
            self.switch(now);
        }
    }

    fn set_stage(&mut self, stage: Stage) -> bool {
        if let Some(rollout) = &mut self.rollout {
            rollout.stage = stage;
        }
        true
    }

    fn batch(&self) -> impl Iterator<Item = &Slot> {
        let batch = self.rollout.as_ref().map(|rollout| rollout.batch.as_slice()).unwrap_or_default();
        batch.iter().filter_map(|slot| self.http.get(*slot as usize))
    }

    /// Whether no HTTP worker is left that could hold the port, also none that was killed and is not gone yet.
    fn port_is_free(&self) -> bool {
        !self.workers.all().values().any(|worker| worker.role == Role::Http)
    }

    /// Whether old workers leave because nobody can start beside them.
    pub(super) fn is_vacating(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.stage == Stage::Vacating)
    }

    fn batch_is_ready(&self) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        // Counted first, because this is asked at every event: everybody of the batch is of this generation.
        let enough = match rollout.cause {
            Cause::Reload { generation } => self.workers.serving_of(generation) >= rollout.batch.len(),
            Cause::Recycle { .. } => true,
        };
        enough && self.batch().all(|slot| self.is_ready(slot.next))
    }

    fn next_batch_or_finish(&mut self, now: Time) -> bool {
        let Some(rollout) = &mut self.rollout else { return false };
        match rollout.queue.pop_front() {
            Some(batch) => {
                let is_first = std::mem::replace(&mut rollout.batch, batch).is_empty();
                self.begin_batch(now, is_first)
            }
            None => !self.jobs_are_asked_for() && self.finish_rollout(now),
        }
    }

    /// Whether a job worker is on its way: a reload is over when its job workers have been started, not when that was
    /// asked for.
    fn jobs_are_asked_for(&self) -> bool {
        let asked =
            |id: WorkerId| self.workers.get(id).is_some_and(|worker| matches!(worker.state, State::Spawning { .. }));
        self.jobs.iter().filter_map(|slot| slot.current).any(asked)
    }

    fn begin_batch(&mut self, now: Time, is_first: bool) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        if rollout.vacates && is_first {
            self.vacate_all(now, rollout.cause.stop_reason());
            return self.set_stage(Stage::Vacating);
        }
        self.boot_batch(now)
    }

    /// Asks every HTTP worker to leave.
    fn vacate_all(&mut self, now: Time, reason: StopReason) {
        self.returning = false;
        self.http.iter_mut().for_each(|slot| slot.respawn_at = None);
        let old: Vec<_> = self.http.iter().filter_map(|slot| slot.current).collect();
        for worker in old {
            self.retire(now, worker, reason);
        }
    }

    fn boot_batch(&mut self, now: Time) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        let (cause, batch) = (rollout.cause, rollout.batch.clone());
        for index in batch {
            let Some(slot) = self.slot(Role::Http, index) else { continue };
            let generation = match cause {
                Cause::Reload { generation } => generation,
                Cause::Recycle { .. } => slot.generation,
            };
            let worker = self.spawn(now, Role::Http, index, generation, cause.start_reason());
            if let Some(slot) = self.slot(Role::Http, index) {
                slot.next = Some(worker);
            }
        }
        self.set_stage(Stage::Booting)
    }

    fn settle_or_go_on(&mut self, now: Time) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        if !rollout.by_batch && !rollout.queue.is_empty() {
            return self.next_batch_or_finish(now);
        }
        if self.policy.reload_overlap.is_zero() {
            self.switch(now);
            return true;
        }
        self.set_stage(Stage::Settling { until: now + self.policy.reload_overlap })
    }

    /// The new workers take their slots over, the old ones are told to leave.
    fn switch(&mut self, now: Time) {
        let Some(cause) = self.rollout.as_ref().map(|rollout| rollout.cause) else { return };
        let mut replaced = 0;
        for index in 0..self.http_count() {
            let Some(slot) = self.slot(Role::Http, index) else { continue };
            let Some(next) = slot.next.take() else { continue };
            let old = slot.current.replace(next);
            slot.respawn_at = None;
            slot.early_deaths = 0;
            if let Cause::Reload { generation } = cause {
                slot.generation = generation;
            }
            replaced += 1;
            if let Some(old) = old {
                self.retire(now, old, cause.stop_reason());
            }
        }
        let Some(rollout) = &mut self.rollout else { return };
        rollout.replaced += replaced;
        rollout.stage = Stage::Draining;
        let (last, target) = (rollout.queue.is_empty(), rollout.target);
        if let Cause::Reload { generation } = cause
            && last
        {
            self.truncate(now, Role::Http, target, cause.stop_reason());
            self.replace_jobs(now, generation);
        }
    }

    /// Each job slot stops its old process and then starts the new one: a scheduler must not run twice.
    fn replace_jobs(&mut self, now: Time, generation: Generation) {
        let target = self.policy.job_workers;
        self.truncate(now, Role::Job, target, StopReason::ReloadRetire(generation));
        self.jobs.resize(target as usize, Slot::default());
        for index in 0..target {
            let Some(slot) = self.slot(Role::Job, index) else { continue };
            slot.generation = generation;
            slot.early_deaths = 0;
            slot.respawn_at = None;
            slot.replacing = true;
            match slot.current {
                Some(old) => self.retire(now, old, StopReason::ReloadRetire(generation)),
                None => self.fill(now, Role::Job, index, StartReason::Reload(generation)),
            }
        }
    }

    /// Whether nobody is left of those whom this rollout told to leave, and every job slot runs the new generation.
    fn old_are_gone(&self) -> bool {
        let Some(rollout) = &self.rollout else { return false };
        let told = rollout.cause.stop_reason();
        let leaving = |state: &State| match state {
            State::TurnedAway { reason, .. }
            | State::Draining { reason, .. }
            | State::Killed { reason, .. }
            | State::Lingering { reason, .. } => *reason == told,
            State::Spawning { doomed } => doomed.is_some_and(|doom| doom.reason == told),
            _ => false,
        };
        // One that dumps core could not be told, but has lost its slot as well.
        let aborting =
            |id: WorkerId, worker: &Worker| matches!(worker.state, State::Aborting { .. }) && self.is_displaced(id);
        !self.workers.all().iter().any(|(id, worker)| leaving(&worker.state) || aborting(*id, worker))
            && !self.jobs.iter().any(|slot| slot.replacing)
    }

    fn finish_rollout(&mut self, now: Time) -> bool {
        let Some(rollout) = self.rollout.take() else { return false };
        if let Cause::Reload { generation } = rollout.cause {
            self.settled_generation = generation;
            let (workers, job_workers) = (filled(&self.http), filled(&self.jobs));
            let after = now.since(rollout.started_at);
            let (killed, cut) = (rollout.killed, rollout.cut);
            self.report(Report::ReloadCompleted { generation, workers, job_workers, after, killed, cut });
            self.forget_generations();
        }
        true
    }

    /// Whether the rollout under way leaves nobody to take the connections of those who leave.
    pub(super) fn leaves_a_gap(&self) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| rollout.vacates)
    }

    /// Counts the connections of old workers whose time was not enough.
    pub(super) fn count_cut(&mut self, reason: StopReason, since: Time, count: u32) {
        if let Some(rollout) = &mut self.rollout
            && rollout.cause.stop_reason() == reason
            && since >= rollout.started_at
        {
            rollout.cut = rollout.cut.saturating_add(count);
        }
    }

    /// Counts the old workers whose grace time was not enough.
    pub(super) fn count_killed(&mut self, reason: StopReason, since: Time, grace_over: bool) {
        if let Some(rollout) = &mut self.rollout
            && grace_over
            && rollout.cause.stop_reason() == reason
            && since >= rollout.started_at
        {
            rollout.killed += 1;
        }
    }
}

fn filled(slots: &[Slot]) -> u32 {
    u32::try_from(slots.iter().filter(|slot| slot.current.is_some()).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canary_goes_first_and_the_surge_bounds_the_rest() {
        let table: [(u32, u32, &[&[u32]]); 6] = [
            (1, 0, &[&[0]]),
            (4, 0, &[&[0], &[1, 2, 3]]),
            (4, 1, &[&[0], &[1], &[2], &[3]]),
            (5, 2, &[&[0], &[1, 2], &[3, 4]]),
            (4, 9, &[&[0], &[1, 2, 3]]),
            (2, 3, &[&[0], &[1]]),
        ];
        for (target, surge, expected) in table {
            assert_eq!(batches(target, surge), expected, "target {target} surge {surge}");
        }
    }
}
