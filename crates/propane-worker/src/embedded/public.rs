//! The files of `public/`, and nothing but them.
//!
//! What a request may reach is decided by the kernel: every path is opened beneath the directory (`openat2` with
//! `RESOLVE_BENEATH`), so that no `..`, no symbolic link and no rename in between leads out. A symbolic link that stays
//! inside is followed; one that leads out, and every absolute one, is not found. (`public/` itself may be a link: it is
//! resolved once, at the start.) Hidden files are not found, but for `/.well-known/` of RFC 8615; neither are
//! devices, sockets and pipes.
//!
//! Files are read on the worker's one thread: local files come from the page cache, and a second thread a worker would
//! cost more than it saves.

use std::fs::{File, Metadata};
use std::future::{Ready, ready};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{self, Backend};

/// Why `public/` cannot be served although it is there.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {}: {source}", path.display())]
pub(super) struct PublicError {
    path: PathBuf,
    source: io::Error,
}

/// To read a file. Opening a pipe must not wait for its writer, nor a terminal become ours.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// Endings of files that are another file, compressed beforehand.
const COMPRESSED: [&str; 2] = ["br", "gz"];

/// To see what is there.
const LOOK: OFlags = OFlags::PATH;

/// An open `public/` directory.
#[derive(Debug, Clone)]
pub(super) struct Public {
    dir: Arc<OwnedFd>,
    extensions: Arc<[String]>,
}

impl Public {
    /// Opens the directory; none if there is none. Only files that end in one of these exist.
    pub(super) fn open(path: &Path, extensions: Vec<String>) -> Result<Option<Self>, PublicError> {
        match openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { dir: Arc::new(dir), extensions: Arc::from(extensions) })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(PublicError { path: path.to_owned(), source: errno.into() }),
        }
    }

    /// Opens `path`, which is relative, and says what it is.
    fn look(&self, path: &Path, access: OFlags) -> io::Result<(File, Metadata)> {
        if is_hidden(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = File::from(open_beneath(self.dir.as_fd(), path, access).map_err(public_error)?);
        let metadata = file.metadata()?;
        let served = metadata.is_dir() || metadata.is_file() && self.has_served_extension(path);
        if served { Ok((file, metadata)) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn has_served_extension(&self, path: &Path) -> bool {
        let is_served = |path: &Path| extension(path).is_some_and(|extension| self.extensions.contains(&extension));
        // What is compressed beforehand is the file without that ending.
        let is_compressed = extension(path).is_some_and(|extension| COMPRESSED.contains(&extension.as_str()));
        is_served(path) || is_compressed && path.file_stem().is_some_and(|stem| is_served(Path::new(stem)))
    }
}

/// In lower case.
fn extension(path: &Path) -> Option<String> {
    path.extension()?.to_str().map(str::to_ascii_lowercase)
}

/// A name that starts with a dot is nobody's business, but for the registered `.well-known`.
fn is_hidden(path: &Path) -> bool {
    path.components().any(|component| match component {
        Component::Normal(name) => name.as_bytes().starts_with(b".") && name != ".well-known",
        _ => false,
    })
}

/// Opens without leaving `dir`. Where the kernel or a sandbox has no `openat2`, no symbolic link is followed at all.
fn open_beneath(dir: BorrowedFd<'_>, path: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
    let flags = access | OFlags::CLOEXEC;
    loop {
        match openat2(dir, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
            // AGAIN: something was renamed meanwhile and the kernel could not tell whether it led out.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM) => return open_without_links(dir, path, flags),
            result => return result,
        }
    }
}

fn open_without_links(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut names = path.components().filter(|component| *component != Component::CurDir).peekable();
    let mut at = openat(dir, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if names.peek().is_none() {
        return openat(&at, ".", flags, Mode::empty());
    }
    while let Some(component) = names.next() {
        let Component::Normal(name) = component else { return Err(Errno::XDEV) };
        if names.peek().is_none() {
            return openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty());
        }
        at = openat(&at, name, step, Mode::empty())?;
    }
    Err(Errno::NOENT)
}

/// Whatever is wrong with a path, the client learns only that there is nothing; a worker in trouble is another matter.
fn public_error(errno: Errno) -> io::Error {
    match errno {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO => {
            tracing::error!("cannot open a file of public/: {errno}");
            errno.into()
        }
        _ => io::ErrorKind::NotFound.into(),
    }
}

impl Backend for Public {
    type File = PublicFile;
    type Metadata = Known;
    type OpenFuture = Ready<io::Result<PublicFile>>;
    type MetadataFuture = Ready<io::Result<Known>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let opened = self.look(&path, READ);
        ready(opened.and_then(|(file, metadata)| {
            let file = metadata.is_file().then(|| PublicFile { file, known: Known(metadata), at: 0 });
            file.ok_or_else(|| io::ErrorKind::NotFound.into())
        }))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        ready(self.look(&path, LOOK).map(|(_, metadata)| Known(metadata)))
    }
}

/// What the headers say of a file.
#[derive(Debug, Clone)]
pub(super) struct Known(Metadata);

impl fs::Metadata for Known {
    fn is_dir(&self) -> bool {
        self.0.is_dir()
    }

    /// Nothing where `Last-Modified` has no words for it, because `ServeDir` takes every time for one that has.
    fn modified(&self) -> io::Result<SystemTime> {
        let modified = self.0.modified()?;
        if has_words(modified) { Ok(modified) } else { Err(io::ErrorKind::Unsupported.into()) }
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

/// When the year 10000 begins, in seconds since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// Whether it can stand in a header.
fn has_words(time: SystemTime) -> bool {
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since.as_secs() < YEAR_10000)
}

/// A file that is read where it is needed, without another thread: as much of it as the headers say, whatever becomes of it
/// meanwhile.
pub(super) struct PublicFile {
    file: File,
    /// As it was when it was opened.
    known: Known,
    /// Where the next read begins.
    at: u64,
}

impl fs::File for PublicFile {
    type Metadata = Known;
    type MetadataFuture<'a> = Ready<io::Result<Known>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.known.clone()))
    }
}

impl PublicFile {
    /// HTTP/1 would notice itself that an answer has another length than it says; over HTTP/2, nobody does here.
    fn read_on(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.known.0.len().saturating_sub(self.at);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let count = self.file.read(&mut buf[..most])?;
        if count == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter"));
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl AsyncRead for PublicFile {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.read_on(buf.initialize_unfilled());
        Poll::Ready(read.map(|count| buf.advance(count)))
    }
}

impl AsyncSeek for PublicFile {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        self.at = self.file.seek(position)?;
        Ok(())
    }

    fn poll_complete(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(self.at))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    use tower_http::services::fs::Metadata as _;

    use super::*;

    /// A directory beside a secret, with every kind of thing that a path can meet.
    fn site() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let public = root.path().join("public");
        fs::create_dir_all(public.join("css")).unwrap();
        fs::create_dir_all(public.join(".well-known")).unwrap();
        fs::create_dir_all(public.join(".git")).unwrap();
        for file in ["css/site.css", ".well-known/security.txt", ".git/config", ".env", ".env.txt", "Makefile"] {
            fs::write(public.join(file), file).unwrap();
        }
        fs::write(root.path().join("secret.txt"), "secret").unwrap();
        symlink("../secret.txt", public.join("out.txt")).unwrap();
        symlink("/etc/hostname", public.join("absolute.txt")).unwrap();
        symlink("css", public.join("styles")).unwrap();
        symlink("loop.txt", public.join("loop.txt")).unwrap();
        rustix::fs::mkfifoat(CWD, public.join("pipe.txt"), Mode::RUSR | Mode::WUSR).unwrap();
        root
    }

    fn extensions(names: &[&str]) -> Vec<String> {
        names.iter().copied().map(str::to_owned).collect()
    }

    fn reads(public: &Public, path: &str) -> Option<String> {
        let (mut file, metadata) = public.look(Path::new(path), READ).ok()?;
        let mut text = String::new();
        metadata.is_file().then(|| file.read_to_string(&mut text).unwrap())?;
        Some(text)
    }

    #[test]
    fn only_visible_files_inside_are_found() {
        let root = site();
        let public = Public::open(&root.path().join("public"), extensions(&["css", "txt"])).unwrap().unwrap();
        for path in ["css/site.css", "./css/site.css", "styles/site.css", ".well-known/security.txt"] {
            assert!(reads(&public, path).is_some(), "{path} is served");
        }
        let refused = [
            "Makefile",
            ".env",
            ".env.txt",
            ".git/config",
            "../secret.txt",
            "css/../../secret.txt",
            "out.txt",
            "absolute.txt",
            "loop.txt",
            "pipe.txt",
            "css/site.css/x",
            "missing",
            "nul\0byte",
        ];
        for path in refused {
            let error = public.look(Path::new(path), READ).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path:?}");
        }
    }

    #[test]
    fn a_time_that_no_header_can_say_is_none() {
        let file = tempfile::tempfile().unwrap();
        let far = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let second = Duration::from_secs(1);
        for (time, is_known) in [(UNIX_EPOCH - second, false), (UNIX_EPOCH, true), (UNIX_EPOCH + second, true)] {
            file.set_modified(time).unwrap();
            assert_eq!(Known(file.metadata().unwrap()).modified().ok(), is_known.then_some(time));
        }
        assert!(has_words(far(YEAR_10000 - 1)) && !has_words(far(YEAR_10000)));
    }

    #[test]
    fn a_file_is_read_as_long_as_it_was() {
        let root = site();
        let path = root.path().join("public/css/site.css");
        let public = Public::open(&root.path().join("public"), extensions(&["css"])).unwrap().unwrap();
        let read = |later: &str| {
            fs::write(&path, "0123456789").unwrap();
            let mut file = public.open(PathBuf::from("css/site.css")).into_inner().unwrap();
            let mut buf = [0; 6];
            let first = file.read_on(&mut buf).unwrap();
            fs::write(&path, later).unwrap();
            (first, file.read_on(&mut buf).map_err(|error| error.kind()))
        };
        assert_eq!(read("0123456789"), (6, Ok(4)));
        assert_eq!(read("0123456789 and more"), (6, Ok(4)));
        assert_eq!(read("01234"), (6, Err(io::ErrorKind::UnexpectedEof)));
    }

    #[test]
    fn without_openat2_no_link_is_followed() {
        let root = site();
        let dir = openat(CWD, root.path().join("public"), OFlags::PATH, Mode::empty()).unwrap();
        let open = |path: &str| open_without_links(dir.as_fd(), Path::new(path), READ).map(|_| ());
        assert_eq!(open("./css/site.css"), Ok(()));
        assert_eq!(open("."), Ok(()));
        for path in ["styles/site.css", "out.txt", "absolute.txt", "../secret.txt", "css/../../secret.txt"] {
            assert!(open(path).is_err(), "{path} is not followed");
        }
    }

    #[test]
    fn allowed_extensions_limit_files_but_not_directories() {
        let root = site();
        let public = Public::open(&root.path().join("public"), extensions(&["css"])).unwrap().unwrap();
        assert!(reads(&public, "css/site.css").is_some());
        assert!(public.look(Path::new("css"), LOOK).is_ok());
        assert!(reads(&public, "Makefile").is_none());
        for (file, is_served) in [("css/site.css.br", true), ("css/site.css.GZ", true), ("css/site.sql.gz", false)] {
            fs::write(root.path().join("public").join(file), "").unwrap();
            assert_eq!(reads(&public, file).is_some(), is_served, "{file}");
        }
        assert!(reads(&public, ".well-known/security.txt").is_none());
    }

    #[test]
    fn a_missing_directory_is_none_and_a_file_in_its_place_an_error() {
        let root = site();
        assert!(Public::open(&root.path().join("nowhere"), vec![]).unwrap().is_none());
        let error = Public::open(&root.path().join("secret.txt"), vec![]).unwrap_err().to_string();
        assert!(error.starts_with("cannot open ") && error.contains("Not a directory"), "{error}");
    }
}
