//! `propane config diff`: what two configurations disagree on, and whether a reload is enough to change that.

mod comparison;
mod sides;

use std::path::PathBuf;

use clap::builder::OsStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{Inputs, load};
use propane_supervisor::RunningManager;

use crate::cli;
use crate::commands::{ConfigCommand, FORMATS, Format, format_arg, format_of};
use crate::exit;
use crate::output::{Answer, Screen};

use comparison::{Comparison, last_reload};
use sides::Around;

const ENVIRONMENT: &str = "environment";
const DEFAULTS: &str = "defaults";
const RUNNING: &str = "running";
const FILES: &str = "files";
const STDIN: &str = "-";

const USAGE: &str = "name two sides, or one: --env NAME, --defaults, --running, or a file that \
                     `propane config print --format json` has saved";
const LONG_HELP: &str = "\
Show what two configurations disagree on, where each value comes from, and whether a reload (HUP) applies it.

A side is one of these, in the order in which they are given after `diff`:
  --env NAME   the files, variables and flags, in that environment
  --defaults   the built-in defaults
  --running    what the running manager has resolved, found by its pid file
  FILE         what `propane config print --format json` has saved; - is standard input

With a single side the other one is the files as they are now: in the environment of the manager or of the saved file, in
the default environment otherwise. With --running the files are read as the manager would: with its variables and flags,
not with those of this shell. Flags of settings say \"what if\" for the side that is read from files:
  propane config diff --env production --env staging
  propane config diff --running
  propane config diff --running --workers 12

Exit: 0 no differences, 1 differences, 2 wrong use, a file that cannot be used, or no manager, 3 no such environment.";

/// What to compare, and how to say it.
#[derive(Debug, Clone)]
struct DiffCommand {
    sides: Vec<Side>,
    format: Format,
}

/// One side, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// The environment of the flag with this number among those of its name.
    Environment(usize),
    Defaults,
    Running,
    Saved(PathBuf),
}

pub(super) fn command() -> Command {
    let environments = cli::row_args().filter(|arg| arg.get_id() == ENVIRONMENT);
    // Appended, so that a second one is seen.
    let side = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).action(ArgAction::Append).num_args(0).default_missing_value("").help(help)
    };
    Command::default()
        .about("Show what two configurations disagree on, and whether a reload applies it")
        .long_about(LONG_HELP)
        .override_usage("propane config diff [OPTIONS] SIDE [SIDE]")
        .args(environments.map(|arg| arg.action(ArgAction::Append).help("A side: the files in this environment")))
        .arg(side(DEFAULTS, "A side: the built-in defaults"))
        .arg(side(RUNNING, "A side: what the running manager has resolved"))
        .arg(
            Arg::new(FILES)
                .value_name("FILE")
                .num_args(0..)
                .value_parser(OsStringValueParser::new())
                .help("A side: a saved `config print --format json`; - is standard input"),
        )
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    let places = |name: &str| matches.indices_of(name).map_or_else(Vec::new, Iterator::collect);
    let given = |name: &str| matches.value_source(name) == Some(clap::parser::ValueSource::CommandLine);
    let named = |name: &str| if given(name) { places(name) } else { Vec::new() };
    let environments = named(ENVIRONMENT).into_iter().enumerate().map(|(nth, at)| (at, Side::Environment(nth)));
    let files = matches.get_many::<std::ffi::OsString>(FILES).into_iter().flatten();
    let files = places(FILES).into_iter().zip(files).map(|(at, file)| (at, Side::Saved(file.into())));
    let flags = [(DEFAULTS, Side::Defaults), (RUNNING, Side::Running)];
    let flags = flags.into_iter().flat_map(|(name, side)| named(name).into_iter().map(move |at| (at, side.clone())));
    let mut sides: Vec<(usize, Side)> = environments.chain(files).chain(flags).collect();
    sides.sort_by_key(|(at, _)| *at);
    let sides = sides.into_iter().map(|(_, side)| side).collect();
    Box::new(DiffCommand { sides, format: format_of(matches, FORMATS) })
}

impl ConfigCommand for DiffCommand {
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        self.compare(inputs, screen).unwrap_or_else(|refusal| refusal)
    }
}

impl DiffCommand {
    fn compare(&self, inputs: &Inputs, screen: Screen) -> Result<Answer, Answer> {
        self.check_usage()?;
        let manager = self.manager(inputs)?;
        self.compare_around(inputs, manager.as_ref(), screen).map_err(|refusal| {
            let last = manager.as_ref().and_then(last_reload).unwrap_or_default();
            Answer { stderr: refusal.stderr + &last, ..refusal }
        })
    }

    fn compare_around(
        &self,
        inputs: &Inputs,
        manager: Option<&RunningManager>,
        screen: Screen,
    ) -> Result<Answer, Answer> {
        let around = Around::new(inputs, manager);
        let a = around.resolve(&self.sides[0])?;
        let b = match self.sides.get(1) {
            Some(side) => around.resolve(side)?,
            None => around.files_beside(&self.sides[0], &a)?,
        };
        let comparison = Comparison::of(&a, &b, manager);
        let stdout = match self.format {
            Format::Text => comparison.text(screen.stdout.coloured),
            Format::Json => comparison.json(),
        };
        Ok(Answer { stdout, stderr: comparison.notes(self.format, screen), status: comparison.status() })
    }

    fn check_usage(&self) -> Result<(), Answer> {
        let count = |side: &Side| self.sides.iter().filter(|other| *other == side).count();
        let twice = [
            (Side::Running, "--running"),
            (Side::Defaults, "--defaults"),
            (Side::Saved(STDIN.into()), "standard input (-)"),
        ];
        if let Some((_, name)) = twice.iter().find(|(side, _)| count(side) > 1) {
            return Err(Answer::refusal(exit::USAGE, format!("{name} can be one side only")));
        }
        match self.sides.len() {
            1 | 2 => Ok(()),
            0 => Err(Answer::refusal(exit::USAGE, USAGE)),
            count => Err(Answer::refusal(exit::USAGE, format!("{count} sides are too many; {USAGE}"))),
        }
    }

    /// The running manager, where it is a side.
    fn manager(&self, inputs: &Inputs) -> Result<Option<RunningManager>, Answer> {
        if !self.sides.contains(&Side::Running) {
            return Ok(None);
        }
        let pid_file = load(inputs).run.pid_file;
        propane_supervisor::running(&pid_file).map(Some).map_err(|error| Answer::refusal(exit::USAGE, error))
    }
}
