//! A listener at a path (`unix(7)`): what lies there is looked at before it is replaced, and what this manager has put
//! there is taken away at its end.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::tcp::Owner;
use super::{Address, SocketError};

/// How long another manager that looks at the same directory is waited for.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// The time between two tries to get the lock: nothing tells when it is free.
pub(crate) const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// A socket's file, removed when this is dropped, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
    mask: Option<u32>,
    /// It was gone when it was last looked for.
    is_missed: bool,
}

impl SocketFile {
    /// The path, when the file is found to be gone for the first time.
    pub(super) fn newly_missed(&mut self) -> Option<&Path> {
        let is_missed = !self.is_there();
        let was_missed = std::mem::replace(&mut self.is_missed, is_missed);
        (self.is_missed && !was_missed).then_some(&self.path)
    }

    /// As long as the socket is open its inode is not used again, so the same number means the same file.
    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| id(&found) == self.id)
    }

    /// A listener in the place of one that was shut down, which for a UNIX socket is its end. `None` where another manager
    /// looks at the directory and there is patience to try again.
    pub(super) fn make_anew(&mut self, backlog: i32, is_patient: bool) -> Result<Option<Socket>, SocketError> {
        let lock = try_lock(&self.path);
        if is_patient && matches!(lock, Lock::Taken) {
            return Ok(None);
        }
        let (socket, file) = replace(&self.path, backlog, self.mask)?;
        *self = file;
        Ok(Some(socket))
    }
}

/// Whether a listener was shut down. A UNIX one still says that it listens, and refuses everybody.
pub(super) fn is_shut(listener: &Socket) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|_| fds[0].revents().contains(PollFlags::HUP))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            // Where the directory has become read-only the next manager finds a leftover.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// What lies at a path.
#[derive(Debug)]
enum Found {
    Nothing,
    /// A socket that nobody listens on.
    Leftover,
    /// A socket that somebody listens on.
    Living(Owner),
    /// Something that is not ours to remove.
    Other(&'static str),
}

/// Listens at `path`. Its mode is 0777 without the bits of `mask`, or of the manager's own mask. Waits for its turn where
/// another manager looks at the directory.
pub(super) fn listen(path: &Path, backlog: i32, mask: Option<u32>) -> Result<(Socket, SocketFile), SocketError> {
    let _lock = lock(path);
    replace(path, backlog, mask)
}

/// Listens at `path`, in the place of a leftover.
fn replace(path: &Path, backlog: i32, mask: Option<u32>) -> Result<(Socket, SocketFile), SocketError> {
    let error = |error| SocketError::Bind { address: Address::Unix(path.to_owned()), error, hint: hint(path) };
    match look(path).map_err(error)? {
        Found::Nothing => {}
        Found::Leftover => {
            tracing::warn!("removed {}, which nobody listens on any more", path.display());
            fs::remove_file(path).map_err(error)?;
        }
        Found::Living(owner) => return Err(SocketError::InUse { address: Address::Unix(path.to_owned()), owner }),
        Found::Other(what) => return Err(SocketError::NotASocket { path: path.to_owned(), what }),
    }
    let socket = with_mask(mask, || bind(path)).map_err(error)?;
    let metadata = fs::symlink_metadata(path).map_err(error)?;
    let file = SocketFile { path: path.to_owned(), id: id(&metadata), mask, is_missed: false };
    socket.listen(backlog).map_err(error)?;
    Ok((socket, file))
}

fn bind(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// The mask belongs to the process, and this one has a single thread.
fn with_mask<T>(mask: Option<u32>, act: impl FnOnce() -> T) -> T {
    let Some(mask) = mask else { return act() };
    let before = umask(Mode::from_bits_truncate(mask));
    let done = act();
    umask(before);
    done
}

fn hint(path: &Path) -> &'static str {
    match path.parent() {
        Some(parent) if !parent.is_dir() => " (its directory does not exist)",
        _ => "",
    }
}

fn look(path: &Path) -> io::Result<Found> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        let what = if kind.is_dir() {
            "a directory"
        } else if kind.is_symlink() {
            "a symbolic link"
        } else {
            "a file"
        };
        return Ok(Found::Other(what));
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(Found::Living(Owner::of(listener_of(&socket).into_iter().collect()))),
        Err(error) => match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Ok(Found::Leftover),
            // Gone in the meantime.
            Some(libc::ENOENT) => Ok(Found::Nothing),
            // Its queue is full.
            Some(libc::EAGAIN) => Ok(Found::Living(Owner::default())),
            Some(libc::EPROTOTYPE) => Ok(Found::Other("a socket of another kind")),
            _ => Err(error),
        },
    }
}

/// Who listens at the other end, as far as its pid can be seen from here.
fn listener_of(socket: &Socket) -> Option<i32> {
    getsockopt(socket, PeerCredentials).ok().map(|credentials| credentials.pid()).filter(|pid| *pid > 0)
}

/// What keeps managers from replacing each other's new sockets. It lies on the directory, so that nothing is left behind;
/// where somebody else holds it for long, or it cannot be had at all, only the test of the socket itself is left.
#[derive(Debug)]
enum Lock {
    Held(#[expect(dead_code, reason = "it is held as long as it is open")] fs::File),
    /// Somebody else has it.
    Taken,
    /// It cannot be had.
    Impossible,
}

/// Tries to lock the directory of `path`.
fn try_lock(path: &Path) -> Lock {
    let Ok(directory) = fs::File::open(path.parent().unwrap_or(Path::new("/"))) else { return Lock::Impossible };
    match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Lock::Held(directory),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Lock::Taken,
        Err(_) => Lock::Impossible,
    }
}

/// Locks the directory of `path`, and waits for that.
fn lock(path: &Path) -> Lock {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let interval = Timespec::try_from(LOCK_INTERVAL).ok();
    loop {
        match try_lock(path) {
            Lock::Taken if Instant::now() < deadline => {
                // An interruption only makes the next try come sooner.
                let _ = poll(&mut [], interval.as_ref());
            }
            lock => return lock,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("app.sock");
        (directory, path)
    }

    #[test]
    fn a_leftover_is_replaced_and_the_file_goes_with_its_socket() {
        let (_directory, path) = scratch();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a killed server leaves its file behind");
        let (socket, file) = listen(&path, 16, Some(0o007)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o770);
        UnixStream::connect(&path).unwrap();
        drop(file);
        assert!(!path.exists());
        drop(socket);
    }

    #[test]
    fn a_living_server_is_named_and_left_alone() {
        let (_directory, path) = scratch();
        let foreign = UnixListener::bind(&path).unwrap();
        let error = listen(&path, 16, None).unwrap_err().to_string();
        let me = format!("pid {}", std::process::id());
        assert!(error.contains("already in use by") && error.contains(&me), "{error}");
        foreign.accept().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_is_no_listener_is_never_removed() {
        let (directory, path) = scratch();
        let refused = |path: &Path| listen(path, 16, None).unwrap_err().to_string();
        fs::write(&path, "mine").unwrap();
        assert!(refused(&path).contains("a file"), "{}", refused(&path));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(refused(&link).contains("a symbolic link"));
        assert!(refused(directory.path()).contains("a directory"));
        let datagram = directory.path().join("log");
        let _bound = UnixDatagram::bind(&datagram).unwrap();
        assert!(refused(&datagram).contains("another kind"));
        assert!(refused(&directory.path().join("no/such.sock")).contains("directory does not exist"));
    }

    #[test]
    fn a_file_that_somebody_else_has_put_there_since_is_theirs() {
        let (_directory, path) = scratch();
        let (_socket, file) = listen(&path, 16, None).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }
}
