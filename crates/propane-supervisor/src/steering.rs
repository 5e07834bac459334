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

/// `random % indices.len()` looked up in `indices`.
fn program(indices: &[u32]) -> Vec<sock_filter> {
    let count = u32::try_from(indices.len()).unwrap_or(u32::MAX).max(1);
    let mut program = vec![
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, RANDOM),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, count),
    ];
    for (nth, index) in (0u32..).zip(indices) {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, nth));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, *index));
    }
    // Not reached with any index given; out of every range, and so "whatever the kernel thinks best".
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    // The kernel's codes fit, as its own header defines them for this field.
    sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_looks_the_random_number_up() {
        let shown: Vec<_> = program(&[4, 0]).iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        assert_eq!(
            shown,
            [
                (0x20, 0, 0, 0xffff_f038),
                (0x94, 0, 0, 2),
                (0x15, 0, 1, 0),
                (0x06, 0, 0, 4),
                (0x15, 0, 1, 1),
                (0x06, 0, 0, 0),
                (0x06, 0, 0, u32::MAX),
            ]
        );
    }

    #[test]
    fn the_largest_number_of_workers_fits() {
        let everybody: Vec<u32> = (0..1024).collect();
        assert!(program(&everybody).len() <= 4096, "BPF_MAXINSNS");
    }
}
