//! Whether a process serves, as far as can be seen from outside: it listens, or it waits on the listener that it was given.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};

use nix::libc;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use procfs::process::FDTarget;
use propane_core::Proof;

use crate::sockets::Address;
use crate::{procinfo, sockdiag};

/// What a look at a worker's processes found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Proven(Proof),
    NotYet,
    /// They may not be looked at, or wait in a way that does not show.
    Hidden,
}

/// The listeners on the ports of interest, asked for once a round.
#[derive(Debug, Default)]
pub(crate) struct Ports(BTreeMap<u16, Vec<u64>>);

impl Ports {
    fn listeners(&mut self, address: &Address) -> &[u64] {
        let Some(port) = address.tcp().map(|address| address.port()) else { return &[] };
        let ask = || sockdiag::listeners(port).unwrap_or_default().iter().map(|socket| socket.inode).collect();
        self.0.entry(port).or_insert_with(ask)
    }
}

/// Looks at a worker's processes, which serve at `address`; on the listener with this inode, if they were given one.
pub(crate) fn see(family: &[i32], listener: Option<u64>, address: &Address, ports: &mut Ports) -> Seen {
    let looks = family.iter().map(|pid| match listener {
        Some(inode) => see_inherited(*pid, inode),
        None => see_own(*pid, ports.listeners(address)),
    });
    looks.max_by_key(|seen| rank(*seen)).unwrap_or(Seen::NotYet)
}

/// Whether one of a worker's processes waits on the listener that it was given; `None` where that cannot be seen.
pub(crate) fn waits_on_listener(family: &[i32], inode: u64) -> Option<bool> {
    let looks: Vec<Seen> = family.iter().map(|pid| see_inherited(*pid, inode)).collect();
    if looks.iter().any(|seen| matches!(seen, Seen::Proven(_))) {
        return Some(true);
    }
    (!looks.contains(&Seen::Hidden)).then_some(false)
}

/// A process that binds by itself: it must own a listening socket on the port.
fn see_own(pid: i32, listeners: &[u64]) -> Seen {
    match procinfo::descriptors(pid) {
        Ok(fds) if fds.iter().any(|(_, target)| is_one_of(target, listeners)) => Seen::Proven(Proof::Listening),
        Ok(_) => Seen::NotYet,
        Err(error) => unseen(&error),
    }
}

/// A process that inherited its listener: it must wait on it, in an epoll, in a system call or by an `io_uring`. One that
/// has bound the port by itself instead serves, and lets others wait in its slot for ever: it is not ready.
fn see_inherited(pid: i32, inode: u64) -> Seen {
    let fds = match procinfo::descriptors(pid) {
        Ok(fds) => fds,
        Err(error) => return unseen(&error),
    };
    let mine: Vec<i32> = fds.iter().filter(|(_, target)| is_one_of(target, &[inode])).map(|(fd, _)| *fd).collect();
    let is_kind = |target: &FDTarget, kind: &str| matches!(target, FDTarget::AnonInode(name) if name.contains(kind));
    let mut epolls = fds.iter().filter(|(_, target)| is_kind(target, "eventpoll"));
    if epolls.any(|(fd, _)| procinfo::epoll_watches(pid, *fd, inode)) {
        return Seen::Proven(Proof::Accepting);
    }
    if procinfo::sleeping_in(pid).iter().any(|(call, args)| waits_on(pid, *call, args, &mine)) {
        return Seen::Proven(Proof::Accepting);
    }
    if mine.is_empty() {
        return Seen::NotYet;
    }
    let rings = fds.iter().filter(|(_, target)| is_kind(target, "io_uring"));
    rings
        .map(|(fd, _)| see_ring(&procinfo::descriptor_info(pid, *fd)))
        .max_by_key(|seen| rank(*seen))
        .unwrap_or(Seen::NotYet)
}

/// What an `io_uring` of a process that has the listener waits for. The kernel names the operations, and not the
/// descriptors (its `io_uring/fdinfo.c`). An accept is a poll of the listener until there is somebody. Event loops keep rings
/// for other things as well, and these wait for nothing.
fn see_ring(info: &str) -> Seen {
    const ACCEPT: &str = "op=13,"; // `IORING_OP_ACCEPT` of `linux/io_uring.h`
    // A ring that is being worked on has no such list for the moment.
    let Some((_, list)) = info.split_once("PollList:\n") else { return Seen::Hidden };
    let operations = list.lines().map(str::trim).take_while(|line| line.starts_with("op="));
    let see =
        |operation: &str| if operation.starts_with(ACCEPT) { Seen::Proven(Proof::Accepting) } else { Seen::Hidden };
    operations.map(see).max_by_key(|seen| rank(*seen)).unwrap_or(Seen::NotYet)
}

/// How much a look has shown.
fn rank(seen: Seen) -> u8 {
    match seen {
        Seen::NotYet => 0,
        Seen::Hidden => 1,
        Seen::Proven(_) => 2,
    }
}

fn unseen(error: &io::Error) -> Seen {
    if error.kind() == io::ErrorKind::PermissionDenied { Seen::Hidden } else { Seen::NotYet }
}

fn is_one_of(target: &FDTarget, inodes: &[u64]) -> bool {
    matches!(target, FDTarget::Socket(inode) if inodes.contains(inode))
}

/// What a system call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// A connection on this descriptor.
    Accept { fd: u64 },
    /// An event on one of `count` `struct pollfd`s at `at`.
    Poll { at: u64, count: u64 },
    /// Input on one of the `count` lowest descriptors of the `fd_set` at `at`.
    Select { at: u64, count: u64 },
}

fn wait_of(call: i64, args: &[u64]) -> Option<Wait> {
    let [first, second, ..] = *args else { return None };
    match call {
        libc::SYS_accept | libc::SYS_accept4 => Some(Wait::Accept { fd: first }),
        libc::SYS_ppoll => Some(Wait::Poll { at: first, count: second }),
        libc::SYS_pselect6 => Some(Wait::Select { at: second, count: first }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_poll => Some(Wait::Poll { at: first, count: second }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select => Some(Wait::Select { at: second, count: first }),
        _ => None,
    }
}

/// No server polls more descriptors than this while it starts; a bound, because the numbers come from another process.
const POLLED_MAX: u64 = 65_536;

fn waits_on(pid: i32, call: i64, args: &[u64], fds: &[i32]) -> bool {
    let has = |fd: i64| fds.iter().any(|mine| i64::from(*mine) == fd);
    match wait_of(call, args) {
        Some(Wait::Accept { fd }) => has(fd.cast_signed()),
        Some(Wait::Poll { at, count }) => {
            let bytes = read_memory(pid, at, count.min(POLLED_MAX) * 8);
            bytes
                .chunks_exact(8)
                .any(|pollfd| has(i32::from_ne_bytes([pollfd[0], pollfd[1], pollfd[2], pollfd[3]]).into()))
        }
        Some(Wait::Select { at, count }) if at != 0 => {
            let bytes = read_memory(pid, at, count.min(POLLED_MAX).div_ceil(64) * 8);
            fds.iter().any(|fd| is_set(&bytes, *fd))
        }
        Some(Wait::Select { .. }) | None => false,
    }
}

/// Whether bit `fd` of an `fd_set` is set. The set is an array of longs, which on the little-endian machines that Linux
/// runs on today reads the same byte by byte.
fn is_set(bytes: &[u8], fd: i32) -> bool {
    let fd = usize::try_from(fd).unwrap_or(usize::MAX);
    bytes.get(fd / 8).is_some_and(|byte| byte & (1 << (fd % 8)) != 0)
}

/// Memory of another process; empty where it may not be read.
fn read_memory(pid: i32, at: u64, length: u64) -> Vec<u8> {
    let (Ok(base), Ok(len)) = (usize::try_from(at), usize::try_from(length)) else { return Vec::new() };
    let mut bytes = vec![0; len];
    let remote = [RemoteIoVec { base, len }];
    let count = process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(&mut bytes)], &remote).unwrap_or(0);
    bytes.truncate(count);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_ring_tells_what_it_waits_for() {
        let table = [
            ("SqTail:\t4\nPollList:\nCqOverflowList:\nNAPI:\tdisabled\n", Seen::NotYet),
            ("SqTail:\t4\nPollList:\n", Seen::NotYet),
            ("PollList:\n  op=13, task_works=0\nCqOverflowList:\n", Seen::Proven(Proof::Accepting)),
            (
                "PollList:\n  op=6, task_works=0\n  op=13, task_works=0\nCqOverflowList:\n",
                Seen::Proven(Proof::Accepting),
            ),
            ("PollList:\n  op=6, task_works=0\nCqOverflowList:\n", Seen::Hidden),
            ("pos:\t0\nflags:\t02000002\n", Seen::Hidden),
            ("", Seen::Hidden),
        ];
        for (info, expected) in table {
            assert_eq!(see_ring(info), expected, "{info:?}");
        }
    }

    #[test]
    fn an_fd_set_is_read_bit_by_bit() {
        let bytes = [0b0000_1000, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        for (fd, expected) in [(3, true), (4, false), (64, true), (65, false), (128, false), (-1, false)] {
            assert_eq!(is_set(&bytes, fd), expected, "{fd}");
        }
    }

    fn inode(listener: &TcpListener) -> u64 {
        rustix::fs::fstat(listener).unwrap().st_ino
    }

    /// What is seen of this process, which listens there, by itself or on what it was given.
    fn seen(address: &Address, given: Option<u64>) -> Seen {
        see(&[std::process::id().cast_signed()], given, address, &mut Ports::default())
    }

    fn listener() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        (listener, address)
    }

    #[test]
    fn a_process_that_binds_is_seen_by_its_listener() {
        let (listener, address) = listener();
        assert_eq!(seen(&address, None), Seen::Proven(Proof::Listening));
        drop(listener);
        assert_eq!(seen(&address, None), Seen::NotYet);
    }

    #[test]
    fn an_inherited_listener_is_seen_in_an_epoll() {
        let (listener, address) = listener();
        let given = Some(inode(&listener));
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        assert_eq!(seen(&address, given), Seen::NotYet);
        let data = rustix::event::epoll::EventData::new_u64(0);
        rustix::event::epoll::add(&epoll, &listener, data, rustix::event::epoll::EventFlags::IN).unwrap();
        assert_eq!(seen(&address, given), Seen::Proven(Proof::Accepting));
    }

    /// Runs `wait` in a thread until a look finds it, then lets it go with a connection.
    fn is_seen_waiting(wait: impl FnOnce(&TcpListener) + Send + 'static) -> bool {
        let (listener, address) = listener();
        let given = Some(inode(&listener));
        let waiting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || wait(&waiting));
        let mut is_seen = false;
        while !is_seen && !thread.is_finished() {
            is_seen = seen(&address, given) == Seen::Proven(Proof::Accepting);
        }
        drop(std::net::TcpStream::connect(address.tcp().unwrap()));
        thread.join().unwrap();
        is_seen
    }

    #[test]
    fn a_thread_in_accept_is_seen() {
        assert!(is_seen_waiting(|listener| drop(listener.accept())));
    }

    #[test]
    fn a_thread_in_poll_is_seen() {
        assert!(is_seen_waiting(|listener| {
            let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, None).unwrap();
        }));
    }

    #[test]
    fn a_thread_in_select_is_seen() {
        assert!(is_seen_waiting(|listener| {
            let mut fds = nix::sys::select::FdSet::new();
            fds.insert(std::os::fd::AsFd::as_fd(listener));
            nix::sys::select::select(listener.as_raw_fd() + 1, &mut fds, None, None, None).unwrap();
        }));
    }
}
