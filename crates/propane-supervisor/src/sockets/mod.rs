//! The sockets that the manager owns: a listener per slot, one for all, or a reservation of the port (docs/workers.md,
//! "Where the connections come from").

mod activation;
mod address;
mod file;
mod slots;
mod tcp;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use propane_config::Strategy;
use socket2::Socket;

pub(crate) use activation::Received;
pub(crate) use address::Address;

use crate::spawn::Identity;
use file::SocketFile;
pub(crate) use file::{LOCK_INTERVAL, LOCK_PATIENCE};
pub(crate) use slots::Avoidance;
use slots::Slots;
use tcp::{Owner, as_user, bind, bind_error, check_free, inode, listen};

/// Why the manager cannot have its address.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Somebody else listens there.
    #[error("address {address} is already in use{owner}")]
    InUse { address: Address, owner: Owner },
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {error}{hint}")]
    Bind { address: Address, error: io::Error, hint: &'static str },
    /// The host is not an address and has no name.
    #[error("cannot resolve host {host:?}: {error}; use an address such as 127.0.0.1, 0.0.0.0 or [::]")]
    Resolve { host: String, error: io::Error },
    /// Something else lies where the socket should be.
    #[error("cannot listen on unix:{}: {what} lies there, which propane does not remove", path.display())]
    NotASocket { path: PathBuf, what: &'static str },
    /// The kernel has no room for the path.
    #[error("cannot listen on unix:{}: the path has {bytes} bytes, and UNIX sockets have room for {most}", path.display())]
    TooLong { path: PathBuf, bytes: usize, most: usize },
    /// What was handed over cannot be served.
    #[error("{0}")]
    Activation(String),
    /// A UNIX socket that is not the manager's was shut down.
    #[error("{0} was handed over, and cannot be made anew here: restart its socket unit and propane")]
    Ended(Address),
    /// What was handed over would be served by nobody.
    #[error(
        "the socket on {address} was handed over (LISTEN_FDS), and with socketStrategy = {strategy} workers bind by \
         themselves and do not take it; put {{fd}} into workerCommand, or set socketStrategy = shared for a worker that \
         knows LISTEN_FDS"
    )]
    NotInherited { address: Address, strategy: &'static str },
}

/// What the manager holds on its address.
#[derive(Debug)]
enum Held {
    /// One SO_REUSEPORT listener per slot.
    Slots(Slots),
    /// One listener for all slots, with its file if the manager has made one.
    Shared { listener: Socket, file: Option<SocketFile> },
    /// Workers bind by themselves; the socket, bound and not listening, keeps others off the port meanwhile.
    Reserved { _reservation: Option<Socket> },
}

/// What became of listeners that a worker has shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revival {
    /// There were none.
    Nothing,
    /// They listen again, for everybody who holds them.
    Again,
    /// There is a new one, which only new workers have.
    Anew,
    /// Another manager is at work beside one of them: it is to be tried again.
    Later,
}

/// The manager's sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    address: Address,
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
            Strategy::Shared => {
                let listener = listen(address, backlog).map_err(|error| bind_error(address, error))?;
                Held::Shared { listener, file: None }
            }
            Strategy::Steer | Strategy::Reuseport => {
                let reserve = || as_user(identity, || bind(address, true));
                let reservation = reuse_port.then(reserve).transpose().map_err(|error| bind_error(address, error))?;
                Held::Reserved { _reservation: reservation }
            }
        };
        let mut sockets = Self { address: Address::Tcp(address), backlog, held };
        for slot in 0..slots {
            sockets.for_slot(slot).map_err(|error| bind_error(address, error))?;
        }
        Ok(sockets)
    }

    /// Listens at a path, for all slots. `mask` is the file mode mask of the socket, if not the manager's.
    pub(crate) fn open_file(path: &Path, backlog: u32, mask: Option<u32>) -> Result<Self, SocketError> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let (listener, file) = file::listen(path, backlog, mask)?;
        let held = Held::Shared { listener, file: Some(file) };
        Ok(Self { address: Address::Unix(path.to_owned()), backlog, held })
    }

    /// Takes over what was handed to the manager, instead of opening anything. Nothing of it is closed or removed at the
    /// end: it belongs to whoever handed it over.
    pub(crate) fn take_over(received: Received, backlog: u32, slots: u32) -> Result<Self, SocketError> {
        let Received { mut sockets, address } = received;
        let held = match sockets.pop() {
            Some(listener) if sockets.is_empty() => Held::Shared { listener, file: None },
            last => Held::Slots(Slots::received(sockets.into_iter().chain(last).collect())),
        };
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let mut taken = Self { address, backlog, held };
        for slot in 0..slots {
            let opened = taken.for_slot(slot).map(|_| ());
            opened.map_err(|error| SocketError::Bind { address: taken.address.clone(), error, hint: "" })?;
        }
        Ok(taken)
    }

    /// The address.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The listener that the worker of a slot inherits; made if the slot is new.
    pub(crate) fn for_slot(&mut self, slot: u32) -> io::Result<Option<BorrowedFd<'_>>> {
        match &mut self.held {
            Held::Reserved { .. } => Ok(None),
            Held::Shared { listener, .. } => Ok(Some((*listener).as_fd())),
            Held::Slots(slots) => {
                let address = self.address.tcp().ok_or(io::ErrorKind::InvalidInput)?;
                Ok(Some(slots.open(slot, address, self.backlog)?.as_fd()))
            }
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
            Held::Shared { listener, .. } => Some(listener),
            Held::Slots(slots) => slots.get(slot),
        }
    }

    /// The path of a UNIX socket whose file somebody has removed, once.
    pub(crate) fn newly_missed_file(&mut self) -> Option<&Path> {
        match &mut self.held {
            Held::Shared { file: Some(file), .. } => file.newly_missed(),
            _ => None,
        }
    }

    /// Whether the listener of a slot was shut down.
    pub(crate) fn is_shut(&self, slot: u32) -> bool {
        self.of_slot(slot).is_some_and(file::is_shut)
    }

    /// Lets listeners listen again that a worker has shut down instead of closing them: that ends them for everybody.
    /// `is_patient` if that may be put off.
    pub(crate) fn revive(&mut self, is_patient: bool) -> Result<Revival, SocketError> {
        let backlog = self.backlog;
        let again = |done: bool| if done { Revival::Again } else { Revival::Nothing };
        let outcome = match (&mut self.held, &self.address) {
            (Held::Slots(slots), _) => slots.revive(backlog).map(again),
            (Held::Shared { listener, file }, Address::Unix(_)) => {
                if !file::is_shut(listener) {
                    return Ok(Revival::Nothing);
                }
                let file = file.as_mut().ok_or_else(|| SocketError::Ended(self.address.clone()))?;
                let Some(anew) = file.make_anew(backlog, is_patient)? else { return Ok(Revival::Later) };
                *listener = anew;
                return Ok(Revival::Anew);
            }
            (Held::Shared { listener, .. }, _) => {
                let is_shut = listener.is_listener().map(|listens| !listens);
                is_shut
                    .and_then(|is_shut| if is_shut { listener.listen(backlog).map(|()| true) } else { Ok(false) })
                    .map(again)
            }
            (Held::Reserved { .. }, _) => Ok(Revival::Nothing),
        };
        outcome.map_err(|error| SocketError::Bind { address: self.address.clone(), error, hint: "" })
    }

    /// All listeners.
    pub(crate) fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        match &self.held {
            Held::Reserved { .. } => Vec::new(),
            Held::Shared { listener, .. } => vec![listener.as_fd()],
            Held::Slots(slots) => slots.sockets().map(AsFd::as_fd).collect(),
        }
    }

    /// Gives a slot's listener up. Returns how many connections wait there, and are lost.
    pub(crate) fn close_slot(&mut self, slot: u32) -> u32 {
        match &mut self.held {
            Held::Slots(slots) => slots.close(slot),
            Held::Shared { .. } | Held::Reserved { .. } => 0,
        }
    }

    /// Gives new connections only to slots that are `reachable`, so that nobody waits for a boot. Returns whether they are
    /// kept from the others.
    ///
    /// Fails where the kernel refuses, and then its hash decides.
    pub(crate) fn steer(&mut self, reachable: BTreeSet<u32>) -> io::Result<Avoidance> {
        match &mut self.held {
            Held::Slots(slots) => slots.steer(reachable),
            Held::Shared { .. } | Held::Reserved { .. } => Ok(Avoidance::Not),
        }
    }

    /// Looks whether what was steered by is true, where that is not sure. Returns whether it is to be steered anew.
    pub(crate) fn verify(&mut self) -> bool {
        match &mut self.held {
            Held::Slots(slots) => slots.verify(),
            Held::Shared { .. } | Held::Reserved { .. } => false,
        }
    }

    /// Whether each slot has a socket of its own, which can be kept free of connections.
    pub(crate) fn have_slots(&self) -> bool {
        matches!(self.held, Held::Slots(_))
    }

    /// Whether one more socket can be bound beside whoever listens, which is what copies of a worker need.
    pub(crate) fn can_be_shared(&self) -> bool {
        let taken = |address| bind(address, true).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        !self.address.tcp().is_some_and(taken)
    }

    /// Whether workers find the socket as fd 3.
    pub(crate) fn are_inherited(&self) -> bool {
        !matches!(self.held, Held::Reserved { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};

    use super::*;

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
            let listener = sockets.of_slot(slot).unwrap().try_clone().unwrap();
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
            assert_eq!(sockets.revive(true).unwrap(), Revival::Nothing);
            sockets.of_slot(0).unwrap().shutdown(Shutdown::Both).unwrap();
            assert_eq!(sockets.revive(true).unwrap(), Revival::Again);
            assert_eq!(sockets.revive(true).unwrap(), Revival::Nothing);
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

    /// Sockets of one group as a service manager opens them, which it keeps.
    fn handed_over(count: usize) -> (Received, Vec<Socket>) {
        let address = SocketAddr::from(([127, 0, 0, 1], propane_load::free_port()));
        let kept: Vec<Socket> = (0..count).map(|_| listen(address, 128).unwrap()).collect();
        let sockets = kept.iter().map(|socket| socket.try_clone().unwrap()).collect();
        (Received { sockets, address: Address::Tcp(address) }, kept)
    }

    #[test]
    fn several_sockets_become_slots_and_one_is_shared() {
        for (count, distinct) in [(2, true), (1, false)] {
            let (received, _kept) = handed_over(count);
            let sockets = Sockets::take_over(received, 16, 2).unwrap();
            assert_eq!(sockets.inode(0) != sockets.inode(1), distinct, "{count}");
        }
    }

    #[test]
    fn nobody_is_sent_to_a_socket_that_was_handed_over_and_is_not_served() {
        let (received, kept) = handed_over(3);
        let mut sockets = Sockets::take_over(received, 16, 3).unwrap();
        let address = sockets.address().tcp().unwrap();
        for slot in [2, 0, 1] {
            // Whoever handed them over holds them all, so a slot that is closed is not gone.
            sockets.close_slot((slot + 1) % 3);
            sockets.steer(BTreeSet::from([slot])).unwrap();
            let clients: Vec<_> = (0..16).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
            assert_eq!(accepted(&sockets, slot, clients.len()), clients.len(), "slot {slot}");
        }
        drop(sockets);
        assert!(kept.iter().all(|socket| socket.is_listener().unwrap()), "they are not ours to end");
    }

    #[test]
    fn a_slot_beyond_what_was_handed_over_gets_a_socket_of_its_own_or_another_ones() {
        let (received, _kept) = handed_over(2);
        let mut sockets = Sockets::take_over(received, 16, 2).unwrap();
        sockets.for_slot(2).unwrap();
        let all: BTreeSet<_> = (0..3).map(|slot| sockets.inode(slot)).collect();
        assert_eq!(all.len(), 3, "one more could be made");
        sockets.close_slot(2);
        assert_eq!(sockets.inode(2), None);
        // No socket can be made on an address that this machine has not.
        let nowhere = SocketAddr::from(([192, 0, 2, 1], 1));
        let (received, kept) = handed_over(2);
        let mut slots = Slots::received(received.sockets);
        assert_eq!(inode(slots.open(3, nowhere, 16).unwrap()), inode(&kept[1]));
        slots.close(3);
        assert!(kept[1].is_listener().unwrap());
    }

    #[test]
    fn a_unix_listener_that_was_shut_down_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sock");
        let connect = || std::os::unix::net::UnixStream::connect(&path);
        let mut sockets = Sockets::open_file(&path, 16, None).unwrap();
        let before = sockets.inode(0);
        assert_eq!(sockets.revive(true).unwrap(), Revival::Nothing);
        sockets.of_slot(0).unwrap().shutdown(Shutdown::Both).unwrap();
        assert!(connect().is_err(), "listening again would not help");
        let other = std::fs::File::open(directory.path()).unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(sockets.revive(true).unwrap(), Revival::Later);
        drop(other);
        assert_eq!(sockets.revive(true).unwrap(), Revival::Anew);
        assert_ne!(sockets.inode(0), before);
        connect().unwrap();
        assert_eq!(sockets.revive(true).unwrap(), Revival::Nothing);
        drop(sockets);
        assert!(!path.exists());
    }

    #[test]
    fn somebody_who_keeps_the_directory_locked_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let mut sockets = Sockets::open_file(&directory.path().join("sock"), 16, None).unwrap();
        sockets.of_slot(0).unwrap().shutdown(Shutdown::Both).unwrap();
        let other = std::fs::File::open(directory.path()).unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(sockets.revive(false).unwrap(), Revival::Anew);
    }
}
