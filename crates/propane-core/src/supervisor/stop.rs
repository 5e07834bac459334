//! How the manager ends. A stop is never cancelled, and it wins over everything.

use serde::{Deserialize, Serialize};

use crate::action::Action;
use crate::event::{StopSignal, WorkerId};
use crate::report::{ReloadFailure, Report, ShutdownCause, StopReason};
use crate::time::Time;

use super::Supervisor;

/// What the manager as a whole is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has not booted.
    Idle,
    /// It keeps its workers alive.
    Running,
    /// It was told to stop, and still serves for `shutdownDrainSeconds`.
    Lasting {
        /// Why it stops.
        cause: ShutdownCause,
        /// Until when it serves.
        until: Time,
    },
    /// Its workers were told to leave.
    Stopping {
        /// Why it stops.
        cause: ShutdownCause,
        /// What it exits with.
        exit_code: u8,
    },
    /// It has said its last action.
    Stopped,
}

impl Phase {
    /// Whether nothing has asked for an end yet.
    pub fn is_running(self) -> bool {
        self == Self::Running
    }

    /// Whether workers are kept alive.
    pub fn is_serving(self) -> bool {
        matches!(self, Self::Running | Self::Lasting { .. })
    }
}

impl Supervisor {
    pub(super) fn stop_requested(&mut self, now: Time, signal: StopSignal) {
        let cause = ShutdownCause::Signal(signal);
        let again = !self.phase.is_running();
        if self.phase == Phase::Idle {
            self.phase = Phase::Running;
        }
        if again || signal == StopSignal::Quit {
            self.stop_at_once(now, cause);
        } else {
            self.begin_stop(now, cause, 0);
        }
    }

    /// Starts to stop: at first still serving where that was asked for.
    pub(super) fn begin_stop(&mut self, now: Time, cause: ShutdownCause, exit_code: u8) {
        match self.phase {
            Phase::Running => {}
            // The operator's stop wins: only its wait is over, because there is nothing left to wait with.
            Phase::Lasting { cause, .. } => return self.drain_all(now, cause, 0),
            _ => return,
        }
        self.request_shutdown(now, cause, exit_code);
        let by_operator = matches!(cause, ShutdownCause::Signal(_));
        if by_operator && !self.policy.shutdown_drain.is_zero() {
            self.phase = Phase::Lasting { cause, until: now + self.policy.shutdown_drain };
        } else {
            self.drain_all(now, cause, exit_code);
        }
    }

    /// TERM a second time, or QUIT: nobody gets any more time.
    fn stop_at_once(&mut self, now: Time, cause: ShutdownCause) {
        self.request_shutdown(now, cause, 0);
        if self.phase.is_serving() {
            self.phase = Phase::Stopping { cause, exit_code: 0 };
            self.report(Report::ManagerStopping { cause, exit_code: 0 });
        }
        self.stop_respawning();
        for id in self.everyone() {
            self.kill(now, id, StopReason::Shutdown(cause), false);
        }
    }

    fn request_shutdown(&mut self, now: Time, cause: ShutdownCause, exit_code: u8) {
        let exit_status = (!matches!(cause, ShutdownCause::Signal(_))).then_some(exit_code);
        self.report(Report::ShutdownRequested { cause, exit_status });
        self.fail_rollout(now, ReloadFailure::Shutdown);
        self.loading = false;
        self.reload_pending = false;
        self.resize_pending = None;
        self.recycle_queue.clear();
    }

    fn drain_all(&mut self, now: Time, cause: ShutdownCause, exit_code: u8) {
        self.phase = Phase::Stopping { cause, exit_code };
        self.report(Report::ManagerStopping { cause, exit_code });
        self.stop_respawning();
        for id in self.everyone() {
            self.retire(now, id, StopReason::Shutdown(cause));
        }
    }

    fn stop_respawning(&mut self) {
        self.sample_at = None;
        self.returning = false;
        for slot in self.http.iter_mut().chain(&mut self.jobs) {
            slot.respawn_at = None;
            slot.replacing = false;
        }
    }

    fn everyone(&self) -> Vec<WorkerId> {
        self.workers.all().keys().copied().collect()
    }

    /// It has served for long enough.
    pub(super) fn fire_stop(&mut self, now: Time) {
        if let Phase::Lasting { cause, until } = self.phase
            && until <= now
        {
            self.drain_all(now, cause, 0);
        }
    }

    pub(super) fn advance_stop(&mut self) {
        if let Phase::Stopping { cause, exit_code } = self.phase
            && self.workers.all().is_empty()
        {
            self.phase = Phase::Stopped;
            self.actions.push_back(Action::Exit { code: exit_code, cause });
        }
    }

    pub(super) fn stop_deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Lasting { until, .. } => Some(until),
            _ => None,
        }
    }
}
