//! Steered retirement: how a worker that binds by itself, and knows nothing of it, leaves without losing a connection
//! (docs/workers.md, "Steered retirement").
//!
//! The manager borrows a duplicate of each listener of the worker that leaves (`pidfd_getfd(2)`), and has the kernel give
//! new connections to those who stay. When nobody waits in the queue any more, no handshake is left from before, and
//! what the worker serves is finished, the worker has drained. The duplicates keep its listeners in their group until it
//! is gone, so that they leave one by one, when the manager says so, and the program in force always names the right
//! places.
//!
//! A listener that is nobody's, or places of which it is neither sure nor likely who stands there (`group.rs`), mean that
//! the group is left to the kernel's hash, as it would be without any of this. Where somebody comes to a listener that
//! nobody should have been sent to, what was likely is not believed any more. A program that has become wrong
//! names a place out of range, which means the same, or a listener of somebody.

mod borrowing;
mod connections;
mod judging;
mod programs;
mod steered;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use propane_core::{Time, WorkerId};

use crate::clock::Clock;
use crate::drain::{Queue, interval, rested};
use crate::sockdiag::{self, GroupKey, Listener};
use crate::{procinfo, steering};

use borrowing::{Holder, borrow, explain};
pub(crate) use connections::connections_in_use;
use steered::Steered;

/// When a ready worker that does not listen yet is looked at again, at the soonest; later, after as long as it has been so.
const PROBE_INTERVAL_MIN: Duration = Duration::from_millis(1);

/// Of a group no more than this part may join without a look in between.
const SHARE_IN_DOUBT: usize = 16;

/// How often it is looked who has begun to listen while workers that bind by themselves boot: those who join apart are
/// known apart.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// A worker that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) worker: WorkerId,
    pub(crate) pid: i32,
    /// Whether new connections may go to it.
    pub(crate) serves: bool,
}

/// What a look has found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing is lost any more when this worker is told to leave, or nothing can be done about it.
    Drained { worker: WorkerId, waited: u32 },
    /// Nobody can be turned away from here, for this reason.
    Refused(String),
}

/// A duplicate of a listener whose worker leaves.
#[derive(Debug)]
struct Held {
    socket: OwnedFd,
    /// Since when the program in force keeps new connections from it, if it does.
    avoided_since: Option<Time>,
}

/// A worker that leaves.
#[derive(Debug)]
struct Leaving {
    since: Time,
    is_told: bool,
    /// Its listeners, by inode.
    held: BTreeMap<u64, Held>,
    /// How many connections it had to finish when it was first looked at.
    waited: Option<u32>,
    queue: Queue,
    /// Since when new connections cannot be kept from it, if they cannot.
    hindered_since: Option<Time>,
    /// Those that were in use when its descriptors were looked at last; there are no new ones once its queue is empty.
    in_use: BTreeSet<u64>,
}

impl Leaving {
    /// How long new connections have been kept from one of its listeners.
    fn avoided_for(&self, now: Time, inode: u64) -> Duration {
        let since = self.held.get(&inode).and_then(|held| held.avoided_since);
        since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

/// All that is under way.
#[derive(Debug)]
pub(crate) struct Retirement {
    port: u16,
    clock: Clock,
    groups: BTreeMap<GroupKey, Steered>,
    holders: BTreeMap<u64, Holder>,
    leaving: BTreeMap<WorkerId, Leaving>,
    next_look: Option<Time>,
    /// When the last look is rested from.
    rested_at: Time,
    /// When to find out whether anything of this is possible, until it is known.
    next_probe: Option<Time>,
    probing_since: Option<Time>,
    /// How many were about to join since the last look.
    joining: usize,
    joins_seen_at: Time,
}

impl Retirement {
    pub(crate) fn new(port: u16, clock: Clock) -> Self {
        Self {
            port,
            clock,
            groups: BTreeMap::new(),
            holders: BTreeMap::new(),
            leaving: BTreeMap::new(),
            next_look: None,
            rested_at: Time::default(),
            next_probe: Some(Time::default()),
            probing_since: None,
            joining: 0,
            joins_seen_at: Time::default(),
        }
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Option<Time> {
        self.next_look
    }

    /// When it is to be seen again who has joined, while somebody may.
    pub(crate) fn next_observation(&self) -> Time {
        self.joins_seen_at + JOIN_INTERVAL
    }

    /// One of `workers` is about to join: looks who is there, so that it is seen apart from them. Among many not each
    /// time: a few places in doubt matter less there, and a look takes longer.
    pub(crate) fn before_join(&mut self, workers: usize) {
        self.joining += 1;
        if self.joining * SHARE_IN_DOUBT > workers {
            self.joining = 0;
            self.observe();
        }
    }

    /// Takes in who listens now, if it is time to.
    pub(crate) fn observe_joins(&mut self, now: Time) {
        if self.next_observation() <= now {
            self.observe();
            self.joins_seen_at = now;
        }
    }

    /// Takes in who listens now: often enough that joins and leaves are seen apart.
    pub(crate) fn observe(&mut self) {
        // Without an answer the next one shows more at once, and what that leaves open is remembered as open.
        if let Ok(listeners) = sockdiag::listeners(self.port) {
            self.take_in(&listeners, None);
        }
    }

    /// `released` has left because it was let go.
    fn take_in(&mut self, listeners: &[Listener], released: Option<u64>) {
        for listener in listeners {
            self.groups.entry(listener.kind).or_default();
        }
        for (key, steered) in &mut self.groups {
            let members: Vec<u64> = listeners.iter().filter(|it| it.kind == *key).map(|it| it.inode).collect();
            steered.observe(&members, released);
        }
        // The kernel forgets the program with the group.
        self.groups.retain(|_, steered| !steered.group.members().is_empty());
        self.holders.retain(|inode, _| listeners.iter().any(|listener| listener.inode == *inode));
    }

    /// Whether it is to be found out now if workers' sockets can be steered.
    pub(crate) fn must_probe(&self, now: Time) -> bool {
        self.next_probe.is_some_and(|at| at <= now)
    }

    /// Tries on a ready worker whether its sockets can be borrowed and steered. Returns why not.
    pub(crate) fn probe(&mut self, now: Time, member: Member) -> Option<String> {
        let refusal = match self.try_on(member) {
            Ok(false) => {
                // It does not listen yet. Who waits long may wait longer: one that never listens must not cost much.
                let since = *self.probing_since.get_or_insert(now);
                self.next_probe = Some(now + PROBE_INTERVAL_MIN.max(now.since(since)));
                return None;
            }
            Ok(true) => None,
            Err(error) => Some(explain(&error, member.pid)),
        };
        self.next_probe = None;
        refusal
    }

    fn try_on(&mut self, member: Member) -> io::Result<bool> {
        let listeners = sockdiag::listeners(self.port)?;
        self.take_in(&listeners, None);
        procinfo::descriptors(member.pid)?;
        self.find_holders(&[member]);
        let Some(holder) = self.holders.values().find(|holder| holder.worker == member.worker) else {
            return Ok(false);
        };
        let socket = borrow(*holder)?;
        // No place at all: the kernel's hash goes on.
        steering::attach(&socket, &[])?;
        steering::detach(&socket)?;
        Ok(true)
    }

    /// A worker leaves: new connections are to go elsewhere.
    pub(crate) fn turn_away(&mut self, now: Time, worker: WorkerId) {
        let leaving = Leaving {
            since: now,
            is_told: false,
            held: BTreeMap::new(),
            waited: None,
            queue: Queue::default(),
            hindered_since: None,
            in_use: BTreeSet::new(),
        };
        self.leaving.insert(worker, leaving);
        self.next_look = Some(now);
    }

    /// A worker serves from now on: it is to be given connections although somebody who was told to leave takes his time.
    pub(crate) fn joined(&mut self, now: Time) {
        if !self.leaving.is_empty() {
            self.next_look.get_or_insert(now.max(self.rested_at));
        }
    }

    /// A worker was told to leave.
    pub(crate) fn told(&mut self, now: Time, worker: WorkerId) {
        if let Some(leaving) = self.leaving.get_mut(&worker) {
            leaving.is_told = true;
            self.next_look = Some(now);
        }
    }

    /// A worker is gone: its listeners leave their groups now.
    pub(crate) fn gone(&mut self, now: Time, worker: WorkerId, members: &[Member]) {
        self.observe();
        if !self.leaving.is_empty() {
            // One that has just come is no stranger.
            self.find_holders(members);
        }
        if let Some(leaving) = self.leaving.remove(&worker) {
            for (inode, held) in leaving.held {
                self.release(inode, held.socket, members);
            }
        }
        if !self.leaving.is_empty() {
            self.steer(members);
            self.next_look = Some(now);
        } else if self.groups.values().any(|steered| steered.program.is_some()) {
            self.let_go(members);
        }
    }

    /// Gives up everything: nobody is turned away from any more.
    pub(crate) fn give_up(&mut self, members: &[Member]) {
        self.let_go(members);
        self.leaving.clear();
        self.next_look = None;
    }

    /// Looks at everybody who leaves, if it is time to.
    pub(crate) fn look(&mut self, now: Time, members: &[Member]) -> Vec<Verdict> {
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_look = None;
        let listeners = match sockdiag::listeners(self.port) {
            Ok(listeners) => listeners,
            Err(error) if steering::is_for_good(&error) => {
                return vec![Verdict::Refused(format!("sock_diag is refused: {error}"))];
            }
            Err(error) => {
                tracing::debug!("cannot look at the listeners just now: {error}");
                self.next_look = Some(now + interval(Duration::ZERO));
                return Vec::new();
            }
        };
        self.take_in(&listeners, None);
        self.find_holders(members);
        if let Err(refusal) = self.hold() {
            return vec![Verdict::Refused(refusal)];
        }
        self.steer(members);
        let verdicts = self.judge(now, members, &listeners);
        let draining = self.leaving.values().filter(|leaving| !leaving.is_told).map(|leaving| leaving.since).min();
        self.next_look = draining.map(|since| now + interval(now.since(since)));
        verdicts
    }

    /// A look that began then is over: the next one has its time, because looking takes some as well.
    pub(crate) fn rest(&mut self, began: Time, ended: Time) {
        self.rested_at = rested(began, ended);
        self.next_look = self.next_look.map(|at| at.max(self.rested_at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * 1000)
    }

    #[test]
    fn who_joins_is_looked_at_soon_and_a_crowd_at_the_rate_of_looks() {
        let worker = WorkerId(1);
        let mut retirement = Retirement::new(1, Clock::start());
        retirement.joined(at(1));
        assert_eq!(retirement.next_look(), None, "nobody leaves");
        retirement.turn_away(at(2), worker);
        retirement.told(at(3), worker);
        // A look from 10 to 12 ms has shown that there is nobody to wait for.
        retirement.next_look = None;
        retirement.rest(at(10), at(12));
        for now in [at(13), at(14)] {
            retirement.joined(now);
            assert_eq!(retirement.next_look(), Some(at(20)), "after a rest of four times the look");
        }
        retirement.next_look = None;
        retirement.joined(at(30));
        assert_eq!(retirement.next_look(), Some(at(30)));
    }
}
