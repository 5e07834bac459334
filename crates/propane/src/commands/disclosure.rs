//! Whether an answer shows secrets. The only place that decides it: every value goes through here into an answer.

use clap::{Arg, ArgMatches};
use propane_config::secrets::masked_tree;
use propane_config::{ResolvedSetting, Value};

use crate::exit;
use crate::output::{Answer, Screen};

const FLAG: &str = "show-secrets";
const FORCE: &str = "force";

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Disclosure {
    /// Nothing: secrets are masked.
    #[default]
    None,
    /// Secrets, for the eyes of whoever sits at the terminal.
    Terminal,
    /// Secrets, wherever the answer goes.
    Anywhere,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// Secrets are masked.
    Masked,
    /// Secrets are shown.
    Shown,
}

impl Disclosure {
    /// `--show-secrets[=force]`.
    pub(crate) fn arg() -> Arg {
        Arg::new(FLAG)
            .long(FLAG)
            .value_name("WHEN")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("terminal")
            .value_parser(["terminal", FORCE])
            .help("Show secrets in the values; refused unless the answer goes to a terminal, or with =force")
    }

    pub(crate) fn of(matches: &ArgMatches) -> Self {
        match matches.get_one::<String>(FLAG).map(String::as_str) {
            None => Self::None,
            Some(FORCE) => Self::Anywhere,
            Some(_) => Self::Terminal,
        }
    }

    /// Whether it is granted. Files and pipes keep what nobody looks at.
    pub(crate) fn granted(self, screen: Screen) -> Result<Secrets, Answer> {
        match self {
            Self::None => Ok(Secrets::Masked),
            Self::Terminal if !screen.stdout.is_terminal => {
                let message = "--show-secrets is for terminals; --show-secrets=force writes secrets anywhere";
                Err(Answer::refusal(exit::USAGE, message))
            }
            Self::Terminal | Self::Anywhere => Ok(Secrets::Shown),
        }
    }
}

impl Secrets {
    /// The value as it may be shown.
    pub(crate) fn shown(self, setting: &ResolvedSetting, value: &Value) -> Value {
        match self {
            Self::Masked => setting.shown(value),
            Self::Shown => value.clone(),
        }
    }

    /// The files' tree as it may be shown, and whether anything in it is masked.
    pub(crate) fn tree(self, tree: &plist::Dictionary) -> (plist::Dictionary, bool) {
        match self {
            Self::Masked => masked_tree(tree),
            Self::Shown => (tree.clone(), false),
        }
    }

    /// Whether anything of a setting is masked.
    pub(crate) fn masks(self, setting: &ResolvedSetting) -> bool {
        self == Self::Masked && setting.secret
    }
}
