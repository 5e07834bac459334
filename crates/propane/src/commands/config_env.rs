//! `propane config env`: what workers receive in their environment, and what propane reads from its own.
//!
//! `config print --format env` is something else: variables that, given to propane, resolve to the same configuration.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::{
    Code, Inputs, OPTIONS, Origin, Problem, Resolution, ResolvedSetting, SETTINGS, Setting, Value, all_exports,
};
use serde::Serialize;

use crate::commands::disclosure::{Disclosure, Secrets};
use crate::commands::formats::{NOTHING, Row, as_plist, table, to_json};
use crate::commands::{ConfigCommand, problems};
use crate::exit;
use crate::output::{Answer, Screen};

const MASKED_NOTE: &str = "secrets are masked, so workers receive something else here; see --show-secrets";
const LONG_HELP: &str = "\
Print the variables through which workers receive the configuration, each with the value that they get. What differs from
worker to worker (ARLEN_WORKER_ID and the like) is not among them.

  --export sh       export lines for a POSIX shell
  --export systemd  lines of an EnvironmentFile, see systemd.exec(5)
  --export json     an object of strings

With --list it is the other way round: the variables that propane itself reads, which of them are set, under what name and
to what, and which lose to a flag; then those that look like one of them but change nothing.

To give a configuration to propane itself by variables, use propane config print --format env.";

/// What to print of the environment.
#[derive(Debug)]
struct EnvOptions {
    /// What propane reads, and not what workers get.
    list: bool,
    export: Option<Export>,
    disclosure: Disclosure,
}

/// The forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Export {
    Sh,
    Systemd,
    Json,
}

const EXPORTS: [(&str, Export); 3] = [("sh", Export::Sh), ("systemd", Export::Systemd), ("json", Export::Json)];

pub(super) fn command() -> Command {
    Command::default()
        .about("Print the variables that workers receive, or list those that propane reads")
        .long_about(LONG_HELP)
        .arg(
            Arg::new("export")
                .long("export")
                .value_name("FORM")
                .value_parser(EXPORTS.map(|(name, _)| name))
                .help("Form of the answer [default: sh]"),
        )
        .arg(
            Arg::new("list")
                .long("list")
                .action(ArgAction::SetTrue)
                .help("List the variables that propane reads; for people, or with --export json"),
        )
        .arg(Disclosure::arg())
}

pub(super) fn read(matches: &ArgMatches) -> Box<dyn ConfigCommand> {
    let asked = matches.get_one::<String>("export");
    let export = EXPORTS.into_iter().find(|(name, _)| asked.is_some_and(|asked| asked == name));
    Box::new(EnvOptions {
        list: matches.get_flag("list"),
        export: export.map(|(_, export)| export),
        disclosure: Disclosure::of(matches),
    })
}

impl ConfigCommand for EnvOptions {
    fn answer(&self, inputs: &Inputs, screen: Screen) -> Answer {
        let secrets = match self.disclosure.granted(screen) {
            Ok(secrets) => secrets,
            Err(refusal) => return refusal,
        };
        let resolution = propane_config::load(inputs);
        let problems = problems(&resolution.problems, screen.stderr.coloured);
        let status = exit::of_command(&resolution);
        match (self.list, self.export) {
            (true, Some(Export::Sh | Export::Systemd)) => {
                Answer::refusal(exit::USAGE, "--list is for people, or for programs with --export json")
            }
            (true, form) => {
                let stdout = List::of(inputs, &resolution, secrets).text_or_json(form, screen);
                Answer { stdout, stderr: problems, status }
            }
            (false, form) => match Exported::of(&resolution, secrets) {
                Ok(exported) => {
                    let stderr = problems + &exported.note("propane: ");
                    Answer { stdout: exported.written(form.unwrap_or(Export::Sh)), stderr, status }
                }
                Err(name) => Answer::refusal(exit::FOUND, format!("{name} is not UTF-8, so it cannot be written here")),
            },
        }
    }
}

/// What workers receive, as it may be shown.
struct Exported {
    variables: Vec<(String, String)>,
    is_masked: bool,
}

impl Exported {
    /// Fails with the name of a variable that is no text.
    fn of(resolution: &Resolution, secrets: Secrets) -> Result<Self, String> {
        let (mut variables, mut is_masked) = (Vec::new(), false);
        for (name, value) in all_exports(resolution) {
            let Ok(text) = value.into_string() else { return Err(name) };
            let setting = rows().find(|row| row.variable == Some(&name)).and_then(|row| resolution.setting(row.key));
            let value = setting.map_or_else(|| text.clone(), |setting| shown(secrets, setting, &text).to_variable());
            is_masked |= value != text;
            variables.push((name, value));
        }
        Ok(Self { variables, is_masked })
    }

    fn written(&self, form: Export) -> String {
        let line = |(name, value): &(String, String)| match form {
            Export::Systemd => format!("{name}={}\n", for_systemd(value)),
            Export::Sh | Export::Json => format!("export {name}={}\n", shell_words::quote(value)),
        };
        match form {
            Export::Json => {
                to_json(&self.variables.iter().map(|(name, value)| (name, value)).collect::<BTreeMap<_, _>>())
            }
            Export::Sh | Export::Systemd => self.note("# ") + &self.variables.iter().map(line).collect::<String>(),
        }
    }

    fn note(&self, before: &str) -> String {
        if self.is_masked { format!("{before}{MASKED_NOTE}\n") } else { String::new() }
    }
}

/// A value of an `EnvironmentFile`. Of what stands in double quotes, `systemd.exec(5)` reads only these four otherwise
/// than they are, after a backslash; single quotes would not do, since nothing can follow them.
fn for_systemd(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b':' | b',');
    if value.bytes().all(is_plain) {
        return value.to_owned();
    }
    let escaped = value.chars().flat_map(|character| {
        let escape = matches!(character, '"' | '\\' | '`' | '$').then_some('\\');
        escape.into_iter().chain([character])
    });
    format!("\"{}\"", escaped.collect::<String>())
}

fn rows() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().chain(OPTIONS)
}

fn shown(secrets: Secrets, setting: &ResolvedSetting, text: &str) -> Value {
    secrets.shown(setting, &Value::Text(text.to_owned()))
}

/// What propane reads.
#[derive(Serialize)]
struct List<'r> {
    format: &'static str,
    variables: Vec<Variable<'r>>,
    unknown: Vec<Unknown<'r>>,
}

/// A variable that propane reads.
#[derive(Serialize)]
struct Variable<'r> {
    #[serde(rename = "variable")]
    name: &'static str,
    key: &'static str,
    state: State,
    /// The value, where it is set.
    value: Option<Value>,
    /// The deprecated name that it is set under.
    set_as: Option<String>,
    /// What its value loses to.
    loses_to: Option<&'r Origin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Not set.
    Unset,
    /// Set to nothing, which is the same.
    Empty,
    /// Set, and the value that counts.
    Used,
    /// Set, but something else counts.
    Overridden,
    /// Set to what cannot be used.
    Invalid,
}

/// A variable that propane does not read, although its name looks so.
#[derive(Serialize)]
struct Unknown<'r> {
    variable: &'r str,
    message: &'r str,
    suggestion: Option<&'r str>,
}

impl<'r> List<'r> {
    fn of(inputs: &Inputs, resolution: &'r Resolution, secrets: Secrets) -> Self {
        let variables = rows().filter_map(|row| {
            let setting = resolution.setting(row.key)?;
            Some(Variable::of(row, row.variable?, setting, inputs, resolution, secrets))
        });
        Self {
            format: "propane-env/1",
            variables: variables.collect(),
            unknown: resolution.problems.iter().filter_map(Unknown::of).collect(),
        }
    }

    fn text_or_json(&self, form: Option<Export>, screen: Screen) -> String {
        if form.is_some() {
            return to_json(self);
        }
        let known = self.variables.iter().map(|variable| Row {
            key: variable.name,
            value: variable.value.as_ref().map_or_else(|| NOTHING.to_owned(), as_plist),
            note: variable.note(),
        });
        let unknown = self.unknown.iter().map(|unknown| Row {
            key: unknown.variable,
            value: NOTHING.to_owned(),
            note: [Some(unknown.message), unknown.suggestion].into_iter().flatten().collect::<Vec<_>>().join("; "),
        });
        table(known.chain(unknown).collect(), screen.stdout.coloured)
    }
}

impl<'r> Variable<'r> {
    fn of(
        row: &'static Setting,
        variable: &'static str,
        setting: &'r ResolvedSetting,
        inputs: &Inputs,
        resolution: &Resolution,
        secrets: Secrets,
    ) -> Self {
        let set_as =
            row.legacy_variable().filter(|old| inputs.variable(variable).is_none() && inputs.variable(old).is_some());
        let name = set_as.as_deref().unwrap_or(variable);
        let text = inputs.variable(name);
        let state = state(name, text, setting, inputs, resolution);
        Self {
            name: variable,
            key: row.key,
            state,
            value: text.map(|text| shown(secrets, setting, &text.to_string_lossy())),
            loses_to: (state == State::Overridden).then_some(&setting.origin),
            set_as,
        }
    }

    fn note(&self) -> String {
        let old = self.set_as.as_ref().map_or(String::new(), |old| format!(", set as {old}, which is deprecated"));
        let state = match (self.state, self.loses_to) {
            (State::Unset, _) => ", not set".to_owned(),
            (State::Used, _) => String::new(),
            (State::Empty, _) => ", set to nothing, which counts as unset".to_owned(),
            (State::Overridden, Some(origin)) => format!(", loses to {}", origin.place()),
            (State::Overridden | State::Invalid, _) => ", cannot be used".to_owned(),
        };
        format!("{}{old}{state}", self.key)
    }
}

fn state(
    name: &str,
    text: Option<&OsStr>,
    setting: &ResolvedSetting,
    inputs: &Inputs,
    resolution: &Resolution,
) -> State {
    let is_it = |origin: &Origin| matches!(origin, Origin::Env { variable } if variable == name);
    let is_wrong =
        |problem: &Problem| problem.is_error() && problem.place.as_ref().is_some_and(|place| is_it(&place.origin));
    match text {
        None if inputs.env.contains_key(OsStr::new(name)) => State::Empty,
        None => State::Unset,
        Some(_) if is_it(&setting.origin) => State::Used,
        Some(_) if resolution.problems.iter().any(is_wrong) => State::Invalid,
        Some(_) => State::Overridden,
    }
}

impl<'r> Unknown<'r> {
    fn of(problem: &'r Problem) -> Option<Self> {
        let is_unknown = matches!(problem.code, Code::UnknownVariable | Code::ServiceLink) && problem.key.is_none();
        match &problem.place.as_ref()?.origin {
            Origin::Env { variable } if is_unknown => {
                Some(Self { variable, message: &problem.message, suggestion: problem.suggestion.as_deref() })
            }
            _ => None,
        }
    }
}
