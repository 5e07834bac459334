//! What is told to people and programs: the core's reports, and what only the driver can see.

use std::rc::Rc;

use propane_core::{Event, ExitStatus, Generation, Proof, Report, WorkerId};

use crate::children::Child;
use crate::collision::{self, Dead};
use crate::lifecycle::WorkerFacts;
use crate::neglect::{self, Misplaced};
use crate::procinfo;

use super::Driver;

impl Driver {
    pub(super) fn report(&mut self, report: &Report) {
        self.has_grown |= leaves_code_behind(report);
        self.loader.hear(report);
        self.journal.report(report, |worker| self.children.facts(worker));
        match report {
            Report::WorkerReady { worker, proof, .. } => {
                self.watch_for_neglect(*worker, *proof);
                self.retirement.joined(self.now());
            }
            Report::WorkerBootTimedOut { worker, .. } => self.tell_of_place(*worker),
            Report::WorkerStopRequested { worker, .. } => self.neglect.forget(*worker),
            _ => {}
        }
    }

    pub(super) fn load(&mut self, generation: Generation) {
        let event = match self.loader.load(generation, &mut self.journal) {
            Some(plan) => {
                let policy = Box::new(plan.policy.clone());
                self.plans.insert(generation, Rc::new(plan));
                Event::ConfigurationLoaded { policy }
            }
            None => Event::ConfigurationRefused,
        };
        self.inbox.push_back(event);
    }

    fn watch_for_neglect(&mut self, worker: WorkerId, proof: Proof) {
        if !neglect::has_to_be_shown(proof) {
            return;
        }
        let WorkerFacts { pid, slot, .. } = self.children.facts(worker);
        if let Some(inode) = self.sockets.inode(slot) {
            self.neglect.watch(self.now(), worker, pid, inode);
        }
    }

    /// Nothing hurries here, and who has just died must not be taken for one who neglects.
    pub(super) fn look_for_neglect(&mut self) {
        if !self.backlog().is_empty() {
            return;
        }
        let now = self.now();
        for (worker, finding) in self.neglect.look(now, self.sockets.address()) {
            self.journal.ignored_socket(self.children.facts(worker), finding);
        }
    }

    /// Says where a worker listens that was not ready in time.
    fn tell_of_place(&mut self, worker: WorkerId) {
        let facts = self.children.facts(worker);
        let given = self.sockets.inode(facts.slot);
        let Some(elsewhere) = neglect::elsewhere(facts.pid, given) else { return };
        match Misplaced::of(given.is_some(), elsewhere) {
            Misplaced::Ignores(finding) => self.journal.ignored_socket(facts, finding),
            Misplaced::Elsewhere(place) => self.journal.listens_elsewhere(facts, place, self.sockets.address()),
        }
    }

    /// A worker may take the file of a UNIX socket for its own and remove it when it leaves; then nobody can connect.
    pub(super) fn tell_of_missed_file(&mut self) {
        if let Some(path) = self.sockets.newly_missed_file() {
            tracing::error!(
                "{} is gone, and nobody can connect any more: a worker that leaves must not remove it (gunicorn: leave \
                 --bind out of workerCommand, it takes the socket by LISTEN_FDS); restart propane to make it anew",
                path.display()
            );
        }
    }

    /// Tells once of a worker that has put its server into the background: each respawn leaves one more behind.
    pub(super) fn tell_of_background(&mut self, worker: WorkerId, status: ExitStatus) {
        let serves_http = self.children.get(worker).is_some_and(Child::serves_http);
        if self.background_told || !serves_http || !self.core.wants(worker) || status != ExitStatus::Code(0) {
            return;
        }
        let left = self.children.left_behind_by(worker);
        if let Some(first) = left.first() {
            self.background_told = true;
            tracing::warn!(
                "worker pid={} has ended by itself, and has left pid {first} ({}) behind; if that is the server, it must \
                 stay in the foreground (without --daemon; nginx with \"daemon off;\"; a start script with exec)",
                self.children.facts(worker).pid,
                procinfo::name(*first)
            );
        }
    }

    /// Tells once when copies of a worker that binds by itself keep each other off the port.
    pub(super) fn tell_of_collision(&mut self, worker: WorkerId) {
        let dead = Dead {
            serves_http: self.children.get(worker).is_some_and(Child::serves_http),
            was_ready: self.core.worker(worker).is_none_or(propane_core::Worker::was_ready),
            binds_by_itself: !self.sockets.are_inherited(),
        };
        if self.collision_told || !dead.may_have_collided() || self.sockets.can_be_shared() {
            return;
        }
        let others = self.children.iter().filter(|(other, child)| *other != worker && child.serves_http());
        let others = others.map(|(_, child)| child.pid()).collect::<Vec<_>>();
        if let Some(owner) = collision::owner(self.sockets.address().port(), &others) {
            self.collision_told = true;
            let pid = self.children.facts(worker).pid;
            self.journal.collision(self.sockets.address(), owner, pid);
        }
    }
}

/// Whether a start or a reload is over, which has left code in memory that nobody needs now.
fn leaves_code_behind(report: &Report) -> bool {
    matches!(report, Report::ManagerReady { .. } | Report::ReloadCompleted { .. } | Report::ReloadFailed { .. })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use propane_core::{ReloadCause, ReloadFailure};

    use super::*;

    #[test]
    fn code_is_given_back_when_a_start_or_a_reload_is_over() {
        let failed = |failure| Report::ReloadFailed { generation: 1, failure, replaced: 0, of: 4 };
        let table = [
            (Report::ManagerReady { workers: 4, after: Duration::ZERO }, true),
            (failed(ReloadFailure::Configuration), true),
            (failed(ReloadFailure::SpawnFailed), true),
            (Report::ReloadRequested { cause: ReloadCause::Hup }, false),
            (Report::ReloadStarted { generation: 1, workers: 4, job_workers: 0 }, false),
        ];
        for (report, expected) in table {
            assert_eq!(leaves_code_behind(&report), expected, "{report:?}");
        }
    }
}
