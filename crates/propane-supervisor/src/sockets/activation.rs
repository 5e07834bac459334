//! Sockets that a service manager has opened and hands over (`sd_listen_fds(3)`).
#![expect(unsafe_code, reason = "descriptors arrive as numbers, and somebody has to vouch for them once")]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use propane_config::Strategy;
use socket2::{SockRef, Socket, Type};

use super::{Address, SocketError};
use crate::spawn::LISTEN_FD;

/// What was handed over: listeners of one address.
#[derive(Debug)]
pub(crate) struct Received {
    pub(super) sockets: Vec<Socket>,
    pub(super) address: Address,
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    /// The descriptor, for people.
    shown: String,
    is_stream: bool,
    listens: bool,
    shares_port: bool,
    address: Option<Address>,
}

impl Received {
    /// Takes over what was handed to this process, before anything else opens descriptors. Closed by an exec from here on.
    pub(crate) fn take(environment: &BTreeMap<OsString, OsString>) -> Result<Option<Self>, SocketError> {
        let variable = |name: &str| environment.get(OsStr::new(name)).and_then(|value| value.to_str());
        let count = announced(&variable, std::process::id()).map_err(SocketError::Activation)?;
        let names: Vec<&str> = variable("LISTEN_FDNAMES").into_iter().flat_map(|names| names.split(':')).collect();
        let numbers: Vec<RawFd> = (LISTEN_FD..).take(count).collect();
        let shown = |nth: usize, fd: RawFd| match names.get(nth) {
            Some(name) => format!("descriptor {fd} ({name})"),
            None => format!("descriptor {fd}"),
        };
        let kinds =
            numbers.iter().enumerate().map(|(nth, fd)| kind(*fd, &shown(nth, *fd))).collect::<Result<Vec<_>, _>>();
        let Some(address) = kinds.and_then(|kinds| judge(&kinds)).map_err(SocketError::Activation)? else {
            return Ok(None);
        };
        // SAFETY: each is an open listening socket, as was just seen. The variables say that they were opened for this
        // process, which calls this once, before it opens sockets of its own: so nobody else owns these numbers.
        let sockets: Vec<Socket> =
            numbers.into_iter().map(|fd| Socket::from(unsafe { OwnedFd::from_raw_fd(fd) })).collect();
        let is_kept = sockets.iter().try_for_each(|socket| socket.set_cloexec(true));
        is_kept.map_err(|error| SocketError::Activation(error.to_string()))?;
        Ok(Some(Self { sockets, address }))
    }

    /// Where they listen.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.sockets.len()
    }

    /// How workers come by them. Workers that bind by themselves cannot, unless that was only supposed of them.
    pub(crate) fn strategy(&self, configured: Strategy, is_supposed: bool) -> Result<Strategy, SocketError> {
        if configured.binds_by_itself() && !is_supposed {
            return Err(SocketError::NotInherited { address: self.address.clone(), strategy: configured.as_str() });
        }
        Ok(if self.sockets.len() > 1 { Strategy::Inherit } else { Strategy::Shared })
    }
}

/// How many descriptors were handed to this process: none where `LISTEN_PID` names another one.
fn announced<'a>(variable: &dyn Fn(&str) -> Option<&'a str>, pid: u32) -> Result<usize, String> {
    let is_ours = variable("LISTEN_PID").is_some_and(|text| text.trim().parse() == Ok(pid));
    match variable("LISTEN_FDS") {
        Some(text) if is_ours => {
            text.trim().parse().map_err(|_| format!("LISTEN_FDS: expected a number of sockets but got {text:?}"))
        }
        _ => Ok(0),
    }
}

fn kind(fd: RawFd, shown: &str) -> Result<Kind, String> {
    // SAFETY: borrowed only for a few getsockopts, which answer EBADF or ENOTSOCK if the number means nothing.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let socket = SockRef::from(&borrowed);
    let look = || -> io::Result<Kind> {
        let (listens, is_stream) = (socket.is_listener()?, socket.r#type()? == Type::STREAM);
        // A question for TCP sockets.
        let shares_port = socket.reuse_port().unwrap_or(false);
        Ok(Kind { shown: shown.to_owned(), is_stream, listens, shares_port, address: Address::of(&socket)? })
    };
    look().map_err(|error| format!("{shown} was handed over (LISTEN_FDS) and cannot be used: {error}"))
}

/// The one address of what was handed over, if anything was.
fn judge(kinds: &[Kind]) -> Result<Option<Address>, String> {
    for kind in kinds {
        let fault = match kind {
            Kind { is_stream: false, .. } => "is no stream socket (ListenStream= opens one)",
            Kind { listens: false, .. } => "does not listen (Accept=yes hands connections over; use Accept=no)",
            Kind { address: None, .. } => "is neither a TCP nor a UNIX socket",
            _ => continue,
        };
        return Err(format!("{} was handed over (LISTEN_FDS) and {fault}", kind.shown));
    }
    let Some(first) = kinds.first() else { return Ok(None) };
    if let Some(other) = kinds.iter().find(|kind| kind.address != first.address) {
        let shown = |kind: &Kind| kind.address.as_ref().map(ToString::to_string).unwrap_or_default();
        return Err(format!(
            "{} listens on {} and {} on {}: propane serves one address; start one for each",
            first.shown,
            shown(first),
            other.shown,
            shown(other)
        ));
    }
    if let Some(alone) = kinds.iter().find(|kind| kinds.len() > 1 && !kind.shares_port) {
        return Err(format!("{} is one of several on its address, without ReusePort=yes", alone.shown));
    }
    Ok(first.address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_count_for_the_process_that_they_are_meant_for() {
        let table = [
            (Some("7"), Some("2"), Ok(2)),
            (Some("7"), Some("0"), Ok(0)),
            (Some("8"), Some("2"), Ok(0)),
            (Some("8"), Some("nonsense"), Ok(0)),
            (None, Some("2"), Ok(0)),
            (Some("7"), None, Ok(0)),
            (Some("7"), Some("-1"), Err(())),
            (Some("7"), Some("two"), Err(())),
        ];
        for (pid, fds, expected) in table {
            let variable = |name: &str| if name == "LISTEN_PID" { pid } else { fds };
            assert_eq!(announced(&variable, 7).map_err(|_| ()), expected, "{pid:?} {fds:?}");
        }
    }

    fn listener(nth: u32, address: &str) -> Kind {
        let address = Some(Address::Tcp(address.parse().unwrap()));
        Kind { shown: format!("descriptor {nth}"), is_stream: true, listens: true, shares_port: true, address }
    }

    #[test]
    fn one_address_is_served() {
        let one = listener(3, "127.0.0.1:80");
        let other = listener(4, "[::1]:80");
        let alone = Kind { shares_port: false, ..one.clone() };
        let table = [
            (vec![], Ok(None)),
            (vec![one.clone()], Ok(Some("127.0.0.1:80"))),
            (vec![alone.clone()], Ok(Some("127.0.0.1:80"))),
            (vec![one.clone(), listener(4, "127.0.0.1:80")], Ok(Some("127.0.0.1:80"))),
            (vec![one.clone(), alone], Err("without ReusePort=yes")),
            (vec![one.clone(), other], Err("descriptor 4 on [::1]:80")),
            (vec![Kind { listens: false, ..one.clone() }], Err("does not listen")),
            (vec![Kind { is_stream: false, ..one.clone() }], Err("is no stream socket")),
            (vec![Kind { address: None, ..one }], Err("neither a TCP nor a UNIX")),
        ];
        for (kinds, expected) in table {
            match (judge(&kinds), expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(found.map(|address| address.to_string()).as_deref(), expected);
                }
                (Err(error), Err(text)) => assert!(error.contains(text), "{error}"),
                (found, expected) => panic!("{found:?} instead of {expected:?}"),
            }
        }
    }
}
