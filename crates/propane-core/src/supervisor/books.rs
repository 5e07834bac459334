//! All workers, with what is asked of them all at every event kept at hand: a thousand of them are counted when they
//! change, not whenever something happens.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Generation, Role, WorkerId};
use crate::time::Time;
use crate::worker::Worker;

/// What was counted of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    deadline: Option<Time>,
    serves: Option<(Generation, u32)>,
}

impl Counted {
    fn of(worker: &Worker) -> Self {
        let serves = worker.role == Role::Http && worker.is_ready();
        Self { deadline: worker.deadline(), serves: serves.then_some((worker.generation, worker.slot)) }
    }
}

/// The workers by name. What is counted holds as of the last [`Books::count`].
#[derive(Clone, Debug, Default)]
pub(super) struct Books {
    workers: BTreeMap<WorkerId, Worker>,
    /// Who may have changed since the last count.
    touched: BTreeSet<WorkerId>,
    counted: BTreeMap<WorkerId, Counted>,
    deadlines: BTreeSet<(Time, WorkerId)>,
    serving: BTreeMap<WorkerId, u32>,
    serving_of: BTreeMap<Generation, usize>,
}

impl Books {
    pub(super) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        let worker = self.workers.get_mut(&id)?;
        self.touched.insert(id);
        Some(worker)
    }

    pub(super) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.touched.insert(id);
        self.workers.insert(id, worker);
    }

    pub(super) fn remove(&mut self, id: WorkerId) -> Option<Worker> {
        self.touched.insert(id);
        self.workers.remove(&id)
    }

    pub(super) fn all(&self) -> &BTreeMap<WorkerId, Worker> {
        &self.workers
    }

    pub(super) fn for_each_mut(&mut self, change: impl Fn(&mut Worker)) {
        self.touched.extend(self.workers.keys());
        self.workers.values_mut().for_each(change);
    }

    /// Brings what is counted up to date.
    pub(super) fn count(&mut self) {
        for id in std::mem::take(&mut self.touched) {
            let now = self.workers.get(&id).map(Counted::of).unwrap_or_default();
            let before = self.counted.remove(&id).unwrap_or_default();
            if now != before {
                self.recount(id, before, now);
            }
            if self.workers.contains_key(&id) {
                self.counted.insert(id, now);
            }
        }
    }

    fn recount(&mut self, id: WorkerId, before: Counted, now: Counted) {
        if let Some(deadline) = before.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        self.deadlines.extend(now.deadline.map(|deadline| (deadline, id)));
        if let Some((generation, _)) = before.serves {
            self.serving.remove(&id);
            if let Some(count) = self.serving_of.get_mut(&generation) {
                *count -= 1;
            }
            self.serving_of.retain(|_, count| *count > 0);
        }
        if let Some((generation, slot)) = now.serves {
            self.serving.insert(id, slot);
            *self.serving_of.entry(generation).or_default() += 1;
        }
    }

    /// The earliest deadline of all.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Those whose deadline was reached, by name.
    pub(super) fn due(&self, now: Time) -> BTreeSet<WorkerId> {
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// The HTTP workers that take connections, with their slots.
    pub(super) fn serving(&self) -> &BTreeMap<WorkerId, u32> {
        &self.serving
    }

    /// How many HTTP workers of a generation take connections.
    pub(super) fn serving_of(&self, generation: Generation) -> usize {
        self.serving_of.get(&generation).copied().unwrap_or(0)
    }
}
