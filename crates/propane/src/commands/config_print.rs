//! `propane config print`: every value with where it came from and what it overrode.

use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{Inputs, Origin, Resolution, ResolvedSetting, is_under};

use crate::commands::disclosure::{Disclosure, Secrets};
use crate::commands::{ConfigCommand, format_arg, format_of, formats, problems};
use crate::exit;
use crate::output::{Answer, Screen};

/// How to print.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrintOptions {
    /// Only keys that are these or stand in these groups.
    pub(crate) prefixes: Vec<String>,
    /// Values that lost, too.
    pub(crate) all: bool,
    /// Only what is not built in.
    pub(crate) changed: bool,
    /// Whether secrets were asked for.
    pub(crate) disclosure: Disclosure,
    /// The form.
    pub(crate) format: Format,
}

/// The forms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// A property list that loads back to the same configuration.
    Plist,
    /// Variables that resolve to the same values.
    Env,
}

const FORMATS: [(&str, Format); 4] =
    [("text", Format::Text), ("json", Format::Json), ("plist", Format::Plist), ("env", Format::Env)];

pub(super) fn command() -> Command {
    Command::default()
        .about("Print the resolved configuration, with the origin of every value")
        .arg(Arg::new("prefixes").value_name("KEY").num_args(0..).help("Only this key, or the keys of this group"))
        .arg(flag("all").help("Also what was overridden, and where it stands"))
        .arg(flag("changed").help("Only values that are not built-in defaults"))
        .arg(Disclosure::arg())
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    Box::new(PrintOptions {
        prefixes: matches.get_many("prefixes").into_iter().flatten().cloned().collect(),
        all: matches.get_flag("all"),
        changed: matches.get_flag("changed"),
        disclosure: Disclosure::of(matches),
        format: format_of(matches, FORMATS),
    })
}

impl ConfigCommand for PrintOptions {
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        match self.disclosure.granted(screen) {
            Ok(secrets) => answer(&propane_config::load(inputs), self, secrets, screen),
            Err(refusal) => refusal,
        }
    }
}

impl PrintOptions {
    /// Whether a key is asked for.
    pub(crate) fn wants(&self, key: &str) -> bool {
        self.prefixes.is_empty() || self.prefixes.iter().any(|prefix| is_under(key, prefix))
    }
}

fn flag(name: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue)
}

/// The answer.
fn answer(resolution: &Resolution, options: &PrintOptions, secrets: Secrets, screen: Screen) -> Answer {
    if let Some(unknown) = options.prefixes.iter().find(|prefix| !exists(resolution, prefix)) {
        return Answer::refusal(exit::UNKNOWN, resolution.no_such_key(unknown));
    }
    let is_wanted = |setting: &&ResolvedSetting| {
        options.wants(&setting.key) && !(options.changed && setting.origin == Origin::Builtin)
    };
    let settings: Vec<_> = resolution.settings.iter().filter(is_wanted).collect();
    let stdout = match options.format {
        Format::Text => formats::text(&settings, options.all, secrets, screen.stdout.coloured),
        Format::Json => formats::json(resolution, &settings, options, secrets),
        Format::Plist => formats::plist(resolution, &settings, options, secrets),
        Format::Env => formats::env(&settings, secrets),
    };
    // The JSON form holds the problems itself.
    let stderr = if options.format == Format::Json {
        String::new()
    } else {
        problems(&resolution.problems, screen.stderr.coloured)
    };
    Answer { stdout, stderr, status: exit::of_command(resolution) }
}

fn exists(resolution: &Resolution, prefix: &str) -> bool {
    resolution.settings.iter().any(|setting| is_under(&setting.key, prefix))
}
