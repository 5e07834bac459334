//! What is going to happen, in order of time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use propane_core::{Event, ExitStatus, Time, WorkerId};

use crate::plan::Deed;

/// Something that is going to happen in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// A request to start a process is answered.
    Birth(WorkerId),
    /// A worker says that it is ready.
    Readiness(WorkerId),
    /// A worker sends its n-th heartbeat.
    Beat(WorkerId, u64),
    /// A worker that is turned away from has finished.
    Drain(WorkerId),
    /// A worker's leader ends by itself.
    Doom(WorkerId, ExitStatus),
    /// A worker's leader ends because of a signal.
    Death(WorkerId, ExitStatus),
    /// The driver learns that a worker's leader has ended.
    Obituary(WorkerId),
    /// The last other process of a worker's group ends.
    LastMember(WorkerId),
    /// The driver learns that a group is empty.
    Emptiness(WorkerId),
    /// The driver has read the configuration.
    Configuration(u32),
    /// The operator or the machine does something.
    Deed(Deed),
    /// The driver passes an event on.
    Delivery(Event),
}

/// The list of everything that is going to happen. What is to happen at one time happens in the order of entry.
#[derive(Debug, Default)]
pub(crate) struct Agenda {
    queue: BinaryHeap<Reverse<(Time, usize)>>,
    happenings: Vec<Option<Happening>>,
}

impl Agenda {
    pub(crate) fn add(&mut self, at: Time, happening: Happening) {
        self.queue.push(Reverse((at, self.happenings.len())));
        self.happenings.push(Some(happening));
    }

    pub(crate) fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Nothing but the operator's deeds happens before this time, and what should have happens then.
    pub(crate) fn postpone(&mut self, until: Time) {
        let later = |Reverse((at, index)): Reverse<(Time, usize)>| match self.happenings[index] {
            Some(Happening::Deed(_)) => Reverse((at, index)),
            _ => Reverse((at.max(until), index)),
        };
        self.queue = std::mem::take(&mut self.queue).into_iter().map(later).collect();
    }

    pub(crate) fn take(&mut self) -> Option<(Time, Happening)> {
        let Reverse((at, index)) = self.queue.pop()?;
        self.happenings[index].take().map(|happening| (at, happening))
    }
}
