//! Everything that happens because time passes, in one place.

use std::time::Duration;

use crate::action::{Action, Signal};
use crate::event::{Role, Sample, WorkerId};
use crate::report::{RecycleReason, ReloadFailure, Report, StartReason, StopReason};
use crate::time::Time;
use crate::worker::{State, Worker};

use super::Supervisor;

/// A manager that wakes up later than this after a deadline was not running (stopped, suspended, starved): it waits for
/// its workers anew.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// How long a hung worker has to write its core after ABRT.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

impl Supervisor {
    /// When `TimePassed` is due, if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Time> {
        let slots = self.http.iter().chain(&self.jobs).filter_map(|slot| slot.respawn_at);
        let own = [
            self.workers.deadline(),
            self.rollout_deadline(),
            self.stop_deadline(),
            self.recycle_deadline(),
            self.sample_at,
        ];
        slots.chain(own.into_iter().flatten()).min()
    }

    /// Nobody is killed for what the manager may have missed while it was asleep.
    pub(super) fn forgive_oversleeping(&mut self, now: Time) {
        let (late, boot_timeout) =
            (self.poll_timeout().map_or(Duration::ZERO, |due| now.since(due)), self.policy.boot_timeout);
        if late > OVERSLEPT {
            self.workers.for_each_mut(|worker| worker.forgive(now, boot_timeout));
        }
    }

    /// Deadlines are judged here and nowhere else: other events may stand before those that would have met a deadline, the
    /// heartbeats of other workers say. First what becomes of workers: it may end the rollout, or the wait before a stop.
    pub(super) fn fire_due(&mut self, now: Time) {
        self.fire_workers(now);
        self.fire_settling(now);
        self.fire_stop(now);
        self.fire_respawns(now);
        self.fire_samples(now);
    }

    fn fire_workers(&mut self, now: Time) {
        for id in self.workers.due(now) {
            self.fire_worker(now, id);
        }
    }

    fn fire_worker(&mut self, now: Time, id: WorkerId) {
        // What became of another one may have given this one a new state, and a deadline that is not due.
        let Some(worker) = self.workers.get(id).filter(|worker| is_due(worker, now)) else { return };
        let silent = worker.is_wanted() && worker.heartbeat_by.is_some_and(|by| by <= now);
        let state = worker.state.clone();
        if silent && self.is_reprieved(now, id) {
            return self.fire_worker(now, id); // something else may be due for it
        }
        match state {
            State::Starting { .. } | State::Ready if silent => self.heartbeat_timed_out(now, id),
            State::Starting { .. } => self.boot_timed_out(now, id),
            State::Ready => self.request_recycle(id, RecycleReason::MaxLifetime, None),
            State::TurnedAway { .. } => self.drain_timed_out(now, id),
            State::Draining { reason, .. } | State::Lingering { reason, .. } => self.kill(now, id, reason, true),
            State::Aborting { .. } => self.kill(now, id, StopReason::HeartbeatTimeout, true),
            State::Spawning { .. } | State::Killed { .. } => {}
        }
    }

    fn boot_timed_out(&mut self, now: Time, id: WorkerId) {
        let timeout = self.policy.boot_timeout;
        self.report(Report::WorkerBootTimedOut { worker: id, timeout });
        self.kill(now, id, StopReason::BootTimeout, false);
        self.fail_rollout_of(now, id, ReloadFailure::BootTimeout);
    }

    fn is_reprieved(&mut self, now: Time, id: WorkerId) -> bool {
        self.workers.get_mut(id).is_some_and(|worker| worker.reprieve(now))
    }

    fn heartbeat_timed_out(&mut self, now: Time, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.state = State::Aborting { kill_at: now + ABORT_TIMEOUT };
        let timeout = worker.heartbeat_timeout.unwrap_or_default();
        self.report(Report::WorkerHeartbeatTimedOut { worker: id, timeout });
        self.actions.push_back(Action::Signal { worker: id, signal: Signal::Abort });
        self.fail_rollout_of(now, id, ReloadFailure::HeartbeatTimeout);
    }

    fn fire_respawns(&mut self, now: Time) {
        for role in [Role::Http, Role::Job] {
            let due: Vec<_> = (0u32..)
                .zip(self.slots(role).iter())
                .filter(|(_, slot)| slot.respawn_at.is_some_and(|at| at <= now))
                .map(|(index, _)| index)
                .collect();
            for index in due {
                self.fill(now, role, index, StartReason::RespawnAfterExit);
            }
        }
    }

    fn fire_samples(&mut self, now: Time) {
        if !self.phase.is_serving() || self.sample_at.is_none_or(|at| at > now) {
            return;
        }
        self.sample_at = self.policy.samples().then(|| now + self.policy.sample_interval);
        let looked_at = |worker: &Worker| worker.role == Role::Http && worker.is_wanted();
        let workers: Vec<_> = self.workers.all().iter().filter(|(_, w)| looked_at(w)).map(|(id, _)| *id).collect();
        self.actions.extend(workers.into_iter().map(|worker| Action::Sample { worker }));
    }

    pub(super) fn sampled(&mut self, id: WorkerId, sample: Sample) {
        let (fd_limits, max_rss_kib) = (self.policy.fd_limits, self.policy.max_rss_kib);
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_wanted()) else { return };
        let (worse, recycle) = worker.judge(&sample, &fd_limits, max_rss_kib);
        if let Some(severity) = worse {
            self.report(Report::WorkerFdPressure { worker: id, severity, sample: sample.clone() });
        }
        if let Some(reason) = recycle {
            self.request_recycle(id, reason, Some(sample));
        }
    }

    /// Puts a worker on the list of those to replace, once.
    fn request_recycle(&mut self, id: WorkerId, reason: RecycleReason, sample: Option<Sample>) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_ready() && !worker.recycling) else {
            return;
        };
        worker.recycling = true;
        self.recycle_queue.push_back((id, reason));
        self.report(Report::WorkerRecycleRequested { worker: id, reason, sample });
    }
}

fn is_due(worker: &Worker, now: Time) -> bool {
    worker.deadline().is_some_and(|at| at <= now)
}
