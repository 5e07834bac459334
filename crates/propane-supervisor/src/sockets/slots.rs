//! A listener for each slot: those that the manager has made, and those that were handed over to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::tcp::{inode, listen, port};
use crate::group::Group;
use crate::sockdiag::{self, Listener};
use crate::steering;

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

/// Whether new connections are kept from slots that are not to get any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Avoidance {
    /// They are, as before.
    Kept,
    /// They are from now on: until now they may have been sent to anybody.
    Anew,
    /// They are not: the kernel's own hash decides.
    Not,
}

/// Listeners by slot, each made when its slot is first filled.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(super) struct Slots {
    by_number: BTreeMap<u32, Slot>,
    /// Where they stand in the kernel's group.
    group: Group,
    /// Who gets new connections by the program in force.
    reachable: Option<BTreeSet<u32>>,
    /// Whether it is to be said anew, because places have changed.
    is_stale: bool,
    /// Whether there is a program that names anybody. Else the kernel's own hash decides.
    is_steered: bool,
    /// Whether connections may have been sent to anybody since the program was put in force before.
    is_disturbed: bool,
    refused: bool,
    /// Whether the program in force goes by a look that may be too old.
    is_unsure: bool,
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
    /// group with it: connections would wait there for ever. Returns how many wait there, and are lost.
    pub(super) fn close(&mut self, slot: u32) -> u32 {
        let Some(origin) = self.by_number.get(&slot).map(|slot| slot.origin) else { return 0 };
        if origin == Origin::Received {
            return 0;
        }
        let Some(closing) = self.by_number.remove(&slot).filter(|_| origin == Origin::Made) else { return 0 };
        let queued = self.observe().iter().find(|it| it.inode == closing.inode).map_or(0, |it| it.queued);
        self.make_way(&closing.socket);
        if let Err(error) = closing.socket.shutdown(Shutdown::Both) {
            tracing::debug!("cannot shut a listener down: {error}");
        }
        drop(closing);
        self.observe();
        self.is_stale = true;
        queued
    }

    /// Has nobody be sent to a listener while it leaves the group, nor to a place where nobody stands then.
    fn make_way(&mut self, leaving: &Socket) {
        if let Some(reachable) = self.reachable.as_ref().filter(|_| self.is_steered) {
            let steady = self.group.steady(self.places_of(reachable));
            let attached = steering::attach(leaving, &steady.places);
            self.is_disturbed |= steady.is_gap || attached.is_err();
        }
        if let Err(error) = steering::hide(leaving) {
            tracing::debug!("cannot hide a listener that is about to be closed: {error}");
        }
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
        self.is_stale = true;
        Ok(true)
    }

    /// Takes in who is in the group, and returns it: not all of them need be this manager's, or listen still.
    fn observe(&mut self) -> Vec<Listener> {
        self.looked_at = Some(Instant::now());
        let Some(port) = self.sockets().next().and_then(port) else { return Vec::new() };
        let mut members = sockdiag::listeners(port).unwrap_or_default();
        let own: BTreeSet<u64> = self.by_number.values().map(|slot| slot.inode).collect();
        let Some(kind) = members.iter().find(|it| own.contains(&it.inode)).map(|it| it.kind) else { return Vec::new() };
        members.retain(|it| it.kind == kind);
        self.group.observe(&members.iter().map(|it| it.inode).collect::<Vec<_>>());
        members
    }

    /// Looks whether the group is what it was taken for, once nobody waits for anything else: what has come and gone there by
    /// this manager's doing is known, and between a death and its replacement time is dear. Returns whether it is to be
    /// steered anew.
    pub(super) fn verify(&mut self) -> bool {
        let is_old = self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL);
        if !std::mem::take(&mut self.is_unsure) || !is_old {
            return false;
        }
        let before = self.group.clone();
        self.observe();
        let is_wrong = self.group != before;
        self.is_stale |= is_wrong;
        self.is_disturbed |= is_wrong;
        is_wrong
    }

    /// Gives new connections to `reachable` slots only, by what is known of the group: see [`Slots::verify`].
    ///
    /// Fails where the kernel refuses, and then its hash decides: from then on, if the refusal is for good.
    pub(super) fn steer(&mut self, reachable: BTreeSet<u32>) -> io::Result<Avoidance> {
        if !self.refused && (self.is_stale || self.reachable.as_ref() != Some(&reachable)) {
            self.is_unsure = true;
            self.reachable = None;
            self.attach(&reachable)?;
            self.is_stale = false;
            // Where nobody knows who stands where, the next look may tell.
            self.reachable = self.is_steered.then_some(reachable);
        }
        Ok(match self.is_steered {
            true if std::mem::take(&mut self.is_disturbed) => Avoidance::Anew,
            true => Avoidance::Kept,
            false => Avoidance::Not,
        })
    }

    fn attach(&mut self, reachable: &BTreeSet<u32>) -> io::Result<()> {
        let Some(member) = self.sockets().next() else { return Ok(()) };
        let places = self.places_of(reachable);
        let attached = steering::attach(member, &places);
        // The program in force may name who leaves, and does not name who has come.
        if attached.is_err()
            && let Err(error) = steering::detach(member)
        {
            tracing::debug!("cannot take a steering program away: {error}");
        }
        self.is_steered = attached.is_ok() && !places.is_empty();
        self.is_disturbed |= !self.is_steered;
        self.refused = attached.as_ref().is_err_and(steering::is_for_good);
        attached
    }

    /// Where the listeners of these slots stand, as far as that is known.
    fn places_of(&self, slots: &BTreeSet<u32>) -> Vec<u32> {
        let inodes: BTreeSet<u64> =
            self.by_number.iter().filter(|(slot, _)| slots.contains(slot)).map(|(_, slot)| slot.inode).collect();
        self.group.places_of(|inode| inodes.contains(&inode))
    }
}
