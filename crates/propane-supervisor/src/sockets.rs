//! The sockets that the manager owns: a listener per slot, one for all, or a reservation of the port (DESIGN §4).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc;
use propane_config::Strategy;
use socket2::{Domain, Socket, Type};

use crate::group::Group;
use crate::procinfo;
use crate::sockdiag;
use crate::spawn::Identity;
use crate::steering;

/// Why the manager cannot have its address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Somebody else listens there.
    #[error("address {address} is already in use{owner}")]
    InUse { address: SocketAddr, owner: Owner },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {error}{hint}")]
    Bind { address: SocketAddr, error: io::Error, hint: &'static str },
    /// The host is not an address and has no name.
    #[error("cannot resolve host {host:?}: {error}; use an address such as 127.0.0.1, 0.0.0.0 or [::]")]
    Resolve { host: String, error: io::Error },
    /// A socket file.
    #[error("host {host:?}: UNIX sockets are not supported; use an IP address and a port")]
    Unix { host: String },
}

/// Who holds a port, as far as `/proc` tells.
#[derive(Debug, Default)]
pub(crate) struct Owner(Vec<(i32, String)>);

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owners: Vec<_> = self.0.iter().map(|(pid, name)| format!("pid {pid} ({name})")).collect();
        match owners.as_slice() {
            [] => f.write_str(" by a process of another user"),
            owners => write!(f, " by {}", owners.join(", ")),
        }
    }
}

/// The address that `host` and `port` stand for.
pub(crate) fn resolve(host: &str, port: u16) -> Result<SocketAddr, SocketError> {
    if host.starts_with("unix:") {
        return Err(SocketError::Unix { host: host.to_owned() });
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let nowhere = || io::Error::new(io::ErrorKind::NotFound, "no address found");
    let error = |error| SocketError::Resolve { host: host.to_owned(), error };
    (bare, port).to_socket_addrs().map_err(error)?.next().ok_or_else(nowhere).map_err(error)
}

/// What the manager holds on its address.
#[derive(Debug)]
enum Held {
    /// One SO_REUSEPORT listener per slot.
    Slots(Slots),
    /// One listener for all slots.
    Shared(Socket),
    /// Workers bind by themselves; the socket, bound and not listening, keeps others off the port meanwhile.
    Reserved { _reservation: Option<Socket> },
}

/// Listeners by slot, each made when its slot is first filled.
#[derive(Debug, Default)]
struct Slots {
    listeners: BTreeMap<u32, Socket>,
    /// Where they stand in the kernel's group.
    group: Group,
    /// Who gets new connections; `None` while the kernel's own hash decides, or where it lets nobody else.
    served: Option<BTreeSet<u32>>,
    refused: bool,
}

impl Slots {
    fn open(&mut self, slot: u32, address: SocketAddr, backlog: i32) -> io::Result<&Socket> {
        match self.listeners.entry(slot) {
            Entry::Occupied(open) => Ok(open.into_mut()),
            Entry::Vacant(vacant) => {
                let listener = listen(address, backlog)?;
                self.group.join(inode(&listener));
                Ok(vacant.insert(listener))
            }
        }
    }

    /// Nobody uses the slot any more. Whoever still holds its listener, a descendant of a worker say, must not stay in the
    /// group with it: connections would wait there for ever.
    fn close(&mut self, slot: u32) {
        let Some(listener) = self.listeners.remove(&slot) else { return };
        self.observe();
        if let Err(error) = listener.shutdown(Shutdown::Both) {
            tracing::debug!("cannot shut a listener down: {error}");
        }
        drop(listener);
        self.observe();
        // The program in force may name places that have changed.
        self.served = None;
    }

    /// Lets listeners listen again that a worker has shut down for everybody. Returns whether there were any.
    fn revive(&mut self, backlog: i32) -> io::Result<bool> {
        let is_shut = |listener: &Socket| !listener.is_listener().unwrap_or(true);
        if !self.listeners.values().any(is_shut) {
            return Ok(false);
        }
        self.observe();
        for listener in self.listeners.values().filter(|listener| is_shut(listener)) {
            listener.listen(backlog)?;
            self.group.join(inode(listener));
        }
        self.served = None;
        Ok(true)
    }

    /// Takes in who is in the group: not all of them need be this manager's, or listen still.
    fn observe(&mut self) {
        let Some(port) = self.listeners.values().next().and_then(port) else { return };
        let all = sockdiag::listeners(port).unwrap_or_default();
        let own = |inode: u64| self.listeners.values().any(|listener| self::inode(listener) == inode);
        let Some(kind) = all.iter().find(|listener| own(listener.inode)).map(|listener| listener.kind) else { return };
        let members: Vec<u64> = all.iter().filter(|it| it.kind == kind).map(|it| it.inode).collect();
        self.group.observe(&members);
    }

    /// Gives new connections to `served` slots only; to all where none is served.
    fn steer(&mut self, served: BTreeSet<u32>) -> io::Result<()> {
        if self.refused || self.served.as_ref() == Some(&served) {
            return Ok(());
        }
        self.observe();
        let attached = self.attach(&served);
        self.refused = attached.is_err();
        self.served = Some(served);
        attached
    }

    fn attach(&self, served: &BTreeSet<u32>) -> io::Result<()> {
        let Some(member) = self.listeners.values().next() else { return Ok(()) };
        let of_served: BTreeSet<u64> = self
            .listeners
            .iter()
            .filter(|(slot, _)| served.contains(slot))
            .map(|(_, listener)| inode(listener))
            .collect();
        // Without any, the kernel's hash decides.
        steering::attach(member, &self.group.places_of(|inode| of_served.contains(&inode)))
    }
}

/// The manager's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    address: SocketAddr,
    backlog: i32,
    held: Held,
}

impl Sockets {
    /// Takes the address, after a look whether it is free. The listeners of the first `slots` slots exist from here on,
    /// so that nobody is refused while workers boot.
    pub(crate) fn open(
        address: SocketAddr,
        backlog: u32,
        strategy: Strategy,
        reuse_port: bool,
        slots: u32,
        identity: Option<&Identity>,
    ) -> Result<Self, SocketError> {
        check_free(address)?;
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let held = match strategy {
            Strategy::Inherit => Held::Slots(Slots::default()),
            Strategy::Shared => Held::Shared(listen(address, backlog).map_err(|error| bind_error(address, error))?),
            Strategy::Steer | Strategy::Reuseport => {
                let reserve = || as_user(identity, || bind(address, true));
                let reservation = reuse_port.then(reserve).transpose().map_err(|error| bind_error(address, error))?;
                Held::Reserved { _reservation: reservation }
            }
        };
        let mut sockets = Self { address, backlog, held };
        for slot in 0..slots {
            sockets.for_slot(slot).map_err(|error| bind_error(address, error))?;
        }
        Ok(sockets)
    }

    /// The address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The listener that the worker of a slot inherits; made if the slot is new.
    pub(crate) fn for_slot(&mut self, slot: u32) -> io::Result<Option<BorrowedFd<'_>>> {
        match &mut self.held {
            Held::Reserved { .. } => Ok(None),
            Held::Shared(listener) => Ok(Some((*listener).as_fd())),
            Held::Slots(slots) => Ok(Some(slots.open(slot, self.address, self.backlog)?.as_fd())),
        }
    }

    /// The inode of the listener of a slot, as `/proc` shows it to holders.
    pub(crate) fn inode(&self, slot: u32) -> Option<u64> {
        self.of_slot(slot).map(inode)
    }

    /// The listener of a slot, if there is one.
    pub(crate) fn of_slot(&self, slot: u32) -> Option<&Socket> {
        match &self.held {
            Held::Reserved { .. } => None,
            Held::Shared(listener) => Some(listener),
            Held::Slots(slots) => slots.listeners.get(&slot),
        }
    }

    /// Lets listeners listen again that a worker has shut down instead of closing them: that ends them for everybody.
    pub(crate) fn revive(&mut self) -> io::Result<bool> {
        let backlog = self.backlog;
        match &mut self.held {
            Held::Slots(slots) => slots.revive(backlog),
            Held::Shared(listener) if !listener.is_listener()? => listener.listen(backlog).map(|()| true),
            Held::Shared(_) | Held::Reserved { .. } => Ok(false),
        }
    }

    /// All listeners.
    pub(crate) fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        match &self.held {
            Held::Reserved { .. } => Vec::new(),
            Held::Shared(listener) => vec![listener.as_fd()],
            Held::Slots(slots) => slots.listeners.values().map(AsFd::as_fd).collect(),
        }
    }

    /// Gives a slot's listener up.
    pub(crate) fn close_slot(&mut self, slot: u32) {
        if let Held::Slots(slots) = &mut self.held {
            slots.close(slot);
        }
    }

    /// Gives new connections only to slots that are served, so that nobody waits for a boot.
    ///
    /// Fails once where the kernel refuses; from then on its hash decides.
    pub(crate) fn steer(&mut self, served: BTreeSet<u32>) -> io::Result<()> {
        match &mut self.held {
            Held::Slots(slots) => slots.steer(served),
            Held::Shared(_) | Held::Reserved { .. } => Ok(()),
        }
    }

    /// Whether one more socket can be bound beside whoever listens, which is what copies of a worker need.
    pub(crate) fn can_be_shared(&self) -> bool {
        !bind(self.address, true).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    }

    /// Whether workers find the socket as fd 3.
    pub(crate) fn are_inherited(&self) -> bool {
        !matches!(self.held, Held::Reserved { .. })
    }
}

/// Binds without SO_REUSEPORT for a moment: with it, a foreign listener of the same user would not make bind fail.
fn check_free(address: SocketAddr) -> Result<(), SocketError> {
    match bind(address, false) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(SocketError::InUse { address, owner: owner(address) })
        }
        Err(error) => Err(bind_error(address, error)),
    }
}

fn owner(address: SocketAddr) -> Owner {
    let overlaps = |local: IpAddr| local == address.ip() || local.is_unspecified() || address.ip().is_unspecified();
    let listeners = sockdiag::listeners(address.port()).unwrap_or_default();
    let inodes = listeners.iter().filter(|socket| overlaps(socket.local.ip())).map(|socket| socket.inode);
    let mut pids: Vec<_> = inodes.flat_map(procinfo::holders).collect();
    pids.sort_unstable();
    pids.dedup();
    Owner(pids.into_iter().map(|pid| (pid, procinfo::name(pid))).collect())
}

fn bind_error(address: SocketAddr, error: io::Error) -> SocketError {
    let hint = match error.raw_os_error() {
        Some(libc::EACCES) => " (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        Some(libc::EADDRNOTAVAIL) => " (this machine has no such address)",
        _ => "",
    };
    SocketError::Bind { address, error, hint }
}

/// A bound socket. `SO_REUSEADDR` always, so that connections in `TIME_WAIT` do not count.
fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener that is blocking: the flag belongs to the description that workers share, and it is theirs to set.
fn listen(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = bind(address, true)?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// 0, which no socket has, where the kernel does not say.
fn inode(socket: &Socket) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

fn port(socket: &Socket) -> Option<u16> {
    socket.local_addr().ok()?.as_socket().map(|address| address.port())
}

/// Runs `act` as the workers' user: the kernel groups SO_REUSEPORT sockets by the user that made them.
fn as_user<T>(identity: Option<&Identity>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(identity) = identity else { return act() };
    let before = nix::unistd::setfsuid(identity.uid.into());
    let done = act();
    nix::unistd::setfsuid(before);
    done
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn hosts_resolve_as_the_table_says() {
        let table = [
            ("127.0.0.1", Some("127.0.0.1:80")),
            ("0.0.0.0", Some("0.0.0.0:80")),
            ("::1", Some("[::1]:80")),
            ("[::]", Some("[::]:80")),
            ("unix:/tmp/x", None),
            ("not a host", None),
        ];
        for (host, expected) in table {
            assert_eq!(resolve(host, 80).ok().map(|address| address.to_string()).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn a_foreign_listener_is_found_and_named() {
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = foreign.local_addr().unwrap();
        let error = Sockets::open(address, 16, Strategy::Inherit, true, 1, None).unwrap_err().to_string();
        let me = format!("pid {}", std::process::id());
        assert!(error.contains("already in use by") && error.contains(&me), "{error}");
    }

    #[test]
    fn a_foreign_listener_with_reuseport_is_found_too() {
        let foreign = listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = foreign.local_addr().unwrap().as_socket().unwrap();
        assert!(matches!(Sockets::open(address, 16, Strategy::Inherit, true, 1, None), Err(SocketError::InUse { .. })));
    }

    #[test]
    fn slots_have_listeners_of_their_own_and_a_shared_one_is_one() {
        for (strategy, distinct) in [(Strategy::Inherit, true), (Strategy::Shared, false)] {
            let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
            let mut sockets = Sockets::open(address, 16, strategy, true, 2, None).unwrap();
            assert_eq!(sockets.inode(0) != sockets.inode(1), distinct, "{strategy:?}");
            assert!(sockets.for_slot(5).unwrap().is_some(), "a slot that comes later gets one too");
        }
    }

    #[test]
    fn new_connections_go_to_served_slots_also_after_a_slot_has_closed() {
        let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
        let mut sockets = Sockets::open(address, 128, Strategy::Inherit, true, 4, None).unwrap();
        let waiting = |sockets: &Sockets, slot| {
            let Held::Slots(slots) = &sockets.held else { panic!("slots") };
            let listener = slots.listeners[&slot].try_clone().unwrap();
            listener.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| listener.accept().ok()).count()
        };
        // After slot 0 has closed, the last of the group, 3, stands in its place.
        for (close, served) in [(None, vec![0, 3]), (None, vec![1]), (Some(0), vec![3]), (None, vec![1, 2])] {
            if let Some(slot) = close {
                sockets.close_slot(slot);
            }
            sockets.steer(served.iter().copied().collect()).unwrap();
            let clients: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            // A client is connected a moment before its connection can be accepted.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let mut counts = vec![0; served.len()];
            while counts.iter().sum::<usize>() < clients.len() {
                assert!(std::time::Instant::now() < deadline, "{served:?}: {counts:?}");
                counts.iter_mut().zip(&served).for_each(|(count, slot)| *count += waiting(&sockets, *slot));
            }
            assert!(counts.iter().all(|count| *count > 0), "each gets some: {counts:?}");
        }
    }

    /// How many connections can be accepted from a slot once all of `clients` have arrived somewhere.
    fn accepted(sockets: &Sockets, slot: u32, clients: usize) -> usize {
        let listener = sockets.of_slot(slot).unwrap().try_clone().unwrap();
        listener.set_nonblocking(true).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let mut count = 0;
        while count < clients && std::time::Instant::now() < deadline {
            count += std::iter::from_fn(|| listener.accept().ok()).count();
        }
        listener.set_nonblocking(false).unwrap();
        count
    }

    #[test]
    fn a_closed_slot_is_closed_for_everybody_who_still_holds_it() {
        let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
        let mut sockets = Sockets::open(address, 128, Strategy::Inherit, true, 3, None).unwrap();
        let held = sockets.of_slot(0).unwrap().try_clone().unwrap();
        sockets.close_slot(0);
        assert!(!held.is_listener().unwrap());
        sockets.steer(BTreeSet::from([2])).unwrap();
        let clients: Vec<_> = (0..32).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        assert_eq!(accepted(&sockets, 2, clients.len()), clients.len());
    }

    #[test]
    fn a_listener_that_was_shut_down_listens_again_and_its_place_is_known() {
        for (strategy, slots) in [(Strategy::Inherit, 3), (Strategy::Shared, 1)] {
            let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
            let mut sockets = Sockets::open(address, 128, strategy, true, slots, None).unwrap();
            assert!(!sockets.revive().unwrap());
            sockets.of_slot(0).unwrap().shutdown(Shutdown::Both).unwrap();
            assert!(sockets.revive().unwrap() && !sockets.revive().unwrap());
            for slot in 0..slots {
                sockets.steer(BTreeSet::from([slot])).unwrap();
                let clients: Vec<_> = (0..16).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
                assert_eq!(accepted(&sockets, slot, clients.len()), clients.len(), "slot {slot}");
            }
        }
    }

    #[test]
    fn a_listener_without_reuseport_cannot_be_shared() {
        for (reuse_port, expected) in [(true, true), (false, false)] {
            let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
            let sockets = Sockets::open(address, 16, Strategy::Reuseport, true, 1, None).unwrap();
            let worker = bind(address, reuse_port).unwrap();
            worker.listen(16).unwrap();
            assert_eq!(sockets.can_be_shared(), expected, "SO_REUSEPORT {reuse_port}");
        }
    }

    #[test]
    fn a_reservation_keeps_the_port_and_lets_workers_bind() {
        let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
        let mut sockets = Sockets::open(address, 16, Strategy::Reuseport, true, 2, None).unwrap();
        assert!(sockets.for_slot(0).unwrap().is_none());
        assert!(listen(address, 16).is_ok(), "a worker with SO_REUSEPORT can bind");
    }
}
