//! Starting processes, in turns, so that the world does not wait for a thousand of them.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use propane_core::{Event, Generation, Role, SpawnError, WorkerId};

use crate::children::Birth;
use crate::notify::{NotifyDirectory, NotifySocket};
use crate::plan::Plan;
use crate::poller::Token;
use crate::readiness::Expectation;
use crate::spawn::Identity;

use super::{Driver, turn};

/// A process that is to be started.
#[derive(Clone, Copy)]
pub(super) struct Spawn {
    pub(super) role: Role,
    pub(super) slot: u32,
    pub(super) generation: Generation,
}

impl Driver {
    /// Does what there is to do, until nothing is left or spawns have had their turn.
    pub(super) fn settle(&mut self) {
        let began = Instant::now();
        self.digest();
        let mut made = 0;
        while turn::spawns_go_on(made, began.elapsed())
            && let Some((worker, spawn)) = self.spawns.pop_first()
        {
            made += 1;
            let event = match self.spawn(worker, spawn) {
                Ok(()) => Event::Spawned { worker },
                Err(error) => Event::SpawnFailed { worker, error },
            };
            self.inbox.push_back(event);
            self.digest();
        }
    }

    /// What has begun is answered already, or will be.
    pub(super) fn call_off(&mut self, worker: WorkerId) {
        self.inbox.extend(self.spawns.remove(&worker).map(|_| Event::SpawnAbandoned { worker }));
    }

    fn spawn(&mut self, worker: WorkerId, spawn: Spawn) -> Result<(), SpawnError> {
        let Spawn { role, slot, generation } = spawn;
        let gone = || SpawnError { permanent: true, message: format!("generation {generation} is gone") };
        let plan = Rc::clone(self.plans.get(&generation).ok_or_else(gone)?);
        if role == Role::Http && self.steers {
            self.retirement.before_join(self.children.count());
        }
        self.start(worker, spawn, &plan)?;
        self.state_file.touch();
        self.watch(worker);
        if role == Role::Http {
            self.expect(worker, slot, &plan);
        }
        Ok(())
    }

    fn start(&mut self, worker: WorkerId, spawn: Spawn, plan: &Plan) -> Result<(), SpawnError> {
        let Spawn { role, slot, generation } = spawn;
        let passing =
            |what: &str, error: &io::Error| SpawnError { permanent: false, message: format!("{what}: {error}") };
        let notify = (role == Role::Http).then(|| self.notify_socket(worker, plan.identity.as_ref())).flatten();
        let listener = match role {
            Role::Http => self.sockets.for_slot(slot).map_err(|error| passing("cannot listen", &error))?,
            Role::Job => None,
        };
        if let Some(listener) = listener {
            self.poller.add_listener(listener);
        }
        let birth = Birth { worker, role, slot, generation, listener, notify };
        self.children.start(&mut self.spawner, plan, birth).map(|_| ())
    }

    /// Has the poller tell of a child's end and of its words. One that cannot be watched is found by the sweep after
    /// SIGCHLD all the same.
    fn watch(&self, worker: WorkerId) {
        let Some(child) = self.children.get(worker) else { return };
        let watched = self.poller.add(child.pidfd(), Token::Exit(worker)).and_then(|()| match child.notify() {
            Some(socket) => self.poller.add(socket, Token::Notify(worker)),
            None => Ok(()),
        });
        if let Err(error) = watched {
            tracing::warn!("cannot watch pid {}: {error}", child.pid());
        }
    }

    fn expect(&mut self, worker: WorkerId, slot: u32, plan: &Plan) {
        let expectation = Expectation {
            listener: self.sockets.inode(slot),
            address: self.sockets.address().clone(),
            path: plan.readiness_path.clone(),
            settle: plan.policy.reload_overlap,
        };
        let pid = self.children.facts(worker).pid;
        self.readiness.expect(self.now(), worker, pid, expectation);
    }

    /// A worker's way to say that it is ready. A directory that was cleaned away is made anew; where there can be none,
    /// the worker is seen to be ready.
    fn notify_socket(&mut self, worker: WorkerId, identity: Option<&Identity>) -> Option<NotifySocket> {
        let made = self.notify.as_ref()?.socket(worker, identity);
        let made = made.or_else(|error| {
            if self.notify.as_ref().is_some_and(|directory| directory.path().exists()) {
                return Err(error);
            }
            self.notify = Some(NotifyDirectory::create(identity)?);
            self.notify.as_ref().map_or(Err(error), |directory| directory.socket(worker, identity))
        });
        if let Err(error) = &made {
            tracing::warn!("no notify socket for a worker: {error}");
        }
        made.ok()
    }
}
