//! `propane config check`: everything that is wrong in any layer, at once.

use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{FileState, Inputs, LayerInfo, Problem, Resolution};
use serde::Serialize;

use crate::commands::{ConfigCommand, format_arg, format_of, problems};
use crate::exit;
use crate::output::{Answer, Screen};

/// How to check.
#[derive(Debug, Clone, Default)]
struct CheckOptions {
    /// Warnings are findings, too.
    strict: bool,
    /// The form.
    format: Format,
}

/// The forms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

pub(super) fn command() -> Command {
    Command::default()
        .about("Check every layer of the configuration and say all that is wrong")
        .arg(Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Fail on warnings, too"))
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    Box::new(CheckOptions { strict: matches.get_flag("strict"), format: format_of(matches, FORMATS) })
}

impl ConfigCommand for CheckOptions {
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        answer(&propane_config::load(inputs), self, screen)
    }
}

#[derive(Serialize)]
struct Report<'r> {
    format: &'static str,
    environment: &'r str,
    layers: &'r [LayerInfo],
    problems: &'r [Problem],
    errors: usize,
    warnings: usize,
}

/// The answer. It is never silent: it names the files that were read and ends with a count.
fn answer(resolution: &Resolution, options: &CheckOptions, screen: Screen) -> Answer {
    let stdout = match options.format {
        Format::Text => text(resolution, screen.stdout.coloured),
        Format::Json => json(resolution),
    };
    let found = exit::of_command(resolution);
    let fails_on_warnings = options.strict && found == exit::FINE && !resolution.problems.is_empty();
    Answer { stdout, stderr: String::new(), status: if fails_on_warnings { exit::FOUND } else { found } }
}

fn text(resolution: &Resolution, coloured: bool) -> String {
    let files = || resolution.layers.iter().filter_map(|layer| Some((layer.path.as_deref()?, layer.state?)));
    let lines: Vec<_> = files().map(|(path, state)| format!("{}  {path}\n", state_name(state))).collect();
    let read = files().filter(|(_, state)| *state == FileState::Read).count();
    let (errors, warnings) = counts(resolution);
    let count = [plural(read, "file"), plural(errors, "error"), plural(warnings, "warning")].join(", ");
    format!("{}\n{}{count}\n", lines.concat(), problems(resolution, coloured))
}

/// All of the same width, so that the paths line up.
fn state_name(state: FileState) -> &'static str {
    match state {
        FileState::Read => "read      ",
        FileState::Missing => "missing   ",
        FileState::Unreadable => "unreadable",
    }
}

fn json(resolution: &Resolution) -> String {
    let (errors, warnings) = counts(resolution);
    let report = Report {
        format: "propane-check/1",
        environment: &resolution.run.environment,
        layers: &resolution.layers,
        problems: &resolution.problems,
        errors,
        warnings,
    };
    super::formats::to_json(&report)
}

fn counts(resolution: &Resolution) -> (usize, usize) {
    let errors = resolution.problems.iter().filter(|problem| problem.is_error()).count();
    (errors, resolution.problems.len() - errors)
}

fn plural(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}
