//! TCP listeners, and who holds a port that is taken.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::{Address, SocketError};
use crate::spawn::Identity;
use crate::{procinfo, sockdiag};

/// Who holds an address, as far as `/proc` tells.
#[derive(Debug, Default)]
pub(crate) struct Owner(Vec<(i32, String)>);

impl Owner {
    /// These processes, each once.
    pub(super) fn of(mut pids: Vec<i32>) -> Self {
        pids.sort_unstable();
        pids.dedup();
        Self(pids.into_iter().map(|pid| (pid, procinfo::name(pid))).collect())
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owners: Vec<_> = self.0.iter().map(|(pid, name)| format!("pid {pid} ({name})")).collect();
        match owners.as_slice() {
            [] => f.write_str(" by a process of another user"),
            owners => write!(f, " by {}", owners.join(", ")),
        }
    }
}

/// Binds without SO_REUSEPORT for a moment: with it, a foreign listener of the same user would not make bind fail.
pub(super) fn check_free(address: SocketAddr) -> Result<(), SocketError> {
    match bind(address, false) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(SocketError::InUse { address: Address::Tcp(address), owner: owner(address) })
        }
        Err(error) => Err(bind_error(address, error)),
    }
}

fn owner(address: SocketAddr) -> Owner {
    let listeners = sockdiag::listeners(address.port()).unwrap_or_default();
    let in_the_way = listeners.iter().filter(|socket| overlap(socket.local.ip(), address.ip()));
    Owner::of(in_the_way.flat_map(|socket| procinfo::holders(socket.inode)).collect())
}

/// Whether nobody can listen on one of two addresses of a port while somebody listens on the other. `[::]` stands for
/// IPv4 as well, unless its owner has said otherwise; `0.0.0.0` for IPv4 only.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let covers = |wide: IpAddr, ip: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || ip.is_ipv4());
    one == other || covers(one, other) || covers(other, one)
}

pub(super) fn bind_error(address: SocketAddr, error: io::Error) -> SocketError {
    let hint = match error.raw_os_error() {
        Some(libc::EACCES) => " (ports below 1024 need root or CAP_NET_BIND_SERVICE)",
        Some(libc::EADDRNOTAVAIL) => " (this machine has no such address)",
        _ => "",
    };
    SocketError::Bind { address: Address::Tcp(address), error, hint }
}

/// A bound socket. `SO_REUSEADDR` always, so that connections in `TIME_WAIT` do not count.
pub(super) fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A listener that is blocking: the flag belongs to the description that workers share, and it is theirs to set.
pub(super) fn listen(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = bind(address, true)?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// 0, which no socket has, where the kernel does not say.
pub(super) fn inode(socket: &Socket) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

pub(super) fn port(socket: &Socket) -> Option<u16> {
    socket.local_addr().ok()?.as_socket().map(|address| address.port())
}

/// Runs `act` as the workers' user: the kernel groups SO_REUSEPORT sockets by the user that made them.
pub(super) fn as_user<T>(identity: Option<&Identity>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let Some(identity) = identity else { return act() };
    let before = nix::unistd::setfsuid(identity.uid.into());
    let done = act();
    nix::unistd::setfsuid(before);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_cover_their_family_and_ipv6_both() {
        let table = [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "127.0.0.1", true),
            ("::", "::1", true),
            ("::", "0.0.0.0", true),
            ("0.0.0.0", "::1", false),
            ("127.0.0.1", "::1", false),
        ];
        for (one, other, expected) in table {
            let (a, b) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{one} {other}");
        }
    }
}
