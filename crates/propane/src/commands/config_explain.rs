//! `propane config explain`: all there is to say about single settings.
//!
//! What a flag without a value would do to the configuration cannot be known, so such a flag is what is asked about; one
//! with a value is a layer of the configuration like everywhere else, which answers "what if".

use std::ffi::OsString;
use std::fmt::Write;

use clap::builder::OsStringValueParser;
use clap::{Arg, ArgMatches, Command};
use propane_config::saved::SavedSetting;
use propane_config::{
    Export, Inputs, Kind, OPTIONS, Origin, Problem, Reload, Resolution, ResolvedSetting, Setting, Value, all_exports,
    report, row_of,
};
use serde::Serialize;

use crate::cli;
use crate::commands::disclosure::{Disclosure, Secrets};
use crate::commands::formats::{NOTHING, as_plist, origin_words, to_json, to_saved};
use crate::commands::{ConfigCommand, FORMATS, Format, format_arg, format_of, problems};
use crate::exit;
use crate::output::{Answer, Screen};

const KEYS: &str = "keys";
const USAGE: &str = "name what to explain: a key, a $VARIABLE or a --flag";
const LONG_HELP: &str = "\
Explain where a value comes from, what it overrode and how to change it.

KEY is a key (propaneAccessories.workerCount), the last part of one (workerCount), a variable (ARLEN_PROPANE_WORKERS,
with or without $) or a flag (--workers). Keys of the app's own and options such as --env are explained, too.

A flag with a value is part of the configuration that is explained, as if propane were started with it:
  propane config explain enableReusePort --workers 12
A flag without a value is what is asked about:
  propane config explain --workers
  propane config explain --env staging --workers
A switch may stand alone anyway, so it is asked about where no KEY is named:
  propane config explain --once
Without a KEY and such flags, the flags that are given are explained with their values. After -- all is a KEY.";

/// What to explain, and how.
#[derive(Debug, Clone)]
struct ExplainOptions {
    /// As they were written.
    names: Vec<String>,
    /// Flags that are asked about, and set nothing.
    asked_flags: Vec<&'static str>,
    disclosure: Disclosure,
    format: Format,
}

pub(super) fn command() -> Command {
    // Here every flag may stand alone, and says so by having no value.
    let flags = cli::row_args().map(|arg| arg.num_args(0..=1).default_missing_values(Vec::<OsString>::new()));
    Command::default()
        .about("Explain single settings: where a value comes from, what it overrode, how to change it")
        .long_about(LONG_HELP)
        .args(flags)
        .arg(
            Arg::new(KEYS)
                .value_name("KEY")
                .num_args(0..)
                .value_parser(OsStringValueParser::new())
                .help("A key, the last part of one, a $VARIABLE or a --flag"),
        )
        .arg(Disclosure::arg())
        .arg(format_arg(FORMATS.map(|(name, _)| name)))
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    let keys = matches.get_many::<OsString>(KEYS).into_iter().flatten();
    let mut names: Vec<_> = keys.map(|key| key.to_string_lossy().into_owned()).collect();
    let given: Vec<_> = cli::given_rows(matches).collect();
    let is_about = |row: &Setting| row.kind != Kind::Bool || names.is_empty();
    let has_value = |row: &Setting| matches.get_one::<OsString>(row.key).is_some();
    let asked_flags: Vec<_> =
        given.iter().filter(|(row, _)| !has_value(row) && is_about(row)).map(|(_, flag)| *flag).collect();
    let is_asked = |flag: &str| asked_flags.is_empty() || asked_flags.contains(&flag);
    if names.is_empty() || !asked_flags.is_empty() {
        names.extend(given.iter().filter(|(_, flag)| is_asked(flag)).map(|(_, flag)| format!("--{flag}")));
    }
    Box::new(ExplainOptions {
        names,
        asked_flags,
        disclosure: Disclosure::of(matches),
        format: format_of(matches, FORMATS),
    })
}

/// The question about one name.
pub(crate) fn about(name: &str) -> Box<dyn ConfigCommand> {
    Box::new(ExplainOptions {
        names: vec![name.to_owned()],
        asked_flags: Vec::new(),
        disclosure: Disclosure::None,
        format: Format::Text,
    })
}

impl ConfigCommand for ExplainOptions {
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        if self.names.is_empty() {
            return Answer::refusal(exit::USAGE, USAGE);
        }
        match self.disclosure.granted(screen) {
            Ok(secrets) => self.explain(&propane_config::load(inputs), secrets, screen),
            Err(refusal) => refusal,
        }
    }

    fn is_about(&self, flag: &str) -> bool {
        self.asked_flags.contains(&flag)
    }
}

impl ExplainOptions {
    fn explain(&self, resolution: &Resolution, secrets: Secrets, screen: Screen) -> Answer {
        let mut explained = Vec::new();
        for name in &self.names {
            match resolution.find(name) {
                Ok(setting) => explained.push(Explained::of(setting, resolution, secrets)),
                Err(missing) => return Answer::refusal(exit::UNKNOWN, missing),
            }
        }
        let stdout = match self.format {
            Format::Text => {
                let blocks: Vec<_> = explained.iter().map(|explained| explained.text(screen.stdout.coloured)).collect();
                blocks.join("\n")
            }
            Format::Json => to_json(&Document {
                format: "propane-explain/1",
                environment: &resolution.run.environment,
                settings: explained.iter().map(Explained::json).collect(),
            }),
        };
        Answer {
            stdout,
            stderr: elsewhere(resolution, &explained, screen.stderr.coloured),
            status: exit::of_command(resolution),
        }
    }
}

/// What nothing of the answer shows: what is wrong with the files and the options in full, the other errors as a number.
fn elsewhere(resolution: &Resolution, explained: &[Explained<'_>], coloured: bool) -> String {
    let is_shown = |problem: &Problem| explained.iter().any(|one| problem.concerns(&one.setting.key));
    let hidden = resolution.problems.iter().filter(|problem| !is_shown(problem));
    let is_option = |key: &str| OPTIONS.iter().any(|row| row.key == key);
    let (of_all, of_some): (Vec<&Problem>, Vec<_>) = hidden.partition(|problem| match &problem.key {
        Some(key) => is_option(key),
        None => problem.is_error(),
    });
    let keys = match of_some.iter().filter(|problem| problem.is_error()).count() {
        0 => String::new(),
        1 => "propane: another setting has an error, see propane config check\n".to_owned(),
        count => format!("propane: other settings have {count} errors, see propane config check\n"),
    };
    let of_all: Vec<_> = of_all.into_iter().cloned().collect();
    problems(&of_all, coloured) + &keys
}

/// A setting with all that is to be said about it.
struct Explained<'r> {
    setting: &'r ResolvedSetting,
    row: Option<&'static Setting>,
    exported: Option<String>,
    problems: Vec<&'r Problem>,
    secrets: Secrets,
}

#[derive(Serialize)]
struct Document<'r> {
    format: &'static str,
    environment: &'r str,
    settings: Vec<Json<'r>>,
}

#[derive(Serialize)]
struct Json<'r> {
    #[serde(flatten)]
    setting: SavedSetting,
    meaning: &'r str,
    expected: Option<String>,
    #[serde(flatten)]
    range: Option<Range>,
    default: Option<Value>,
    change: Places<'r>,
    exported: Option<&'r str>,
    problems: &'r [&'r Problem],
}

#[derive(Serialize)]
#[serde(untagged)]
enum Range {
    Int { min: i64, max: i64 },
    Choice { choices: &'static [&'static str] },
}

/// Where a value can be changed.
#[derive(Serialize)]
struct Places<'r> {
    plist: Option<&'r str>,
    variable: Option<&'static str>,
    flag: Option<String>,
}

impl<'r> Explained<'r> {
    fn of(setting: &'r ResolvedSetting, resolution: &'r Resolution, secrets: Secrets) -> Self {
        let row = row_of(&setting.key);
        let exports = all_exports(resolution).into_iter();
        let mut own = exports.filter(|(name, _)| row.is_some_and(|row| row.variable == Some(name)));
        let exported = own.next().map(|(_, value)| Value::Text(value.to_string_lossy().into_owned()));
        Self {
            setting,
            row,
            exported: exported.map(|value| secrets.shown(setting, &value).to_variable()),
            problems: resolution.problems.iter().filter(|problem| problem.concerns(&setting.key)).collect(),
            secrets,
        }
    }

    fn text(&self, coloured: bool) -> String {
        let (bold, plain) = if coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        let value = self.setting.value.as_ref().map_or_else(|| NOTHING.to_owned(), |value| self.shown(value));
        let mut out = format!("{bold}{} = {value}{plain}\n", self.setting.key);
        let lines = [
            ("why", self.why()),
            ("over", self.overridden()),
            ("meaning", vec![self.meaning().to_owned()]),
            ("type", vec![self.expected()]),
            ("default", self.row.map(Setting::default_words).into_iter().collect()),
            ("change", vec![self.places().to_string()]),
            ("takes", vec![self.takes().to_owned()]),
            ("workers", vec![self.workers()]),
        ];
        for (label, lines) in lines {
            for (index, line) in lines.iter().enumerate() {
                let label = if index == 0 { label } else { "" };
                // Writing to a string cannot fail, here and below.
                let _ = writeln!(out, "  {label:9} {line}");
            }
        }
        for problem in &self.problems {
            let _ = writeln!(out, "\n{}", indented(&report::render(problem, coloured)));
        }
        out
    }

    fn json(&self) -> Json<'_> {
        Json {
            setting: to_saved(self.setting, self.secrets),
            meaning: self.meaning(),
            expected: self.row.map(|row| row.kind.expected()),
            range: self.row.and_then(|row| match row.kind {
                Kind::Int { min, max } => Some(Range::Int { min, max }),
                Kind::Choice(choices) => Some(Range::Choice { choices }),
                Kind::Bool | Kind::Text(_) | Kind::List => None,
            }),
            default: self.row.and_then(Setting::default_value),
            change: self.places(),
            exported: self.exported.as_deref(),
            problems: &self.problems,
        }
    }

    /// A value as it may be shown.
    fn shown(&self, value: &Value) -> String {
        as_plist(&self.secrets.shown(self.setting, value))
    }

    fn why(&self) -> Vec<String> {
        let mut lines = vec![origin_words(self.setting, Origin::place)];
        inputs(&self.setting.origin, 1, &mut lines);
        lines
    }

    fn overridden(&self) -> Vec<String> {
        let lost: Vec<_> =
            self.setting.overrides.iter().map(|lost| (self.shown(&lost.value), lost.origin.place())).collect();
        let width = lost.iter().map(|(value, _)| value.chars().count()).max().unwrap_or(0);
        lost.into_iter().map(|(value, place)| format!("{value:width$}   {place}")).collect()
    }

    fn meaning(&self) -> &'static str {
        match self.row {
            Some(row) => row.doc(),
            None if self.setting.app => "A key of the app's own: propane passes it through and acts on none of it.",
            None => "The words after --, for the workers' own command line.",
        }
    }

    fn expected(&self) -> String {
        let words = self.row.map_or_else(|| self.setting.kind.to_owned(), |row| row.kind.expected());
        if self.setting.secret { words + " (secret)" } else { words }
    }

    fn places(&self) -> Places<'_> {
        let is_in_files = self.setting.app || propane_config::setting(&self.setting.key).is_some();
        Places {
            plist: is_in_files.then_some(self.setting.key.as_str()),
            variable: self.row.and_then(|row| row.variable),
            flag: match self.row {
                Some(row) => row.flag_usage(),
                None => (!self.setting.app).then(|| "-- WORDS".to_owned()),
            },
        }
    }

    fn takes(&self) -> &'static str {
        let apps_own = "a reload (HUP), if the app reads its files when its workers start";
        if self.setting.app && self.setting.reload == Reload::Generation {
            apps_own
        } else {
            self.setting.reload.takes()
        }
    }

    fn workers(&self) -> String {
        let variable = self.row.and_then(|row| row.variable).unwrap_or_default();
        match (self.exported.as_ref(), self.row) {
            (Some(value), _) => format!("exported as {variable}={}", shell_words::quote(value)),
            (None, Some(row)) if row.export == Export::WhenSet => {
                format!("exported as {variable} only where it is set")
            }
            (None, Some(_)) => "not exported".to_owned(),
            (None, None) if self.setting.app => "not exported: workers read the same files".to_owned(),
            (None, None) => "at the end of their command line".to_owned(),
        }
    }
}

/// What a rule looked at, each with its origin and, where that is a rule too, what that one looked at.
fn inputs(origin: &Origin, depth: usize, lines: &mut Vec<String>) {
    let Origin::Derived { inputs: looked_at, .. } = origin else { return };
    for input in looked_at {
        let value = input.value.as_ref().map_or_else(|| "nothing".to_owned(), as_plist);
        lines.push(format!("{}{} = {value}   {}", "  ".repeat(depth), input.key, input.origin.place()));
        inputs(&input.origin, depth + 1, lines);
    }
}

impl std::fmt::Display for Places<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plist = self.plist.map(|key| format!("plist {key}"));
        let variable = self.variable.map(|variable| format!("env {variable}"));
        let flag = self.flag.as_ref().map(|flag| format!("flag {flag}"));
        let places: Vec<_> = [plist, variable, flag].into_iter().flatten().collect();
        out.write_str(&places.join(" · "))
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
    lines.join("\n")
}
