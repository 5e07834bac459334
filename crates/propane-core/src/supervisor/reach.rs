//! Where new connections may go.

use std::collections::BTreeSet;

use crate::event::WorkerId;
use crate::worker::Worker;

use super::Supervisor;

impl Supervisor {
    /// The HTTP slots that new connections may go to: those in which a worker takes connections, unless it `is_dead`
    /// already, and those whose workers are `asked` for their readiness path, because else nobody could answer there.
    /// Where there are none, all that will be served again: who waits there is not lost.
    pub fn reachable_slots(
        &self,
        asked: impl IntoIterator<Item = WorkerId>,
        is_dead: impl Fn(WorkerId) -> bool,
    ) -> BTreeSet<u32> {
        let lives = |worker: &WorkerId| !is_dead(*worker);
        let serving = self.serving_workers().iter().filter(|(worker, _)| lives(worker)).map(|(_, slot)| *slot);
        let asked = asked.into_iter().filter(|worker| lives(worker) && self.wants(*worker));
        let slots = asked.filter_map(|worker| self.worker(worker)).map(|worker| worker.slot);
        let reachable: BTreeSet<u32> = serving.chain(slots).collect();
        if reachable.is_empty() { (0..self.http_count()).collect() } else { reachable }
    }

    /// Whether a worker is meant to stay.
    pub fn wants(&self, worker: WorkerId) -> bool {
        self.worker(worker).is_some_and(Worker::is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Event, Policy, Proof, Time};

    use super::*;

    /// Two slots with the workers 0 and 1, of whom these are ready.
    fn supervisor(ready: &[u64]) -> Supervisor {
        let mut supervisor = Supervisor::new(Policy { http_workers: 2, ..Policy::default() }, 1);
        let mut hear = |event| supervisor.handle_event(Time::default(), event);
        hear(Event::BootRequested);
        for worker in [0, 1].map(WorkerId) {
            hear(Event::Spawned { worker });
            if ready.contains(&worker.0) {
                hear(Event::BecameReady { worker, proof: Proof::Notified });
            }
        }
        supervisor
    }

    #[test]
    fn slots_are_reachable_that_somebody_serves_or_is_asked_about() {
        // Who is ready, whether TTOU came, who is asked, who is dead, slots.
        type Row = (&'static [u64], bool, &'static [u64], &'static [u64], &'static [u32]);
        let table: [Row; 12] = [
            // While nobody serves, those wait who come.
            (&[], false, &[], &[], &[0, 1]),
            (&[], true, &[], &[], &[0]),
            (&[0, 1], false, &[], &[0, 1], &[0, 1]),
            // ... but not for one that goes.
            (&[0, 1], true, &[], &[0], &[0]),
            (&[0], false, &[], &[], &[0]),
            (&[1], false, &[], &[], &[1]),
            (&[0, 1], false, &[], &[], &[0, 1]),
            (&[0, 1], false, &[], &[0], &[1]),
            (&[0], false, &[1], &[], &[0, 1]),
            (&[], false, &[1], &[], &[1]),
            // One that goes is not asked any more.
            (&[0], true, &[1], &[], &[0]),
            (&[0], false, &[1, 7], &[1], &[0]),
        ];
        for (ready, resized, asked, dead, expected) in table {
            let mut supervisor = supervisor(ready);
            if resized {
                supervisor.handle_event(Time::default(), Event::ScaleDownRequested);
            }
            let asked_workers = asked.iter().copied().map(WorkerId);
            let found = supervisor.reachable_slots(asked_workers, |worker| dead.contains(&worker.0));
            assert!(found.iter().eq(expected), "{ready:?} {resized} {asked:?} {dead:?}: {found:?}");
        }
    }
}
