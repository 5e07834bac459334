//! When a worker that does not say so is ready (docs/workers.md): what can be seen of it from outside.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::time::Duration;

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use procfs::process::FDTarget;
use propane_core::{Proof, Time, WorkerId};

use crate::http_probe::{HttpProbe, Progress};
use crate::search::{ANSWER_PATIENCE, Found, Search, Sought};
use crate::sockets::Address;
use crate::{procinfo, sockdiag};

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

/// What a look at a worker's processes found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Proven(Proof),
    NotYet,
    /// They may not be looked at, or wait in a way that does not show.
    Hidden,
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

/// A look at a worker costs about 0.1 ms; with this much time for each, looks never fill the manager's time.
pub(crate) const LOOK_SHARE: Duration = Duration::from_micros(250);

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

/// Whether an answer of a worker of this age has been waited for long enough to ask over another connection.
fn has_waited_long(waited: Duration, age: Duration) -> bool {
    waited >= ANSWER_PATIENCE.max(age / 4)
}

impl Readiness {
    /// Begins to wait for a worker.
    pub(crate) fn expect(&mut self, now: Time, worker: WorkerId, pid: i32, expectation: Expectation) {
        let look_at = now + interval(Duration::ZERO, self.watches.len() + 1);
        let searched = self.search.begun();
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
            Round { now, crowd: self.watches.len(), searched: self.search.begun(), ports: Ports::default() };
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
            let progress = answer.map(Progress::Answered);
            if let Some(proof) = watch.ask(&round, probe, progress) {
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
        self.search.step(now, &self.watches.iter().filter_map(sought).collect())
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
        if self.proof.is_none() {
            self.proof = match see(&procinfo::family(self.pid), &self.expectation, &mut round.ports) {
                Seen::Proven(proof) => Some(proof),
                Seen::Hidden if age >= self.expectation.settle => Some(Proof::Unproven),
                Seen::Hidden | Seen::NotYet => None,
            };
            return self.proof.filter(|_| self.expectation.path.is_none());
        }
        match std::mem::replace(&mut self.asking, Asking::Sought) {
            Asking::Sought | Asking::Resting { probe: None } => None,
            Asking::Asked { mut probe, since } => {
                let progress = match probe.step() {
                    // Another of its processes may answer.
                    Progress::Pending if has_waited_long(round.now.since(since), age) => Progress::Failed,
                    progress => progress,
                };
                self.take_in(round, probe, since, progress)
            }
            Asking::Resting { probe: Some(mut probe) } => {
                probe.renew().ok()?;
                self.ask(round, probe, None)
            }
        }
    }

    /// Asks over a connection that it has, unless that was done already. Returns its proof if it is ready.
    fn ask(&mut self, round: &Round, mut probe: HttpProbe, progress: Option<Progress>) -> Option<Proof> {
        // Without it the end is abrupt, and nothing more.
        let _ = probe.end_in_order();
        let path = self.expectation.path.as_deref().unwrap_or_default();
        let progress = progress.unwrap_or_else(|| probe.ask(path));
        self.take_in(round, probe, round.now, progress)
    }

    fn take_in(&mut self, round: &Round, probe: HttpProbe, since: Time, progress: Progress) -> Option<Proof> {
        let rest = rest(round.now.since(self.since), round.crowd, round.searched.saturating_sub(self.searched));
        let (asking, pause) = match progress {
            Progress::Answered(answer) if answer.status == 200 => return self.proof,
            Progress::Pending => (Asking::Asked { probe, since }, until_answer(round.now.since(since))),
            Progress::Answered(_) => (Asking::Resting { probe: Some(probe) }, rest),
            Progress::Failed => (Asking::Resting { probe: None }, rest),
        };
        if matches!(asking, Asking::Resting { .. }) {
            self.searched = round.searched;
        }
        self.asking = asking;
        self.look_at = round.now + pause;
        None
    }
}

/// The listeners on the ports of interest, asked for once a round.
#[derive(Debug, Default)]
struct Ports(BTreeMap<u16, Vec<u64>>);

impl Ports {
    fn listeners(&mut self, port: u16) -> &[u64] {
        let ask = || sockdiag::listeners(port).unwrap_or_default().iter().map(|socket| socket.inode).collect();
        self.0.entry(port).or_insert_with(ask)
    }
}

fn see(family: &[i32], expectation: &Expectation, ports: &mut Ports) -> Seen {
    let listeners = match &expectation.address {
        Address::Tcp(address) => ports.listeners(address.port()),
        Address::Unix(_) => &[],
    };
    let looks = family.iter().map(|pid| match expectation.listener {
        Some(inode) => see_inherited(*pid, inode),
        None => see_own(*pid, listeners),
    });
    let rank = |seen: &Seen| match seen {
        Seen::NotYet => 0,
        Seen::Hidden => 1,
        Seen::Proven(_) => 2,
    };
    looks.max_by_key(rank).unwrap_or(Seen::NotYet)
}

/// Whether one of a worker's processes waits on the listener that it was given; `None` where that cannot be seen.
pub(crate) fn waits_on_listener(family: &[i32], inode: u64) -> Option<bool> {
    let looks: Vec<Seen> = family.iter().map(|pid| see_inherited(*pid, inode)).collect();
    if looks.iter().any(|seen| matches!(seen, Seen::Proven(_))) {
        return Some(true);
    }
    (!looks.contains(&Seen::Hidden)).then_some(false)
}

/// A process that binds by itself: it must own a listening socket on the port.
fn see_own(pid: i32, listeners: &[u64]) -> Seen {
    match procinfo::descriptors(pid) {
        Ok(fds) if fds.iter().any(|(_, target)| is_one_of(target, listeners)) => Seen::Proven(Proof::Listening),
        Ok(_) => Seen::NotYet,
        Err(error) => unseen(&error),
    }
}

/// A process that inherited its listener: it must wait on it, in an epoll or in a system call. One that has bound the port
/// by itself instead serves, and lets others wait in its slot for ever: it is not ready.
fn see_inherited(pid: i32, inode: u64) -> Seen {
    let fds = match procinfo::descriptors(pid) {
        Ok(fds) => fds,
        Err(error) => return unseen(&error),
    };
    let mine: Vec<i32> = fds.iter().filter(|(_, target)| is_one_of(target, &[inode])).map(|(fd, _)| *fd).collect();
    let is_kind = |target: &FDTarget, kind: &str| matches!(target, FDTarget::AnonInode(name) if name.contains(kind));
    let mut epolls = fds.iter().filter(|(_, target)| is_kind(target, "eventpoll"));
    if epolls.any(|(fd, _)| procinfo::epoll_watches(pid, *fd, inode)) {
        return Seen::Proven(Proof::Accepting);
    }
    if procinfo::sleeping_in(pid).iter().any(|(call, args)| waits_on(pid, *call, args, &mine)) {
        return Seen::Proven(Proof::Accepting);
    }
    let has_uring = !mine.is_empty() && fds.iter().any(|(_, target)| is_kind(target, "io_uring"));
    if has_uring { Seen::Hidden } else { Seen::NotYet }
}

fn unseen(error: &io::Error) -> Seen {
    if error.kind() == io::ErrorKind::PermissionDenied { Seen::Hidden } else { Seen::NotYet }
}

fn is_one_of(target: &FDTarget, inodes: &[u64]) -> bool {
    matches!(target, FDTarget::Socket(inode) if inodes.contains(inode))
}

/// What a system call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A connection on this descriptor.
    Accept { fd: u64 },
    /// An event on one of `count` `struct pollfd`s at `at`.
    Poll { at: u64, count: u64 },
    /// Input on one of the `count` lowest descriptors of the `fd_set` at `at`.
    Select { at: u64, count: u64 },
}

fn wait_of(call: i64, args: &[u64]) -> Option<Wait> {
    let [first, second, ..] = *args else { return None };
    match call {
        libc::SYS_accept | libc::SYS_accept4 => Some(Wait::Accept { fd: first }),
        libc::SYS_ppoll => Some(Wait::Poll { at: first, count: second }),
        libc::SYS_pselect6 => Some(Wait::Select { at: second, count: first }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => Some(Wait::Poll { at: first, count: second }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => Some(Wait::Select { at: second, count: first }),
        _ => None,
    }
}

/// No server polls more descriptors than this while it starts; a bound, because the numbers come from another process.
const POLLED_MAX: u64 = 65_536;

fn waits_on(pid: i32, call: i64, args: &[u64], fds: &[i32]) -> bool {
    let has = |fd: i64| fds.iter().any(|mine| i64::from(*mine) == fd);
    match wait_of(call, args) {
        Some(Wait::Accept { fd }) => has(fd.cast_signed()),
        Some(Wait::Poll { at, count }) => {
            let bytes = read_memory(pid, at, count.min(POLLED_MAX) * 8);
            bytes
                .chunks_exact(8)
                .any(|pollfd| has(i32::from_ne_bytes([pollfd[0], pollfd[1], pollfd[2], pollfd[3]]).into()))
        }
        Some(Wait::Select { at, count }) if at != 0 => {
            let bytes = read_memory(pid, at, count.min(POLLED_MAX).div_ceil(64) * 8);
            fds.iter().any(|fd| is_set(&bytes, *fd))
        }
        Some(Wait::Select { .. }) | None => false,
    }
}

/// Whether bit `fd` of an `fd_set` is set. The set is an array of longs, which on the little-endian machines that Linux
/// runs on today reads the same byte by byte.
fn is_set(bytes: &[u8], fd: i32) -> bool {
    let fd = usize::try_from(fd).unwrap_or(usize::MAX);
    bytes.get(fd / 8).is_some_and(|byte| byte & (1 << (fd % 8)) != 0)
}

/// Memory of another process; empty where it may not be read.
fn read_memory(pid: i32, at: u64, length: u64) -> Vec<u8> {
    let (Ok(base), Ok(len)) = (usize::try_from(at), usize::try_from(length)) else { return Vec::new() };
    let mut bytes = vec![0; len];
    let remote = [RemoteIoVec { base, len }];
    let count = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(&mut bytes)], &remote).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

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
    fn an_fd_set_is_read_bit_by_bit() {
        let bytes = [0b0000_1000, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        for (fd, expected) in [(3, true), (4, false), (64, true), (65, false), (128, false), (-1, false)] {
            assert_eq!(is_set(&bytes, fd), expected, "{fd}");
        }
    }

    fn inode(listener: &TcpListener) -> u64 {
        rustix::fs::fstat(listener).unwrap().st_ino
    }

    fn family() -> Vec<i32> {
        vec![std::process::id().cast_signed()]
    }

    fn expectation(listener: &TcpListener, inherited: bool) -> Expectation {
        let address = Address::Tcp(listener.local_addr().unwrap());
        Expectation { listener: inherited.then(|| inode(listener)), address, path: None, settle: Duration::ZERO }
    }

    #[test]
    fn a_process_that_binds_is_seen_by_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let expectation = expectation(&listener, false);
        assert_eq!(see(&family(), &expectation, &mut Ports::default()), Seen::Proven(Proof::Listening));
        drop(listener);
        assert_eq!(see(&family(), &expectation, &mut Ports::default()), Seen::NotYet);
    }

    #[test]
    fn an_inherited_listener_is_seen_in_an_epoll() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let expectation = expectation(&listener, true);
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(see(&family(), &expectation, &mut Ports::default()), Seen::NotYet);
        let data = rustix::event::epoll::EventData::new_u64(0);
        rustix::event::epoll::add(&epoll, &listener, data, rustix::event::epoll::EventFlags::IN).unwrap();
        assert_eq!(see(&family(), &expectation, &mut Ports::default()), Seen::Proven(Proof::Accepting));
    }

    /// Runs `wait` in a thread until a look finds it, then lets it go with a connection.
    fn is_seen_waiting(wait: impl FnOnce(&TcpListener) + Send + 'static) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let expectation = expectation(&listener, true);
        let waiting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || wait(&waiting));
        let mut seen = false;
        while !seen && !thread.is_finished() {
            seen = see(&family(), &expectation, &mut Ports::default()) == Seen::Proven(Proof::Accepting);
        }
        drop(std::net::TcpStream::connect(expectation.address.tcp().unwrap()));
        thread.join().unwrap();
        seen
    }

    #[test]
    fn a_thread_in_accept_is_seen() {
        assert!(is_seen_waiting(|listener| drop(listener.accept())));
    }

    #[test]
    fn a_thread_in_poll_is_seen() {
        assert!(is_seen_waiting(|listener| {
            let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
        }));
    }

    #[test]
    fn a_thread_in_select_is_seen() {
        assert!(is_seen_waiting(|listener| {
            let mut fds = nix::sys::select::FdSet::new();
            fds.insert(std::os::fd::AsFd::as_fd(listener));
            nix::sys::select::select(listener.as_raw_fd() + 1, &mut fds, None, None, None).unwrap();
        }));
    }
}
