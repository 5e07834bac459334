//! The socket on which a worker says `READY=1` and `WATCHDOG=1` (`sd_notify(3)`).
//!
//! A path rather than an abstract name, because not every client knows the `@` form, in a directory that only the
//! workers' user can enter. One socket a worker, so that the sender is known even when it is gone already.

use std::io;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, setsockopt, sockopt::PassCred};
use propane_core::WorkerId;
use tempfile::TempDir;

use crate::spawn::Identity;

/// What `sun_path` holds, less its final NUL (`unix(7)`).
const PATH_BYTES_MAX: usize = 107;

/// Longer datagrams are not messages that anything here knows.
const MESSAGE_BYTES_MAX: usize = 4096;

/// What a worker said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// `READY=1`.
    pub(crate) ready: bool,
    /// `WATCHDOG=1`.
    pub(crate) heartbeat: bool,
}

impl Message {
    fn parse(text: &[u8]) -> Self {
        let has = |wanted: &[u8]| text.split(|byte| *byte == b'\n').any(|line| line == wanted);
        Self { ready: has(b"READY=1"), heartbeat: has(b"WATCHDOG=1") }
    }
}

/// The directory of all notify sockets; it goes with the manager.
#[derive(Debug)]
pub(crate) struct NotifyDirectory {
    directory: TempDir,
}

impl NotifyDirectory {
    /// Makes the directory, for the user that the workers run as.
    pub(crate) fn create(identity: Option<&Identity>) -> io::Result<Self> {
        let directory = make_directory()?;
        // The workers' user may enter and not write: what it could replace, the manager must not touch by name.
        let mode = if identity.is_some() { 0o710 } else { 0o700 };
        if let Some(identity) = identity {
            chown(directory.path(), None, Some(identity.gid))?;
        }
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(mode))?;
        Ok(Self { directory })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A socket for one worker.
    pub(crate) fn socket(&self, worker: WorkerId, identity: Option<&Identity>) -> io::Result<NotifySocket> {
        let path = self.path().join(worker.0.to_string());
        if path.as_os_str().len() > PATH_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the temporary directory's path is too long"));
        }
        let socket = UnixDatagram::bind(&path)?;
        let socket = NotifySocket { socket, path };
        setsockopt(&socket.socket, PassCred, &true)?;
        if let Some(identity) = identity {
            chown(&socket.path, Some(identity.uid), Some(identity.gid))?;
        }
        Ok(socket)
    }
}

/// Where the operator says, else in memory: a socket's file is made between the death of a worker and its replacement, and
/// on a disk that took up to 0.6 ms.
fn make_directory() -> io::Result<TempDir> {
    let asked = std::env::var_os("TMPDIR").map(PathBuf::from);
    let in_memory = ["/run", "/dev/shm"].map(PathBuf::from).into_iter().filter(|place| is_in_memory(place));
    let places = asked.into_iter().chain(in_memory).chain([PathBuf::from("/tmp")]);
    let mut made = Err(io::Error::from(io::ErrorKind::NotFound));
    for place in places {
        made = tempfile::Builder::new().prefix("propane-").tempdir_in(place);
        if made.is_ok() {
            break;
        }
    }
    made
}

fn is_in_memory(place: &Path) -> bool {
    rustix::fs::statfs(place).is_ok_and(|found| found.f_type == nix::libc::TMPFS_MAGIC)
}

/// One worker's socket; its file goes with it.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// What the worker finds in `NOTIFY_SOCKET`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The next message and its sender's pid, if one is there.
    pub(crate) fn receive(&self) -> Option<(Message, Option<i32>)> {
        let mut buffer = [0u8; MESSAGE_BYTES_MAX];
        let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags).ok()?;
        let sender = received.cmsgs().ok().and_then(|mut messages| {
            messages.find_map(|message| match message {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                _ => None,
            })
        });
        let length = received.bytes;
        Some((Message::parse(&buffer[..length]), sender))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // Best effort: the directory is removed as a whole at the end.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_lines() {
        let message = |ready, heartbeat| Message { ready, heartbeat };
        let table = [
            ("READY=1", message(true, false)),
            ("STATUS=up\nREADY=1\nMAINPID=3\n", message(true, false)),
            ("WATCHDOG=1", message(false, true)),
            ("READY=1\nWATCHDOG=1", message(true, true)),
            ("READY=10", message(false, false)),
            ("NOTREADY=1", message(false, false)),
            ("", message(false, false)),
        ];
        for (text, expected) in table {
            assert_eq!(Message::parse(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn a_message_names_its_sender_and_the_file_goes_with_the_socket() {
        let directory = NotifyDirectory::create(None).unwrap();
        let socket = directory.socket(WorkerId(7), None).unwrap();
        assert_eq!(socket.receive(), None);
        let client = UnixDatagram::unbound().unwrap();
        client.send_to(b"READY=1", socket.path()).unwrap();
        let me = std::process::id().cast_signed();
        assert_eq!(socket.receive(), Some((Message { ready: true, heartbeat: false }, Some(me))));
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
    }
}
