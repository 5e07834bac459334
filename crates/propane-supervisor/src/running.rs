//! The configuration that a manager runs, saved for `propane config diff --running`: written at boot and when a reload
//! begins and ends, and read by other processes.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::unistd::Uid;
use procfs::{LockKind, LockType};
use propane_config::{Inputs, Resolution, Running, Salt};
use propane_core::{Generation, Report};
use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::private_file::{self, PrivateFile};
use crate::procinfo::{self, ProcessId};

/// Names the format of the file; another one is not read.
const FORMAT: &str = "propane-running/1";

/// As many values as a configuration can have; a bound, because the file may be anything.
const FILE_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: String,
    boot_id: String,
    manager: ProcessId,
    last_reload: Option<LastReload>,
    configuration: Running,
}

/// A reload that has not made its configuration the running one, or not for all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LastReload {
    /// It is on its way.
    Underway {
        /// Its generation.
        generation: Generation,
    },
    /// It failed.
    Failed {
        /// Its generation.
        generation: Generation,
        /// Why, as the lifecycle event says it.
        reason: String,
        /// Workers that run it all the same.
        replaced: u32,
        /// Workers that should.
        of: u32,
    },
}

/// The file beside the pid file.
pub(crate) fn path_for(pid_file: &Path) -> PathBuf {
    private_file::beside(pid_file, "running.json")
}

/// The file of a running manager.
#[derive(Debug)]
pub(crate) struct RunningFile {
    file: PrivateFile,
    salt: Salt,
    document: Document,
    /// What runs once the reload on its way is done.
    next: Option<Running>,
}

impl RunningFile {
    /// Saves what a manager boots with.
    pub(crate) fn create(path: &Path, inputs: &Inputs, resolution: &Resolution) -> io::Result<Self> {
        let mut random = [0; 32];
        let filled = getrandom(&mut random, GetRandomFlags::empty())?;
        if filled < random.len() {
            return Err(io::Error::other("too little randomness"));
        }
        let salt = Salt::new(random);
        let pid = std::process::id().cast_signed();
        let document = Document {
            format: FORMAT.to_owned(),
            boot_id: procinfo::boot_id().unwrap_or_default(),
            manager: procinfo::identify(pid).unwrap_or(ProcessId { pid, start_time: 0 }),
            last_reload: None,
            configuration: Running::new(0, inputs, resolution, salt.clone()),
        };
        let mut this = Self { file: PrivateFile::create(path), salt, document, next: None };
        this.file.write(&this.document);
        Ok(this)
    }

    /// Notes what a reload is going to make the running configuration.
    pub(crate) fn prepare(&mut self, generation: Generation, inputs: &Inputs, resolution: &Resolution) {
        self.next = Some(Running::new(generation, inputs, resolution, self.salt.clone()));
    }

    /// Follows the reload.
    pub(crate) fn hear(&mut self, report: &Report) {
        self.document.last_reload = match report {
            Report::ReloadStarted { generation, .. } => Some(LastReload::Underway { generation: *generation }),
            Report::ReloadCompleted { .. } => None,
            Report::ReloadFailed { generation, failure, replaced, of } => Some(LastReload::Failed {
                generation: *generation,
                reason: failure.name().to_owned(),
                replaced: *replaced,
                of: *of,
            }),
            _ => return,
        };
        let runs = match report {
            Report::ReloadCompleted { .. } => self.next.take(),
            // Whoever has been replaced runs it, and so does whoever is replaced from now on.
            Report::ReloadFailed { replaced, .. } => self.next.take().filter(|_| *replaced > 0),
            _ => None,
        };
        if let Some(runs) = runs {
            self.document.configuration = runs;
        }
        self.file.write(&self.document);
    }
}

/// A running manager, as it says itself.
#[derive(Debug)]
pub struct RunningManager {
    /// Its pid.
    pub pid: i32,
    /// What it runs.
    pub configuration: Running,
    /// A reload that is on its way or has failed since.
    pub last_reload: Option<LastReload>,
}

/// Why there is nothing to be told of a running manager.
#[derive(Debug, thiserror::Error)]
pub enum NotRunning {
    /// There is no manager.
    #[error("no manager is running (pid file: {})", .0.display())]
    Nobody(PathBuf),
    /// There is one, and it has saved nothing.
    #[error("the manager with pid {pid} has not saved its configuration (in {}); it may still be starting", path.display())]
    Silent {
        /// Its pid.
        pid: i32,
        /// Where its configuration should be.
        path: PathBuf,
    },
    /// It has saved it, and this process may not read it.
    #[error("cannot read the running configuration {}: {error}", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file is not what a manager of this version saves.
    #[error(
        "{} is no sound {FORMAT} document ({reason}); the manager with pid {pid} writes it anew when it is reloaded or \
         restarted",
        path.display()
    )]
    Malformed {
        /// The manager.
        pid: i32,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The manager of a pid file. What a manager that is gone has left behind counts for nothing.
pub fn running(pid_file: &Path) -> Result<RunningManager, NotRunning> {
    let pid_file = settled(pid_file);
    let path = path_for(&pid_file);
    let nobody = || NotRunning::Nobody(pid_file.clone());
    let me = Uid::effective();
    let suits = |metadata: &std::fs::Metadata| me.is_root() || metadata.uid() == me.as_raw();
    let bytes = match private_file::read(&path, FILE_BYTES_MAX, suits) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(holder(&pid_file).map_or_else(nobody, |pid| NotRunning::Silent { pid, path }));
        }
        Err(error) => return Err(NotRunning::Unreadable { path, error }),
    };
    match read(&bytes) {
        Ok(document) if is_current(&document) => Ok(RunningManager {
            pid: document.manager.pid,
            configuration: document.configuration,
            last_reload: document.last_reload,
        }),
        Ok(_) => Err(holder(&pid_file).map_or_else(nobody, |pid| NotRunning::Silent { pid, path })),
        Err(reason) => Err(holder(&pid_file).map_or_else(nobody, |pid| NotRunning::Malformed { pid, path, reason })),
    }
}

/// The name that a document gives itself.
#[derive(Deserialize)]
struct Header {
    format: String,
}

fn read(bytes: &[u8]) -> Result<Document, String> {
    let header: Header = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if header.format != FORMAT {
        return Err(format!("its format is {:?}", header.format.chars().take(40).collect::<String>()));
    }
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// Whether the process that wrote it is still at work.
fn is_current(document: &Document) -> bool {
    procinfo::is_alive(document.manager) && procinfo::boot_id().is_some_and(|boot| boot == document.boot_id)
}

/// Who holds the lock on a pid file, by the kernel's table: trying the lock would for a moment keep a manager off that
/// starts just then. The device may be another there than in the file's metadata (overlayfs, btrfs); then the number in
/// the file has to agree.
fn holder(pid_file: &Path) -> Option<i32> {
    let metadata = std::fs::symlink_metadata(pid_file).ok().filter(std::fs::Metadata::is_file)?;
    let (major, minor) = (major(metadata.dev()), minor(metadata.dev()));
    let said = || std::fs::read_to_string(pid_file).ok()?.trim().parse::<i32>().ok();
    let is_lock = |lock: &procfs::Lock| {
        let is_exclusive = matches!((&lock.lock_type, &lock.kind), (LockType::FLock, LockKind::Write));
        is_exclusive && lock.inode == metadata.ino()
    };
    let is_it = |lock: &procfs::Lock| {
        let same_device = (u64::from(lock.devmaj), u64::from(lock.devmin)) == (major, minor);
        same_device || said() == lock.pid
    };
    procfs::locks().ok()?.into_iter().filter(is_lock).find(is_it)?.pid
}

/// The path with the links of its directory resolved: `releases/current` may point elsewhere when the files are removed.
pub(crate) fn settled(path: &Path) -> PathBuf {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    parent.canonicalize().map_or_else(|_| path.to_owned(), |parent| parent.join(name))
}

#[cfg(test)]
mod tests {
    use propane_config::load;
    use propane_core::ReloadFailure;

    use super::*;
    use crate::pidfile::PidFile;

    struct Manager {
        directory: tempfile::TempDir,
        pid_file: PidFile,
        inputs: Inputs,
    }

    impl Manager {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let pid_file = PidFile::lock(&directory.path().join("propane.pid")).unwrap();
            let inputs = Inputs { cwd: directory.path().to_owned(), ..Inputs::default() };
            Self { directory, pid_file, inputs }
        }

        fn save(&self) -> RunningFile {
            RunningFile::create(&path_for(self.pid_file.path()), &self.inputs, &load(&self.inputs)).unwrap()
        }

        fn running(&self) -> Result<RunningManager, NotRunning> {
            running(self.pid_file.path())
        }
    }

    fn failed(generation: Generation, replaced: u32) -> Report {
        Report::ReloadFailed { generation, failure: ReloadFailure::BootTimeout, replaced, of: 4 }
    }

    /// What runs after a reload is what its workers were started from; after one that replaced nobody nothing has changed.
    #[test]
    fn a_reload_decides_at_its_end_what_runs() {
        let manager = Manager::new();
        let resolution = load(&manager.inputs);
        let mut file = manager.save();
        let seen = |manager: &Manager| {
            let running = manager.running().unwrap();
            (running.configuration.generation, running.last_reload)
        };
        let last =
            |generation, replaced| LastReload::Failed { generation, reason: "boot_timeout".into(), replaced, of: 4 };
        let started = |generation| Report::ReloadStarted { generation, workers: 4, job_workers: 0 };
        assert_eq!(seen(&manager), (0, None));
        file.hear(&failed(1, 0));
        assert_eq!(seen(&manager), (0, Some(last(1, 0))), "one that was refused");
        file.prepare(2, &manager.inputs, &resolution);
        file.hear(&started(2));
        assert_eq!(seen(&manager), (0, Some(LastReload::Underway { generation: 2 })));
        file.hear(&failed(2, 0));
        assert_eq!(seen(&manager), (0, Some(last(2, 0))));
        file.prepare(3, &manager.inputs, &resolution);
        file.hear(&started(3));
        file.hear(&failed(3, 2));
        assert_eq!(seen(&manager), (3, Some(last(3, 2))), "who was replaced runs it");
    }

    #[test]
    fn a_manager_is_running_while_it_says_so_and_lives() {
        let manager = Manager::new();
        let me = std::process::id().cast_signed();
        let text = |error: NotRunning| error.to_string();
        assert!(matches!(manager.running(), Err(NotRunning::Silent { pid, .. }) if pid == me));
        let mut file = manager.save();
        assert_eq!(manager.running().unwrap().pid, me);
        for change in [
            |document: &mut Document| document.manager.start_time += 1,
            |document: &mut Document| document.boot_id = "another".into(),
        ] {
            change(&mut file.document);
            file.file.write(&file.document);
            assert!(matches!(manager.running(), Err(NotRunning::Silent { .. })), "the lock is held, by whom it is not");
            file = manager.save();
        }
        let Manager { directory, pid_file, .. } = manager;
        let path = pid_file.path().to_owned();
        file.document.manager.pid = 1;
        file.file.write(&file.document);
        pid_file.remove();
        let nobody = format!("no manager is running (pid file: {})", settled(&path).display());
        assert_eq!(text(running(&path).unwrap_err()), nobody);
        std::fs::write(path_for(&path), "nonsense").unwrap();
        assert_eq!(text(running(&path).unwrap_err()), nobody, "what is left behind is nobody's problem");
        drop(directory);
    }
}
