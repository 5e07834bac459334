//! Replacing workers make-before-break: the reload of all slots and the recycling of one are the same transaction.
//!
//! A rollout boots the new workers batch by batch beside the old ones, lets them settle, and only then lets the new take
//! the slots over and the old drain. Until that switch a failure of any new worker ends it with the old ones untouched.

use std::collections::VecDeque;

use crate::action::Action;
use crate::event::{Generation, Role, WorkerId};
use crate::policy::Policy;
use crate::report::{RecycleReason, ReloadFailure, Report, StartReason, StopReason};
use crate::time::Time;
use crate::worker::State;

use super::{Place, Slot, Supervisor};

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
    started_at: Time,
    /// HTTP slots before.
    previous: u32,
    /// HTTP slots wanted.
    target: u32,
    replaced: u32,
    killed: u32,
}

/// The order in which slots are replaced: one canary, then the rest, `surge` at a time where that is limited.
fn batches(target: u32, surge: u32) -> VecDeque<Vec<u32>> {
    let rest: Vec<u32> = (1..target).collect();
    let size = if surge == 0 { rest.len().max(1) } else { surge as usize };
    std::iter::once(vec![0]).chain(rest.chunks(size).map(<[u32]>::to_vec)).collect()
}

impl Supervisor {
    pub(super) fn reload_requested(&mut self, now: Time) {
        if !self.phase.is_running() {
            return;
        }
        self.report(Report::ReloadRequested);
        self.reload_pending = true;
        self.cancel_recycle(now);
    }

    /// Begins what had to wait for a rollout to end: a reload first, then a resize, then a recycling.
    pub(super) fn start_what_waits(&mut self, now: Time) {
        if !self.phase.is_running() || self.rollout.is_some() || self.loading {
            return;
        }
        if std::mem::take(&mut self.reload_pending) {
            self.generation += 1;
            self.loading = true;
            self.resize_pending = 0;
            self.actions.push_back(Action::LoadConfiguration { generation: self.generation });
            return;
        }
        self.resize(now);
        self.start_recycle(now);
    }

    pub(super) fn configuration_refused(&mut self) {
        if !std::mem::take(&mut self.loading) {
            return;
        }
        let (generation, of) = (self.generation, self.http_count());
        self.report(Report::ReloadFailed { generation, failure: ReloadFailure::Configuration, replaced: 0, of });
    }

    pub(super) fn configuration_loaded(&mut self, now: Time, policy: Policy) {
        if !std::mem::take(&mut self.loading) {
            return;
        }
        self.policy = policy;
        self.sample_at = if self.policy.samples() { self.sample_at.or(Some(now)) } else { None };
        let (generation, target) = (self.generation, self.policy.http_workers);
        self.report(Report::ReloadStarted { generation, workers: target, job_workers: self.policy.job_workers });
        let previous = self.http_count();
        while self.http_count() < target {
            self.http.push(Slot::of(generation));
        }
        let surge = self.policy.reload_max_surge;
        let queue = batches(target, surge);
        self.begin_rollout(now, Cause::Reload { generation }, queue, surge > 0, previous, target);
    }

    fn start_recycle(&mut self, now: Time) {
        if self.recycle_retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.recycle_retry_at = None;
        while let Some((worker, reason)) = self.recycle_queue.pop_front() {
            let Some(slot) = self.workers.get(&worker).filter(|worker| worker.is_ready()).map(|worker| worker.slot)
            else {
                continue;
            };
            if self.http.get(slot as usize).is_some_and(|slot| slot.current == Some(worker)) {
                let count = self.http_count();
                let queue = VecDeque::from([vec![slot]]);
                return self.begin_rollout(now, Cause::Recycle { worker, reason }, queue, true, count, count);
            }
        }
    }

    pub(super) fn recycle_deadline(&self) -> Option<Time> {
        self.recycle_retry_at.filter(|_| self.phase.is_running() && self.rollout.is_none() && !self.loading)
    }

    fn begin_rollout(
        &mut self,
        now: Time,
        cause: Cause,
        queue: VecDeque<Vec<u32>>,
        by_batch: bool,
        previous: u32,
        target: u32,
    ) {
        let (stage, batch) = (Stage::Draining, Vec::new());
        self.rollout = Some(Rollout {
            cause,
            stage,
            batch,
            queue,
            by_batch,
            started_at: now,
            previous,
            target,
            replaced: 0,
            killed: 0,
        });
        self.advance_rollout(now);
    }

    /// Goes on with the rollout as far as it can.
    pub(super) fn advance_rollout(&mut self, now: Time) {
        while let Some(rollout) = &self.rollout {
            let went_on = match rollout.stage {
                Stage::Vacating => self.batch_is_vacant() && self.boot_batch(now),
                Stage::Booting => self.batch_is_ready() && self.settle_or_go_on(now),
                Stage::Settling { until } => until <= now && self.switch(now),
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

    fn batch_is_vacant(&self) -> bool {
        self.batch().all(|slot| slot.current.is_none())
    }

    fn batch_is_ready(&self) -> bool {
        self.batch().all(|slot| self.is_ready(slot.next))
    }

    fn next_batch_or_finish(&mut self, now: Time) -> bool {
        let Some(rollout) = &mut self.rollout else { return false };
        match rollout.queue.pop_front() {
            Some(batch) => {
                rollout.batch = batch;
                self.begin_batch(now)
            }
            None => self.finish_rollout(now),
        }
    }

    fn begin_batch(&mut self, now: Time) -> bool {
        if self.policy.overlap_allowed {
            return self.boot_batch(now);
        }
        let Some(reason) = self.rollout.as_ref().map(|rollout| rollout.cause.stop_reason()) else { return false };
        let slots = self.rollout.as_ref().map(|rollout| rollout.batch.clone()).unwrap_or_default();
        for index in slots {
            let Some(slot) = self.slot(Role::Http, index) else { continue };
            slot.respawn_at = None;
            if let Some(old) = slot.current {
                self.retire(now, old, reason);
            }
        }
        self.set_stage(Stage::Vacating)
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
        if rollout.by_batch || rollout.queue.is_empty() {
            self.set_stage(Stage::Settling { until: now + self.policy.reload_overlap })
        } else {
            self.next_batch_or_finish(now)
        }
    }

    /// The new workers take their slots over, the old ones are told to leave.
    fn switch(&mut self, now: Time) -> bool {
        let Some(cause) = self.rollout.as_ref().map(|rollout| rollout.cause) else { return false };
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
        let Some(rollout) = &mut self.rollout else { return false };
        rollout.replaced += replaced;
        rollout.stage = Stage::Draining;
        let (last, target) = (rollout.queue.is_empty(), rollout.target);
        if let Cause::Reload { generation } = cause
            && last
        {
            self.truncate(now, Role::Http, target, cause.stop_reason());
            self.replace_jobs(now, generation);
        }
        true
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
            State::Draining { reason, .. } | State::Killed { reason, .. } | State::Lingering { reason, .. } => {
                *reason == told
            }
            State::Spawning { doomed } => doomed.is_some_and(|doom| doom.reason == told),
            _ => false,
        };
        !self.workers.values().any(|worker| leaving(&worker.state)) && !self.jobs.iter().any(|slot| slot.replacing)
    }

    fn finish_rollout(&mut self, now: Time) -> bool {
        let Some(rollout) = self.rollout.take() else { return false };
        if let Cause::Reload { generation } = rollout.cause {
            self.settled_generation = generation;
            let (workers, job_workers) = (filled(&self.http), filled(&self.jobs));
            let after = now.since(rollout.started_at);
            let killed = rollout.killed;
            self.report(Report::ReloadCompleted { generation, workers, job_workers, after, killed });
            self.forget_generations();
        }
        self.announce_ready(now);
        true
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

    /// Ends the rollout if `worker` is one of its new ones.
    pub(super) fn fail_rollout_of(&mut self, now: Time, worker: WorkerId, failure: ReloadFailure) {
        if self.http.iter().any(|slot| slot.next == Some(worker)) {
            self.fail_rollout(now, failure);
        }
    }

    /// Ends the rollout if a worker that was to take a slot over is gone.
    pub(super) fn fail_rollout_at(&mut self, now: Time, place: Place, failure: ReloadFailure) {
        if place == Place::Next {
            self.fail_rollout(now, failure);
        }
    }

    /// Ends the rollout: new workers that have not taken a slot over go, whoever has one keeps it.
    pub(super) fn fail_rollout(&mut self, now: Time, failure: ReloadFailure) {
        let Some(rollout) = self.rollout.take() else { return };
        self.drop_new(now, rollout.cause);
        match rollout.cause {
            Cause::Reload { generation } => {
                let (replaced, of) = (rollout.replaced, rollout.target);
                self.report(Report::ReloadFailed { generation, failure, replaced, of });
                self.drop_empty_slots(rollout.previous);
                self.forget_generations();
            }
            Cause::Recycle { worker, reason } => self.put_off_recycle(now, worker, reason, failure),
        }
        self.refill_vacated(now);
    }

    fn drop_new(&mut self, now: Time, cause: Cause) {
        let new: Vec<_> = self.http.iter_mut().filter_map(|slot| slot.next.take()).collect();
        for worker in new {
            if self.is_ready(Some(worker)) {
                self.retire(now, worker, cause.abort_reason());
            } else {
                self.kill(now, worker, cause.abort_reason(), false);
            }
        }
    }

    /// Slots that only the failed generation would have filled.
    fn drop_empty_slots(&mut self, previous: u32) {
        while self.http_count() > previous && self.http.last().is_some_and(|slot| slot.current.is_none()) {
            self.http.pop();
        }
    }

    /// Slots whose old worker had to leave first get it back.
    fn refill_vacated(&mut self, now: Time) {
        if !self.phase.is_serving() || self.policy.overlap_allowed {
            return;
        }
        for slot in self.http.iter_mut().filter(|slot| slot.current.is_none() && slot.respawn_at.is_none()) {
            slot.respawn_at = Some(now);
        }
    }

    /// Tries a failed recycling again later.
    fn put_off_recycle(&mut self, now: Time, worker: WorkerId, reason: RecycleReason, failure: ReloadFailure) {
        if let Some(slot) = self.workers.get(&worker).map(|worker| worker.slot) {
            self.report(Report::WorkerRecycleFailed { slot, failure });
            self.recycle_queue.push_back((worker, reason));
            self.recycle_retry_at = Some(now + self.policy.respawn_delay_max.max(self.policy.respawn_delay));
        }
    }

    /// A reload replaces everybody anyway: it need not wait for a recycling that has not switched yet.
    fn cancel_recycle(&mut self, now: Time) {
        let early = |rollout: &Rollout| {
            matches!(rollout.cause, Cause::Recycle { .. })
                && matches!(rollout.stage, Stage::Booting | Stage::Settling { .. })
        };
        if self.policy.overlap_allowed
            && let Some(rollout) = self.rollout.take_if(|rollout| early(rollout))
        {
            self.drop_new(now, rollout.cause);
            if let Cause::Recycle { worker, reason } = rollout.cause {
                self.recycle_queue.push_front((worker, reason));
            }
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
