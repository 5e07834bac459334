//! `propane config check`: everything that is wrong in any layer, at once.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{
    CheckedFile, FileState, Inputs, LayerInfo, Origin, Place, Problem, Severity, Sweep, load, report,
};
use serde::Serialize;

use crate::commands::{ConfigCommand, format_arg, format_of, formats, problems};
use crate::exit;
use crate::output::{Answer, Screen};

/// How to check.
#[derive(Debug, Clone, Default)]
struct CheckOptions {
    /// Warnings are findings, too.
    strict: bool,
    /// For every environment that has a file.
    all_environments: bool,
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
    /// Commands that make GitHub's workflows annotate the lines of a change.
    Github,
}

const FORMATS: [(&str, Format); 3] = [("text", Format::Text), ("json", Format::Json), ("github", Format::Github)];

pub(super) fn command() -> Command {
    Command::default()
        .about("Check every layer of the configuration and say all that is wrong")
        .arg(Arg::new("strict").long("strict").action(ArgAction::SetTrue).help("Fail on warnings, too"))
        .arg(
            Arg::new("all-envs")
                .long("all-envs")
                .action(ArgAction::SetTrue)
                .help("Check with every file of config/environments/, in place of --env"),
        )
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    Box::new(CheckOptions {
        strict: matches.get_flag("strict"),
        all_environments: matches.get_flag("all-envs"),
        format: format_of(matches, FORMATS),
    })
}

impl ConfigCommand for CheckOptions {
    /// It is never silent: it names the files that it looked at and ends with a count.
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        if self.all_environments && inputs.args.flags.iter().any(|flag| flag.name == "env") {
            let stderr = "propane: --all-envs checks every environment, so --env cannot be given, too\n".to_owned();
            return Answer { stdout: String::new(), stderr, status: exit::USAGE };
        }
        let resolution = load(inputs);
        let sweep = if self.all_environments { Sweep::all(inputs) } else { Sweep::of(&resolution) };
        let layers = (!self.all_environments).then_some(resolution.layers.as_slice());
        let stdout = match self.format {
            Format::Text => text(&sweep, screen.stdout.coloured),
            Format::Json => json(&sweep, layers),
            Format::Github => github(&sweep, &Checkout::of(inputs, &resolution.run.app_root)),
        };
        let found = exit::of_problems(&sweep.problems);
        let fails_on_warnings = self.strict && found == exit::FINE && !sweep.problems.is_empty();
        Answer { stdout, stderr: String::new(), status: if fails_on_warnings { exit::FOUND } else { found } }
    }
}

#[derive(Serialize)]
struct Report<'r> {
    format: &'static str,
    /// Where it was checked for a single one.
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<&'r str>,
    environments: &'r [String],
    files: &'r [CheckedFile],
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<&'r [LayerInfo]>,
    problems: &'r [Problem],
    errors: usize,
    warnings: usize,
}

fn text(sweep: &Sweep, coloured: bool) -> String {
    let lines = sweep.files.iter().map(|file| format!("{}  {}\n", state_name(file.state), file.path));
    format!("{}\n{}{}\n", lines.collect::<String>(), problems(&sweep.problems, coloured), count(sweep))
}

/// All of the same width, so that the paths line up.
fn state_name(state: FileState) -> &'static str {
    match state {
        FileState::Read => "read      ",
        FileState::Missing => "missing   ",
        FileState::Unreadable => "unreadable",
        FileState::Invalid => "invalid   ",
    }
}

fn json(sweep: &Sweep, layers: Option<&[LayerInfo]>) -> String {
    let (errors, warnings) = counts(sweep);
    formats::to_json(&Report {
        format: "propane-check/1",
        environment: layers.and(sweep.environments.first()).map(String::as_str),
        environments: &sweep.environments,
        files: &sweep.files,
        layers,
        problems: &sweep.problems,
        errors,
        warnings,
    })
}

/// `3 files, 1 error, 2 warnings`, where only files count that are there.
fn count(sweep: &Sweep) -> String {
    let files = sweep.files.iter().filter(|file| file.state != FileState::Missing).count();
    let (errors, warnings) = counts(sweep);
    [plural(files, "file"), plural(errors, "error"), plural(warnings, "warning")].join(", ")
}

fn counts(sweep: &Sweep) -> (usize, usize) {
    let count = |severity| sweep.problems.iter().filter(|it| it.severity == severity).map(|it| it.count).sum();
    (count(Severity::Error), count(Severity::Warning))
}

fn plural(count: usize, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

/// Where the files are, as seen from the directory that the command runs in: a workflow's is its checkout.
struct Checkout {
    app_root: PathBuf,
}

impl Checkout {
    fn of(inputs: &Inputs, app_root: &Path) -> Self {
        Self { app_root: app_root.strip_prefix(&inputs.cwd).unwrap_or(app_root).to_owned() }
    }

    /// The parameters that name a place.
    fn parameters(&self, place: Option<&Place>) -> Vec<(&'static str, String)> {
        let Some(Place { origin: Origin::File { path, position }, quote, .. }) = place else { return Vec::new() };
        let mut parameters = vec![("file", self.app_root.join(path).display().to_string())];
        if let Some(at) = position {
            parameters.push(("line", at.line.to_string()));
            parameters.push(("col", at.column.to_string()));
            let width = quote.as_ref().and_then(|quote| quote.text.get(quote.start..quote.end));
            let width = width.map_or(0, |marked| marked.chars().count());
            // The last character, not the one after it.
            parameters.extend((width > 1).then(|| ("endColumn", (at.column + width - 1).to_string())));
        }
        parameters
    }

    /// `::error file=config/app.plist,line=5,col=19,title=propane%3A%3Aconfig%3A%3Arange::message`.
    fn command(&self, problem: &Problem) -> String {
        let name = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut parameters = self.parameters(problem.place.as_ref());
        parameters.push(("title", problem.code.as_str().to_owned()));
        let parameters: Vec<_> =
            parameters.iter().map(|(key, value)| format!("{key}={}", as_property(value))).collect();
        format!("::{name} {}::{}\n", parameters.join(","), as_data(&whole_message(problem)))
    }
}

fn github(sweep: &Sweep, checkout: &Checkout) -> String {
    let commands = sweep.problems.iter().map(|problem| checkout.command(problem));
    let files = sweep.files.iter().map(|file| format!("{}  {}\n", state_name(file.state), file.path));
    files.chain(commands).collect::<String>() + &count(sweep) + "\n"
}

/// All there is to say about a problem but for its place in a file.
fn whole_message(problem: &Problem) -> String {
    let place = problem.place.as_ref();
    let elsewhere = place.filter(|place| !matches!(place.origin, Origin::File { .. }));
    let label = place.filter(|place| !place.label.is_empty());
    let related = problem.related.iter().map(|place| match place.label.as_str() {
        "" => format!("see {}", place.origin),
        label => format!("{label}: {}", place.origin),
    });
    let environments = (!problem.environments.is_empty()).then(|| problem.environments.join(", "));
    let lines = std::iter::once(problem.message.clone())
        .chain(elsewhere.map(|place| place.origin.to_string()))
        .chain(label.map(|place| place.label.clone()))
        .chain(related)
        .chain(environments.map(|names| format!("in the environment {names}")))
        .chain(problem.suggestion.clone());
    lines.map(|line| report::one_line_of(&line)).collect::<Vec<_>>().join("\n")
}

/// Escaped as GitHub wants the text of a command.
fn as_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escaped as GitHub wants a parameter of a command.
fn as_property(text: &str) -> String {
    as_data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_escaped_by_githubs_rules() {
        assert_eq!(as_data("100 %\r\n::error::, a:b"), "100 %25%0D%0A::error::, a:b");
        assert_eq!(as_property("a,b:c\n%"), "a%2Cb%3Ac%0A%25");
    }
}
