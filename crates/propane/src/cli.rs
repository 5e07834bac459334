//! The command line, built from the table of settings.
//!
//! Values stay text here. The resolution reads them like those of every other layer, so that all that is wrong is told
//! at once and in the same words.

use std::ffi::{OsStr, OsString};

use clap::builder::OsStringValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{Args, Flag, Kind, OPTIONS, SETTINGS, Setting, Shape};

use crate::commands::{CONFIG, ConfigCommand, config_explain};
use crate::output::ColorChoice;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// What to do.
    pub(crate) action: Action,
    /// The layer of the command line.
    pub(crate) args: Args,
    /// When to use colours.
    pub(crate) color: ColorChoice,
}

/// What to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Be the manager.
    Run,
    /// Answer one of the commands of `config`.
    Config(Box<dyn ConfigCommand>),
}

const WORKER_ARGS: &str = "WORKER ARGS";
/// What a switch that stands alone means.
const YES: &str = "yes";
const COLOR: &str = "color";
const COLORS: [(&str, ColorChoice); 3] =
    [("auto", ColorChoice::Auto), ("always", ColorChoice::Always), ("never", ColorChoice::Never)];
const ABOUT_LAYERS: &str = "\
Run it from an app root, the directory that holds config/app.plist, or name one with --app-root.
Values are read from config/app.plist, config/environments/ENV.plist, ARLEN_… variables and flags; later ones win.";
/// The signals that the manager knows.
pub(crate) const SIGNALS: [(&str, &str); 6] = [
    ("HUP", "reload: read the configuration again, start new workers, then stop the old ones"),
    ("TERM, INT", "stop, gracefully; a second one stops at once"),
    ("QUIT", "stop at once"),
    ("TTIN", "one worker more"),
    ("TTOU", "one worker less"),
    ("USR1", "reopen the lifecycle log"),
];

/// Reads the words after the program's name.
pub(crate) fn parse(words: &[OsString]) -> Result<Request, clap::Error> {
    let program = [OsString::from("propane")];
    let matches = match command().try_get_matches_from(program.iter().chain(words)) {
        Ok(matches) => matches,
        Err(error) => return question(&error, words).ok_or(error),
    };
    let (path, innermost) = innermost(&matches);
    let separator = words.iter().position(|word| word == "--");
    let mut flags = flags(innermost, &words[..separator.unwrap_or(words.len())]);
    let action = match path.as_slice() {
        ["config", name] => {
            let command = config_command(name, innermost);
            flags.retain(|flag| !command.is_about(&flag.name));
            Action::Config(command)
        }
        _ => Action::Run,
    };
    let worker_args = matches.get_many::<OsString>(WORKER_ARGS).into_iter().flatten().cloned().collect();
    let args = Args { flags, worker_args, separator: separator.map_or(0, |at| at + 1) };
    Ok(Request { action, args, color: color_of(innermost) })
}

/// To explain a flag that does not exist is a question with an answer, and no wrong use of the command.
fn question(error: &clap::Error, words: &[OsString]) -> Option<Request> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    let is_explain = words.windows(2).any(|pair| pair[0] == "config" && pair[1] == "explain");
    let means_a_row = context(ContextKind::SuggestedArg).is_none_or(|flag| row_of_flag(flag).is_some());
    let flag = context(ContextKind::InvalidArg).filter(|flag| flag.starts_with("--") && is_explain && means_a_row)?;
    let is_unknown = error.kind() == ErrorKind::UnknownArgument;
    is_unknown.then(|| Request {
        action: Action::Config(config_explain::about(flag)),
        args: Args::default(),
        color: ColorChoice::default(),
    })
}

fn row_of_flag(flag: &str) -> Option<&'static Setting> {
    OPTIONS.iter().chain(SETTINGS).find(|row| row.flag == flag.strip_prefix("--"))
}

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("propane")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help(after_help())
        .args_override_self(true)
        .override_usage("propane [OPTIONS] [-- WORKER ARGS]\n       propane [OPTIONS] config <COMMAND>")
        .args(row_args())
        .arg(
            Arg::new(WORKER_ARGS)
                .help("Words for the workers' own command line")
                .num_args(0..)
                .last(true)
                .value_parser(OsStringValueParser::new()),
        )
        .arg(
            Arg::new(COLOR)
                .long(COLOR)
                .value_name("WHEN")
                .global(true)
                .value_parser(COLORS.map(|(name, _)| name))
                .default_value(COLORS[0].0)
                .help("Use colours: auto does on terminals, unless NO_COLOR is set"),
        )
        .subcommand(config())
}

fn after_help() -> String {
    let signals = SIGNALS.map(|(signal, effect)| format!("\n  {signal:9}  {effect}"));
    format!("{ABOUT_LAYERS}\n\nSignals:{}", signals.concat())
}

/// Whether every command has it.
pub(crate) fn is_common(arg: &Arg) -> bool {
    let id = arg.get_id().as_str();
    id == COLOR || OPTIONS.iter().chain(SETTINGS).any(|row| row.key == id)
}

fn color_of(matches: &ArgMatches) -> ColorChoice {
    let asked = matches.get_one::<String>(COLOR);
    let choice = COLORS.into_iter().find(|(name, _)| asked.is_some_and(|asked| asked == name));
    choice.map_or_else(ColorChoice::default, |(_, choice)| choice)
}

fn config() -> Command {
    Command::new("config")
        .about("Show or check the configuration")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(CONFIG.iter().map(|entry| (entry.command)().name(entry.name).args_override_self(true)))
}

fn config_command(name: &str, matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    // clap accepts no other names than these.
    let entry = CONFIG.iter().find(|entry| entry.name == name).expect("a command of the list");
    (entry.read)(matches)
}

/// The flags of all rows, for a command that wants them otherwise than everything else does.
pub(crate) fn row_args() -> impl Iterator<Item = Arg> {
    [(OPTIONS, "Running"), (SETTINGS, "Settings")]
        .into_iter()
        .flat_map(|(rows, heading)| rows.iter().filter_map(move |row| arg(row, heading)))
}

/// The flag of a row. Switches may stand alone, and then mean yes.
fn arg(row: &'static Setting, heading: &'static str) -> Option<Arg> {
    let arg = Arg::new(row.key)
        .long(row.flag?)
        .help(help(row))
        .help_heading(heading)
        .global(true)
        .action(ArgAction::Set)
        .value_parser(OsStringValueParser::new());
    Some(match row.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value(YES).value_name("yes|no"),
        Kind::Int { .. } => arg.value_name("N").allow_negative_numbers(true),
        Kind::Choice(words) => arg.value_name(words.join("|")),
        Kind::Text(Shape::Path) => arg.value_name("PATH"),
        Kind::Text(_) | Kind::List => arg.value_name("TEXT"),
    })
}

/// What it means, its default, and the name of its variable: never what the environment holds.
fn help(row: &Setting) -> String {
    let variable = row.variable.map_or_else(String::new, |variable| format!(" [env: {variable}]"));
    format!("{} [default: {}]{variable}", row.doc(), row.default_words())
}

/// The matches of the last subcommand, which know the flags of all, and the way there.
fn innermost(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut path, mut at) = (Vec::new(), matches);
    while let Some((name, inner)) = at.subcommand() {
        path.push(name);
        at = inner;
    }
    (path, at)
}

/// The flags that were given, each once but where a command collects them. Only one that may stand alone has no value, and
/// then means yes.
fn flags(matches: &ArgMatches, words: &[OsString]) -> Vec<Flag> {
    let given = given_rows(matches).flat_map(|(row, name)| {
        let values: Vec<_> = matches.get_many::<OsString>(row.key).into_iter().flatten().cloned().collect();
        let values = if values.is_empty() { vec![YES.into()] } else { values };
        // The last ones count.
        let places: Vec<_> = positions(name, words).rev().take(values.len()).collect();
        let places = places.into_iter().rev().chain(std::iter::repeat(0));
        values
            .into_iter()
            .zip(places)
            .map(|(value, index)| Flag { name: name.to_owned(), value, index })
            .collect::<Vec<_>>()
    });
    given.collect()
}

/// The rows whose flags were given.
pub(crate) fn given_rows(matches: &ArgMatches) -> impl Iterator<Item = (&'static Setting, &'static str)> {
    let rows = OPTIONS.iter().chain(SETTINGS).filter_map(|row| Some((row, row.flag?)));
    rows.filter(|(row, _)| matches.value_source(row.key) == Some(ValueSource::CommandLine))
}

/// Where a flag stands, from 1. Its value cannot be mistaken for it, because values do not start with dashes.
fn positions(name: &str, words: &[OsString]) -> impl DoubleEndedIterator<Item = usize> {
    let is_it = move |word: &OsStr| {
        let flag = word.as_encoded_bytes().strip_prefix(b"--").and_then(|word| word.strip_prefix(name.as_bytes()));
        flag.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    words.iter().enumerate().filter(move |(_, word)| is_it(word)).map(|(at, _)| at + 1)
}
