//! What a resolution starts from, gathered once at the edge.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// Everything outside the files that a resolution depends on. The manager keeps it: every reload resolves from it again.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// The parsed command line.
    pub args: Args,
    /// The environment.
    pub env: BTreeMap<OsString, OsString>,
    /// The current directory.
    pub cwd: PathBuf,
    /// This program's file, symlinks resolved; an Arlen framework may stand around it.
    pub exe: Option<PathBuf>,
    /// The host name, for the node's id.
    pub hostname: Option<String>,
}

/// A parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "they are the workers' arguments, not these")]
pub struct Args {
    /// Flags of settings and options, each once: the last one given.
    pub flags: Vec<Flag>,
    /// The words after `--`.
    pub worker_args: Vec<OsString>,
    /// Position of that `--`, from 1; 0 if there is none.
    pub separator: usize,
}

/// A flag with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its name without dashes.
    pub name: String,
    /// Its value; a switch without one is `yes`.
    pub value: OsString,
    /// Position on the command line after the program's name, from 1.
    pub index: usize,
}

impl Args {
    pub(crate) fn flag(&self, name: &str) -> Option<&Flag> {
        self.flags.iter().rev().find(|flag| flag.name == name)
    }
}

impl Inputs {
    /// A variable that is set. An empty one is not: platforms that cannot unset a variable set it to nothing.
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        self.env.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }
}
