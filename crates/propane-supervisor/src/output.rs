//! Where the manager's lines go. Nothing here can stall the manager: writes never wait, what cannot be written is
//! dropped, counted, and told of as soon as the way is free again; a place that fails for another reason than a slow
//! reader is told of at once, because it may never be free again.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One place for lines.
#[derive(Debug)]
pub(crate) struct Sink {
    target: Target,
    dropped: u64,
    in_trouble: bool,
}

/// What kind of file a sink writes to, which decides how a write is kept from waiting.
#[derive(Debug)]
enum Target {
    /// A description of its own, not blocking; or a regular file, which does not block for want of a reader.
    File(File),
    /// A pipe or terminal that may not be opened again (another user's): asked for room before each write.
    Shared(File),
    /// A socket: it cannot be opened again, so each write says that it must not wait.
    Socket(UnixStream),
    /// Nothing to write to.
    Nowhere,
}

impl Sink {
    /// The manager's standard output or standard error.
    pub(crate) fn standard(fd: impl AsFd) -> Self {
        Self::of(target_of(&fd).unwrap_or(Target::Nowhere))
    }

    fn of(target: Target) -> Self {
        Self { target, dropped: 0, in_trouble: false }
    }

    /// A file that is appended to and never truncated.
    pub(crate) fn append(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o644)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        match file {
            Ok(file) => Ok(Self::of(Target::File(file))),
            // `open(2)`: which would read "No such device or address".
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Err(io::Error::other("nobody reads that FIFO")),
            Err(error) => Err(error),
        }
    }

    /// Writes `line`, which ends with a newline, with one write(2), or drops it. Returns the reason when trouble begins
    /// that may never end. A slow reader is no such trouble: it finds a notice in its stream.
    pub(crate) fn write(&mut self, line: &str) -> Option<io::Error> {
        let error = self.write_with_notice(line).err()?;
        self.dropped += 1;
        let begins = error.kind() != io::ErrorKind::WouldBlock && !std::mem::replace(&mut self.in_trouble, true);
        begins.then_some(error)
    }

    fn write_with_notice(&mut self, line: &str) -> io::Result<()> {
        if self.dropped > 0 {
            let notice = format!("propane: {} lines could not be written here and were dropped\n", self.dropped);
            self.target.write_once(notice.as_bytes())?;
            self.dropped = 0;
        }
        self.target.write_once(line.as_bytes())?;
        self.in_trouble = false;
        Ok(())
    }
}

impl Target {
    fn write_once(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = match self {
            Self::File(file) => file.write(bytes)?,
            // A pipe that has room at all has room for a page, which is more than a line (`pipe(7)`).
            Self::Shared(file) if has_room(file) => file.write(&bytes[..bytes.len().min(PAGE_BYTES)])?,
            Self::Shared(_) => return Err(io::ErrorKind::WouldBlock.into()),
            Self::Socket(socket) => {
                let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
                nix::sys::socket::send(socket.as_raw_fd(), bytes, flags)?
            }
            Self::Nowhere => bytes.len(),
        };
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

/// `PIPE_BUF` of Linux.
const PAGE_BYTES: usize = 4096;

fn has_room(file: &File) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

fn target_of(fd: &impl AsFd) -> io::Result<Target> {
    let file = File::from(fd.as_fd().try_clone_to_owned()?);
    let kind = file.metadata()?.file_type();
    if kind.is_socket() {
        return Ok(Target::Socket(UnixStream::from(std::os::fd::OwnedFd::from(file))));
    }
    if kind.is_file() {
        // Workers write to the same description: one offset for all, so that nobody writes over anybody.
        return Ok(Target::File(file));
    }
    // A pipe or a terminal: O_NONBLOCK on the shared description would surprise the workers, so open another.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let own = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    Ok(own.map_or_else(|_| Target::Shared(file), Target::File))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_full_pipe_drops_lines_and_says_so_later() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut sink = Sink::standard(&writer);
        let line = format!("{}\n", "x".repeat(1023));
        // A pipe holds 64 KiB by default; this returns, which is the point.
        for _ in 0..200 {
            sink.write(&line);
        }
        let dropped = sink.dropped;
        assert!(dropped > 0 && dropped < 200, "{dropped}");
        let mut buffer = vec![0; 128 * 1024];
        let read = reader.read(&mut buffer).unwrap();
        assert_eq!(read % line.len(), 0, "whole lines only");
        sink.write("after\n");
        let read = reader.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
        assert_eq!(text, format!("propane: {dropped} lines could not be written here and were dropped\nafter\n"));
    }

    #[test]
    fn a_full_pipe_that_cannot_be_opened_again_is_not_waited_for() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut sink = Sink::of(Target::Shared(file));
        for _ in 0..200 {
            sink.write(&format!("{}\n", "x".repeat(1023)));
        }
        assert!(sink.dropped > 0);
    }

    #[test]
    fn a_place_that_fails_is_survived_and_told_of_once() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let closed = (Sink::standard(&writer), io::ErrorKind::BrokenPipe);
        let full = (Sink::append(Path::new("/dev/full")).unwrap(), io::ErrorKind::StorageFull);
        for (mut sink, expected) in [closed, full] {
            assert_eq!(sink.write("lost\n").map(|error| error.kind()), Some(expected));
            assert!(sink.write("lost\n").is_none());
            assert_eq!(sink.dropped, 2);
        }
    }

    #[test]
    fn a_log_is_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/dir/lifecycle.log");
        for line in ["one\n", "two\n"] {
            Sink::append(&path).unwrap().write(line);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_regular_file_keeps_the_shared_offset() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut workers = File::create(&path).unwrap();
        let mut sink = Sink::standard(&workers);
        workers.write_all(b"worker\n").unwrap();
        sink.write("manager\n");
        workers.write_all(b"worker\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "worker\nmanager\nworker\n");
    }
}
