//! What a resolution depends on in the file system. Looked at here, judged elsewhere.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::document::MAX_BYTES;
use crate::inputs::Inputs;
use crate::options::{Options, is_environment_name};

/// The file that makes a directory an app.
pub(crate) const APP_FILE: &str = "config/app.plist";
/// Where environments have their files.
pub(crate) const ENVIRONMENTS: &str = "config/environments";

/// How deep and how wide a source directory is searched, so that a link to `/` costs nothing.
const SEARCH_DEPTH: usize = 16;
const SEARCH_ENTRIES: usize = 10_000;

/// The facts.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// The app root without symlinks, or why it cannot be entered.
    pub(crate) app_root: Result<PathBuf, String>,
    /// The framework root.
    pub(crate) framework: Framework,
    /// `config/app.plist`.
    pub(crate) app_file: FileRead,
    /// `config/environments/<env>.plist`.
    pub(crate) environment_file: FileRead,
    /// The environments that have a file.
    pub(crate) environments: Vec<String>,
    /// Whether the app was compiled: an executable `.boomhauer/build/boomhauer-app`.
    pub(crate) has_app_binary: bool,
    /// Whether the app has sources that an Arlen framework can compile.
    pub(crate) has_app_sources: bool,
}

/// What became of reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FileRead {
    /// There is none.
    Missing,
    /// There is one, but.
    Unreadable(String),
    /// Its bytes.
    Read(Vec<u8>),
}

/// An Arlen framework.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Framework {
    /// There is none.
    #[default]
    None,
    /// The named directory is none.
    Invalid(PathBuf),
    /// This is one.
    Found {
        /// Where, without symlinks.
        root: PathBuf,
        /// Whether it has the sources of the framework.
        is_checkout: bool,
        /// Whether its own server is compiled.
        has_server: bool,
    },
}

impl World {
    pub(crate) fn look(options: &Options, inputs: &Inputs) -> Self {
        let app_root = enter(&options.app_root.path);
        let framework = find_framework(options, inputs);
        let Ok(root) = &app_root else { return Self::without_app(app_root, framework) };
        let environment_file = options.environment_file().map_or(FileRead::Missing, |name| read(&root.join(name)));
        Self {
            app_file: read(&root.join(APP_FILE)),
            environment_file,
            environments: environments(root),
            has_app_binary: is_executable(&app_binary(root)),
            has_app_sources: root.join("app_lite.m").is_file() || has_sources(&root.join("src")),
            framework,
            app_root,
        }
    }

    fn without_app(app_root: Result<PathBuf, String>, framework: Framework) -> Self {
        Self {
            app_root,
            framework,
            app_file: FileRead::Missing,
            environment_file: FileRead::Missing,
            environments: Vec::new(),
            has_app_binary: false,
            has_app_sources: false,
        }
    }
}

impl FileRead {
    pub(crate) const fn exists(&self) -> bool {
        !matches!(self, Self::Missing)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Missing | Self::Unreadable(_) => &[],
        }
    }
}

/// Where an app's compiled server stands.
pub(crate) fn app_binary(app_root: &Path) -> PathBuf {
    app_root.join(".boomhauer/build/boomhauer-app")
}

/// Where a framework's own compiled server stands.
pub(crate) fn framework_server(framework: &Path) -> PathBuf {
    framework.join("build/boomhauer")
}

fn enter(root: &Path) -> Result<PathBuf, String> {
    let physical = root.canonicalize().map_err(|error| error.to_string())?;
    fs::read_dir(&physical).map(|_| physical).map_err(|error| error.to_string())
}

/// Reads a regular file, as much of it as can be a configuration. Anything else could block or never end.
fn read(path: &Path) -> FileRead {
    match try_read(path) {
        Ok(bytes) => FileRead::Read(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound && path.is_symlink() => {
            FileRead::Unreadable("a symbolic link that leads nowhere".to_owned())
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => FileRead::Missing,
        Err(error) => FileRead::Unreadable(error.to_string()),
    }
}

fn try_read(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    // One byte more tells a file that is too large from one that is just as large as it may be.
    File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The names of the files that can be environments', sorted. Without the directory there are none.
pub(crate) fn environment_names(app_root: &Path) -> io::Result<Vec<OsString>> {
    let entries = match fs::read_dir(app_root.join(ENVIRONMENTS)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let file = entry?.file_name();
        names.extend(file.as_bytes().strip_suffix(b".plist").map(|name| OsStr::from_bytes(name).to_owned()));
    }
    names.sort_unstable();
    Ok(names)
}

/// The environments that have a file.
fn environments(app_root: &Path) -> Vec<String> {
    let names = environment_names(app_root).unwrap_or_default().into_iter();
    names.filter_map(|name| name.into_string().ok()).filter(|name| is_environment_name(name)).collect()
}

fn find_framework(options: &Options, inputs: &Inputs) -> Framework {
    if let Some(given) = &options.framework_root {
        return framework_at(&given.path).unwrap_or_else(|| Framework::Invalid(given.path.clone()));
    }
    let around = inputs.exe.as_deref().and_then(Path::parent).and_then(Path::parent);
    around.and_then(framework_at).unwrap_or_default()
}

/// The framework in a directory: a checkout has the sources, a release the tools.
fn framework_at(directory: &Path) -> Option<Framework> {
    let root = directory.canonicalize().ok()?;
    let is_checkout = root.join("GNUmakefile").is_file() && root.join("src/Arlen").is_dir();
    let is_release = is_executable(&root.join("build/arlen")) && is_executable(&root.join("bin/propane"));
    let has_server = is_executable(&framework_server(&root));
    (is_checkout || is_release).then_some(Framework::Found { root, is_checkout, has_server })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn has_sources(directory: &Path) -> bool {
    let mut budget = SEARCH_ENTRIES;
    holds_source(directory, SEARCH_DEPTH, &mut budget)
}

fn holds_source(directory: &Path, depth: usize, budget: &mut usize) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        *budget = budget.saturating_sub(1);
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let descends = is_directory && depth > 0 && *budget > 0;
        path.extension().is_some_and(|extension| extension == "m") || descends && holds_source(&path, depth - 1, budget)
    })
}
