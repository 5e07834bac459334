//! Listeners of workers: who holds them, and duplicates of them (`pidfd_getfd(2)`).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::libc;
use procfs::process::FDTarget;
use propane_core::WorkerId;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::procinfo;
use crate::steering::is_for_good;

use super::{Held, Member, Retirement};

/// Who holds a listener, under which number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) worker: WorkerId,
    pub(super) pid: i32,
    pub(super) fd: i32,
}

impl Retirement {
    /// Finds out who holds the listeners of which that is not known.
    pub(super) fn find_holders(&mut self, members: &[Member]) {
        let listening = self.groups.values().flat_map(|steered| steered.group.members());
        let unknown: BTreeSet<u64> = listening.copied().filter(|inode| !self.holders.contains_key(inode)).collect();
        if unknown.is_empty() {
            return;
        }
        for member in members {
            for pid in procinfo::family(member.pid) {
                for (fd, target) in procinfo::descriptors(pid).unwrap_or_default() {
                    if let FDTarget::Socket(inode) = target
                        && unknown.contains(&inode)
                    {
                        self.holders.entry(inode).or_insert(Holder { worker: member.worker, pid, fd });
                    }
                }
            }
        }
    }

    /// Borrows the listeners of those who leave.
    pub(super) fn hold(&mut self) -> Result<(), String> {
        let mut stale = Vec::new();
        for (inode, holder) in &self.holders {
            let Some(leaving) = self.leaving.get_mut(&holder.worker).filter(|leaving| !leaving.is_told) else {
                continue;
            };
            if leaving.held.contains_key(inode) {
                continue;
            }
            match borrow(*holder) {
                Ok(socket) if is_socket(&socket, *inode) => {
                    leaving.held.insert(*inode, Held { socket, avoided_since: None });
                }
                Err(error) if is_for_good(&error) => return Err(explain(&error, holder.pid)),
                // There is no descriptor left, say: the next look tries again.
                Err(error) if !is_passing(&error) => tracing::debug!("cannot borrow a socket just now: {error}"),
                // The number means something else by now, or nothing.
                Ok(_) | Err(_) => stale.push(*inode),
            }
        }
        self.holders.retain(|inode, _| !stale.contains(inode));
        Ok(())
    }
}

/// A duplicate of a worker's socket.
pub(super) fn borrow(holder: Holder) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(holder.pid).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    Ok(pidfd_getfd(&pidfd, holder.fd, PidfdGetfdFlags::empty())?)
}

pub(super) fn is_socket(socket: impl AsFd, inode: u64) -> bool {
    rustix::fs::fstat(socket).is_ok_and(|stat| stat.st_ino == inode)
}

/// Whether an error is about a process or a number that is no longer there.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EBADF)) || error.kind() == io::ErrorKind::NotFound
}

/// Why a worker's sockets cannot be steered, and what to do about it.
pub(super) fn explain(error: &io::Error, pid: i32) -> String {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let remedy = match error.raw_os_error() {
        Some(libc::ENOSYS) => "pidfd_getfd needs Linux 5.6, and a sandbox that allows it",
        Some(libc::EINVAL | libc::ENOPROTOOPT) => {
            "the worker's socket is not bound with SO_REUSEPORT; switch that on in the server"
        }
        _ if matches!(scope.trim(), "2" | "3") => {
            "kernel.yama.ptrace_scope forbids it; set it to 1, or run propane with CAP_SYS_PTRACE"
        }
        _ if procinfo::owner(pid).is_some_and(|uid| uid != nix::unistd::Uid::effective().as_raw()) => {
            "the workers run as another user; run propane as that user, or give it CAP_SYS_PTRACE"
        }
        _ => "the worker is not dumpable, has capabilities that propane has not, or a sandbox (seccomp) forbids it",
    };
    format!("cannot borrow a socket of pid {pid}: {error}: {remedy}")
}
