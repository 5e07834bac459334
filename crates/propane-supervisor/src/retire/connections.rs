//! Which connections of a worker are in use.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::time::Duration;

use crate::procinfo;
use crate::sockdiag::{self, Connection};
use crate::sockets::Address;

/// A connection over which nothing has gone for this long, the worker having spoken last, is idle: nobody waits for an
/// answer on it.
const IDLE_AFTER: Duration = Duration::from_secs(5);

/// The connections on a port, asked for once a look.
pub(super) struct Connections {
    port: u16,
    busy: OnceCell<BTreeSet<u64>>,
}

impl Connections {
    pub(super) fn on(port: u16) -> Self {
        Self { port, busy: OnceCell::new() }
    }

    /// All that are in use.
    pub(super) fn busy(&self) -> &BTreeSet<u64> {
        self.busy.get_or_init(|| {
            let all = sockdiag::connections(self.port).unwrap_or_default();
            all.iter().filter(|connection| is_in_use(connection)).map(|connection| connection.inode).collect()
        })
    }

    /// Those of a worker's processes.
    pub(super) fn of(&self, pid: i32) -> BTreeSet<u64> {
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

pub(super) fn count(inodes: &BTreeSet<u64>) -> u32 {
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
