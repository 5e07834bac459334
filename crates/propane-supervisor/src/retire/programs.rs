//! The steering programs of the groups from which somebody leaves: put in force, adapted, taken away.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};
use propane_core::WorkerId;

use crate::sockdiag::{self, GroupKey};
use crate::steering;

use super::borrowing::{Holder, borrow, is_socket};
use super::steered::{Obstacle, Standing};
use super::{Held, Leaving, Member, Retirement};

impl Retirement {
    /// Has every group from which somebody leaves give new connections to those who stay.
    pub(super) fn steer(&mut self, members: &[Member]) {
        let keys: Vec<GroupKey> = self.groups.keys().copied().collect();
        for key in keys {
            let obstacle = self.steer_group(key, members).err();
            if obstacle.is_some() {
                self.leave_to_the_hash(key, members);
            }
            if let Some(steered) = self.groups.get_mut(&key) {
                steered.obstacle = obstacle;
            }
        }
    }

    /// Fails where new connections cannot be kept from those who leave.
    fn steer_group(&mut self, key: GroupKey, members: &[Member]) -> Result<(), Obstacle> {
        let Some(steered) = self.groups.get(&key) else { return Ok(()) };
        let wanted = steered.wanted(|inode| self.standing(inode, members))?;
        if let Some(places) = &wanted {
            self.attach(key, places, members).map_err(|_| Obstacle::Refused)?;
        }
        let Some(steered) = self.groups.get_mut(&key) else { return Ok(()) };
        steered.program = wanted.or(steered.program.take());
        let anew = steered.was_disturbed();
        let members = steered.group.members();
        // Whoever came before the kernel knew of it may have been sent anywhere.
        let now = self.clock.now();
        for held in held_of(&mut self.leaving, members) {
            held.avoided_since = held.avoided_since.filter(|_| !anew).or(Some(now));
        }
        Ok(())
    }

    fn standing(&self, inode: u64, members: &[Member]) -> Standing {
        if self.leaving.values().any(|leaving| leaving.held.contains_key(&inode)) {
            return Standing::Leaves;
        }
        let Some(holder) = self.holders.get(&inode) else { return Standing::Foreign };
        let serves = members.iter().any(|member| member.worker == holder.worker && member.serves);
        if serves && !self.leaving.contains_key(&holder.worker) { Standing::Stays } else { Standing::Idle }
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
        for held in held_of(&mut self.leaving, &inodes) {
            held.avoided_since = None;
        }
    }

    /// Lets a listener leave its group. The last of the group will stand in its place.
    ///
    /// It is shut down, not only closed: a descendant that has gone its own way may hold it still, and would stay in the
    /// group with it, hidden, so that whoever is sent there waits in vain.
    pub(super) fn release(&mut self, inode: u64, socket: OwnedFd, members: &[Member]) {
        let found = self.groups.iter().find(|(_, steered)| steered.group.members().contains(&inode));
        let Some((key, steered)) = found.map(|(key, steered)| (*key, steered)) else { return };
        if let Some(steady) = steered.steady(|inode| self.standing(inode, members)) {
            // A member of the group as any other, until it is dropped.
            let attached = steering::attach(&socket, &steady.places);
            if let (Ok(()), Some(steered)) = (attached, self.groups.get_mut(&key)) {
                steered.adapt(steady);
            }
        }
        if key.is_of_all_interfaces()
            && let Err(error) = steering::hide(&socket)
        {
            tracing::debug!("cannot hide a listener that is about to be closed: {error}");
        }
        if let Err(error) = shutdown(socket.as_raw_fd(), Shutdown::Both) {
            tracing::debug!("cannot shut a listener down: {error}");
        }
        drop(socket);
        if let Ok(listeners) = sockdiag::listeners(self.port) {
            self.take_in(&listeners, Some(inode));
        }
    }

    /// Nobody leaves any more: every group is left to the kernel's hash.
    pub(super) fn let_go(&mut self, members: &[Member]) {
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
        if let Some(held) = inodes.iter().find_map(|inode| self.leaving.values().find_map(|it| it.held.get(inode))) {
            return act(&held.socket);
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
}

/// The listeners among `members` of a group whose workers leave.
fn held_of<'a>(leaving: &'a mut BTreeMap<WorkerId, Leaving>, members: &'a [u64]) -> impl Iterator<Item = &'a mut Held> {
    leaving
        .values_mut()
        .flat_map(|leaving| &mut leaving.held)
        .filter_map(|(inode, held)| members.contains(inode).then_some(held))
}
