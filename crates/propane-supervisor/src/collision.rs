//! Copies of a worker that cannot share the port: one has it, the others die on EADDRINUSE.

use crate::{procinfo, sockdiag};

/// A worker that has died.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead {
    /// Whether it served HTTP, or was to.
    pub(crate) serves_http: bool,
    /// Whether it was ever able to.
    pub(crate) was_ready: bool,
    /// Whether it had to bind by itself.
    pub(crate) binds_by_itself: bool,
}

impl Dead {
    /// Whether it may have died because it could not bind. One that has served could.
    pub(crate) fn may_have_collided(self) -> bool {
        self.serves_http && self.binds_by_itself && !self.was_ready
    }
}

/// The worker among `workers` whose processes alone hold every listener on `port`, if it is one.
pub(crate) fn owner(port: u16, workers: &[i32]) -> Option<i32> {
    let listeners = sockdiag::listeners(port).unwrap_or_default();
    let inodes: Vec<u64> = listeners.iter().map(|socket| socket.inode).collect();
    let holds_one = |pid: &&i32| {
        procinfo::family(**pid).into_iter().any(|member| inodes.iter().any(|inode| procinfo::holds(member, *inode)))
    };
    let owners: Vec<i32> = workers.iter().filter(holds_one).copied().collect();
    sole(&owners)
}

/// One owner means a collision; several share the port well, and none says nothing.
fn sole(owners: &[i32]) -> Option<i32> {
    match owners {
        [owner] => Some(*owner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_one_that_had_to_bind_and_never_served_is_suspected() {
        for bits in 0..8 {
            let [serves_http, was_ready, binds_by_itself] = [1, 2, 4].map(|bit| bits & bit != 0);
            let dead = Dead { serves_http, was_ready, binds_by_itself };
            assert_eq!(dead.may_have_collided(), bits == 1 | 4, "{dead:?}");
        }
    }

    #[test]
    fn a_sole_owner_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let me = std::process::id().cast_signed();
        assert_eq!(owner(port, &[me]), Some(me));
        assert_eq!(owner(port, &[]), None);
        assert_eq!(owner(port, &[me, me]), None, "two owners share");
        drop(listener);
        assert_eq!(owner(port, &[me]), None);
    }
}
