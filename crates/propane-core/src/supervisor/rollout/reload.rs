//! How a reload begins: one HUP, one reading of the configuration, one rollout at a time.

use crate::action::Action;
use crate::event::{Role, WorkerId};
use crate::policy::Policy;
use crate::report::{ReloadCause, ReloadFailure, Report, StopReason};
use crate::time::Time;
use crate::worker::{State, Worker};

use super::super::{Slot, Supervisor};
use super::{Cause, Rollout, batches};

impl Supervisor {
    pub(in crate::supervisor) fn reload_requested(&mut self, now: Time, cause: ReloadCause) {
        if !self.phase.is_running() {
            return;
        }
        self.report(Report::ReloadRequested { cause });
        self.reload_pending = true;
        self.resize_pending = None; // the configured count counts, and what is asked for from now on
        self.cancel_recycle(now);
    }

    /// Begins what had to wait for a rollout to end: a reload first, then a resize, then a recycling.
    pub(in crate::supervisor) fn start_what_waits(&mut self, now: Time) {
        if !self.phase.is_running() || self.rollout.is_some() || self.loading {
            return;
        }
        if self.reload_pending {
            if self.has_leftovers() {
                return;
            }
            self.reload_pending = false;
            self.generation += 1;
            self.loading = true;
            self.actions.push_back(Action::LoadConfiguration { generation: self.generation });
            return;
        }
        if self.returning {
            return;
        }
        self.resize(now);
        let has_to_recycle = !self.recycle_queue.is_empty() || self.recycle_retry_at.is_some();
        if has_to_recycle && !self.has_leftovers() {
            self.start_recycle(now);
        }
    }

    /// Whether HTTP workers of an earlier rollout are still on their way out: with those of another one they would be
    /// more than `reloadMaxSurge` allows. Those that were killed do not count, because nothing more can be done; one that
    /// dumps core is waited for by the rollout itself (`old_are_gone`).
    pub(super) fn has_leftovers(&self) -> bool {
        let leaving = |worker: &Worker| match &worker.state {
            State::TurnedAway { reason, .. }
            | State::Draining { reason, .. }
            | State::Lingering { reason, kill_at: Some(_), .. } => *reason != StopReason::ScaleDown,
            State::Spawning { doomed: Some(doom) } => doom.reason != StopReason::ScaleDown,
            _ => false,
        };
        self.workers
            .all()
            .iter()
            .any(|(id, worker)| worker.role == Role::Http && leaving(worker) && self.is_displaced(*id))
    }

    /// Whether a worker has no slot any more.
    pub(super) fn is_displaced(&self, id: WorkerId) -> bool {
        let holds = |slot: &Slot| slot.current == Some(id) || slot.next == Some(id);
        !self.http.iter().chain(&self.jobs).any(holds)
    }

    pub(in crate::supervisor) fn configuration_refused(&mut self) {
        if !std::mem::take(&mut self.loading) {
            return;
        }
        let (generation, of) = (self.generation, self.http_count());
        self.report(Report::ReloadFailed { generation, failure: ReloadFailure::Configuration, replaced: 0, of });
    }

    pub(in crate::supervisor) fn configuration_loaded(&mut self, now: Time, policy: Policy) {
        if !std::mem::take(&mut self.loading) {
            return;
        }
        self.heartbeat_timeouts.insert(self.generation, policy.heartbeat_timeout);
        let previous_policy = std::mem::replace(&mut self.policy, policy);
        self.plan_samples(now);
        let (generation, target) = (self.generation, self.policy.http_workers);
        self.report(Report::ReloadStarted { generation, workers: target, job_workers: self.policy.job_workers });
        let previous = self.http_count();
        while self.http_count() < target {
            self.http.push(Slot::of(generation));
        }
        // The old ones must be able to bear the new ones as well, and so must what an earlier reload left behind.
        let vacates = !self.policy.overlap_allowed || !previous_policy.overlap_allowed || self.returning;
        // Where no old one is left there is nothing to surge over, and nothing to keep of a half success.
        let surge = if vacates { 0 } else { self.policy.reload_max_surge };
        self.begin_rollout(
            now,
            Rollout {
                queue: batches(target, surge),
                by_batch: surge > 0,
                vacates,
                previous_policy: Some(Box::new(previous_policy)),
                previous,
                target,
                ..Rollout::new(now, Cause::Reload { generation })
            },
        );
    }

    /// Begins or ends the periodic look at workers, as the policy has it.
    pub(super) fn plan_samples(&mut self, now: Time) {
        self.sample_at = if self.policy.samples() { self.sample_at.or(Some(now)) } else { None };
    }
}
