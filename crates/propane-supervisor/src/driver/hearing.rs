//! What comes in: signals, ends, words of workers, and what can be seen of those who say nothing.

use propane_core::{Event, Proof, StopSignal, WorkerId};

use crate::poller::{BATCH, Token};
use crate::procinfo::{self, Kin};
use crate::signals::Caught;
use crate::warden::WITHOUT_WARDEN;

use super::Driver;

/// How many words of a dead worker are read: more than a queue is ever allowed to hold (`unix(7)`, `max_dgram_qlen`: 10, or
/// 512 where systemd has its way), and an end to a descendant's that goes on talking.
const LAST_WORDS_MAX: usize = 1024;

impl Driver {
    /// Takes in what a wait has brought.
    pub(super) fn take_in(&mut self, token: Token) {
        match token {
            Token::Signal => self.take_signals(),
            Token::Exit(worker) => self.reap(worker),
            // One word at a time: the next is told with the next wait, and who talks without end holds up nobody.
            Token::Notify(worker) => self.hear(worker, 1),
            Token::Timer => {}
            Token::HangUp => self.revive(),
            Token::Warden => tracing::warn!("the warden has ended, {WITHOUT_WARDEN}"),
        }
    }

    pub(super) fn take_signals(&mut self) {
        for caught in self.signals.take() {
            let event = match caught {
                Caught::Hup => Event::ReloadRequested,
                Caught::Term => Event::StopRequested { signal: StopSignal::Term },
                Caught::Int => Event::StopRequested { signal: StopSignal::Int },
                Caught::Quit => Event::StopRequested { signal: StopSignal::Quit },
                Caught::Ttin => Event::ScaleUpRequested,
                Caught::Ttou => Event::ScaleDownRequested,
                Caught::Usr1 => Event::LogReopenRequested,
                Caught::Usr2 => {
                    tracing::warn!("USR2 (self-upgrade) is not supported; nothing was done");
                    continue;
                }
                Caught::Chld => {
                    self.must_sweep = true;
                    continue;
                }
            };
            self.inbox.push_back(event);
        }
    }

    /// Looks for dead children, a batch at a time, so that a signal does not wait for a thousand of them.
    pub(super) fn sweep(&mut self) {
        for _ in 0..BATCH {
            let Some(worker) = self.children.sweep() else {
                self.must_sweep = false;
                return;
            };
            self.reap(worker);
        }
    }

    fn reap(&mut self, worker: WorkerId) {
        // Words that came before the end count: READY=1 of a worker that crashes at once, say.
        self.hear(worker, LAST_WORDS_MAX);
        if let Some(child) = self.children.get(worker) {
            self.poller.remove(child.pidfd());
            if let Some(socket) = child.notify() {
                self.poller.remove(socket);
            }
        }
        if let Some((status, group_alive)) = self.children.reap(worker) {
            self.bury(worker);
            self.tell_of_background(worker, status);
            self.inbox.push_back(Event::Exited { worker, status, group_alive });
        }
    }

    /// Nothing is waited for any more of a worker that has ended.
    fn bury(&mut self, worker: WorkerId) {
        self.readiness.forget(worker);
        self.neglect.forget(worker);
        self.leave_to_others(worker);
        self.tell_of_missed_file();
        self.tell_of_collision(worker);
    }

    fn hear(&mut self, worker: WorkerId, words: usize) {
        let now = self.now();
        let Some(child) = self.children.get(worker) else { return };
        let Some(socket) = child.notify() else { return };
        for (message, sender) in std::iter::from_fn(|| socket.receive()).take(words) {
            if !sender.is_some_and(|sender| speaks_for(child.pid(), sender, procinfo::kin)) {
                continue;
            }
            if message.ready {
                self.inbox
                    .extend(self.readiness.notified(now, worker).map(|proof| Event::BecameReady { worker, proof }));
            }
            if message.heartbeat {
                self.inbox.push_back(Event::HeartbeatReceived { worker });
            }
        }
    }

    pub(super) fn look_for_ready(&mut self) {
        let now = self.now();
        if self.steers && !self.readiness.is_idle() {
            self.retirement.observe_joins(now);
        }
        for (worker, proof) in self.readiness.look(now) {
            if proof == Proof::Unproven {
                let pid = self.children.facts(worker).pid;
                tracing::warn!("pid {pid}: nothing shows whether it is ready; taken for ready after the settling time");
            }
            self.inbox.push_back(Event::BecameReady { worker, proof });
        }
    }

    pub(super) fn look_for_empty_groups(&mut self) {
        self.inbox.extend(self.children.emptied().into_iter().map(|worker| Event::GroupEmptied { worker }));
    }
}

/// Whether a sender is a process of the worker's family, or one that is gone already: then its socket's name, which only
/// the worker was told, speaks for it.
fn speaks_for(worker: i32, sender: i32, kin: impl FnOnce(i32) -> Option<Kin>) -> bool {
    sender == worker || kin(sender).is_none_or(|kin| kin.group == worker || kin.parent == worker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_spoken_for_by_its_family_and_by_the_dead() {
        let kin = |group, parent| Some(Kin { group, parent });
        let table = [
            ("itself, whatever it calls its group", 7, kin(1, 1), true),
            ("one of its group", 8, kin(7, 1), true),
            ("a child with a group of its own", 8, kin(8, 7), true),
            ("one that is gone", 8, None, true),
            ("a stranger", 8, kin(8, 1), false),
            ("a child of a child elsewhere", 9, kin(8, 8), false),
        ];
        for (who, sender, kin, expected) in table {
            assert_eq!(speaks_for(7, sender, |_| kin), expected, "{who}");
        }
    }
}
