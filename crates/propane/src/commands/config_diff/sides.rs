//! The sides of a comparison, with their values.

use std::io::Read;
use std::path::Path;

use propane_config::saved::{self, Saved, SavedError};
use propane_config::{
    Code, Entry, Flag, Inputs, OnDisk, Problem, Resolution, Value, load, load_defaults, report, row_of,
};
use propane_supervisor::{LastReload, RunningManager};
use serde::Serialize;

use super::{ENVIRONMENT, STDIN, Side, USAGE};
use crate::exit;
use crate::output::Answer;

/// Flags that say which manager is meant, and nothing about what it is compared with.
const LOCATORS: [&str; 2] = ["app-root", "pid-file"];

/// What sides are made from.
pub(super) struct Around<'i> {
    /// What files are resolved from: this process's inputs or the manager's, without an environment.
    inputs: Inputs,
    /// The environments that were named, in order.
    environments: Vec<&'i Flag>,
    /// The environment of the manager.
    managers_environment: Option<Flag>,
    manager: Option<&'i RunningManager>,
}

/// A side with its values.
pub(super) struct Resolved {
    pub(super) entries: Vec<Entry>,
    pub(super) name: Name,
    /// What was resolved from files, for its problems.
    pub(super) files: Option<Resolution>,
    /// The files as the manager reads them.
    pub(super) on_disk: Option<OnDisk>,
}

/// What a side is called.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Name {
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

impl Name {
    pub(super) fn label(&self) -> String {
        match self {
            Self::Files { environment } => environment.clone(),
            Self::Disk { .. } => "on disk".to_owned(),
            Self::Defaults => "defaults".to_owned(),
            Self::Running { generation, .. } => format!("running (generation {generation})"),
            Self::Saved { path, .. } => path.clone(),
        }
    }
}

impl<'i> Around<'i> {
    pub(super) fn new(inputs: &'i Inputs, manager: Option<&'i RunningManager>) -> Self {
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

    pub(super) fn resolve(&self, side: &Side) -> Result<Resolved, Answer> {
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
    pub(super) fn files_beside(&self, side: &Side, resolved: &Resolved) -> Result<Resolved, Answer> {
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
