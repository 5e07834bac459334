//! Files that a running manager keeps beside its pid file, for its owner's eyes only.
//!
//! They are written in place and never made shorter: replacing a file that was just written can wait for the disk
//! (seconds on a busy one), and the manager waits for nobody. A lock, held for microseconds, keeps readers from meeting
//! half of a write; a reader that stands still with it cannot hold the manager up.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{FlockOperation, MemfdFlags, flock, memfd_create};
use rustix::io::Errno;
use serde::Serialize;

/// How often a lock is tried. Who has it gives it back in microseconds, unless it was stopped meanwhile.
const LOCK_TRIES: usize = 1000;

/// The file beside a pid file: `propane.pid` -> `propane.SUFFIX`, and every other name as a whole, so that no two pid files
/// share one.
pub(crate) fn beside(pid_file: &Path, suffix: &str) -> PathBuf {
    if pid_file.extension() == Some(OsStr::new("pid")) {
        return pid_file.with_extension(suffix);
    }
    let mut name = pid_file.as_os_str().to_owned();
    name.push(format!(".{suffix}"));
    name.into()
}

/// A file that its manager writes.
#[derive(Debug)]
pub(crate) struct PrivateFile {
    file: Option<File>,
    path: PathBuf,
    length: usize,
}

impl PrivateFile {
    /// Creates the file, with nothing in it. A manager that cannot have it goes on without, and says so.
    pub(crate) fn create(path: &Path) -> Self {
        let file = create(path);
        if let Err(error) = &file {
            tracing::warn!("cannot write {}: {error}", path.display());
        }
        Self { file: file.ok(), path: path.to_owned(), length: 0 }
    }

    /// One without a name, in memory.
    pub(crate) fn in_memory(name: &str) -> io::Result<Self> {
        let file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
        Ok(Self { file: Some(file), path: name.into(), length: 0 })
    }

    /// For whoever inherits it.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(File::as_fd)
    }

    /// Writes a value over the one before.
    pub(crate) fn write(&mut self, value: &impl Serialize) {
        if self.file.is_some() {
            self.write_bytes(serde_json::to_vec(value).unwrap_or_default());
        }
    }

    /// The same, of a value that is JSON already.
    pub(crate) fn write_bytes(&mut self, mut bytes: Vec<u8>) {
        let Some(file) = &self.file else { return };
        // Blanks after the value are none of a reader's business.
        bytes.resize(bytes.len().max(self.length), b' ');
        self.length = bytes.len();
        // Without it where a reader does not give it back: it finds out that what it read is no value.
        let _ = lock(file, FlockOperation::NonBlockingLockExclusive);
        let written = file.write_all_at(&bytes, 0).and_then(|()| match file.metadata()?.len() {
            // Somebody else has written to it.
            longer if longer > bytes.len() as u64 => file.set_len(bytes.len() as u64),
            _ => Ok(()),
        });
        // Cannot fail on a descriptor that is open.
        let _ = flock(file, FlockOperation::Unlock);
        if let Err(error) = written {
            tracing::warn!("cannot write {}: {error}", self.path.display());
            self.file = None;
        }
    }
}

fn lock(file: &File, operation: FlockOperation) -> io::Result<()> {
    for _ in 1..LOCK_TRIES {
        match flock(file, operation) {
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::yield_now(),
            other => return Ok(other?),
        }
    }
    Ok(flock(file, operation)?)
}

/// Creates a file that only its owner can read, following no symlink; a leftover of the same name is replaced.
fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(path);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()
        }
        other => other,
    }
}

/// Reads a regular file whose metadata suits the reader, as it is between two writes.
pub(crate) fn read(path: &Path, bytes_max: u64, suits: impl Fn(&Metadata) -> bool) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if !suits(&metadata) {
        return Err(io::Error::other("it belongs to another user"));
    }
    read_open(&file, bytes_max)
}

/// The same, of an open file.
pub(crate) fn read_open(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    lock(file, FlockOperation::NonBlockingLockShared)?;
    let bytes = contents(file, bytes_max);
    // Cannot fail on a descriptor that is open.
    let _ = flock(file, FlockOperation::Unlock);
    bytes
}

fn contents(file: &File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(bytes_max)).unwrap_or(0)];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        (directory, path)
    }

    #[test]
    fn a_file_is_private_and_holds_the_last_value() {
        let (_directory, path) = scratch();
        let mut file = PrivateFile::create(&path);
        for text in ["a longer one", "", "a", "b"] {
            if text == "b" {
                fs::write(&path, "nonsense ".repeat(100)).unwrap();
            }
            file.write(&text);
            let bytes = read(&path, 1 << 20, |_| true).unwrap();
            assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_symlink_is_replaced_and_never_followed() {
        let (directory, path) = scratch();
        let target = directory.path().join("precious");
        fs::write(&target, "keep me").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(read(&path, 1 << 20, |_| true).is_err());
        PrivateFile::create(&path).write(&"x");
        assert_eq!(fs::read_to_string(&target).unwrap(), "keep me");
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"x\"");
    }

    #[test]
    fn a_reader_never_meets_half_a_write() {
        let (_directory, path) = scratch();
        let mut file = PrivateFile::create(&path);
        let values = ["a", "b"].map(|letter| letter.repeat(100_000));
        file.write(&values[0]);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| (0..200).for_each(|round| file.write(&values[round % 2])));
            while !writer.is_finished() {
                // Where the writer never rests the reader may give up, which is no half a write either.
                let Ok(bytes) = read(&path, 1 << 20, |_| true) else { continue };
                assert!(values.contains(&serde_json::from_slice::<String>(&bytes).unwrap()));
            }
        });
    }

    #[test]
    fn no_two_pid_files_share_a_file() {
        for (pid_file, expected) in [
            ("/run/web.pid", "/run/web.state.json"),
            ("/run/web.1", "/run/web.1.state.json"),
            ("/run/x", "/run/x.state.json"),
        ] {
            assert_eq!(beside(Path::new(pid_file), "state.json"), Path::new(expected));
        }
    }
}
