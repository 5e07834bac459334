//! Workers that do not take what waits in the socket they were given: a queue that nobody empties looks to clients like a
//! server that hangs, and to everybody else like one that is idle.
//!
//! A worker that was seen to wait on its socket is trusted for good. Only one that has said by itself that it is ready, or
//! of which nothing can be seen, is looked at again: rarely, and until something shows.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use propane_core::{Proof, Time, WorkerId};

use crate::sockets::Address;
use crate::{procinfo, serving, sockdiag};

/// How long a ready worker may leave its queue alone: more than any pause of a healthy one, less than clients wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time between two looks while somebody waits, and the shortest while nobody does.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest time between two looks.
const INTERVAL_MAX: Duration = Duration::from_mins(1);

/// A look costs some tenths of a millisecond; after so many others have their turn.
const LOOKS_A_TURN: usize = 8;

/// What a look at a worker shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sight {
    /// Whether it waits on its socket or holds a connection from it; `None` where that cannot be seen.
    accepts: Option<bool>,
    /// How many wait in the queue.
    queued: u32,
    /// Where it listens by itself.
    elsewhere: Option<SocketAddr>,
}

/// What a worker does instead of accepting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    /// How many wait in the queue.
    pub(crate) queued: u32,
    /// Where it listens by itself.
    pub(crate) elsewhere: Option<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accepts,
    Unknown,
    Ignores(Finding),
}

/// A worker that is ready, and was not seen to accept.
#[derive(Clone, Copy, Debug)]
struct Watch {
    pid: i32,
    inode: u64,
    since: Time,
    look_at: Time,
    /// Since when somebody waits, and how many did at the last look.
    waiting: Option<(Time, u32)>,
}

impl Watch {
    fn judge(&mut self, now: Time, sight: Sight) -> Verdict {
        let Sight { accepts, queued, elsewhere } = sight;
        let has_shrunk = self.waiting.is_some_and(|(_, before)| queued < before);
        if accepts == Some(true) || has_shrunk {
            return Verdict::Accepts;
        }
        self.waiting = match (queued, self.waiting) {
            (0, _) => None,
            (_, Some((since, _))) => Some((since, queued)),
            (_, None) => Some((now, queued)),
        };
        let waits_long = self.waiting.is_some_and(|(since, _)| now.since(since) >= PATIENCE);
        let is_elsewhere = accepts == Some(false) && elsewhere.is_some() && now.since(self.since) >= PATIENCE;
        if waits_long || is_elsewhere {
            return Verdict::Ignores(Finding { queued, elsewhere });
        }
        let rarely = (now.since(self.since) / 2).clamp(INTERVAL, INTERVAL_MAX);
        self.look_at = now + if self.waiting.is_some() { INTERVAL } else { rarely };
        Verdict::Unknown
    }
}

/// Whether a worker that was found ready in this way has yet to show that it takes what waits: one that was seen to wait
/// on its socket, or to own it, does.
pub(crate) fn has_to_be_shown(proof: Proof) -> bool {
    match proof {
        Proof::Notified | Proof::Unproven => true,
        Proof::Accepting | Proof::Listening | Proof::Running => false,
    }
}

/// What a worker does that was not ready in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// It leaves the socket that it was given alone, and listens by itself.
    Ignores(Finding),
    /// It was to bind by itself, and has bound another address.
    Elsewhere(SocketAddr),
}

impl Misplaced {
    /// What it comes down to that a worker listens `elsewhere`.
    pub(crate) fn of(was_given_a_socket: bool, elsewhere: SocketAddr) -> Self {
        if was_given_a_socket {
            Self::Ignores(Finding { queued: 0, elsewhere: Some(elsewhere) })
        } else {
            Self::Elsewhere(elsewhere)
        }
    }
}

/// All workers of which it is not known whether they accept.
#[derive(Debug, Default)]
pub(crate) struct Neglect {
    watches: BTreeMap<WorkerId, Watch>,
}

impl Neglect {
    /// A worker is ready, and was not seen to accept from its listener.
    pub(crate) fn watch(&mut self, now: Time, worker: WorkerId, pid: i32, inode: u64) {
        self.watches.insert(worker, Watch { pid, inode, since: now, look_at: now + INTERVAL, waiting: None });
    }

    /// A worker is gone, or told to go.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.watches.remove(&worker);
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Option<Time> {
        self.watches.values().map(|watch| watch.look_at).min()
    }

    /// Looks at workers whose look is due. Returns those that ignore their socket, each once.
    pub(crate) fn look(&mut self, now: Time, address: &Address) -> Vec<(WorkerId, Finding)> {
        let due = self.watches.iter().filter(|(_, watch)| watch.look_at <= now).map(|(worker, _)| *worker);
        let due: Vec<WorkerId> = due.take(LOOKS_A_TURN).collect();
        let mut found = Vec::new();
        let connections = Connections::to(address);
        for worker in due {
            let Some(watch) = self.watches.get_mut(&worker) else { continue };
            match watch.judge(now, see(watch.pid, watch.inode, &connections)) {
                Verdict::Unknown => continue,
                Verdict::Accepts => {}
                Verdict::Ignores(finding) => found.push((worker, finding)),
            }
            self.watches.remove(&worker);
        }
        found
    }
}

/// The connections of a server, asked for once a look: the kernel goes through all that the machine has.
struct Connections<'a> {
    address: &'a Address,
    inodes: OnceCell<Vec<u64>>,
}

impl<'a> Connections<'a> {
    fn to(address: &'a Address) -> Self {
        Self { address, inodes: OnceCell::new() }
    }

    fn inodes(&self) -> &[u64] {
        self.inodes.get_or_init(|| connections(self.address))
    }
}

fn see(pid: i32, inode: u64, connections: &Connections<'_>) -> Sight {
    let family = procinfo::family(pid);
    let waits = serving::waits_on_listener(&family, inode);
    if waits == Some(true) {
        return Sight { accepts: waits, ..Sight::default() };
    }
    let held = procinfo::sockets(&family);
    let has_accepted = connections.inodes().iter().any(|connection| held.contains(connection));
    Sight {
        accepts: if has_accepted { Some(true) } else { waits },
        queued: queued(connections.address, inode),
        elsewhere: listening(&held, inode),
    }
}

/// Where a worker listens by itself, other than on the socket that it was given.
pub(crate) fn elsewhere(pid: i32, given: Option<u64>) -> Option<SocketAddr> {
    listening(&procinfo::sockets(&procinfo::family(pid)), given.unwrap_or(0))
}

fn listening(held: &BTreeSet<u64>, given: u64) -> Option<SocketAddr> {
    let listeners = sockdiag::all_listeners().unwrap_or_default();
    listeners.iter().find(|it| it.inode != given && held.contains(&it.inode)).map(|it| it.local)
}

fn connections(address: &Address) -> Vec<u64> {
    match address {
        Address::Tcp(address) => {
            sockdiag::connections(address.port()).unwrap_or_default().iter().map(|it| it.inode).collect()
        }
        Address::Unix(path) => sockdiag::unix_connections(path).unwrap_or_default(),
    }
}

fn queued(address: &Address, inode: u64) -> u32 {
    match address {
        Address::Tcp(address) => {
            let listeners = sockdiag::listeners(address.port()).unwrap_or_default();
            listeners.iter().find(|listener| listener.inode == inode).map_or(0, |listener| listener.queued)
        }
        Address::Unix(_) => sockdiag::unix_queued(inode).ok().flatten().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::*;

    const fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    const ELSEWHERE: Option<SocketAddr> = Some(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8000)));

    /// The second of a look, and what it shows: whether it accepts, how many wait, where it listens.
    type Look = (u64, Option<bool>, u32, Option<SocketAddr>);

    /// The looks at a worker that is ready at 0, and what comes of the last one.
    fn verdict(looks: &[Look]) -> Verdict {
        let mut watch = Watch { pid: 0, inode: 0, since: at(0), look_at: at(0), waiting: None };
        let mut last = Verdict::Unknown;
        for (second, accepts, queued, elsewhere) in looks {
            assert_eq!(last, Verdict::Unknown, "all but the last");
            last = watch.judge(at(*second), Sight { accepts: *accepts, queued: *queued, elsewhere: *elsewhere });
        }
        last
    }

    #[test]
    fn a_worker_ignores_its_socket_when_its_queue_only_grows_or_it_listens_elsewhere() {
        let ignores = |queued, elsewhere| Verdict::Ignores(Finding { queued, elsewhere });
        let no = Some(false);
        let table: [(&[Look], Verdict); 9] = [
            (&[(1, Some(true), 9, ELSEWHERE)], Verdict::Accepts),
            // Nobody comes: nothing is known.
            (&[(1, no, 0, None), (100, no, 0, None)], Verdict::Unknown),
            (&[(1, no, 1, None), (5, no, 2, None)], Verdict::Unknown),
            (&[(1, no, 1, None), (5, no, 1, None), (6, no, 1, None)], ignores(1, None)),
            // Somebody takes from it.
            (&[(1, no, 3, None), (6, no, 2, None)], Verdict::Accepts),
            (&[(1, None, 1, None), (2, None, 0, None)], Verdict::Accepts),
            // Nothing can be seen of it but its queue.
            (&[(1, None, 1, ELSEWHERE), (6, None, 4, ELSEWHERE)], ignores(4, ELSEWHERE)),
            (&[(1, None, 0, ELSEWHERE), (9, None, 0, ELSEWHERE)], Verdict::Unknown),
            // A port of its own besides, for metrics say, and not yet on its socket; then still not.
            (&[(4, no, 0, ELSEWHERE), (5, no, 0, ELSEWHERE)], ignores(0, ELSEWHERE)),
        ];
        for (looks, expected) in table {
            assert_eq!(verdict(looks), expected, "{looks:?}");
        }
    }

    #[test]
    fn looks_are_rare_while_nobody_waits() {
        let mut watch = Watch { pid: 0, inode: 0, since: at(0), look_at: at(0), waiting: None };
        for (second, queued, next) in [(1, 0, 2), (2, 0, 3), (20, 0, 30), (1000, 0, 1060), (1060, 1, 1061)] {
            assert_eq!(watch.judge(at(second), Sight { queued, ..Sight::default() }), Verdict::Unknown);
            assert_eq!(watch.look_at, at(next), "at {second}");
        }
    }

    #[test]
    fn only_one_that_was_not_seen_to_accept_has_to_show_it() {
        let proofs = [Proof::Notified, Proof::Unproven, Proof::Accepting, Proof::Listening, Proof::Running];
        assert_eq!(proofs.map(has_to_be_shown), [true, true, false, false, false]);
    }

    #[test]
    fn a_socket_that_was_given_is_ignored_and_another_address_is_a_mistake() {
        let place = "127.0.0.1:8000".parse().unwrap();
        let ignores = Misplaced::Ignores(Finding { queued: 0, elsewhere: ELSEWHERE });
        assert_eq!([true, false].map(|given| Misplaced::of(given, place)), [ignores, Misplaced::Elsewhere(place)]);
    }
}
