//! What a worker is: which program, why that one, and how it gets its connections.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::choices::SocketStrategy;
use crate::embedded::mask_within;
use crate::world::{Framework, World, app_binary, framework_server};

/// The program that workers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkerChoice {
    /// `workerCommand`, split into words. `{host}`, `{port}`, `{env}`, `{fd}` and `{slot}` in them are still to be
    /// replaced.
    Command {
        /// The program and its arguments; never empty.
        words: Vec<String>,
    },
    /// The compiled Arlen app.
    ArlenApp {
        /// Its server.
        binary: PathBuf,
        /// What compiles it first, where only its sources are there.
        prepare: Option<PrepareStep>,
    },
    /// The Arlen framework's own server.
    FrameworkServer {
        /// Its binary.
        binary: PathBuf,
        /// What compiles it first.
        prepare: Option<PrepareStep>,
    },
    /// The worker inside this program.
    Embedded,
}

/// A program that has to succeed before workers can be started. Its stdout is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareStep {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables it gets besides the manager's.
    pub env: Vec<(&'static str, PathBuf)>,
    /// What to say when it fails, after `propane: `.
    pub failure: String,
}

/// How workers get their connections, [`SocketStrategy`] without the automatic choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// One listener per slot, handed down.
    Inherit,
    /// One listener for all, handed down.
    Shared,
    /// Workers bind; retiring ones get no new connections.
    Steer,
    /// Workers bind.
    Reuseport,
}

/// The choice with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// What workers run.
    pub choice: WorkerChoice,
    /// Why that, for one line of the log.
    pub reason: String,
}

/// The path in a `host` that names a UNIX socket: `unix:/run/app.sock`.
pub fn unix_path(host: &str) -> Option<&str> {
    host.strip_prefix("unix:")
}

impl Strategy {
    /// Whether each worker binds the port by itself.
    pub const fn binds_by_itself(self) -> bool {
        matches!(self, Self::Steer | Self::Reuseport)
    }

    /// The word that sets it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inherit => SocketStrategy::Inherit.as_str(),
            Self::Shared => SocketStrategy::Shared.as_str(),
            Self::Steer => SocketStrategy::Steer.as_str(),
            Self::Reuseport => SocketStrategy::Reuseport.as_str(),
        }
    }

    /// What `auto` means for this worker, or what was asked for. A UNIX socket has one listener.
    pub(crate) fn effective(asked: SocketStrategy, choice: &WorkerChoice, host: &str) -> Self {
        match asked {
            SocketStrategy::Inherit | SocketStrategy::Auto if unix_path(host).is_some() => Self::Shared,
            SocketStrategy::Inherit => Self::Inherit,
            SocketStrategy::Shared => Self::Shared,
            SocketStrategy::Reuseport => Self::Reuseport,
            SocketStrategy::Auto if choice.takes_descriptor() => Self::Inherit,
            SocketStrategy::Steer | SocketStrategy::Auto => Self::Steer,
        }
    }
}

impl WorkerChoice {
    /// Whether the worker is known to serve on a descriptor that it is given.
    pub fn takes_descriptor(&self) -> bool {
        match self {
            Self::Command { words } => words.iter().any(|word| word.contains("{fd}")),
            Self::ArlenApp { .. } | Self::FrameworkServer { .. } => false,
            Self::Embedded => true,
        }
    }

    /// Whether it may serve on a descriptor that it is given. Arlen's servers never do; what a command does, only it knows.
    pub fn may_take_descriptor(&self) -> bool {
        !matches!(self, Self::ArlenApp { .. } | Self::FrameworkServer { .. })
    }

    /// What has to succeed before workers can be started, if anything has to.
    pub fn prepare_step(&self) -> Option<&PrepareStep> {
        match self {
            Self::ArlenApp { prepare, .. } | Self::FrameworkServer { prepare, .. } => prepare.as_ref(),
            Self::Command { .. } | Self::Embedded => None,
        }
    }

    /// What it is, in a few words for the log: without its secrets.
    pub fn name(&self) -> String {
        match self {
            Self::Command { words } => mask_within(&words.join(" ")),
            Self::ArlenApp { binary, .. } | Self::FrameworkServer { binary, .. } => binary.display().to_string(),
            Self::Embedded => "embedded".to_owned(),
        }
    }

    /// The first that applies, and why. `command` is `workerCommand` after splitting, with what set it.
    pub(crate) fn choose(command: Option<(Vec<String>, String)>, app_root: &Path, world: &World) -> Worker {
        if let Some((words, origin)) = command {
            let reason = format!("workerCommand is set ({origin})");
            return Worker { choice: Self::Command { words }, reason };
        }
        let binary = app_binary(app_root);
        match &world.framework {
            _ if world.has_app_binary => {
                let reason = format!("{} is executable", binary.display());
                Worker { choice: Self::ArlenApp { binary, prepare: None }, reason }
            }
            Framework::Found { root, .. } if world.has_app_sources && world.app_file.exists() => {
                let reason = format!("the app has sources and {} compiles them", root.display());
                let prepare = Some(prepare_app(app_root, root));
                Worker { choice: Self::ArlenApp { binary, prepare }, reason }
            }
            Framework::Found { root, is_checkout, has_server } if *is_checkout || *has_server => {
                let reason = format!("the app has no server of its own and {} has one", root.display());
                let prepare = (!has_server).then(|| prepare_server(root));
                Worker { choice: Self::FrameworkServer { binary: framework_server(root), prepare }, reason }
            }
            _ => {
                let reason = "there is no workerCommand, no compiled app and no Arlen framework".to_owned();
                Worker { choice: Self::Embedded, reason }
            }
        }
    }
}

fn prepare_app(app_root: &Path, framework: &Path) -> PrepareStep {
    let log = app_root.join(".boomhauer/last_build_error.log");
    PrepareStep {
        program: framework.join("bin/boomhauer"),
        args: vec!["--no-watch".into(), "--prepare-only".into()],
        env: vec![("ARLEN_APP_ROOT", app_root.to_owned()), ("ARLEN_FRAMEWORK_ROOT", framework.to_owned())],
        failure: format!("app prepare step failed; see {}", log.display()),
    }
}

fn prepare_server(framework: &Path) -> PrepareStep {
    PrepareStep {
        program: "make".into(),
        args: vec!["-C".into(), framework.into(), "boomhauer".into()],
        env: Vec::new(),
        failure: format!("the framework's server in {} could not be built", framework.display()),
    }
}
