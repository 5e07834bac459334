//! What becomes of a rollout that fails: the new workers go, the old ones stay or come back, nothing else has changed.

use crate::event::{Role, WorkerId};
use crate::policy::Policy;
use crate::report::{ReloadFailure, Report, StartReason};
use crate::time::Time;
use crate::worker::State;

use super::super::{Place, Slot, Supervisor};
use super::Cause;

impl Supervisor {
    /// Ends the rollout if `worker` is one of its new ones.
    pub(in crate::supervisor) fn fail_rollout_of(&mut self, now: Time, worker: WorkerId, failure: ReloadFailure) {
        if self.http.iter().any(|slot| slot.next == Some(worker)) {
            self.fail_rollout(now, failure);
        }
    }

    /// Ends the rollout if a worker that was to take a slot over is gone.
    pub(in crate::supervisor) fn fail_rollout_at(&mut self, now: Time, place: Place, failure: ReloadFailure) {
        if place == Place::Next {
            self.fail_rollout(now, failure);
        }
    }

    /// Ends the rollout: new workers that have not taken a slot over go, whoever has one keeps it.
    pub(in crate::supervisor) fn fail_rollout(&mut self, now: Time, failure: ReloadFailure) {
        let Some(rollout) = self.rollout.take() else { return };
        let new = self.take_new();
        if let Cause::Reload { .. } = rollout.cause {
            self.drop_empty_slots(rollout.previous);
        }
        self.drop_new(now, &new, rollout.cause);
        match rollout.cause {
            Cause::Reload { generation } => {
                let (replaced, of) = (rollout.replaced, rollout.target);
                self.report(Report::ReloadFailed { generation, failure, replaced, of });
                if replaced == 0 {
                    self.return_policy(now, rollout.previous_policy);
                }
                self.forget_generations();
            }
            Cause::Recycle { worker, reason } => self.put_off_recycle(now, worker, reason, failure),
        }
        self.returning = rollout.vacates && rollout.replaced == 0;
    }

    /// Takes their slots from those who were to take them over.
    pub(super) fn take_new(&mut self) -> Vec<WorkerId> {
        self.http.iter_mut().filter_map(|slot| slot.next.take()).collect()
    }

    /// Has new workers leave. One that is not known to be ready may have been given connections all the same: it accepts
    /// before that is seen, from a queue of its own or from the one that it shares with the old worker.
    pub(super) fn drop_new(&mut self, now: Time, new: &[WorkerId], cause: Cause) {
        for worker in new.iter().copied() {
            match self.workers.get(worker).map(|worker| &worker.state) {
                Some(State::Starting { .. } | State::Ready) => self.retire(now, worker, cause.abort_reason()),
                Some(State::Aborting { .. }) => {} // it dumps core, and is killed when that takes too long
                _ => self.kill(now, worker, cause.abort_reason(), false),
            }
        }
    }

    /// Slots that only the failed generation would have filled.
    fn drop_empty_slots(&mut self, previous: u32) {
        let is_empty = |slot: &Slot| slot.current.is_none() && slot.respawn_at.is_none();
        while self.http_count() > previous && self.http.last().is_some_and(is_empty) {
            self.http.pop();
            self.close_slot_if_unused(self.http_count());
        }
    }

    /// A reload that replaced nobody has changed nothing.
    fn return_policy(&mut self, now: Time, previous: Option<Box<Policy>>) {
        if let Some(previous) = previous {
            self.policy = *previous;
            self.plan_samples(now);
        }
    }

    /// Slots whose old worker had to leave first get it back, as soon as nobody of the new ones holds the port.
    pub(in crate::supervisor) fn return_the_old(&mut self, now: Time) {
        if !self.returning || !self.phase.is_serving() || !self.port_is_free() {
            return;
        }
        self.returning = false;
        for slot in 0..self.http_count() {
            self.fill(now, Role::Http, slot, StartReason::RespawnAfterExit);
        }
    }
}
