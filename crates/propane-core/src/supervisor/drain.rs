//! How a worker leaves while others stay: new connections are turned away from it, it finishes what it has, and only then
//! it is told. Both together share one grace time.

use crate::action::Action;
use crate::event::{Role, WorkerId};
use crate::policy::TurnAway;
use crate::report::{Report, StopReason};
use crate::time::Time;
use crate::worker::State;

use super::Supervisor;

impl Supervisor {
    /// Whether a worker that leaves can leave its connections to others, and has to. In a stop there are none.
    pub(super) fn leaves_for_others(&self, id: WorkerId) -> bool {
        let Some(worker) = self.workers.get(id).filter(|worker| worker.role == Role::Http) else { return false };
        let concerned = match self.policy.turn_away {
            TurnAway::Nobody => false,
            TurnAway::LeavingSlots => worker.slot >= self.http_count(),
            TurnAway::Everybody => true,
        };
        concerned && !self.cannot_turn_away && self.phase.is_serving() && !self.leaves_a_gap()
    }

    pub(super) fn turn_away(&mut self, now: Time, id: WorkerId, reason: StopReason) {
        let (term_by, kill_at) = (now + self.policy.drain_timeout(), now + self.policy.graceful_timeout);
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.state = State::TurnedAway { reason, since: now, term_by, kill_at };
        self.actions.push_back(Action::TurnAway { worker: id });
        self.report(Report::WorkerTurnedAway { worker: id, reason });
    }

    pub(super) fn drained(&mut self, now: Time, id: WorkerId, waited: u32) {
        let Some((reason, since, kill_at)) = self.state_of(id).as_ref().and_then(told_later) else { return };
        self.report(Report::WorkerDrained { worker: id, after: now.since(since), waited });
        self.tell_drained(now, id, reason, since, kill_at);
    }

    /// From now on everybody is told at once, also those who drain.
    pub(super) fn turning_away_refused(&mut self, now: Time) {
        self.cannot_turn_away = true;
        let draining: Vec<_> =
            self.workers.all().iter().filter_map(|(id, worker)| Some((*id, told_later(&worker.state)?))).collect();
        for (id, (reason, since, kill_at)) in draining {
            self.tell_drained(now, id, reason, since, kill_at);
        }
    }

    pub(super) fn drain_timed_out(&mut self, now: Time, id: WorkerId) {
        let Some(State::TurnedAway { reason, since, term_by, kill_at }) = self.state_of(id) else { return };
        self.report(Report::WorkerDrainTimedOut { worker: id, timeout: term_by.since(since) });
        // A worker that was handed its socket finishes by itself when it is told; of one that was not, nothing is known.
        if self.policy.turn_away == TurnAway::Everybody {
            self.count_connections(id);
        }
        self.tell_drained(now, id, reason, since, kill_at);
    }

    /// Sends TERM to a worker that was turned away from. It has what is left of its time, and at least what TERM itself takes:
    /// a manager that was asleep does not kill before that can have any effect.
    pub(super) fn tell_drained(&mut self, now: Time, id: WorkerId, reason: StopReason, since: Time, kill_at: Time) {
        self.tell(id, reason, since, kill_at.max(now + self.policy.term_reserve()));
    }

    /// Has the connections counted that the next signal cuts, once.
    pub(super) fn count_connections(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.role == Role::Http && !worker.counted) {
            worker.counted = true;
            self.actions.push_back(Action::CountConnections { worker: id });
        }
    }

    pub(super) fn connections_cut(&mut self, id: WorkerId, count: u32) {
        let (State::Draining { reason, since, .. }
        | State::Killed { reason, since }
        | State::Lingering { reason, since, .. }) = self.state_of(id).unwrap_or(State::Ready)
        else {
            return;
        };
        if count > 0 {
            self.report(Report::WorkerConnectionsCut { worker: id, count });
            self.count_cut(reason, since, count);
        }
    }

    fn state_of(&self, id: WorkerId) -> Option<State> {
        self.workers.get(id).map(|worker| worker.state.clone())
    }
}

/// What TERM will say to a worker that is turned away from.
fn told_later(state: &State) -> Option<(StopReason, Time, Time)> {
    match state {
        State::TurnedAway { reason, since, kill_at, .. } => Some((*reason, *since, *kill_at)),
        _ => None,
    }
}
