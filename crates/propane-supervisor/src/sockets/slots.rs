//! A listener for each slot: those that the manager has made, and those that were handed over to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::tcp::{inode, listen, port};
use crate::group::Group;
use crate::{sockdiag, steering};

/// How old a look at the group may be when workers come and go. It costs a microsecond for each listener, and when a
/// thousand workers are replaced at once, each of them changes who is served. What this manager does itself is known anyhow.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A slot's listener.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) socket: Socket,
    inode: u64,
    origin: Origin,
}

impl Slot {
    fn new(socket: Socket, origin: Origin) -> Self {
        Self { inode: inode(&socket), socket, origin }
    }
}

/// How a slot came by its listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The manager made it, and ends it with the slot.
    Made,
    /// It was handed over, and whoever did that holds it too: it stays, and while nobody serves it nobody is sent there.
    Received,
    /// It is another slot's, because no more could be made.
    Lent,
}

/// Listeners by slot, each made when its slot is first filled.
#[derive(Debug, Default)]
pub(super) struct Slots {
    by_number: BTreeMap<u32, Slot>,
    /// Where they stand in the kernel's group.
    group: Group,
    /// Who gets new connections; `None` while the kernel's own hash decides, or where it lets nobody else.
    served: Option<BTreeSet<u32>>,
    refused: bool,
    looked_at: Option<Instant>,
}

impl Slots {
    /// Takes over the sockets of one group.
    pub(super) fn received(sockets: Vec<Socket>) -> Self {
        let order: Vec<u64> = match sockets.first().and_then(port).map(sockdiag::listeners) {
            Some(Ok(listeners)) => listeners.iter().map(|listener| listener.inode).collect(),
            _ => Vec::new(),
        };
        let received = |socket| Slot::new(socket, Origin::Received);
        let by_number: BTreeMap<_, _> = (0..).zip(sockets.into_iter().map(received)).collect();
        let mut group = Group::default();
        // Nobody has watched them join. But whoever makes sockets to hand them over makes one after the other, and closes
        // none before.
        let is_ours = |inode: &u64| by_number.values().any(|slot| slot.inode == *inode);
        order.into_iter().filter(is_ours).for_each(|inode| group.join(inode));
        Self { by_number, group, ..Self::default() }
    }

    /// The listener of a slot, if there is one.
    pub(super) fn get(&self, slot: u32) -> Option<&Socket> {
        self.by_number.get(&slot).map(|slot| &slot.socket)
    }

    /// All listeners.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.by_number.values().map(|slot| &slot.socket)
    }

    /// The listener of a slot, made if there is none.
    pub(super) fn open(&mut self, slot: u32, address: SocketAddr, backlog: i32) -> io::Result<&Socket> {
        if !self.by_number.contains_key(&slot) {
            let made = listen(address, backlog).map(|socket| Slot::new(socket, Origin::Made));
            let made = made.or_else(|error| self.lend(slot, error))?;
            if made.origin == Origin::Made {
                self.group.join(made.inode);
            }
            self.by_number.insert(slot, made);
        }
        self.get(slot).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// One of the listeners that were handed over, for a slot beyond them that can have none of its own.
    fn lend(&self, slot: u32, error: io::Error) -> io::Result<Slot> {
        let received: Vec<&Slot> = self.by_number.values().filter(|it| it.origin == Origin::Received).collect();
        let nth = usize::try_from(slot).unwrap_or(0).checked_rem(received.len());
        let Some(lender) = nth.and_then(|nth| received.get(nth)) else { return Err(error) };
        tracing::warn!(
            "slot {slot} shares one of the {} sockets that were handed over, because no more can be made beside them: \
             {error} (they are another user's)",
            received.len()
        );
        Ok(Slot::new(lender.socket.try_clone()?, Origin::Lent))
    }

    /// Nobody uses the slot any more. Whoever still holds its listener, a descendant of a worker say, must not stay in the
    /// group with it: connections would wait there for ever.
    pub(super) fn close(&mut self, slot: u32) {
        let Some(origin) = self.by_number.get(&slot).map(|slot| slot.origin) else { return };
        if origin == Origin::Received {
            return;
        }
        let Some(Slot { socket: listener, .. }) = self.by_number.remove(&slot) else { return };
        if origin == Origin::Lent {
            return;
        }
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
    pub(super) fn revive(&mut self, backlog: i32) -> io::Result<bool> {
        let is_shut = |listener: &Socket| !listener.is_listener().unwrap_or(true);
        if !self.sockets().any(is_shut) {
            return Ok(false);
        }
        self.observe();
        for Slot { socket, inode, .. } in self.by_number.values() {
            // Looked at again, because a lent one may listen by now.
            if is_shut(socket) {
                socket.listen(backlog)?;
                self.group.join(*inode);
            }
        }
        self.served = None;
        Ok(true)
    }

    /// Takes in who is in the group: not all of them need be this manager's, or listen still.
    fn observe(&mut self) {
        self.looked_at = Some(Instant::now());
        let Some(port) = self.sockets().next().and_then(port) else { return };
        let all = sockdiag::listeners(port).unwrap_or_default();
        let own: BTreeSet<u64> = self.by_number.values().map(|slot| slot.inode).collect();
        let Some(kind) = all.iter().find(|it| own.contains(&it.inode)).map(|it| it.kind) else { return };
        let members: Vec<u64> = all.iter().filter(|it| it.kind == kind).map(|it| it.inode).collect();
        self.group.observe(&members);
    }

    /// Gives new connections to `served` slots only; to all where none is served.
    pub(super) fn steer(&mut self, served: BTreeSet<u32>) -> io::Result<()> {
        if self.refused || self.served.as_ref() == Some(&served) {
            return Ok(());
        }
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) {
            self.observe();
        }
        let attached = self.attach(&served);
        self.refused = attached.is_err();
        self.served = Some(served);
        attached
    }

    fn attach(&self, served: &BTreeSet<u32>) -> io::Result<()> {
        let Some(member) = self.sockets().next() else { return Ok(()) };
        let of_served: BTreeSet<u64> =
            self.by_number.iter().filter(|(slot, _)| served.contains(slot)).map(|(_, slot)| slot.inode).collect();
        // Without any, the kernel's hash decides.
        steering::attach(member, &self.group.places_of(|inode| of_served.contains(&inode)))
    }
}
