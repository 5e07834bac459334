//! The program by which the kernel picks a listener of a `SO_REUSEPORT` group for a new connection (`socket(7)`,
//! `SO_ATTACH_REUSEPORT_CBPF`). Picking one whose worker is not there would make a client wait for a boot, or for ever.
//!
//! A program that answers with an index that is out of range makes the kernel fall back to its hash over all: it cannot
//! close the port.

use std::io;

use nix::libc::{self, sock_filter, sock_fprog};
use nix::sys::socket::{setsockopt, sockopt::AttachReusePortCbpf, sockopt::SetStruct};
use std::os::fd::AsFd;

/// Loads a random number instead of packet data (`linux/filter.h`: `SKF_AD_OFF + SKF_AD_RANDOM`).
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();

/// Makes the group of `listener` give new connections to the listeners at `indices` of the group, evenly.
pub(crate) fn attach(listener: impl AsFd, indices: &[u32]) -> io::Result<()> {
    let mut program = program(indices);
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(setsockopt(&listener, AttachReusePortCbpf, &program)?)
}

/// Takes the program of a group away.
#[derive(Clone, Copy, Debug)]
struct DetachReusePortBpf;

nix::setsockopt_impl!(DetachReusePortBpf, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, i32, SetStruct<i32>);

/// Leaves the group of `listener` to the kernel's hash. No program is there to take away where nobody has attached one.
pub(crate) fn detach(listener: impl AsFd) -> io::Result<()> {
    match setsockopt(&listener, DetachReusePortBpf, &0) {
        Ok(()) | Err(nix::errno::Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether the kernel refuses something for good, and not because it has no memory or no descriptor left just now.
pub(crate) fn is_for_good(error: &io::Error) -> bool {
    let refusals = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EINVAL, libc::ENOPROTOOPT, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| refusals.contains(&errno))
}

/// An interface that no machine has.
pub(crate) const NOWHERE: u32 = i32::MAX.cast_unsigned();

/// Binds a socket to an interface by its number (`socket(7)`, `SO_BINDTODEVICE`, for which it need not exist).
#[derive(Clone, Copy, Debug)]
struct BindToInterface;

nix::setsockopt_impl!(BindToInterface, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, i32, SetStruct<i32>);

/// Keeps the kernel from finding a listener, which is to be done before it is closed although no program names it.
///
/// A lookup asks the first listener of the address for the program of its group. A listener that ends leaves the group a
/// moment before it leaves the list of that lookup: as the first of the list (the newest, or for IPv6 the oldest) it then
/// seems to have no group, and is given the connection itself, to be reset with it (`inet_unhash` and
/// `inet_lhash2_lookup` of Linux 6.18; one in some thousand times under load). A listener that is bound to another
/// interface than a packet's is not looked at. Handshakes under way and who waits in its queue do not notice.
pub(crate) fn hide(listener: impl AsFd) -> io::Result<()> {
    Ok(setsockopt(&listener, BindToInterface, &NOWHERE.cast_signed())?)
}

/// `random % indices.len()` looked up in `indices`, run by run: most of a group is served most of the time, and then a
/// program of a few instructions serves a thousand workers.
fn program(indices: &[u32]) -> Vec<sock_filter> {
    let count = u32::try_from(indices.len()).unwrap_or(u32::MAX).max(1);
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, count),
    ];
    let mut passed = 0;
    for Run { first, length } in runs(indices) {
        let before = passed;
        passed += length;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 2, 0, passed));
        program.push(instruction(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, 0, 0, first.wrapping_sub(before)));
        program.push(instruction(libc::BPF_RET | libc::BPF_A, 0, 0, 0));
    }
    // Not reached with any index given; out of every range, and so "whatever the kernel thinks best".
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}

/// Indices that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    first: u32,
    length: u32,
}

fn runs(indices: &[u32]) -> Vec<Run> {
    let mut sorted = indices.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for index in sorted {
        match runs.last_mut() {
            Some(run) if run.first + run.length == index => run.length += 1,
            _ => runs.push(Run { first: index, length: 1 }),
        }
    }
    runs
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    // The kernel's codes fit, as its own header defines them for this field.
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of a program, given a random number.
    fn answer(program: &[sock_filter], random: u32) -> u32 {
        let (mut at, mut a) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                0x20 if k == RANDOM => a = random,
                0x94 => a %= k,
                0x35 => at += usize::from(if a >= k { jt } else { jf }),
                0x04 => a = a.wrapping_add(k),
                0x16 => return a,
                0x06 => return k,
                _ => panic!("no such instruction: {code:x}"),
            }
        }
    }

    #[test]
    fn every_index_is_answered_as_often_as_the_others() {
        let everybody: Vec<u32> = (0..1024).collect();
        let all_but_one: Vec<u32> = (0..1024).filter(|index| *index != 512).collect();
        let every_other: Vec<u32> = (0..1024).step_by(2).collect();
        let tables = [vec![0], vec![3], vec![4, 0], vec![1, 2, 3, 7, 9, 10], everybody, all_but_one, every_other];
        for mut indices in tables {
            let program = program(&indices);
            assert!(program.len() <= 4096, "BPF_MAXINSNS");
            let mut answers: Vec<u32> = (0..).take(indices.len()).map(|random| answer(&program, random)).collect();
            answers.sort_unstable();
            indices.sort_unstable();
            assert_eq!(answers, indices);
        }
    }

    #[test]
    fn a_hidden_listener_is_found_by_nobody_new_and_keeps_who_waits() {
        use std::net::{TcpListener, TcpStream};
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let before = TcpStream::connect(address).unwrap();
            hide(&listener).unwrap();
            let error = TcpStream::connect(address).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{address}");
            let (_, peer) = listener.accept().unwrap();
            assert_eq!(peer, before.local_addr().unwrap());
        }
    }

    #[test]
    fn nobody_means_whatever_the_kernel_thinks_best() {
        assert_eq!(answer(&program(&[]), 7), u32::MAX);
    }

    #[test]
    fn a_thousand_neighbours_are_one_run() {
        let everybody: Vec<u32> = (0..1000).collect();
        assert_eq!(runs(&everybody), [Run { first: 0, length: 1000 }]);
        assert_eq!(program(&everybody).len(), 6);
    }
}
