//! One manager per pid file. The lock on it is the truth, the number is for people (docs/guarantees.md).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

/// Why there is no pid file of ours.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PidFileError {
    /// Another manager has it.
    #[error("already running with pid {pid} (pid file: {})", path.display())]
    AlreadyRunning { pid: String, path: PathBuf },
    /// It cannot be written.
    #[error("cannot {what} pid file {}: {error}", path.display())]
    Io { what: &'static str, path: PathBuf, error: io::Error },
}

/// A pid file that is locked and names this process. Unlinked on [`PidFile::remove`], while still locked.
#[derive(Debug)]
pub(crate) struct PidFile {
    path: PathBuf,
    lock: Flock<File>,
}

impl PidFile {
    /// Locks the file, creating it and its directory as needed. Nothing is written yet.
    pub(crate) fn lock(path: &Path) -> Result<Self, PidFileError> {
        let failed = |what, error| PidFileError::Io { what, path: path.to_owned(), error };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed("create the directory of", error))?;
        }
        loop {
            let file = open(path).map_err(|error| failed("open", error))?;
            if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
                return Err(failed("use", io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
            }
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((file, Errno::EWOULDBLOCK)) => return Err(already_running(file, path)),
                Err((_, errno)) => return Err(failed("lock", errno.into())),
            };
            // Between open and lock a leaving manager may have unlinked the file: then the lock is on nothing.
            if is_still(&lock, path) {
                return Ok(Self { path: path.to_owned(), lock });
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes this process's pid, in place: a reader never finds the file missing.
    pub(crate) fn write(&mut self) -> Result<(), PidFileError> {
        let text = format!("{}\n", std::process::id());
        let written = self
            .lock
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.lock.set_len(text.len() as u64))
            .and_then(|()| self.lock.flush());
        written.map_err(|error| PidFileError::Io { what: "write", path: self.path.clone(), error })
    }

    /// Removes the file, if it is still ours, and then lets the lock go.
    pub(crate) fn remove(self) {
        if is_still(&self.lock, &self.path) {
            // Best effort: a file that cannot be removed is unlocked, and so stale by definition.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

fn is_still(file: &File, path: &Path) -> bool {
    let same =
        |here: std::fs::Metadata, there: std::fs::Metadata| here.dev() == there.dev() && here.ino() == there.ino();
    file.metadata().ok().zip(std::fs::symlink_metadata(path).ok()).is_some_and(|(here, there)| same(here, there))
}

fn already_running(mut file: File, path: &Path) -> PidFileError {
    let mut text = String::new();
    // The message has to do without the number where it cannot be read.
    let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut text);
    let pid = if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() };
    PidFileError::AlreadyRunning { pid, path: path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tmp/propane.pid");
        (directory, path)
    }

    #[test]
    fn the_second_manager_is_told_of_the_first() {
        let (_directory, path) = scratch();
        let mut first = PidFile::lock(&path).unwrap();
        first.write().unwrap();
        let error = PidFile::lock(&path).unwrap_err().to_string();
        assert_eq!(error, format!("already running with pid {} (pid file: {})", std::process::id(), path.display()));
        first.remove();
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_file_is_taken_over_whatever_it_says() {
        for stale in ["", "1\n", "999999999999999999999999999\n", "not a number"] {
            let (_directory, path) = scratch();
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, stale).unwrap();
            PidFile::lock(&path).unwrap().write().unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()), "{stale:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_and_left_alone() {
        let (_directory, path) = scratch();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(PidFile::lock(&path), Err(PidFileError::Io { what: "use", .. })));
        assert!(path.exists());
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let (directory, path) = scratch();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let target = directory.path().join("precious");
        std::fs::write(&target, "keep me").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(PidFile::lock(&path), Err(PidFileError::Io { what: "open", .. })));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "keep me");
    }

    #[test]
    fn a_file_that_somebody_replaced_is_left_alone() {
        let (_directory, path) = scratch();
        let ours = PidFile::lock(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "77\n").unwrap();
        ours.remove();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "77\n");
    }
}
