//! Who of those who leave has drained: nobody waits to be accepted, and what the worker serves is finished.

use std::time::Duration;

use propane_core::{Time, WorkerId};

use crate::drain::{Handshakes, Seen};
use crate::procinfo;
use crate::sockdiag::Listener;

use super::connections::{Connections, count};
use super::steered::Obstacle;
use super::{Member, Retirement, Verdict};

impl Retirement {
    /// Who of those who leave has drained.
    pub(super) fn judge(&mut self, now: Time, members: &[Member], listeners: &[Listener]) -> Vec<Verdict> {
        let connections = Connections::on(self.port);
        let handshakes = Handshakes::on(self.port);
        let draining: Vec<WorkerId> =
            self.leaving.iter().filter(|(_, leaving)| !leaving.is_told).map(|(worker, _)| *worker).collect();
        let mut verdicts = Vec::new();
        for worker in draining {
            let Some(pid) = members.iter().find(|member| member.worker == worker).map(|member| member.pid) else {
                continue; // its end is about to be told
            };
            let Some(waited) = self.waited(worker, pid, listeners, &connections) else { continue };
            let verdict = Verdict::Drained { worker, waited };
            let seen = self.see_queue(now, worker, listeners, &handshakes);
            match seen {
                Err(obstacle) if !self.has_lasted(now, worker, obstacle) => continue,
                Err(obstacle) => {
                    tracing::warn!("connections to pid {pid} may be lost when it leaves: {}", text(obstacle));
                    verdicts.push(verdict);
                }
                Ok(Seen::Empty) if self.has_finished(worker, pid, &connections) && self.may_be_told(worker) => {
                    verdicts.push(verdict);
                }
                Ok(_) => continue,
            }
            if let Some(leaving) = self.leaving.get_mut(&worker) {
                leaving.is_told = true;
            }
        }
        verdicts
    }

    /// Whether what hinders a worker's leaving is there to stay.
    fn has_lasted(&mut self, now: Time, worker: WorkerId, obstacle: Obstacle) -> bool {
        let Some(leaving) = self.leaving.get_mut(&worker) else { return false };
        obstacle.has_lasted(now.since(*leaving.hindered_since.get_or_insert(now)))
    }

    /// How many connections a worker had to finish when it was first looked at.
    fn waited(&mut self, worker: WorkerId, pid: i32, listeners: &[Listener], connections: &Connections) -> Option<u32> {
        let queued = self.own(worker, listeners).map(|listener| listener.queued).sum::<u32>();
        let leaving = self.leaving.get_mut(&worker)?;
        Some(*leaving.waited.get_or_insert_with(|| queued.saturating_add(count(&connections.of(pid)))))
    }

    /// Whether no connection of a worker is in use. Its descriptors are only looked at when none of those is that were.
    fn has_finished(&mut self, worker: WorkerId, pid: i32, connections: &Connections) -> bool {
        let Some(leaving) = self.leaving.get_mut(&worker) else { return false };
        if leaving.in_use.is_disjoint(connections.busy()) {
            leaving.in_use = connections.of(pid);
        }
        leaving.in_use.is_empty()
    }

    fn own<'a>(&self, worker: WorkerId, listeners: &'a [Listener]) -> impl Iterator<Item = &'a Listener> {
        let own = |inode: &u64| self.holders.get(inode).is_some_and(|holder| holder.worker == worker);
        listeners.iter().filter(|listener| own(&listener.inode)).collect::<Vec<_>>().into_iter()
    }

    /// Whether somebody waits for a worker to accept. Fails where new connections cannot be kept from it.
    fn see_queue(
        &mut self,
        now: Time,
        worker: WorkerId,
        listeners: &[Listener],
        handshakes: &Handshakes,
    ) -> Result<Seen, Obstacle> {
        let own: Vec<Listener> = self.own(worker, listeners).copied().collect();
        let is_held =
            |listener: &Listener| self.leaving.get(&worker).is_some_and(|it| it.held.contains_key(&listener.inode));
        if !own.iter().all(is_held) {
            return Ok(Seen::Waiting);
        }
        for steered in own.iter().filter_map(|listener| self.groups.get(&listener.kind)) {
            steered.program.as_ref().ok_or(steered.obstacle.unwrap_or(Obstacle::Nobody))?;
        }
        let waits = own.iter().any(|listener| listener.queued > 0);
        let Some(leaving) = self.leaving.get_mut(&worker) else { return Ok(Seen::Waiting) };
        leaving.hindered_since = None;
        let settled =
            own.iter().map(|listener| leaving.avoided_for(now, listener.inode)).min().unwrap_or(Duration::MAX);
        let seen = leaving.queue.look(settled, waits, handshakes);
        if seen == Seen::Leaking {
            // Others stand where they were thought to.
            for listener in &own {
                self.groups.entry(listener.kind).and_modify(|steered| steered.group.distrust());
            }
            return Err(Obstacle::Unsure);
        }
        Ok(seen)
    }

    /// Whether enough places stay sure when one more listener leaves than is about to.
    fn may_be_told(&self, worker: WorkerId) -> bool {
        let about_to =
            |inode| self.leaving.values().any(|leaving| leaving.is_told && leaving.held.contains_key(&inode));
        let own = |inode| self.leaving.get(&worker).is_some_and(|leaving| leaving.held.contains_key(inode));
        let mut concerned = self.groups.values().filter(|steered| steered.group.members().iter().any(own));
        concerned.all(|steered| steered.stays_sure(about_to))
    }
}

/// Why connections to a worker may be lost.
fn text(obstacle: Obstacle) -> String {
    match obstacle {
        Obstacle::Nobody => "nobody else serves its address".to_owned(),
        Obstacle::Foreign(inode) => {
            let pids: Vec<_> = procinfo::holders(inode).iter().map(ToString::to_string).collect();
            let who = if pids.is_empty() { "another process".to_owned() } else { format!("pid {}", pids.join(", ")) };
            format!("{who}, which is no worker, listens on the port as well")
        }
        Obstacle::Unsure => "listeners have come and gone so quickly that it is not known where they stand".to_owned(),
        Obstacle::Refused => "the kernel refuses the steering program".to_owned(),
    }
}
