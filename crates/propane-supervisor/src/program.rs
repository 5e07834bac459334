//! Which file a word stands for, as `execvp(3)` finds it, but before there is a process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// Where programs are looked for when there is no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why there is nothing to execute.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ProgramError {
    /// No such file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is there and cannot be executed.
    #[error("{} is not an executable file", .0.display())]
    NotExecutable(PathBuf),
    /// Nothing of that name in `PATH`.
    #[error("{} is not found in PATH ({})", .0.display(), .1.display())]
    NotInPath(OsString, OsString),
}

/// The file for `name`: a path (relative to `directory`), or a name to look for in `path`.
pub(crate) fn find(name: &OsStr, directory: &Path, path: Option<&OsStr>) -> Result<PathBuf, ProgramError> {
    if name.as_bytes().contains(&b'/') {
        return check(directory.join(name));
    }
    let path = path.filter(|path| !path.is_empty()).unwrap_or(OsStr::new(DEFAULT_PATH));
    let mut candidates = std::env::split_paths(path).map(|place| directory.join(place).join(name));
    let found = candidates.find_map(|file| check(file).ok());
    found.ok_or_else(|| ProgramError::NotInPath(name.to_owned(), path.to_owned()))
}

fn check(file: PathBuf) -> Result<PathBuf, ProgramError> {
    match file.metadata() {
        Err(_) => Err(ProgramError::Missing(file)),
        Ok(found) if found.is_dir() || access(&file, AccessFlags::X_OK).is_err() => {
            Err(ProgramError::NotExecutable(file))
        }
        Ok(_) => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_execvp_does() {
        let root = Path::new("/");
        let find = |name: &str, path: Option<&str>| find(OsStr::new(name), root, path.map(OsStr::new));
        assert_eq!(find("bin/sh", None), Ok(PathBuf::from("/bin/sh")));
        assert_eq!(find("sh", Some("/nowhere:/bin")), Ok(PathBuf::from("/bin/sh")));
        assert!(find("sh", None).is_ok() && find("sh", Some("")).is_ok());
        assert_eq!(find("/no/such", None), Err(ProgramError::Missing("/no/such".into())));
        assert_eq!(find("/etc", None), Err(ProgramError::NotExecutable("/etc".into())));
        assert_eq!(find("/etc/passwd", None), Err(ProgramError::NotExecutable("/etc/passwd".into())));
        assert!(matches!(find("no-such-program", None), Err(ProgramError::NotInPath(..))));
    }
}
