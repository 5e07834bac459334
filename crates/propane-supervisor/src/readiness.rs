//! When a worker that does not say so is ready (docs/workers.md): what can be seen of it from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use propane_core::{Proof, Time, WorkerId};

use crate::http_probe::{Answer, HttpProbe, Progress};
use crate::procinfo;
use crate::search::{ANSWER_PATIENCE, Found, LOOK_SHARE, Search, Sought};
use crate::serving::{self, Ports, Seen};
use crate::sockets::Address;

/// How the readiness of a worker shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    /// The inode of its inherited listener; `None` where it binds by itself.
    pub(crate) listener: Option<u64>,
    /// Where it serves.
    pub(crate) address: Address,
    /// The path that must answer 200 besides, if one is configured.
    pub(crate) path: Option<String>,
    /// When a worker of which nothing can be seen is taken for ready.
    pub(crate) settle: Duration,
}

/// A worker whose readiness is waited for.
#[derive(Debug)]
struct Watch {
    pid: i32,
    expectation: Expectation,
    since: Time,
    look_at: Time,
    proof: Option<Proof>,
    asking: Asking,
    /// How many connections had been made to find workers when it answered last.
    searched: u64,
}

/// How far a worker that serves as far as can be seen has come with its readiness path.
#[derive(Debug)]
enum Asking {
    /// There is no connection to it.
    Sought,
    /// It was asked over this one.
    Asked { probe: HttpProbe, since: Time },
    /// It is not ready, and is to be asked again later; over this one, if it keeps it.
    Resting { probe: Option<HttpProbe> },
}

/// All workers whose readiness is waited for.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    watches: BTreeMap<WorkerId, Watch>,
    search: Search,
}

/// To ask again, or to make a connection for it, costs about as much; with this much time for each, workers that are never
/// ready take a small part of the manager's time.
const ASK_SHARE: Duration = Duration::from_millis(25);

/// The time between two looks at a worker of this age that boots beside `crowd - 1` others: often at first, for a quick
/// boot, rarely later, for a slow one, and the rarer the more there are to look at.
fn interval(age: Duration, crowd: usize) -> Duration {
    let share = LOOK_SHARE * u32::try_from(crowd).unwrap_or(u32::MAX);
    (age / 4).max(share).clamp(Duration::from_millis(1), Duration::from_millis(250))
}

/// How long a worker of this age is left alone that has answered that it is not ready: a quarter of its age at the most,
/// and the longer the more others there are, and the more connections it takes to find it.
fn rest(age: Duration, crowd: usize, searched: u64) -> Duration {
    let asks = u32::try_from(searched.saturating_add(crowd as u64)).unwrap_or(u32::MAX);
    interval(age, crowd).max((age / 4).min(ASK_SHARE.saturating_mul(asks)))
}

/// The time between two looks for an answer that is waited for so long: a look costs a system call.
fn until_answer(waited: Duration) -> Duration {
    (waited / 4).clamp(Duration::from_millis(1), Duration::from_millis(250))
}

/// The proof that a worker of this age serves, by a look at it.
fn proof_of(seen: Seen, age: Duration, settle: Duration) -> Option<Proof> {
    match seen {
        Seen::Proven(proof) => Some(proof),
        Seen::Hidden if age >= settle => Some(Proof::Unproven),
        Seen::Hidden | Seen::NotYet => None,
    }
}

/// What follows from what a worker has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    /// There may be an answer yet.
    Waiting,
    NotReady {
        /// Whether to ask again over the same connection.
        keeps: bool,
    },
}

/// What follows when a worker of this age was asked so long ago. After a while another of its processes may answer.
fn judge(progress: Progress, waited: Duration, age: Duration) -> Verdict {
    match progress {
        Progress::Answered(answer) if answer.status == 200 => Verdict::Ready,
        Progress::Answered(_) => Verdict::NotReady { keeps: true },
        Progress::Pending if waited < ANSWER_PATIENCE.max(age / 4) => Verdict::Waiting,
        Progress::Pending | Progress::Failed => Verdict::NotReady { keeps: false },
    }
}

impl Readiness {
    /// Begins to wait for a worker.
    pub(crate) fn expect(&mut self, now: Time, worker: WorkerId, pid: i32, expectation: Expectation) {
        let look_at = now + interval(Duration::ZERO, self.watches.len() + 1);
        let searched = self.search.total();
        let watch = Watch { pid, expectation, since: now, look_at, proof: None, asking: Asking::Sought, searched };
        self.watches.insert(worker, watch);
    }

    /// Stops to wait for a worker.
    pub(crate) fn forget(&mut self, worker: WorkerId) {
        self.watches.remove(&worker);
    }

    /// A worker said `READY=1`. Returns its proof unless its path is still to be asked.
    pub(crate) fn notified(&mut self, now: Time, worker: WorkerId) -> Option<Proof> {
        let watch = self.watches.get_mut(&worker)?;
        let is_new = watch.proof.replace(Proof::Notified).is_none();
        if watch.expectation.path.is_none() {
            self.watches.remove(&worker);
            return Some(Proof::Notified);
        }
        if is_new {
            self.search.begin(now);
        }
        None
    }

    /// The workers that serve as far as can be seen, and whose path is still to answer.
    pub(crate) fn asked(&self) -> impl Iterator<Item = WorkerId> {
        self.watches.iter().filter(|(_, watch)| watch.proof.is_some()).map(|(worker, _)| *worker)
    }

    /// Whether anybody's readiness is waited for.
    pub(crate) fn is_idle(&self) -> bool {
        self.watches.is_empty()
    }

    /// When the next look is due.
    pub(crate) fn next_look(&self) -> Option<Time> {
        let look = |watch: &Watch| if watch.is_sought() { self.search.next() } else { watch.look_at };
        self.watches.values().map(look).min()
    }

    /// Looks at every worker whose look is due, and returns those that are ready.
    pub(crate) fn look(&mut self, now: Time) -> Vec<(WorkerId, Proof)> {
        let is_due = |watch: &Watch| !watch.is_sought() && watch.look_at <= now;
        let due: Vec<_> = self.watches.iter().filter(|(_, watch)| is_due(watch)).map(|(id, _)| *id).collect();
        let mut round =
            Round { now, crowd: self.watches.len(), searched: self.search.total(), ports: Ports::default() };
        let mut ready = Vec::new();
        for worker in due {
            let Some(watch) = self.watches.get_mut(&worker) else { continue };
            if let Some(proof) = watch.look(&mut round) {
                ready.push((worker, proof));
                self.watches.remove(&worker);
            } else if watch.is_sought() {
                self.search.begin(now);
            }
        }
        for Found { worker, probe, answer } in self.search(now) {
            let Some(watch) = self.watches.get_mut(&worker) else { continue };
            if let Some(proof) = watch.ask(&round, probe, answer) {
                ready.push((worker, proof));
                self.watches.remove(&worker);
            }
        }
        ready
    }

    /// Goes on with the search for workers that are to be asked, if it is time to.
    fn search(&mut self, now: Time) -> Vec<Found> {
        let sought = |(worker, watch): (&WorkerId, _)| Some((*worker, Watch::sought(watch)?));
        if !self.watches.values().any(Watch::is_sought) {
            self.search.stop();
            return Vec::new();
        }
        if self.search.next() > now {
            return Vec::new();
        }
        self.search.step(now, self.watches.iter().filter_map(sought).collect())
    }
}

/// What a round of looks goes by.
#[derive(Debug)]
struct Round {
    now: Time,
    /// How many are waited for.
    crowd: usize,
    /// How many connections were made to find workers.
    searched: u64,
    ports: Ports,
}

impl Watch {
    /// Whether a connection to it is to be found.
    fn is_sought(&self) -> bool {
        self.proof.is_some() && matches!(self.asking, Asking::Sought)
    }

    fn sought(&self) -> Option<Sought<'_>> {
        let path = self.expectation.path.as_deref().filter(|_| self.is_sought())?;
        let is_hidden = self.proof == Some(Proof::Unproven);
        Some(Sought { pid: self.pid, address: &self.expectation.address, path, is_hidden })
    }

    /// Looks at it. Returns its proof if it is ready.
    fn look(&mut self, round: &mut Round) -> Option<Proof> {
        let age = round.now.since(self.since);
        self.look_at = round.now + interval(age, round.crowd);
        if self.proof.is_some() {
            return self.go_on_asking(round);
        }
        let Expectation { listener, address, settle, path } = &self.expectation;
        let seen = serving::see(&procinfo::family(self.pid), *listener, address, &mut round.ports);
        self.proof = proof_of(seen, age, *settle);
        self.proof.filter(|_| path.is_none())
    }

    fn go_on_asking(&mut self, round: &Round) -> Option<Proof> {
        match std::mem::replace(&mut self.asking, Asking::Sought) {
            Asking::Sought | Asking::Resting { probe: None } => None,
            Asking::Resting { probe: Some(mut probe) } => {
                probe.renew().ok()?;
                self.ask(round, probe, None)
            }
            Asking::Asked { mut probe, since } => {
                let progress = probe.step();
                self.take_in(round, probe, since, progress)
            }
        }
    }

    /// Asks over a connection that it has, unless that was done already. Returns its proof if it is ready.
    fn ask(&mut self, round: &Round, mut probe: HttpProbe, answer: Option<Answer>) -> Option<Proof> {
        // Without it the end is abrupt, and nothing more.
        let _ = probe.end_in_order();
        let path = self.expectation.path.as_deref().unwrap_or_default();
        let progress = answer.map_or_else(|| probe.ask(path), Progress::Answered);
        self.take_in(round, probe, round.now, progress)
    }

    fn take_in(&mut self, round: &Round, probe: HttpProbe, since: Time, progress: Progress) -> Option<Proof> {
        let (waited, age) = (round.now.since(since), round.now.since(self.since));
        match judge(progress, waited, age) {
            Verdict::Ready => return self.proof,
            Verdict::Waiting => {
                self.asking = Asking::Asked { probe, since };
                self.look_at = round.now + until_answer(waited);
            }
            Verdict::NotReady { keeps } => {
                self.asking = Asking::Resting { probe: keeps.then_some(probe) };
                self.look_at = round.now + rest(age, round.crowd, round.searched.saturating_sub(self.searched));
                self.searched = round.searched;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_get_rarer_with_age() {
        let table =
            [(0, 1, 1), (3, 4, 1), (100, 4, 25), (200, 4, 50), (60_000, 4, 250), (0, 100, 25), (0, 10_000, 250)];
        for (age, crowd, expected) in table {
            let found = interval(Duration::from_millis(age), crowd);
            assert_eq!(found, Duration::from_millis(expected), "{age} {crowd}");
        }
    }

    #[test]
    fn who_is_not_ready_is_asked_again_at_a_small_part_of_the_time() {
        // Age in ms, how many are waited for, how many connections it took to find it, ms until it is asked again.
        let table = [
            (40, 1, 0, 10),
            (60_000, 1, 0, 250),
            (60_000, 1, 8, 250),
            (60_000, 2, 64, 1_650),
            (2_000, 1, 64, 500),
            (60_000, 1, 9_999, 15_000),
            (60_000, 32, 0, 800),
        ];
        for (age, crowd, searched, expected) in table {
            let found = rest(Duration::from_millis(age), crowd, searched);
            assert_eq!(found, Duration::from_millis(expected), "{age} {crowd} {searched}");
        }
    }

    #[test]
    fn what_does_not_show_is_taken_for_served_after_it_has_settled() {
        let (early, late, settle) = (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(2));
        let table = [
            (Seen::NotYet, late, None),
            (Seen::Hidden, early, None),
            (Seen::Hidden, late, Some(Proof::Unproven)),
            (Seen::Proven(Proof::Listening), early, Some(Proof::Listening)),
        ];
        for (seen, age, expected) in table {
            assert_eq!(proof_of(seen, age, settle), expected, "{seen:?} {age:?}");
        }
    }

    #[test]
    fn only_200_is_ready_and_an_answer_is_not_waited_for_for_ever() {
        use Verdict::{NotReady, Ready, Waiting};
        let answered = |status| Progress::Answered(Answer { status, worker_pid: None });
        // Seconds since it was asked, and of its age.
        let table = [
            (answered(200), 60, 60, Ready),
            (answered(204), 0, 60, NotReady { keeps: true }),
            (answered(503), 0, 60, NotReady { keeps: true }),
            (Progress::Pending, 4, 8, Waiting),
            (Progress::Pending, 5, 20, NotReady { keeps: false }),
            (Progress::Pending, 5, 24, Waiting),
            (Progress::Failed, 0, 1, NotReady { keeps: false }),
        ];
        for (progress, waited, age, expected) in table {
            let found = judge(progress, Duration::from_secs(waited), Duration::from_secs(age));
            assert_eq!(found, expected, "{progress:?} {waited} {age}");
        }
    }
}
