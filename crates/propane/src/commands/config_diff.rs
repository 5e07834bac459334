//! `propane config diff`: what two configurations disagree on, and whether a reload is enough to change that.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::builder::OsStringValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use propane_config::saved::{self, Saved, SavedError};
use propane_config::{
    Code, Difference, Entry, Flag, Inputs, OnDisk, Origin, Problem, Reload, Resolution, Value, diff, is_whole, load,
    load_defaults, report, row_of,
};
use propane_supervisor::{LastReload, RunningManager};
use serde::Serialize;

use crate::cli;
use crate::commands::formats::{NOTHING, as_plist, to_json};
use crate::commands::{ConfigCommand, FORMATS, Format, format_arg, format_of};
use crate::exit;
use crate::output::{Answer, Screen};

const ENVIRONMENT: &str = "environment";
const DEFAULTS: &str = "defaults";
const RUNNING: &str = "running";
const FILES: &str = "files";
const STDIN: &str = "-";
/// Flags that say which manager is meant, and nothing about what it is compared with.
const LOCATORS: [&str; 2] = ["app-root", "pid-file"];

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

/// What sides are made from.
struct Around<'i> {
    /// What files are resolved from: this process's inputs or the manager's, without an environment.
    inputs: Inputs,
    /// The environments that were named, in order.
    environments: Vec<&'i Flag>,
    /// The environment of the manager.
    managers_environment: Option<Flag>,
    manager: Option<&'i RunningManager>,
}

/// A side with its values.
struct Resolved {
    entries: Vec<Entry>,
    name: Name,
    /// What was resolved from files, for its problems.
    files: Option<Resolution>,
    /// The files as the manager reads them.
    on_disk: Option<OnDisk>,
}

/// What a side is called.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Name {
    /// The files in an environment.
    Files { environment: String },
    /// The files of the running manager, in its environment.
    Disk { environment: String },
    /// The built-in defaults.
    Defaults,
    /// The running manager.
    Running {
        pid: i32,
        generation: u32,
        #[serde(rename = "lastReload")]
        last_reload: Option<LastReload>,
    },
    /// A saved document.
    Saved { path: String, environment: String },
}

impl<'i> Around<'i> {
    fn new(inputs: &'i Inputs, manager: Option<&'i RunningManager>) -> Self {
        let is_environment = |flag: &Flag| flag.name == "env";
        let environments = inputs.args.flags.iter().filter(|flag| is_environment(flag)).collect();
        let mut base = match manager {
            Some(manager) => under_what_if(manager.configuration.inputs(), inputs),
            None => inputs.clone(),
        };
        let managers_environment =
            base.args.flags.iter().find(|flag| manager.is_some() && is_environment(flag)).cloned();
        base.args.flags.retain(|flag| !is_environment(flag));
        Self { inputs: base, environments, managers_environment, manager }
    }

    fn resolve(&self, side: &Side) -> Result<Resolved, Answer> {
        match side {
            Side::Environment(nth) => self.files(self.environments.get(*nth).copied()).and_then(named),
            Side::Defaults => {
                let entries = Entry::all_of(&load_defaults(&self.inputs));
                Ok(Resolved { entries, name: Name::Defaults, files: None, on_disk: None })
            }
            Side::Running => self.running(),
            Side::Saved(path) => saved(path),
        }
    }

    fn running(&self) -> Result<Resolved, Answer> {
        // It was looked for where it is a side.
        let Some(manager) = self.manager else { return Err(Answer::refusal(exit::USAGE, USAGE)) };
        let name = Name::Running {
            pid: manager.pid,
            generation: manager.configuration.generation,
            last_reload: manager.last_reload.clone(),
        };
        Ok(Resolved { entries: manager.configuration.entries(), name, files: None, on_disk: None })
    }

    /// The files as they are now, to stand beside a single side.
    fn files_beside(&self, side: &Side, resolved: &Resolved) -> Result<Resolved, Answer> {
        match (side, &resolved.name) {
            (Side::Running, _) => self.files(self.managers_environment.as_ref()),
            (_, Name::Saved { environment, .. }) => {
                self.files(Some(&Flag { name: "env".to_owned(), value: environment.into(), index: 0 }))
            }
            _ => self.files(None),
        }
    }

    /// The files in an environment, or in the default one.
    fn files(&self, environment: Option<&Flag>) -> Result<Resolved, Answer> {
        let mut inputs = self.inputs.clone();
        inputs.args.flags.extend(environment.cloned());
        let is_managers = environment == self.managers_environment.as_ref();
        let Some(manager) = self.manager else {
            let files = load(&inputs);
            let name = Name::Files { environment: files.run.environment.clone() };
            return usable(Resolved { entries: Entry::all_of(&files), name, files: Some(files), on_disk: None });
        };
        let on_disk = manager.configuration.on_disk(&inputs);
        let files = on_disk.reloaded.found().clone();
        let environment = files.run.environment.clone();
        let name = if is_managers { Name::Disk { environment } } else { Name::Files { environment } };
        usable(Resolved { entries: on_disk.entries.clone(), name, files: Some(files), on_disk: Some(on_disk) })
    }
}

/// The manager's inputs under the flags that were given here, but for those that only say which manager is meant.
fn under_what_if(mut managers: Inputs, given: &Inputs) -> Inputs {
    let what_if = given.args.flags.iter().filter(|flag| !LOCATORS.contains(&flag.name.as_str()) && flag.name != "env");
    for flag in what_if {
        managers.args.flags.retain(|old| old.name != flag.name);
        managers.args.flags.push(flag.clone());
    }
    if given.args.separator > 0 {
        managers.args.worker_args.clone_from(&given.args.worker_args);
        managers.args.separator = given.args.separator;
    }
    managers
}

/// What stands in for a wrong value is nobody's, so nothing is compared while anything is wrong.
fn usable(side: Resolved) -> Result<Resolved, Answer> {
    let Some(files) = side.files.as_ref().filter(|files| files.has_errors()) else { return Ok(side) };
    let errors = files.problems.iter().filter(|problem| problem.is_error());
    let stderr = errors.map(|problem| report::render(problem, false) + "\n\n").collect::<String>();
    let stderr = stderr + "propane: nothing is compared until this is put right\n";
    Err(Answer { stdout: String::new(), stderr, status: exit::of_command(files) })
}

/// An environment that was named has to be there. The default one needs no file.
fn named(side: Resolved) -> Result<Resolved, Answer> {
    match side.files.as_ref().and_then(|files| Some((files, missing(files)?))) {
        None => Ok(side),
        Some((files, problem)) => {
            let message = format!("there is no environment {}: {}", files.run.environment, problem.message);
            Err(Answer::refusal(exit::UNKNOWN, message))
        }
    }
}

/// What is said of an environment that was named and has no file. The default one needs none.
fn missing(files: &Resolution) -> Option<&Problem> {
    let default = row_of(ENVIRONMENT).and_then(propane_config::Setting::default_value);
    let is_default = default == Some(Value::Text(files.run.environment.clone()));
    let mut problems = files.problems.iter().filter(|_| !is_default);
    problems.find(|problem| problem.code == Code::MissingEnvironment)
}

fn saved(path: &Path) -> Result<Resolved, Answer> {
    let is_stdin = path.as_os_str() == STDIN;
    let shown = if is_stdin { "standard input".to_owned() } else { path.display().to_string() };
    let document = if is_stdin { from_stdin() } else { saved::load(path) };
    let Saved { environment, settings } = document.map_err(|error| {
        let is_not_there =
            matches!(&error, SavedError::Unreadable(error) if error.kind() == std::io::ErrorKind::NotFound);
        let hint = if is_not_there { format!("; an environment is named by --env {shown}") } else { String::new() };
        Answer::refusal(exit::USAGE, format!("{shown} {error}{hint}"))
    })?;
    let entries = settings.iter().map(Entry::of_saved).collect();
    Ok(Resolved { entries, name: Name::Saved { path: shown, environment }, files: None, on_disk: None })
}

fn from_stdin() -> Result<Saved, SavedError> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(saved::MAX_BYTES + 1).read_to_end(&mut bytes)?;
    saved::read(&bytes)
}

/// The answer in the making.
struct Comparison<'r> {
    a: &'r Resolved,
    b: &'r Resolved,
    differences: Vec<Difference<'r>>,
    /// What is saved of one side is a selection, and the rest was left out.
    is_partial: bool,
    manager: Option<&'r RunningManager>,
}

impl<'r> Comparison<'r> {
    fn of(a: &'r Resolved, b: &'r Resolved, manager: Option<&'r RunningManager>) -> Self {
        let is_selection = |side: &Resolved| matches!(side.name, Name::Saved { .. }) && !is_whole(&side.entries);
        let (of_a, of_b) = (is_selection(a), is_selection(b));
        let counts = |found: &Difference<'_>| !(of_a && found.a.is_none() || of_b && found.b.is_none());
        // Where a link leads is known of running managers and their files only.
        let both_know =
            |found: &Difference<'_>| found.key() != Entry::PHYSICAL_APP_ROOT || found.a.is_some() && found.b.is_some();
        let differences = diff(&a.entries, &b.entries).into_iter().filter(counts).filter(both_know).collect();
        Self { a, b, differences, is_partial: of_a || of_b, manager }
    }

    fn status(&self) -> u8 {
        if self.count() > 0 { exit::FOUND } else { exit::FINE }
    }

    fn count(&self) -> usize {
        self.differences.iter().filter(|found| found.certain).count()
    }

    fn effect(&self, found: &Difference<'_>) -> Reload {
        let on_disk = self.a.on_disk.as_ref().or(self.b.on_disk.as_ref());
        on_disk.map_or_else(|| found.reload(), |on_disk| on_disk.effect(found))
    }

    /// Why the manager would not load the files.
    fn refusal(&self) -> Option<String> {
        let on_disk = self.a.on_disk.as_ref().or(self.b.on_disk.as_ref())?;
        Some(on_disk.reloaded.refusal(self.manager?.configuration.strategy)?.to_string())
    }

    fn text(&self, coloured: bool) -> String {
        let (bold, dim, plain) = if coloured { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let rows: Vec<_> = self.differences.iter().map(|found| self.row(found)).collect();
        let labels = [String::new(), self.a.name.label(), self.b.name.label(), String::new()];
        let widths: [usize; 4] = std::array::from_fn(|column| {
            let all = rows.iter().chain([&labels]).map(|row| row[column].chars().count());
            all.filter(|width| column == 0 || *width <= WIDEST).max().unwrap_or(0)
        });
        let mut out = String::new();
        if !rows.is_empty() {
            let [key, a, b, _] = widths;
            let line = format!("{:key$}   {bold}{:a$}   {:b$}", "", labels[1], labels[2]);
            out.extend([line.trim_end(), plain, "\n"]);
        }
        for (row, found) in rows.iter().zip(&self.differences) {
            let [key, a, b, origin] = widths;
            let line = format!(
                "{:key$}   {:a$}   {:b$}   {dim}{:origin$}   {}",
                row[0],
                row[1],
                row[2],
                row[3],
                self.remark(found)
            );
            out.extend([line.trim_end(), plain, "\n"]);
        }
        out + &self.last_line() + "\n"
    }

    /// The columns of a difference but for its remark.
    fn row(&self, found: &Difference<'_>) -> [String; 4] {
        let value = |entry: Option<&Entry>| {
            entry.and_then(|entry| entry.shown.as_ref()).map_or_else(|| NOTHING.to_owned(), as_plist)
        };
        let (mut a, mut b) = (value(found.a), value(found.b));
        if a == b && found.certain && !found.is_secret() {
            // The same text of another type.
            let kind = |entry: Option<&Entry>| entry.map_or_else(String::new, |entry| format!(" ({})", entry.kind));
            a += &kind(found.a);
            b += &kind(found.b);
        }
        [found.key().to_owned(), a, b, self.origins(found)]
    }

    /// Where the difference comes from. What the running manager once read need not stand there any more, so the files'
    /// origin counts beside it; a value that nobody set says less than one that somebody did.
    fn origins(&self, found: &Difference<'_>) -> String {
        let is_running = |side: &Resolved| matches!(side.name, Name::Running { .. });
        let is_news = |entry: &&Entry| entry.origin != Origin::Builtin;
        let (a, b) = (found.a, found.b);
        let (a_set, b_set) = (a.filter(is_news), b.filter(is_news));
        match (a_set, b_set) {
            (Some(_), Some(b)) if is_running(self.a) => b.origin.to_string(),
            (Some(a), Some(_)) if is_running(self.b) => a.origin.to_string(),
            (Some(a), Some(b)) if a.origin.to_string() == b.origin.to_string() => a.origin.to_string(),
            (Some(a), Some(b)) => format!("{} -> {}", a.origin, b.origin),
            (Some(a), None) if is_running(self.a) => format!("no longer {}", a.origin),
            (None, Some(b)) if is_running(self.b) => format!("no longer {}", b.origin),
            (Some(one), None) | (None, Some(one)) => one.origin.to_string(),
            (None, None) => b.or(a).map_or_else(String::new, |entry| entry.origin.to_string()),
        }
    }

    fn remark(&self, found: &Difference<'_>) -> String {
        if !found.certain {
            return "cannot be compared (masked)".to_owned();
        }
        let effect = match self.effect(found) {
            Reload::Live => "applies on HUP, at once",
            Reload::Generation => "applies on HUP, with new workers",
            Reload::Restart => "needs a restart",
        };
        let secret = if found.is_secret() { " (secret, changed)" } else { "" };
        format!("{effect}{secret}")
    }

    fn last_line(&self) -> String {
        let count = match self.count() {
            0 => "no differences".to_owned(),
            1 => "1 difference".to_owned(),
            count => format!("{count} differences"),
        };
        match self.differences.len() - self.count() {
            0 => count,
            1 => format!("{count}, 1 value cannot be compared"),
            masked => format!("{count}, {masked} values cannot be compared"),
        }
    }

    /// What else there is to say: problems of the files, and what the manager is about.
    fn notes(&self, format: Format, screen: Screen) -> String {
        let mut notes: Vec<String> = Vec::new();
        let files = [self.a, self.b].into_iter().filter_map(|side| side.files.as_ref());
        for problem in files.flat_map(|files| &files.problems) {
            let note = report::render(problem, screen.stderr.coloured) + "\n\n";
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        if self.is_partial {
            notes.push("propane: a saved side holds a selection; only its keys are compared\n".to_owned());
        }
        if format == Format::Text {
            notes.extend(self.manager.and_then(last_reload));
            notes.extend(self.refusal().map(|reason| format!("propane: a HUP would be refused: {reason}\n")));
        }
        notes.concat()
    }

    fn json(&self) -> String {
        let side = |entry: Option<&'r Entry>| {
            entry.map(|entry| JsonEntry { value: entry.shown.as_ref(), origin: &entry.origin })
        };
        let differences = self.differences.iter().map(|found| JsonDifference {
            key: found.key(),
            a: side(found.a),
            b: side(found.b),
            secret: found.is_secret(),
            comparable: found.certain,
            reload: self.effect(found),
        });
        to_json(&Report {
            format: "propane-diff/1",
            a: &self.a.name,
            b: &self.b.name,
            differences: differences.collect(),
            count: self.count(),
            incomparable: self.differences.len() - self.count(),
            partial: self.is_partial,
            refused: self.refusal(),
        })
    }
}

/// Values longer than this do not push everything else to the right.
const WIDEST: usize = 44;

#[derive(Serialize)]
struct Report<'r> {
    format: &'static str,
    a: &'r Name,
    b: &'r Name,
    differences: Vec<JsonDifference<'r>>,
    count: usize,
    incomparable: usize,
    partial: bool,
    refused: Option<String>,
}

#[derive(Serialize)]
struct JsonDifference<'r> {
    key: &'r str,
    a: Option<JsonEntry<'r>>,
    b: Option<JsonEntry<'r>>,
    secret: bool,
    comparable: bool,
    reload: Reload,
}

#[derive(Serialize)]
struct JsonEntry<'r> {
    value: Option<&'r Value>,
    origin: &'r Origin,
}

impl Name {
    fn label(&self) -> String {
        match self {
            Self::Files { environment } => environment.clone(),
            Self::Disk { .. } => "on disk".to_owned(),
            Self::Defaults => "defaults".to_owned(),
            Self::Running { generation, .. } => format!("running (generation {generation})"),
            Self::Saved { path, .. } => path.clone(),
        }
    }
}

/// A reload whose configuration is not what runs, or not everywhere.
fn last_reload(manager: &RunningManager) -> Option<String> {
    let runs = manager.configuration.generation;
    Some(match manager.last_reload.as_ref()? {
        LastReload::Underway { generation } => {
            format!(
                "propane: a reload to generation {generation} is under way; until it is done, generation {runs} counts\n"
            )
        }
        LastReload::Failed { generation, reason, replaced: 0, .. } => {
            format!("propane: the reload to generation {generation} failed ({reason}); generation {runs} runs on\n")
        }
        LastReload::Failed { generation, reason, replaced, of } => format!(
            "propane: the reload to generation {generation} failed ({reason}) after {replaced} of {of} workers; the others \
             run what was before it\n"
        ),
    })
}
