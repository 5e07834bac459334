//! Recycling: the rollout of one slot, for a worker that has lived long enough or uses too much.

use std::collections::VecDeque;

use crate::event::WorkerId;
use crate::report::{RecycleReason, ReloadFailure, Report};
use crate::time::Time;

use super::super::Supervisor;
use super::{Cause, Rollout, Stage};

impl Supervisor {
    pub(super) fn start_recycle(&mut self, now: Time) {
        if self.recycle_retry_at.is_some_and(|at| at > now) {
            return;
        }
        self.recycle_retry_at = None;
        while let Some((worker, reason)) = self.recycle_queue.pop_front() {
            let Some(slot) = self.workers.get(worker).filter(|worker| worker.is_ready()).map(|worker| worker.slot)
            else {
                continue;
            };
            if self.http.get(slot as usize).is_some_and(|slot| slot.current == Some(worker)) {
                let rollout = Rollout {
                    queue: VecDeque::from([vec![slot]]),
                    vacates: !self.policy.overlap_allowed,
                    ..Rollout::new(now, Cause::Recycle { worker, reason })
                };
                return self.begin_rollout(now, rollout);
            }
        }
    }

    pub(in crate::supervisor) fn recycle_deadline(&self) -> Option<Time> {
        let busy = self.rollout.is_some() || self.loading || self.reload_pending || self.returning;
        self.recycle_retry_at.filter(|_| self.phase.is_running() && !busy && !self.has_leftovers())
    }

    /// Tries a failed recycling again later.
    pub(super) fn put_off_recycle(
        &mut self,
        now: Time,
        worker: WorkerId,
        reason: RecycleReason,
        failure: ReloadFailure,
    ) {
        if let Some(slot) = self.workers.get(worker).map(|worker| worker.slot) {
            self.report(Report::WorkerRecycleFailed { slot, failure });
            self.recycle_queue.push_back((worker, reason));
            self.recycle_retry_at = Some(now + self.policy.respawn_delay_max.max(self.policy.respawn_delay));
        }
    }

    /// A reload replaces everybody anyway: it need not wait for a recycling that has not switched yet.
    pub(super) fn cancel_recycle(&mut self, now: Time) {
        let early = |rollout: &Rollout| {
            matches!(rollout.cause, Cause::Recycle { .. })
                && matches!(rollout.stage, Stage::Booting | Stage::Settling { .. })
                && !rollout.vacates
        };
        if let Some(rollout) = self.rollout.take_if(|rollout| early(rollout)) {
            let new = self.take_new();
            self.drop_new(now, &new, rollout.cause);
            if let Cause::Recycle { worker, reason } = rollout.cause {
                self.recycle_queue.push_front((worker, reason));
            }
        }
    }
}
