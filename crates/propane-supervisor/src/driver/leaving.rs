//! Who gets new connections: those who serve, and not those who leave.

use std::collections::BTreeSet;

use propane_core::{Event, WorkerId};

use crate::children::Child;
use crate::retire::{self, Member, Verdict};
use crate::sockets::{Avoidance, Revival};
use crate::steering;

use super::Driver;

impl Driver {
    /// Keeps new connections away from slots that nobody serves. Without it they wait there, and that is all.
    pub(super) fn steer(&mut self) {
        if !self.sockets.have_slots() {
            return;
        }
        if !std::mem::take(&mut self.must_steer) && self.readiness.asked().next().is_none() {
            return;
        }
        let reachable = self.core.reachable_slots(self.readiness.asked(), |worker| self.children.is_dead(worker));
        let served =
            self.leaving_slots.any().then(|| reachable.iter().filter_map(|slot| self.sockets.inode(*slot)).collect());
        let avoidance = self.sockets.steer(reachable).unwrap_or_else(|error| {
            tracing::warn!(
                "connections may wait for a worker that is not there, and those to a worker that leaves may be reset: \
                 cannot steer them: {error}"
            );
            if steering::is_for_good(&error) {
                self.inbox.push_back(Event::TurningAwayRefused);
            }
            Avoidance::Not
        });
        self.leaving_slots.avoided(self.now(), avoidance);
        let shared = self.leaving_slots.forget_shared(&served.unwrap_or_default());
        self.inbox.extend(shared.into_iter().map(|(worker, waited)| Event::Drained { worker, waited }));
    }

    /// Has new connections go to others than a worker that leaves.
    pub(super) fn turn_away(&mut self, worker: WorkerId) {
        self.readiness.forget(worker);
        match self.sockets.inode(self.children.facts(worker).slot) {
            // What is not served is not given any, from the end of this round on.
            Some(inode) => self.leaving_slots.add(worker, inode),
            None => self.retirement.turn_away(self.now(), worker),
        }
    }

    pub(super) fn count_connections(&mut self, worker: WorkerId) {
        let Some(child) = self.children.get(worker).filter(|child| child.is_alive()) else { return };
        let count = retire::connections_in_use(self.sockets.address(), child.pid());
        self.inbox.push_back(Event::ConnectionsCut { worker, count });
    }

    /// The HTTP workers that run, and whether new connections may go to them.
    pub(super) fn members(&self) -> Vec<Member> {
        let serving = self.core.serving_workers();
        let asked: BTreeSet<WorkerId> = self.readiness.asked().filter(|worker| self.core.wants(*worker)).collect();
        let takes = |worker: &WorkerId| serving.contains_key(worker) || asked.contains(worker);
        let alive = self.children.iter().filter(|(_, child)| child.serves_http() && child.is_alive());
        alive.map(|(worker, child)| Member { worker, pid: child.pid(), serves: takes(&worker) }).collect()
    }

    pub(super) fn look_for_drained(&mut self) {
        let now = self.now();
        let empty = self.leaving_slots.look(now);
        self.inbox.extend(empty.into_iter().map(|(worker, waited)| Event::Drained { worker, waited }));
        if self.retirement.next_look().is_none_or(|at| at > now) {
            return;
        }
        let verdicts = self.retirement.look(now, &self.members());
        self.retirement.rest(now, self.now());
        for verdict in verdicts {
            match verdict {
                Verdict::Drained { worker, waited } => self.inbox.push_back(Event::Drained { worker, waited }),
                Verdict::Refused(reason) => self.stop_steering(&reason),
            }
        }
    }

    /// Once a worker is ready it shows whether its sockets can be steered at all.
    pub(super) fn probe_steering(&mut self) {
        let now = self.now();
        if !self.steers || !self.retirement.must_probe(now) {
            return;
        }
        let first = self.members().into_iter().find(|member| member.serves);
        if let Some(refusal) = first.and_then(|member| self.retirement.probe(now, member)) {
            self.stop_steering(&refusal);
        }
    }

    /// Goes on as `reuseport` does.
    fn stop_steering(&mut self, reason: &str) {
        self.steers = false;
        self.retirement.give_up(&self.members());
        self.inbox.push_back(Event::TurningAwayRefused);
        self.journal.strategy_changed(reason);
    }

    pub(super) fn close_slot(&mut self, slot: u32) {
        // The listener is told to end, and nobody is to take that for a mistake.
        if let Some(listener) = self.sockets.of_slot(slot) {
            self.poller.remove(listener);
        }
        let lost = self.sockets.close_slot(slot);
        if lost > 0 {
            tracing::warn!(
                "slot {slot} is given up, and its worker has left {lost} connections waiting: they are reset"
            );
        }
    }

    /// A worker has ended: whoever comes from here on shall find another one.
    pub(super) fn leave_to_others(&mut self, dead: WorkerId) {
        self.must_steer = true;
        self.leaving_slots.forget(dead);
        if self.children.get(dead).is_some_and(Child::serves_http) && !self.children.lingers(dead) {
            self.let_listeners_go(dead);
        }
        if self.sockets.is_shut(self.children.facts(dead).slot) {
            self.revive();
        }
    }

    /// Nobody of a worker is left. Until then the rest of its group may go on listening, and is to be given nobody.
    pub(super) fn let_listeners_go(&mut self, worker: WorkerId) {
        if self.steers {
            self.retirement.gone(self.now(), worker, &self.members());
        }
    }

    /// Tries again what had to be put off, if it is time to.
    pub(super) fn go_on_reviving(&mut self) {
        if self.patience.next_try().is_some_and(|at| at <= self.now()) {
            self.revive();
        }
    }

    /// Lets listeners listen again that a worker has shut down.
    pub(super) fn revive(&mut self) {
        let now = self.now();
        let outcome = self.sockets.revive(self.patience.is_left(now));
        if matches!(outcome, Ok(Revival::Later)) {
            return self.patience.refused(now);
        }
        self.patience.over();
        let revival = match outcome {
            Ok(Revival::Nothing) => return,
            Ok(revival) => revival,
            Err(error) => {
                tracing::error!("a worker has shut its listener down, and it cannot listen again: {error}");
                return;
            }
        };
        tell_of_revival(revival);
        if revival == Revival::Anew {
            self.inbox.push_back(Event::SocketRenewed);
        }
        for listener in self.sockets.listeners() {
            self.poller.remove(listener);
            self.poller.add_listener(listener);
        }
        self.must_steer = true;
        self.steer();
    }
}

fn tell_of_revival(revival: Revival) {
    match revival {
        Revival::Nothing | Revival::Later => {}
        Revival::Again => tracing::warn!(
            "a worker has shut its listener down, and what waited there was lost; it listens again \
             (a worker that leaves should close it instead)"
        ),
        Revival::Anew => tracing::error!(
            "a worker has shut the UNIX socket down, which ends it for all workers; it is made anew, and the \
             workers are replaced (a worker that leaves should close it instead)"
        ),
    }
}
