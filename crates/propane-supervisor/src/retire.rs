//! Steered retirement: how a worker that binds by itself, and knows nothing of it, leaves without losing a connection
//! (LINUX-NOTES §1).
//!
//! The manager borrows a duplicate of each listener of the worker that leaves (`pidfd_getfd(2)`), and has the kernel give
//! new connections to those who stay. When nobody waits in the queue any more, no handshake is left from before, and
//! what the worker serves is finished, the worker has drained. The duplicates keep its listeners in their group until it
//! is gone, so that they leave one by one, when the manager says so, and the program in force always names the right
//! places.
//!
//! What cannot be known is not guessed: a listener that is nobody's, or a place of which it is not sure who stands there,
//! means that the group is left to the kernel's hash, as it would be without any of this. A program that has become wrong
//! names a place out of range, which means the same, or a listener of somebody.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use procfs::process::FDTarget;
use propane_core::{Time, WorkerId};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::drain::{Handshakes, Queue, Seen, interval, rested};
use crate::group::Group;
use crate::sockdiag::{self, Connection, GroupKey, Listener};
use crate::sockets::Address;
use crate::{procinfo, steering};

/// A connection over which nothing has gone for this long, the worker having spoken last, is idle: nobody waits for an
/// answer on it.
const IDLE_AFTER: Duration = Duration::from_secs(5);

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

/// Who holds a listener, under which number.
#[derive(Clone, Copy, Debug)]
struct Holder {
    worker: WorkerId,
    pid: i32,
    fd: i32,
}

/// A group with the program in force.
#[derive(Debug, Default)]
struct Steered {
    group: Group,
    program: Option<Program>,
    /// Why there is none, where there should be one.
    obstacle: Option<Obstacle>,
    /// Whether somebody has left unasked: then the program has named a place out of range for a moment, and anybody may
    /// have been given a connection.
    is_disturbed: bool,
}

/// Why new connections cannot be kept from somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    Nobody,
    Foreign(u64),
    Unsure,
    Refused,
}

impl Obstacle {
    fn text(self) -> String {
        match self {
            Self::Nobody => "nobody else serves its address".to_owned(),
            Self::Foreign(inode) => {
                let pids: Vec<_> = procinfo::holders(inode).iter().map(ToString::to_string).collect();
                let who =
                    if pids.is_empty() { "another process".to_owned() } else { format!("pid {}", pids.join(", ")) };
                format!("{who}, which is no worker, listens on the port as well")
            }
            Self::Unsure => "listeners have come and gone so quickly that it is not known where they stand".to_owned(),
            Self::Refused => "the kernel refuses the steering program".to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Program {
    places: Vec<u32>,
    /// Since when nobody else can have been given a connection.
    since: Time,
}

/// A worker that leaves.
#[derive(Debug)]
struct Leaving {
    since: Time,
    is_told: bool,
    /// Duplicates of its listeners, by inode.
    held: BTreeMap<u64, OwnedFd>,
    /// How many connections it had to finish when it was first looked at.
    waited: Option<u32>,
    queue: Queue,
    /// Those that were in use when its descriptors were looked at last; there are no new ones once its queue is empty.
    in_use: BTreeSet<u64>,
}

/// All that is under way.
#[derive(Debug)]
pub(crate) struct Retirement {
    port: u16,
    groups: BTreeMap<GroupKey, Steered>,
    holders: BTreeMap<u64, Holder>,
    leaving: BTreeMap<WorkerId, Leaving>,
    next_look: Option<Time>,
    has_probed: bool,
    joins_seen_at: Time,
}

impl Retirement {
    pub(crate) fn new(port: u16) -> Self {
        Self {
            port,
            groups: BTreeMap::new(),
            holders: BTreeMap::new(),
            leaving: BTreeMap::new(),
            next_look: None,
            has_probed: false,
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
            let is_lost = |inode: &u64| !members.contains(inode) && Some(*inode) != released;
            steered.is_disturbed |= steered.group.members().iter().any(is_lost);
            steered.group.observe(&members);
        }
        // The kernel forgets the program with the group.
        self.groups.retain(|_, steered| !steered.group.members().is_empty());
        self.holders.retain(|inode, _| listeners.iter().any(|listener| listener.inode == *inode));
    }

    /// Whether it is known that workers' sockets can be steered, or that they cannot.
    pub(crate) fn has_probed(&self) -> bool {
        self.has_probed
    }

    /// Tries on the first ready worker whether its sockets can be borrowed and steered. Returns why not.
    pub(crate) fn probe(&mut self, member: Member) -> Option<String> {
        let refusal = match self.try_on(member) {
            Ok(false) => return None, // it does not listen yet; the next one is tried
            Ok(true) => None,
            Err(error) => Some(explain(&error, member.pid)),
        };
        self.has_probed = true;
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
            in_use: BTreeSet::new(),
        };
        self.leaving.insert(worker, leaving);
        self.next_look = Some(now);
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
        if let Some(leaving) = self.leaving.remove(&worker) {
            for (inode, socket) in leaving.held {
                self.release(now, inode, socket, members);
            }
        }
        if !self.leaving.is_empty() {
            self.steer(now, members);
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
            Err(error) => return vec![Verdict::Refused(format!("sock_diag is refused: {error}"))],
        };
        self.take_in(&listeners, None);
        self.find_holders(members);
        if let Err(refusal) = self.hold() {
            return vec![Verdict::Refused(refusal)];
        }
        self.steer(now, members);
        let verdicts = self.judge(now, members, &listeners);
        let draining = self.leaving.values().filter(|leaving| !leaving.is_told).map(|leaving| leaving.since).min();
        self.next_look = draining.map(|since| now + interval(now.since(since)));
        verdicts
    }

    /// Finds out who holds the listeners of which that is not known.
    fn find_holders(&mut self, members: &[Member]) {
        let listening = self.groups.values().flat_map(|steered| steered.group.members());
        let unknown: BTreeSet<u64> = listening.copied().filter(|inode| !self.holders.contains_key(inode)).collect();
        if unknown.is_empty() {
            return;
        }
        for member in members {
            for pid in procinfo::family(member.pid) {
                for (fd, target) in procinfo::descriptors(pid).unwrap_or_default() {
                    if let FDTarget::Socket(inode) = target
                        && unknown.contains(&inode)
                    {
                        self.holders.entry(inode).or_insert(Holder { worker: member.worker, pid, fd });
                    }
                }
            }
        }
    }

    /// Borrows the listeners of those who leave.
    fn hold(&mut self) -> Result<(), String> {
        let mut stale = Vec::new();
        for (inode, holder) in &self.holders {
            let Some(leaving) = self.leaving.get_mut(&holder.worker).filter(|leaving| !leaving.is_told) else {
                continue;
            };
            if leaving.held.contains_key(inode) {
                continue;
            }
            match borrow(*holder) {
                Ok(socket) if is_socket(&socket, *inode) => drop(leaving.held.insert(*inode, socket)),
                // The number means something else by now, or nothing.
                Ok(_) => stale.push(*inode),
                Err(error) if is_passing(&error) => stale.push(*inode),
                Err(error) => return Err(explain(&error, holder.pid)),
            }
        }
        self.holders.retain(|inode, _| !stale.contains(inode));
        Ok(())
    }

    /// Has every group from which somebody leaves give new connections to those who stay.
    fn steer(&mut self, now: Time, members: &[Member]) {
        let keys: Vec<GroupKey> = self.groups.keys().copied().collect();
        for key in keys {
            let obstacle = self.steer_group(now, key, members).err();
            if obstacle.is_some() {
                self.leave_to_the_hash(key, members);
            }
            if let Some(steered) = self.groups.get_mut(&key) {
                steered.obstacle = obstacle;
            }
        }
    }

    /// Fails where new connections cannot be kept from those who leave.
    fn steer_group(&mut self, now: Time, key: GroupKey, members: &[Member]) -> Result<(), Obstacle> {
        let Some(steered) = self.groups.get_mut(&key) else { return Ok(()) };
        if std::mem::take(&mut steered.is_disturbed)
            && let Some(program) = &mut steered.program
        {
            program.since = now;
        }
        let steered = &self.groups[&key];
        let inodes = steered.group.members();
        if !inodes.iter().any(|inode| self.is_held(*inode)) {
            // Nobody leaves from here. A program that is in force has nothing to say any more.
            return if steered.program.is_none() { Ok(()) } else { Err(Obstacle::Nobody) };
        }
        let is_foreign = |inode: &&u64| !self.holders.contains_key(inode) && !self.is_held(**inode);
        if let Some(foreign) = inodes.iter().find(is_foreign) {
            return Err(Obstacle::Foreign(*foreign));
        }
        let places = steered.group.places_of(|inode| self.may_be_given(inode, members));
        if places.is_empty() {
            let anybody = inodes.iter().any(|inode| self.may_be_given(*inode, members));
            return Err(if anybody { Obstacle::Unsure } else { Obstacle::Nobody });
        }
        if steered.program.as_ref().is_some_and(|program| program.places == places) {
            return Ok(());
        }
        self.attach(key, &places, members).map_err(|_| Obstacle::Refused)?;
        if let Some(steered) = self.groups.get_mut(&key) {
            let since = steered.program.as_ref().map_or(now, |program| program.since);
            steered.program = Some(Program { places, since });
        }
        Ok(())
    }

    fn is_held(&self, inode: u64) -> bool {
        self.leaving.values().any(|leaving| leaving.held.contains_key(&inode))
    }

    /// Whether new connections may go to a listener.
    fn may_be_given(&self, inode: u64, members: &[Member]) -> bool {
        let Some(holder) = self.holders.get(&inode) else { return false };
        let stays = !self.leaving.contains_key(&holder.worker);
        stays && members.iter().any(|member| member.worker == holder.worker && member.serves)
    }

    /// Takes the program of a group away. Listeners that only this manager still holds must go at once then, because
    /// nobody accepts from them.
    fn leave_to_the_hash(&mut self, key: GroupKey, members: &[Member]) {
        let Some(steered) = self.groups.get(&key) else { return };
        let inodes = steered.group.members().to_vec();
        if steered.program.is_some() {
            self.detach(key, members);
        }
        for leaving in self.leaving.values_mut().filter(|leaving| leaving.is_told) {
            leaving.held.retain(|inode, _| !inodes.contains(inode));
        }
    }

    /// Lets a listener leave its group. The last of the group will stand in its place.
    fn release(&mut self, now: Time, inode: u64, socket: OwnedFd, members: &[Member]) {
        let found = self.groups.iter().find(|(_, steered)| steered.group.members().contains(&inode));
        let Some((key, steered)) = found.map(|(key, steered)| (*key, steered)) else { return };
        if steered.program.is_some() {
            let places = steered.group.places_of(|inode| self.may_be_given(inode, members));
            let steady = steered.group.steady(&places);
            let is_gap = places.len() == steady.len() && steady.len() == 1;
            // A member of the group as any other, until it is dropped.
            let attached = steering::attach(&socket, &steady);
            if let (Ok(()), Some(steered)) = (attached, self.groups.get_mut(&key))
                && let Some(program) = &mut steered.program
            {
                program.places = steady;
                program.since = if is_gap { now } else { program.since };
            }
        }
        drop(socket);
        if let Ok(listeners) = sockdiag::listeners(self.port) {
            self.take_in(&listeners, Some(inode));
        }
    }

    /// Nobody leaves any more: every group is left to the kernel's hash.
    fn let_go(&mut self, members: &[Member]) {
        let steered: Vec<GroupKey> =
            self.groups.iter().filter(|(_, it)| it.program.is_some()).map(|(key, _)| *key).collect();
        for key in steered {
            self.detach(key, members);
        }
    }

    fn attach(&self, key: GroupKey, places: &[u32], members: &[Member]) -> io::Result<()> {
        self.with_member_of(key, members, &|socket| steering::attach(socket, places))
    }

    /// A program that cannot be taken away names places out of range sooner or later, or living listeners.
    fn detach(&mut self, key: GroupKey, members: &[Member]) {
        if let Err(error) = self.with_member_of(key, members, &|socket| steering::detach(socket)) {
            tracing::debug!("cannot take a steering program away: {error}");
        }
        if let Some(steered) = self.groups.get_mut(&key) {
            steered.program = None;
        }
    }

    /// Does something to a group by way of one of its members: one that is held already, or one that is borrowed for it.
    fn with_member_of(
        &self,
        key: GroupKey,
        members: &[Member],
        act: &dyn Fn(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<()> {
        let inodes = self.groups.get(&key).map(|steered| steered.group.members()).unwrap_or_default();
        if let Some(socket) = inodes.iter().find_map(|inode| self.leaving.values().find_map(|it| it.held.get(inode))) {
            return act(socket);
        }
        let runs = |holder: &&Holder| members.iter().any(|member| member.worker == holder.worker);
        let mut outcome = Err(io::ErrorKind::NotFound.into());
        for (inode, holder) in inodes.iter().filter_map(|inode| Some((inode, self.holders.get(inode)?))) {
            if !runs(&holder) {
                continue;
            }
            outcome = borrow(*holder).and_then(|socket| {
                if is_socket(&socket, *inode) { act(&socket) } else { Err(io::ErrorKind::NotFound.into()) }
            });
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    /// A look that began then is over: the next one has its time, because looking takes some as well.
    pub(crate) fn rest(&mut self, began: Time, ended: Time) {
        self.next_look = self.next_look.map(|at| at.max(rested(began, ended)));
    }

    /// Who of those who leave has drained.
    fn judge(&mut self, now: Time, members: &[Member], listeners: &[Listener]) -> Vec<Verdict> {
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
            match self.see_queue(now, worker, listeners, &handshakes) {
                Err(obstacle) => {
                    tracing::warn!("connections to pid {pid} may be lost when it leaves: {}", obstacle.text());
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
        let mut settled = Duration::MAX;
        for steered in own.iter().filter_map(|listener| self.groups.get(&listener.kind)) {
            let program = steered.program.as_ref().ok_or(steered.obstacle.unwrap_or(Obstacle::Nobody))?;
            settled = settled.min(now.since(program.since));
        }
        let waits = own.iter().any(|listener| listener.queued > 0);
        let Some(leaving) = self.leaving.get_mut(&worker) else { return Ok(Seen::Waiting) };
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
            |inode: &&u64| self.leaving.values().any(|leaving| leaving.is_told && leaving.held.contains_key(inode));
        let own = |inode: &&u64| self.leaving.get(&worker).is_some_and(|leaving| leaving.held.contains_key(inode));
        self.groups.values().filter(|steered| steered.group.members().iter().any(|inode| own(&inode))).all(|steered| {
            let members = steered.group.members();
            let leaving = members.iter().filter(about_to).count();
            let stay = u32::try_from(members.len().saturating_sub(leaving + 1)).unwrap_or(0);
            let sure = steered.program.iter().flat_map(|program| &program.places).any(|place| *place < stay);
            leaving == 0 || sure
        })
    }
}

/// The connections on a port, asked for once a look.
struct Connections {
    port: u16,
    busy: OnceCell<BTreeSet<u64>>,
}

impl Connections {
    fn on(port: u16) -> Self {
        Self { port, busy: OnceCell::new() }
    }

    /// All that are in use.
    fn busy(&self) -> &BTreeSet<u64> {
        self.busy.get_or_init(|| {
            let all = sockdiag::connections(self.port).unwrap_or_default();
            all.iter().filter(|connection| is_in_use(connection)).map(|connection| connection.inode).collect()
        })
    }

    /// Those of a worker's processes.
    fn of(&self, pid: i32) -> BTreeSet<u64> {
        held_of(self.busy(), pid)
    }
}

/// Those of these sockets that a worker's processes hold.
fn held_of(sockets: &BTreeSet<u64>, pid: i32) -> BTreeSet<u64> {
    if sockets.is_empty() {
        return BTreeSet::new();
    }
    procinfo::sockets(&procinfo::family(pid)).intersection(sockets).copied().collect()
}

fn count(inodes: &BTreeSet<u64>) -> u32 {
    u32::try_from(inodes.len()).unwrap_or(u32::MAX)
}

/// How many connections of a worker's processes are in use. Of one to a UNIX socket the kernel does not say when it was
/// used last: all that are open count.
pub(crate) fn connections_in_use(address: &Address, pid: i32) -> u32 {
    match address {
        Address::Tcp(address) => count(&Connections::on(address.port()).of(pid)),
        Address::Unix(path) => {
            count(&held_of(&sockdiag::unix_connections(path).unwrap_or_default().into_iter().collect(), pid))
        }
    }
}

/// Whether somebody waits for an answer, or is being given one. A connection over which the client has spoken last carries
/// a request, however long that takes; where the worker has spoken last it may be a stream that goes on, or one that is
/// kept for the next request: that shows in time.
fn is_in_use(connection: &Connection) -> bool {
    let talks = connection.idle.is_none_or(|idle| idle.received < idle.sent || idle.sent < IDLE_AFTER);
    connection.inode != 0 && (connection.has_pending || talks)
}

/// A duplicate of a worker's socket.
fn borrow(holder: Holder) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(holder.pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, holder.fd, PidfdGetfdFlags::empty())?)
}

fn is_socket(socket: impl AsFd, inode: u64) -> bool {
    rustix::fs::fstat(socket).is_ok_and(|stat| stat.st_ino == inode)
}

/// Whether an error is about a process or a number that is no longer there.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF)) || error.kind() == io::ErrorKind::NotFound
}

/// Why a worker's sockets cannot be steered, and what to do about it.
fn explain(error: &io::Error, pid: i32) -> String {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => "pidfd_getfd needs Linux 5.6, and a sandbox that allows it",
        Some(libc::EINVAL | libc::ENOPROTOOPT) => {
            "the worker's socket is not bound with SO_REUSEPORT; switch that on in the server"
        }
        _ if matches!(scope.trim(), "2" | "3") => {
            "kernel.yama.ptrace_scope forbids it; set it to 1, or run propane with CAP_SYS_PTRACE"
        }
        _ if procinfo::owner(pid).is_some_and(|uid| uid != nix::unistd::Uid::effective().as_raw()) => {
            "the workers run as another user; run propane as that user, or give it CAP_SYS_PTRACE"
        }
        _ => "the worker is not dumpable, has capabilities that propane has not, or a sandbox (seccomp) forbids it",
    };
    format!("cannot borrow a socket of pid {pid}: {error}: {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockdiag::Idle;

    #[test]
    fn a_connection_is_in_use_while_somebody_waits_for_something() {
        // Pending bytes, milliseconds since the worker and since the client have spoken last -> in use.
        let table = [
            (false, 60_000, 60_000, false),
            (false, 60_000, 59_999, true),
            (false, 59_999, 60_000, false),
            (false, 4_999, 60_000, true),
            (false, 5_000, 60_000, false),
            (false, 0, 0, true),
            (true, 60_000, 60_000, true),
        ];
        let address = "127.0.0.1:1".parse().unwrap();
        let ms = Duration::from_millis;
        for (has_pending, sent, received, expected) in table {
            let idle = Some(Idle { sent: ms(sent), received: ms(received) });
            let connection = Connection { peer: address, local: address, inode: 1, has_pending, idle };
            assert_eq!(is_in_use(&connection), expected, "{has_pending} {sent} {received}");
            assert!(!is_in_use(&Connection { inode: 0, ..connection }), "one that nobody holds");
        }
    }
}
