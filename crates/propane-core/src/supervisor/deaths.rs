//! What follows when a worker ends, or never begins.

use std::time::Duration;

use crate::action::{Action, Signal};
use crate::event::{ExitStatus, Role, SpawnError, WorkerId};
use crate::policy::RespawnMode;
use crate::report::{ReloadFailure, Report, ShutdownCause, StartReason, StopReason};
use crate::restart;
use crate::time::Time;
use crate::worker::{State, Worker};

use super::{Place, Supervisor};

impl Supervisor {
    /// A process ended. One that was told to leave stays in the books until the rest of its group is gone, so that the
    /// group keeps its grace time, and is told in its turn where only the leader was; the rest of a group whose leader
    /// crashed is killed at once, because its successor would run beside it.
    pub(super) fn exited(&mut self, now: Time, id: WorkerId, status: ExitStatus, group_alive: bool) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if group_alive {
            match worker.state {
                State::TurnedAway { reason, since, kill_at, .. } | State::Draining { reason, since, kill_at } => {
                    worker.state = State::Lingering { reason, since, status, kill_at: Some(kill_at) };
                    if worker.role == Role::Http {
                        self.actions.push_back(Action::Signal { worker: id, signal: Signal::Term });
                    }
                    return;
                }
                State::Killed { reason, since } if !is_failure(reason) => {
                    worker.state = State::Lingering { reason, since, status, kill_at: None };
                    return;
                }
                _ => self.actions.push_back(Action::Signal { worker: id, signal: Signal::Kill }),
            }
        }
        self.gone(now, id, status);
    }

    pub(super) fn group_emptied(&mut self, now: Time, id: WorkerId) {
        if let Some(State::Lingering { status, .. }) = self.workers.get(id).map(|worker| &worker.state) {
            let status = *status;
            self.gone(now, id, status);
        }
    }

    /// A worker has left the books.
    fn gone(&mut self, now: Time, id: WorkerId, status: ExitStatus) {
        let Some(worker) = self.workers.remove(id) else { return };
        let slot_was_given_up = self.is_given_up(&worker);
        let place = self.vacate(&worker, id);
        match worker.state {
            State::TurnedAway { reason, since, .. }
            | State::Draining { reason, since, .. }
            | State::Lingering { reason, since, .. } => {
                self.report(Report::WorkerStopped { worker: id, status, reason, after: now.since(since) });
            }
            State::Killed { reason, since } if !is_failure(reason) || place != Place::Current => {
                self.report(Report::WorkerStopped { worker: id, status, reason, after: now.since(since) });
            }
            _ => self.died(now, id, &worker, place, status),
        }
        self.last_status = status;
        self.fill_replaced(now, worker.role, worker.slot);
        if slot_was_given_up {
            self.close_slot_if_unused(worker.slot);
        }
    }

    /// Takes a worker out of its slot.
    fn vacate(&mut self, worker: &Worker, id: WorkerId) -> Place {
        match self.slot(worker.role, worker.slot) {
            Some(slot) if slot.current == Some(id) => {
                slot.current = None;
                Place::Current
            }
            Some(slot) if slot.next == Some(id) => {
                slot.next = None;
                Place::Next
            }
            _ => Place::Nowhere,
        }
    }

    /// Starts the successor that waited for the end of a job worker, whatever that end was like.
    fn fill_replaced(&mut self, now: Time, role: Role, index: u32) {
        let waiting = self.slot(role, index).filter(|slot| slot.replacing && slot.current.is_none());
        if let Some(generation) = waiting.map(|slot| slot.generation) {
            self.fill(now, role, index, StartReason::Reload(generation));
        }
    }

    /// A worker has ended that should not have.
    fn died(&mut self, now: Time, id: WorkerId, worker: &Worker, place: Place, status: ExitStatus) {
        let lifetime = now.since(worker.started_at);
        let respawn_in = (place == Place::Current).then(|| self.plan_respawn(now, worker, lifetime)).flatten();
        self.report(Report::WorkerExited { worker: id, status, respawn_in });
        self.fail_rollout_at(now, place, ReloadFailure::WorkerExited(status));
        self.count_failed_boot(now, worker);
        self.end_if_once(now, worker, status);
    }

    /// Decides when the slot is filled again, and returns in what time.
    fn plan_respawn(&mut self, now: Time, worker: &Worker, lifetime: Duration) -> Option<Duration> {
        if self.policy.respawn != RespawnMode::Always || !self.phase.is_serving() || self.has_successor(worker) {
            return None;
        }
        let jitter = self.rng.percent(restart::JITTER_PERCENT);
        let (delay_max, delay) = (
            self.policy.respawn_delay_max,
            match worker.role {
                Role::Http => self.policy.respawn_delay,
                Role::Job => self.policy.job_respawn_delay,
            },
        );
        let slot = self.slot(worker.role, worker.slot)?;
        slot.early_deaths = restart::early_deaths_after(slot.early_deaths, lifetime);
        let delay = restart::respawn_delay(delay, delay_max, slot.early_deaths, jitter);
        slot.respawn_at = Some(now + delay);
        Some(delay)
    }

    pub(super) fn spawn_failed(&mut self, now: Time, id: WorkerId, error: SpawnError) {
        let Some(worker) = self.workers.remove(id) else { return };
        let slot_was_given_up = self.is_given_up(&worker);
        let place = self.vacate(&worker, id);
        let fatal = error.permanent && worker.reason == StartReason::Boot;
        let retry_in =
            (place == Place::Current && !fatal).then(|| self.plan_respawn(now, &worker, Duration::ZERO)).flatten();
        self.report(Report::WorkerSpawnFailed {
            role: worker.role,
            slot: worker.slot,
            generation: worker.generation,
            message: error.message,
            retry_in,
        });
        self.fail_rollout_at(now, place, ReloadFailure::SpawnFailed);
        if fatal {
            self.begin_stop(now, ShutdownCause::BootFailed, 1);
        } else {
            self.count_failed_boot(now, &worker);
            self.end_if_once(now, &worker, ExitStatus::Code(1));
            self.last_status = ExitStatus::Code(1);
            self.fill_replaced(now, worker.role, worker.slot);
        }
        if slot_was_given_up {
            self.close_slot_if_unused(worker.slot);
        }
    }

    /// A worker that was to leave as soon as it was there never came to be. Nobody has heard of it, so nothing is reported.
    pub(super) fn spawn_abandoned(&mut self, now: Time, id: WorkerId) {
        if !self.workers.get(id).is_some_and(Worker::is_doomed) {
            return;
        }
        let Some(worker) = self.workers.remove(id) else { return };
        let slot_was_given_up = self.is_given_up(&worker);
        self.vacate(&worker, id);
        self.fill_replaced(now, worker.role, worker.slot);
        if slot_was_given_up {
            self.close_slot_if_unused(worker.slot);
        }
    }

    /// `startLimitBurst`: gives up where nothing has ever worked.
    fn count_failed_boot(&mut self, now: Time, worker: &Worker) {
        if worker.role == Role::Job || worker.was_ready() || self.ever_ready {
            return;
        }
        self.failed_boots = self.failed_boots.saturating_add(1);
        if self.policy.start_limit_burst > 0 && self.failed_boots >= self.policy.start_limit_burst {
            self.begin_stop(now, ShutdownCause::StartLimit, 1);
        }
    }

    /// `--once`: the first HTTP worker's end is the manager's.
    fn end_if_once(&mut self, now: Time, worker: &Worker, status: ExitStatus) {
        if self.policy.respawn == RespawnMode::Once && worker.role == Role::Http {
            self.begin_stop(now, ShutdownCause::OnceWorkerExit, status.exit_code());
        }
    }

    /// `--no-respawn`: the last worker's end is the manager's, also of one that was told to leave, unless a reload is to
    /// bring new ones.
    pub(super) fn end_if_none_is_left(&mut self, now: Time) {
        let more_to_come = self.rollout.is_some() || self.loading || self.reload_pending || self.returning;
        if self.policy.respawn == RespawnMode::Never
            && self.phase.is_serving()
            && self.workers.all().is_empty()
            && !more_to_come
        {
            self.begin_stop(now, ShutdownCause::WorkersExhausted, self.last_status.exit_code());
        }
    }

    /// Whether somebody is to follow a worker in its slot as soon as it is gone, so that no respawn is to be planned.
    fn has_successor(&mut self, worker: &Worker) -> bool {
        let replacing = self.slot(worker.role, worker.slot).is_some_and(|slot| slot.replacing);
        replacing || worker.role == Role::Http && (self.is_vacating() || self.returning)
    }

    /// Whether a worker's HTTP slot was scaled away before the worker was gone.
    fn is_given_up(&self, worker: &Worker) -> bool {
        worker.role == Role::Http && worker.slot >= self.http_count()
    }

    /// An HTTP slot that was scaled away is closed when its last worker is gone.
    pub(super) fn close_slot_if_unused(&mut self, slot: u32) {
        let in_use = |worker: &Worker| worker.role == Role::Http && worker.slot == slot;
        if slot >= self.http_count() && !self.workers.all().values().any(in_use) {
            self.actions.push_back(Action::CloseSlot { slot });
        }
    }
}

/// Whether a stop is the worker's own failure: then it counts as a death, and the slot is filled again.
fn is_failure(reason: StopReason) -> bool {
    matches!(reason, StopReason::BootTimeout | StopReason::HeartbeatTimeout)
}
