//! Finding workers by connections to an address that they share. Nobody can choose who accepts a connection, so several
//! are made, it is seen who has accepted each, and those that others have are closed: nothing was asked over them.
//!
//! A connection counts for whichever of the sought workers has it, so that many who are sought help each other. The more
//! have gone to others, the more of those there are, and the more connections are made at a time. What is done when is
//! decided in [`pace`], what becomes of a connection in [`stray`]; here it is done.

mod pace;
mod stray;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use propane_core::{Time, WorkerId};

use crate::http_probe::{Answer, HttpProbe};
use crate::sockets::Address;
use crate::{procinfo, sockdiag};
use pace::{Move, Open, Pace};
use stray::{Stage, Stray};

pub(crate) use pace::LOOK_SHARE;
pub(crate) use stray::ANSWER_PATIENCE;

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
            Stage::Accepted(inode) => inode.is_some_and(|inode| self.sockets.contains(&inode)),
            Stage::Answered(answer) => answer.worker_pid.is_some_and(|pid| self.family.contains(&pid)),
            Stage::Waiting | Stage::Asked => false,
        }
    }
}

/// The search for all workers that are sought.
#[derive(Debug, Default)]
pub(crate) struct Search {
    pace: Pace,
    strays: Vec<Stray>,
    /// Whether somebody who was inspected may have what does not show.
    is_hidden: bool,
    /// Whether the kernel is known to tell of connections to the address. Where it seems not to, that may pass: nobody may
    /// listen just now.
    shows: bool,
}

impl Search {
    /// Somebody is sought who was not.
    pub(crate) fn begin(&mut self, now: Time) {
        self.pace.begin(now);
    }

    /// Nobody is sought.
    pub(crate) fn stop(&mut self) {
        self.strays.clear();
        self.pace.stop();
    }

    /// When to go on.
    pub(crate) fn next(&self) -> Time {
        self.pace.next(self.strays.len())
    }

    /// How many connections were ever made.
    pub(crate) fn total(&self) -> u64 {
        self.pace.total()
    }

    /// Goes on, for a while and without waiting.
    pub(crate) fn step(&mut self, now: Time, mut sought: BTreeMap<WorkerId, Sought<'_>>) -> Vec<Found> {
        let Some(Sought { address, path, .. }) = sought.values().next().copied() else { return Vec::new() };
        let mut found = Vec::new();
        while let Some(next) = self.pace.next_move(now, sought.keys().copied(), self.open()) {
            match next {
                Move::TakeIn => self.take_in(now, address),
                Move::Inspect(workers) => found.extend(self.inspect(now, &workers, &mut sought)),
                Move::LetGo => self.let_go(path),
                Move::Make(count) => self.make(now, count, address),
            }
        }
        if sought.is_empty() {
            self.stop();
        }
        found
    }

    fn open(&self) -> Open {
        Open { count: self.strays.len(), tells: self.strays.iter().any(|stray| stray.stage.tells()) }
    }

    /// Takes in what has become of connections.
    fn take_in(&mut self, now: Time, address: &Address) {
        self.is_hidden = false;
        let calm = self.pace.calm(now);
        let Self { pace, strays, shows, .. } = self;
        strays.retain_mut(|stray| {
            let stays = stray.take_in(now, calm, || is_shown(shows, address));
            // Nobody has one that still waits.
            pace.missed(usize::from(!stays && stray.stage != Stage::Waiting));
            stays
        });
    }

    /// Finds those of the workers that have a connection.
    fn inspect(&mut self, now: Time, workers: &[WorkerId], sought: &mut BTreeMap<WorkerId, Sought<'_>>) -> Vec<Found> {
        let mut found = Vec::new();
        for worker in workers {
            let Some(holding) = sought.get(worker).map(Holding::of) else { continue };
            if let Some(claimed) = self.claim(*worker, &holding) {
                self.pace.found(now);
                sought.remove(worker);
                found.push(claimed);
            }
        }
        found
    }

    /// Gives a worker one of the connections that it has.
    fn claim(&mut self, worker: WorkerId, holding: &Holding) -> Option<Found> {
        self.is_hidden |= holding.is_hidden;
        let nth = self.strays.iter().position(|stray| holding.has(stray.stage))?;
        let Stray { probe, stage, .. } = self.strays.swap_remove(nth);
        let answer = if let Stage::Answered(answer) = stage { Some(answer) } else { None };
        Some(Found { worker, probe, answer })
    }

    /// Gives up connections that nobody who is sought has.
    fn let_go(&mut self, path: &str) {
        let before = self.strays.len();
        self.strays.retain_mut(|stray| stray.let_go(!self.is_hidden, path));
        self.pace.missed(before - self.strays.len());
    }

    /// Makes connections: fewer without descriptors or room in a queue.
    fn make(&mut self, now: Time, count: usize, address: &Address) {
        let before = self.strays.len();
        let new = (0..count).map_while(|_| HttpProbe::begin(address).ok());
        self.strays.extend(new.map(|probe| Stray::new(probe, now)));
        self.pace.made(now, self.strays.len() - before);
    }
}

/// Whether the kernel tells who is at an address, known once it has. One without `tcp_diag` says of any connection that
/// there is none.
fn is_shown(known: &mut bool, address: &Address) -> bool {
    let tells = |port| sockdiag::listeners(port).is_ok_and(|listeners| !listeners.is_empty());
    *known = *known || address.tcp().is_none_or(|tcp| tells(tcp.port()));
    *known
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

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
            self.search.step(self.now, BTreeMap::from([(WORKER, sought)]))
        }

        fn accept(&self) -> TcpStream {
            self.listener.accept().unwrap().0
        }
    }

    fn myself() -> i32 {
        std::process::id().cast_signed()
    }

    #[test]
    fn that_nobody_listens_just_now_does_not_mean_that_the_kernel_tells_nothing() {
        let mut known = false;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        drop(listener);
        assert!(!is_shown(&mut known, &address));
        let listener = TcpListener::bind(address.tcp().unwrap()).unwrap();
        assert!(is_shown(&mut known, &address));
        drop(listener);
        assert!(is_shown(&mut known, &address));
    }

    #[test]
    fn a_worker_is_found_by_a_connection_that_it_has_accepted() {
        let mut game = Game::new();
        assert!(game.step(myself()).is_empty());
        assert!(game.search.total() > 0);
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
        server.set_nonblocking(true).unwrap();
        let before = game.search.total();
        let error = loop {
            assert!(game.step(nobody).is_empty());
            let error = server.read(&mut [0]).unwrap_err();
            if error.kind() != io::ErrorKind::WouldBlock {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        while game.search.total() == before {
            game.step(nobody);
        }
    }

    #[test]
    fn who_waits_for_something_to_come_gets_the_begin_of_a_request() {
        use std::io::Read;
        let mut game = Game::new();
        game.step(i32::MAX);
        // Not accepted as far as the search can see.
        game.now = game.now + stray::NUDGE_AFTER;
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
        game.search.is_hidden = true;
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
