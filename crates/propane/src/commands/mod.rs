//! The commands of `propane config`: each turns what propane was started with into an answer.
//!
//! A command is a file with its flags, what was asked for and the answer, and a row of [`CONFIG`].

mod config_check;
mod config_diff;
mod config_docs;
mod config_env;
pub(crate) mod config_explain;
mod config_print;
mod config_schema;
mod disclosure;
mod formats;

use std::fmt::Debug;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgMatches, Command};
use propane_config::{Inputs, Problem, report};

use crate::output::{Answer, Screen};

/// What was asked of a command.
pub(crate) trait ConfigCommand: Debug {
    /// The answer. A command that needs the configuration loads it here.
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer;

    /// Whether a flag that was given is what is asked about, and so no layer of the configuration.
    fn is_about(&self, _flag: &str) -> bool {
        false
    }
}

/// A command: its name, its flags, and how what was asked is read from them.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) command: fn() -> Command,
    pub(crate) read: fn(&ArgMatches) -> Box<dyn ConfigCommand>,
}

/// The commands, in the order of `propane config --help`.
pub(crate) static CONFIG: &[Entry] = &[
    Entry { name: "print", command: config_print::command, read: config_print::read },
    Entry { name: "explain", command: config_explain::command, read: config_explain::read },
    Entry { name: "check", command: config_check::command, read: config_check::read },
    Entry { name: "diff", command: config_diff::command, read: config_diff::read },
    Entry { name: "env", command: config_env::command, read: config_env::read },
    Entry { name: "schema", command: config_schema::command, read: config_schema::read },
    Entry { name: "docs", command: config_docs::command, read: config_docs::read },
];

/// The forms of commands that have these two.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

const FORMATS: [(&str, Format); 2] = [("text", Format::Text), ("json", Format::Json)];

/// `--format`, the first form being the default.
fn format_arg<const N: usize>(forms: [&'static str; N]) -> Arg {
    Arg::new("format")
        .long("format")
        .value_name("FORMAT")
        .default_value(forms[0])
        .value_parser(PossibleValuesParser::new(forms))
        .help("Form of the answer")
}

/// The form that was asked for.
fn format_of<F: Copy + Default, const N: usize>(matches: &ArgMatches, forms: [(&str, F); N]) -> F {
    let asked = matches.get_one::<String>("format");
    forms
        .into_iter()
        .find(|(name, _)| asked.is_some_and(|asked| asked == name))
        .map_or_else(F::default, |(_, form)| form)
}

/// All problems, each followed by an empty line.
pub(crate) fn problems(problems: &[Problem], coloured: bool) -> String {
    let problems: Vec<_> = problems.iter().map(|problem| report::render(problem, coloured)).collect();
    problems.iter().flat_map(|problem| [problem.as_str(), "\n\n"]).collect()
}
