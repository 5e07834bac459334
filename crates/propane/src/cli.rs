//! The command line, built from the table of settings.
//!
//! Values stay text here. The resolution reads them like those of every other layer, so that all that is wrong is told
//! at once and in the same words.

use std::ffi::{OsStr, OsString};

use clap::builder::OsStringValueParser;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{Args, Flag, Kind, OPTIONS, SETTINGS, Setting, Shape};

use crate::commands::{CONFIG, ConfigCommand};

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Request {
    /// What to do.
    pub(crate) action: Action,
    /// The layer of the command line.
    pub(crate) args: Args,
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
const AFTER_HELP: &str = "\
Run it from an app root, the directory that holds config/app.plist, or name one with --app-root.
Values are read from config/app.plist, config/environments/ENV.plist, ARLEN_… variables and flags, later ones first.

Signals:
  HUP        reload: read the configuration again, start new workers, then stop the old ones
  TERM, INT  stop, gracefully; a second one stops at once
  QUIT       stop at once
  TTIN/TTOU  one worker more/less
  USR1       reopen the lifecycle log";

/// Reads the words after the program's name.
pub(crate) fn parse(words: &[OsString]) -> Result<Request, clap::Error> {
    let program = [OsString::from("propane")];
    let matches = command().try_get_matches_from(program.iter().chain(words))?;
    let (path, innermost) = innermost(&matches);
    let action = match path.as_slice() {
        ["config", name] => Action::Config(config_command(name, innermost)),
        _ => Action::Run,
    };
    let separator = words.iter().position(|word| word == "--");
    let worker_args = matches.get_many::<OsString>(WORKER_ARGS).into_iter().flatten().cloned().collect();
    let args = Args {
        flags: flags(innermost, &words[..separator.unwrap_or(words.len())]),
        worker_args,
        separator: separator.map_or(0, |at| at + 1),
    };
    Ok(Request { action, args })
}

/// The whole command line.
pub(crate) fn command() -> Command {
    Command::new("propane")
        .version(env!("CARGO_PKG_VERSION"))
        .about(env!("CARGO_PKG_DESCRIPTION"))
        .after_help(AFTER_HELP)
        .args_override_self(true)
        .override_usage("propane [OPTIONS] [-- WORKER ARGS]\n       propane [OPTIONS] config <COMMAND>")
        .args(OPTIONS.iter().filter_map(|row| arg(row, "Running")))
        .args(SETTINGS.iter().filter_map(|row| arg(row, "Settings")))
        .arg(
            Arg::new(WORKER_ARGS)
                .help("Words for the workers' own command line")
                .num_args(0..)
                .last(true)
                .value_parser(OsStringValueParser::new()),
        )
        .subcommand(config())
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

/// The flag of a row. Switches may stand alone, and then mean yes.
fn arg(row: &'static Setting, heading: &'static str) -> Option<Arg> {
    let arg = Arg::new(row.key)
        .long(row.flag?)
        .help(row.doc())
        .help_heading(heading)
        .global(true)
        .action(ArgAction::Set)
        .value_parser(OsStringValueParser::new());
    Some(match row.kind {
        Kind::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("yes").value_name("yes|no"),
        Kind::Int { .. } => arg.value_name("N").allow_negative_numbers(true),
        Kind::Choice(words) => arg.value_name(words.join("|")),
        Kind::Text(Shape::Path) => arg.value_name("PATH"),
        Kind::Text(_) | Kind::List => arg.value_name("TEXT"),
    })
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

fn flags(matches: &ArgMatches, words: &[OsString]) -> Vec<Flag> {
    let rows = OPTIONS.iter().chain(SETTINGS).filter_map(|row| Some((row, row.flag?)));
    let given = rows.filter(|(row, _)| matches.value_source(row.key) == Some(ValueSource::CommandLine));
    given
        .filter_map(|(row, name)| {
            let value = matches.get_one::<OsString>(row.key)?.clone();
            Some(Flag { name: name.to_owned(), value, index: position(name, words) })
        })
        .collect()
}

/// Where a flag stands last, from 1. Its value cannot be mistaken for it, because values do not start with dashes.
fn position(name: &str, words: &[OsString]) -> usize {
    let is_it = |word: &OsStr| {
        let flag = word.as_encoded_bytes().strip_prefix(b"--").and_then(|word| word.strip_prefix(name.as_bytes()));
        flag.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    };
    words.iter().rposition(|word| is_it(word)).map_or(0, |at| at + 1)
}
