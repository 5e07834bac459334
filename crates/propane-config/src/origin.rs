//! Where a value came from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// Where a value came from, as exactly as its layer knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Origin {
    /// The table's default.
    Builtin,
    /// A property list.
    File {
        /// Relative to the app root.
        path: String,
        /// Where in it; `None` in XML and binary files.
        #[serde(flatten)]
        position: Option<Position>,
    },
    /// A variable of the environment.
    Env {
        /// Its name.
        variable: String,
    },
    /// The command line.
    Arg {
        /// With its dashes.
        flag: String,
        /// Position after the program's name, from 1.
        index: usize,
    },
    /// A rule over other values.
    Derived {
        /// What the rule found: `propaneAccessories.workerCount = 12 > 1`.
        rule: String,
        /// What it looked at.
        inputs: Vec<Input>,
    },
}

/// A place in a text, both numbers from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// What a rule looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The setting.
    pub key: String,
    /// Its value.
    pub value: Option<Value>,
    /// Where that came from.
    pub origin: Origin,
}

impl Origin {
    /// The command line, by a flag's name without dashes.
    pub(crate) fn arg(flag: &str, index: usize) -> Self {
        Self::Arg { flag: format!("--{flag}"), index }
    }

    /// The place alone, as exactly as it is known: `--workers (argument 2)`. A derived value has a rule in
    /// its stead.
    pub fn place(&self) -> String {
        match self {
            Self::Arg { flag, index } => format!("{flag} (argument {index})"),
            Self::Derived { rule, .. } => format!("derived: {rule}"),
            other => other.to_string(),
        }
    }

    /// Whether somebody set the value, in whatever layer.
    pub fn is_explicit(&self) -> bool {
        matches!(self, Self::File { .. } | Self::Env { .. } | Self::Arg { .. })
    }
}

/// Short enough to follow a value on its line: `config/app.plist:6:19`, `$ARLEN_PORT`, `--workers`.
impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => out.write_str("built-in default"),
            Self::File { path, position: None } => out.write_str(path),
            Self::File { path, position: Some(at) } => write!(out, "{path}:{}:{}", at.line, at.column),
            Self::Env { variable } => write!(out, "${variable}"),
            Self::Arg { flag, .. } => out.write_str(flag),
            Self::Derived { rule, inputs } => {
                let origins: Vec<_> = inputs.iter().map(|input| input.origin.to_string()).collect();
                write!(out, "derived: {rule}")?;
                if origins.is_empty() { Ok(()) } else { write!(out, " ({})", origins.join(", ")) }
            }
        }
    }
}
