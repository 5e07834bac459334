//! Finding workers by connections to an address that they share. Nobody can choose who accepts a connection, so several
//! are made, it is seen who has accepted each, and those that others have are closed: nothing was asked over them.
//!
//! A connection counts for whichever of the sought workers has it, so that many who are sought help each other. The more
//! have gone to others, the more of those there are, and the more connections are made at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use propane_core::{Time, WorkerId};

use crate::http_probe::{Answer, HttpProbe, Progress};
use crate::readiness::LOOK_SHARE;
use crate::sockets::Address;
use crate::{procinfo, sockdiag};

/// How many connections there are at a time at least, and at most.
const WIDTH_MIN: usize = 4;
const WIDTH_MAX: usize = 128;

/// How many workers are looked at before others have their turn.
const TURN: usize = 8;

/// How many connections are made in a row, which takes some two milliseconds. On a socket that all wait on, the kernel wakes
/// them one after the other, and the first takes what is there: those who come later find something in a long row only.
const BURST: usize = 64;

/// The soonest that somebody can be expected to have accepted.
const STEP: Duration = Duration::from_millis(1);

/// When one that nobody has accepted may wait for something to come over it.
const NUDGE_AFTER: Duration = Duration::from_millis(20);

/// How long one may wait to be accepted at least: it stays in a queue after it is closed.
const ACCEPT_PATIENCE: Duration = Duration::from_millis(250);

/// How long one may wait at least for an answer that alone can tell whose it is.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How many connections there are to be at a time.
fn width(sought: usize, missed: usize) -> usize {
    sought.max(missed / 4).clamp(WIDTH_MIN, WIDTH_MAX)
}

/// How long to wait after `begun` connections, when for so long nobody new was found.
fn pause(begun: usize, calm: Duration) -> Duration {
    share(begun).max(calm / 64).max(STEP)
}

/// The time in which this much work does not fill the manager's time.
fn share(work: usize) -> Duration {
    LOOK_SHARE * u32::try_from(work).unwrap_or(u32::MAX)
}

/// A worker that is sought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought<'a> {
    pub(crate) pid: i32,
    pub(crate) address: &'a Address,
    pub(crate) path: &'a str,
    /// Whether it cannot be seen what it has.
    pub(crate) is_hidden: bool,
}

/// A worker that is found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) worker: WorkerId,
    /// A connection that it has accepted.
    pub(crate) probe: HttpProbe,
    /// What it has answered, if it had to be asked to be known.
    pub(crate) answer: Option<Answer>,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nobody has accepted it.
    Waiting,
    /// The server's end has this inode; 0 where that is not told.
    Accepted(u64),
    /// It does not show who has it, and so whoever has it was asked.
    Asked,
    /// By somebody who says who it is.
    Answered(Answer),
}

impl Stage {
    fn tells(self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Answered(_))
    }
}

/// A connection of which it is not known whose it is.
#[derive(Debug)]
struct Stray {
    probe: HttpProbe,
    since: Time,
    stage: Stage,
}

/// What a worker's processes are, and have.
#[derive(Debug, Default)]
struct Holding {
    family: Vec<i32>,
    sockets: BTreeSet<u64>,
    /// Whether what they have may not be looked at.
    is_hidden: bool,
}

impl Holding {
    fn of(sought: &Sought<'_>) -> Self {
        let family = procinfo::family(sought.pid);
        let mut holding = Self { family, is_hidden: sought.is_hidden, ..Self::default() };
        for pid in &holding.family {
            match procinfo::sockets_of(*pid) {
                Ok(sockets) => holding.sockets.extend(sockets),
                Err(error) => holding.is_hidden |= error.kind() == io::ErrorKind::PermissionDenied,
            }
        }
        holding
    }

    fn has(&self, stage: Stage) -> bool {
        match stage {
            Stage::Accepted(inode) => self.sockets.contains(&inode),
            Stage::Answered(answer) => answer.worker_pid.is_some_and(|pid| self.family.contains(&pid)),
            Stage::Waiting | Stage::Asked => false,
        }
    }
}

/// Whether the kernel tells who is at an address. One without `tcp_diag` says of any connection that there is none.
fn shows(address: &Address) -> bool {
    address.tcp().is_none_or(|tcp| sockdiag::listeners(tcp.port()).is_ok_and(|listeners| !listeners.is_empty()))
}

/// The search for all workers that are sought.
#[derive(Debug, Default)]
pub(crate) struct Search {
    strays: Vec<Stray>,
    /// Who is still to be looked at, to see who has what.
    sweep: VecDeque<WorkerId>,
    /// Whether it does not show of everybody what he has.
    is_blind: bool,
    look_at: Time,
    refill_at: Time,
    /// Until when the connections that were made fill their share of the manager's time, whoever else comes to be sought.
    paid_until: Time,
    /// How many more are to be made before there is a pause.
    batch: usize,
    /// Since when nobody new was sought or found.
    calm_since: Time,
    /// How many went to others of late.
    missed: usize,
    /// Whether the kernel is known to tell of connections to the address. Where it seems not to, that may pass: nobody may
    /// listen just now.
    shows: bool,
    begun: u64,
}

impl Search {
    /// Somebody is sought who was not.
    pub(crate) fn begin(&mut self, now: Time) {
        self.calm_since = now;
        self.refill_at = self.refill_at.min(self.paid_until.max(now));
    }

    /// Nobody is sought.
    pub(crate) fn stop(&mut self) {
        self.strays.clear();
        self.sweep.clear();
        self.missed = 0;
        self.batch = 0;
    }

    /// When to go on.
    pub(crate) fn next(&self) -> Time {
        if !self.sweep.is_empty() {
            return self.look_at;
        }
        if self.strays.is_empty() { self.refill_at } else { self.look_at.min(self.refill_at) }
    }

    /// How many connections were ever made.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Goes on, for a while and without waiting.
    pub(crate) fn step(&mut self, now: Time, sought: &BTreeMap<WorkerId, Sought<'_>>) -> Vec<Found> {
        let Some(any) = sought.values().next() else { return Vec::new() };
        if self.sweep.is_empty() {
            self.take_in(now, any.address);
            // Where many are to be looked at, a whole batch is worth it.
            let is_worth_it = self.batch == 0 || sought.len() <= TURN;
            if is_worth_it && self.strays.iter().any(|stray| stray.stage.tells()) {
                self.sweep.extend(sought.keys());
            }
        }
        let turn: Vec<WorkerId> = self.sweep.drain(..self.sweep.len().min(TURN)).collect();
        let mut found = Vec::new();
        for worker in &turn {
            found.extend(sought.get(worker).and_then(|sought| self.claim(now, *worker, &Holding::of(sought))));
        }
        let left = sought.len() - found.len();
        if left == 0 {
            self.stop();
        } else if self.sweep.is_empty() {
            if !turn.is_empty() {
                self.let_go(any.path);
            }
            self.refill(now, left, any.address);
        }
        let until_look = if self.sweep.is_empty() { self.until_look(now) } else { STEP };
        self.look_at = now + share(turn.len()).max(until_look);
        found
    }

    /// Takes in what has become of connections.
    fn take_in(&mut self, now: Time, address: &Address) {
        self.is_blind = false;
        let calm = now.since(self.calm_since);
        for mut stray in std::mem::take(&mut self.strays) {
            let age = now.since(stray.since);
            let stays = match stray.stage {
                Stage::Waiting => self.may_be_accepted(&mut stray, age, calm, address),
                Stage::Asked => self.may_answer(&mut stray, age, calm),
                Stage::Accepted(_) | Stage::Answered(_) => true,
            };
            if stays {
                self.strays.push(stray);
            }
        }
    }

    /// Whether one that nobody had accepted is still of use.
    fn may_be_accepted(&mut self, stray: &mut Stray, age: Duration, calm: Duration, address: &Address) -> bool {
        match stray.probe.server_end() {
            Ok(Some(inode)) => stray.stage = Stage::Accepted(inode),
            Ok(None) if age < NUDGE_AFTER => {}
            Ok(None) if self.shows(address) => {
                return age < ACCEPT_PATIENCE.max(calm / 4) && stray.probe.nudge() == Progress::Pending;
            }
            Ok(None) | Err(_) => {
                self.is_blind = true;
                stray.stage = Stage::Accepted(0);
            }
        }
        true
    }

    fn shows(&mut self, address: &Address) -> bool {
        self.shows = self.shows || shows(address);
        self.shows
    }

    /// Whether one over which was asked, because it does not show whose it is, may still tell.
    fn may_answer(&mut self, stray: &mut Stray, age: Duration, calm: Duration) -> bool {
        match stray.probe.step() {
            Progress::Answered(answer) if answer.worker_pid.is_some() => stray.stage = Stage::Answered(answer),
            Progress::Pending => return age < ANSWER_PATIENCE.max(calm / 4),
            Progress::Answered(_) | Progress::Failed => {
                self.missed += 1;
                return false;
            }
        }
        true
    }

    /// Gives a worker one of the connections that it has.
    fn claim(&mut self, now: Time, worker: WorkerId, holding: &Holding) -> Option<Found> {
        self.is_blind |= holding.is_hidden;
        let nth = self.strays.iter().position(|stray| holding.has(stray.stage))?;
        let Stray { probe, stage, .. } = self.strays.swap_remove(nth);
        // There are as many others as before.
        self.missed /= 2;
        self.calm_since = now;
        let answer = if let Stage::Answered(answer) = stage { Some(answer) } else { None };
        Some(Found { worker, probe, answer })
    }

    /// Everybody who is sought was looked at. What nobody has is another's, unless it did not show; then his answer has to
    /// say whose it is.
    fn let_go(&mut self, path: &str) {
        let before = self.strays.len();
        let is_blind = self.is_blind;
        self.strays.retain_mut(|stray| match stray.stage {
            Stage::Accepted(_) if is_blind => {
                stray.stage = Stage::Asked;
                stray.probe.ask(path) != Progress::Failed
            }
            stage => !stage.tells(),
        });
        self.missed += before - self.strays.len();
    }

    /// Makes new connections, if it is time to.
    fn refill(&mut self, now: Time, sought: usize, address: &Address) {
        if self.refill_at > now {
            return;
        }
        let width = width(sought, self.missed);
        if self.batch == 0 {
            self.batch = width;
        }
        let room = width.saturating_sub(self.strays.len()).min(self.batch).min(BURST);
        // Without descriptors or room in a queue there are fewer, or none until later.
        let new = (0..room).map_while(|_| HttpProbe::begin(address).ok());
        let before = self.strays.len();
        self.strays.extend(new.map(|probe| Stray { probe, since: now, stage: Stage::Waiting }));
        let begun = self.strays.len() - before;
        self.begun += begun as u64;
        self.batch = if begun == 0 { 0 } else { self.batch - begun };
        let calm = if self.batch == 0 { now.since(self.calm_since) } else { Duration::ZERO };
        self.paid_until = now + pause(begun, Duration::ZERO);
        self.refill_at = now + pause(begun, calm);
    }

    /// How long until something can have become of a connection.
    fn until_look(&self, now: Time) -> Duration {
        let youngest = self.strays.iter().map(|stray| now.since(stray.since)).min().unwrap_or_default();
        (youngest / 4).clamp(STEP, ACCEPT_PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn more_connections_are_made_the_more_are_sought_and_the_more_others_there_are() {
        let table = [(1, 0, 4), (1, 16, 4), (1, 100, 25), (1, 9_999, 128), (32, 0, 32), (32, 200, 50), (1024, 0, 128)];
        for (sought, missed, expected) in table {
            assert_eq!(width(sought, missed), expected, "{sought} {missed}");
        }
    }

    #[test]
    fn pauses_bound_the_connections_of_a_second_and_grow_while_nobody_is_found() {
        let table = [(0, 0, 1_000), (1, 0, 1_000), (8, 0, 2_000), (4, 128, 2_000), (4, 64_000, 1_000_000)];
        for (begun, calm_ms, micros) in table {
            let found = pause(begun, Duration::from_millis(calm_ms));
            assert_eq!(found, Duration::from_micros(micros), "{begun} {calm_ms}");
        }
    }

    /// The search plays against workers that accept at once, each connection by one of them at random: in this time
    /// all are found.
    fn time_to_find(sought: usize, others: usize) -> Duration {
        let (mut now, mut random, mut missed, mut batch) = (Duration::ZERO, 1u64, 0, 0);
        let (mut left, mut calm_since) = (sought, Duration::ZERO);
        let mut is_found = vec![false; sought];
        while left > 0 {
            if batch == 0 {
                batch = width(left, missed);
            }
            let begun = batch.min(BURST);
            batch -= begun;
            for _ in 0..begun {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let nth = usize::try_from(random >> 33).unwrap() % (sought + others);
                if is_found.get(nth) == Some(&false) {
                    is_found[nth] = true;
                    (left, missed, calm_since) = (left - 1, missed / 2, now);
                } else {
                    missed += 1;
                }
            }
            now += pause(begun, if batch == 0 { now.saturating_sub(calm_since) } else { Duration::ZERO });
            // Each batch that is whole is followed by a look at everybody.
            now += if batch == 0 { share(left) } else { Duration::ZERO };
        }
        now
    }

    #[test]
    fn everybody_is_found_soon_whoever_else_accepts() {
        // How many are sought, how many others accept as well, seconds.
        let table = [(1, 1, 1), (32, 0, 1), (1, 63, 1), (31, 33, 1), (200, 200, 3), (1, 2047, 6), (1024, 1024, 20)];
        for (sought, others, seconds) in table {
            let found = time_to_find(sought, others);
            assert!(found < Duration::from_secs(seconds), "{sought} {others}: {found:?}");
        }
    }

    const WORKER: WorkerId = WorkerId(7);

    /// A search for a worker with this pid, and steps until something comes of it. There is a connection to accept as soon
    /// as it is made.
    struct Game {
        listener: TcpListener,
        address: Address,
        search: Search,
        now: Time,
    }

    impl Game {
        fn new() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = Address::Tcp(listener.local_addr().unwrap());
            Self { listener, address, search: Search::default(), now: Time::default() }
        }

        fn step(&mut self, pid: i32) -> Vec<Found> {
            self.now = self.now.max(self.search.next());
            let sought = Sought { pid, address: &self.address, path: "/readyz", is_hidden: false };
            self.search.step(self.now, &BTreeMap::from([(WORKER, sought)]))
        }

        fn accept(&self) -> TcpStream {
            self.listener.accept().unwrap().0
        }
    }

    fn myself() -> i32 {
        std::process::id().cast_signed()
    }

    #[test]
    fn whoever_comes_to_be_sought_does_not_make_connections_more_frequent_than_their_share() {
        let at = |micros| Time::from_micros(micros);
        let mut search = Search { refill_at: at(9_000), paid_until: at(5_000), ..Search::default() };
        for (now, expected) in [(1_000, 5_000), (4_000, 5_000), (6_000, 5_000)] {
            search.begin(at(now));
            assert_eq!(search.refill_at, at(expected), "{now}");
        }
    }

    #[test]
    fn that_nobody_listens_just_now_does_not_mean_that_the_kernel_tells_nothing() {
        let mut search = Search::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        assert!(!search.shows(&address));
        let listener = TcpListener::bind(address.tcp().unwrap()).unwrap();
        assert!(search.shows(&address));
        drop(listener);
        assert!(search.shows(&address));
    }

    #[test]
    fn a_worker_is_found_by_a_connection_that_it_has_accepted() {
        let mut game = Game::new();
        assert!(game.step(myself()).is_empty());
        assert_eq!(game.search.begun(), WIDTH_MIN as u64);
        assert!(game.step(myself()).is_empty(), "nobody has accepted one");
        let server = game.accept();
        let found = game.step(myself());
        let [Found { worker: WORKER, probe, answer: None }] = found.as_slice() else { panic!("{found:?}") };
        let inode = rustix::fs::fstat(server.as_fd()).unwrap().st_ino;
        assert_eq!(probe.server_end().unwrap(), Some(inode));
    }

    #[test]
    fn what_another_has_accepted_is_closed_without_a_word() {
        use std::io::Read;
        let mut game = Game::new();
        // Nobody has this pid, and so it holds nothing.
        let nobody = i32::MAX;
        game.step(nobody);
        let mut server = game.accept();
        let before = game.search.begun();
        while game.search.missed == 0 {
            assert!(game.step(nobody).is_empty());
        }
        let error = server.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        while game.search.begun() == before {
            game.step(nobody);
        }
    }

    #[test]
    fn who_waits_for_something_to_come_gets_the_begin_of_a_request() {
        use std::io::Read;
        let mut game = Game::new();
        game.step(i32::MAX);
        // Not accepted as far as the search can see.
        game.now = game.now + NUDGE_AFTER;
        game.step(i32::MAX);
        let mut heard = [0; 16];
        let count = game.accept().read(&mut heard).unwrap();
        assert_eq!(&heard[..count], b"GET ");
    }

    #[test]
    fn where_it_does_not_show_whose_it_is_the_answer_says() {
        use std::io::{Read, Write};
        let mut game = Game::new();
        game.step(i32::MAX);
        let mut server = game.accept();
        game.search.take_in(game.now, &game.address);
        game.search.is_blind = true;
        game.search.let_go("/readyz");
        let mut request = [0; 1024];
        let count = server.read(&mut request).unwrap();
        assert!(request[..count].starts_with(b"GET /readyz HTTP/1.1\r\n"));
        write!(server, "HTTP/1.1 503 No\r\nX-Arlen-Worker-Pid: {}\r\n\r\n", myself()).unwrap();
        let mut found = game.step(myself());
        while found.is_empty() {
            found = game.step(myself());
        }
        let answer = Some(Answer { status: 503, worker_pid: Some(myself()) });
        assert_eq!((found.len(), found[0].worker, found[0].answer), (1, WORKER, answer));
    }
}
