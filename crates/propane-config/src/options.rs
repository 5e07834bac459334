//! What is no key of a property list: the environment's name, the paths and the ways to run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::inputs::Inputs;
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem};
use crate::settings::{OPTIONS, Setting};
use crate::value::{Value, read_bool};
use crate::world::ENVIRONMENTS;

/// The options as they were given, before anything was looked at.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) environment: Given<String>,
    pub(crate) app_root: GivenPath,
    pub(crate) framework_root: Option<GivenPath>,
    pub(crate) pid_file: GivenPath,
    pub(crate) lifecycle_log: Option<GivenPath>,
    pub(crate) once: Given<bool>,
    pub(crate) no_respawn: Given<bool>,
    pub(crate) print_routes: Given<bool>,
    pub(crate) problems: Vec<Problem>,
}

#[derive(Debug, Clone)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) origin: Origin,
}

#[derive(Debug, Clone)]
pub(crate) struct GivenPath {
    /// Absolute, but with its symlinks.
    pub(crate) path: PathBuf,
    pub(crate) origin: Origin,
}

/// How to run, once everything is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// Name of the environment.
    pub environment: String,
    /// The app root as it was given, made absolute: what people read, and what pid files and logs are relative to.
    pub app_root: PathBuf,
    /// The app root without symlinks: where this generation's workers run. The same as `app_root` if it cannot be read.
    pub physical_app_root: PathBuf,
    /// The Arlen framework, if there is one.
    pub framework_root: Option<PathBuf>,
    /// The pid file.
    pub pid_file: PathBuf,
    /// The lifecycle log.
    pub lifecycle_log: Option<PathBuf>,
    /// End with the first worker that exits. Implies `no_respawn`.
    pub once: bool,
    /// Do not replace workers that exit.
    pub no_respawn: bool,
    /// Have one worker print its routes. Implies `once`.
    pub print_routes: bool,
    /// Words for the workers' own command lines.
    pub worker_args: Vec<OsString>,
}

impl Options {
    pub(crate) fn of(inputs: &Inputs) -> Self {
        let mut problems = Vec::new();
        let cwd = || GivenPath { path: inputs.cwd.clone(), origin: current_directory() };
        let app_root = given_path("appRoot", inputs, &inputs.cwd, &mut problems).unwrap_or_else(cwd);
        let default_pid_file = app_root.path.join(default_text("pidFile"));
        Self {
            environment: environment(inputs, &mut problems),
            framework_root: given_path("frameworkRoot", inputs, &inputs.cwd, &mut problems),
            pid_file: given_path("pidFile", inputs, &app_root.path, &mut problems)
                .unwrap_or(GivenPath { path: default_pid_file, origin: Origin::Builtin }),
            lifecycle_log: given_path("lifecycleLog", inputs, &app_root.path, &mut problems),
            once: switch("once", inputs, &mut problems),
            no_respawn: switch("noRespawn", inputs, &mut problems),
            print_routes: switch("printRoutes", inputs, &mut problems),
            app_root,
            problems,
        }
    }

    /// The environment's file, relative to the app root; `None` if its name cannot be part of a path.
    pub(crate) fn environment_file(&self) -> Option<String> {
        let name = &self.environment.value;
        is_environment_name(name).then(|| format!("{ENVIRONMENTS}/{name}.plist"))
    }

    pub(crate) fn run_options(&self, inputs: &Inputs, physical: Option<&Path>, framework: Option<&Path>) -> RunOptions {
        let print_routes = self.print_routes.value;
        let once = self.once.value || print_routes;
        RunOptions {
            environment: self.environment.value.clone(),
            app_root: self.app_root.path.clone(),
            physical_app_root: physical.unwrap_or(&self.app_root.path).to_owned(),
            framework_root: framework.map(ToOwned::to_owned),
            pid_file: self.pid_file.path.clone(),
            lifecycle_log: self.lifecycle_log.as_ref().map(|log| log.path.clone()),
            once,
            no_respawn: self.no_respawn.value || once,
            print_routes,
            worker_args: inputs.args.worker_args.clone(),
        }
    }
}

/// Letters, digits, `_` and `-`: what can be a file's name and nothing else.
pub(crate) fn is_environment_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

pub(crate) fn current_directory() -> Origin {
    Origin::Derived { rule: "the current directory".to_owned(), inputs: Vec::new() }
}

/// The row of an option.
pub(crate) fn option(key: &str) -> &'static Setting {
    // Every caller names a row of the table, which a test asserts.
    OPTIONS.iter().find(|option| option.key == key).unwrap_or(&OPTIONS[0])
}

fn default_text(key: &str) -> String {
    match option(key).default_value() {
        Some(Value::Text(text)) => text,
        _ => String::new(),
    }
}

/// The text of an option from its flag, else from its variable.
fn given<'a>(key: &str, inputs: &'a Inputs) -> Option<(&'a OsStr, Origin)> {
    let row = option(key);
    let flag = row.flag.and_then(|name| inputs.args.flag(name));
    let from_flag = flag.map(|flag| (flag.value.as_os_str(), Origin::arg(&flag.name, flag.index)));
    from_flag.or_else(|| {
        let variable = row.variable?;
        Some((inputs.variable(variable)?, Origin::Env { variable: variable.to_owned() }))
    })
}

fn given_path(key: &str, inputs: &Inputs, base: &Path, problems: &mut Vec<Problem>) -> Option<GivenPath> {
    let (text, origin) = given(key, inputs)?;
    if text.is_empty() {
        let problem = Problem::error(Code::Range, format!("{key} must be {}", option(key).kind.expected())).key(key);
        problems.push(problem.at(Place::of(origin).label("is empty")));
        return None;
    }
    Some(GivenPath { path: base.join(text), origin })
}

fn environment(inputs: &Inputs, problems: &mut Vec<Problem>) -> Given<String> {
    let Some((text, origin)) = given("environment", inputs) else {
        return Given { value: default_text("environment"), origin: Origin::Builtin };
    };
    let value = text.to_string_lossy().into_owned();
    if !is_environment_name(&value) {
        let message = format!("{value:?} cannot be the name of an environment");
        problems.push(
            Problem::error(Code::EnvironmentName, message)
                .key("environment")
                .at_origin(origin.clone())
                .expected("letters, digits, '_' and '-'"),
        );
    }
    Given { value, origin }
}

fn switch(key: &str, inputs: &Inputs, problems: &mut Vec<Problem>) -> Given<bool> {
    let Some((text, origin)) = given(key, inputs) else { return Given { value: false, origin: Origin::Builtin } };
    let value = text.to_str().and_then(read_bool);
    if value.is_none() {
        let expected = option(key).kind.expected();
        let label = format!("found {:?}", text.to_string_lossy());
        let problem = Problem::error(Code::Type, format!("{key} must be {expected}")).key(key).expected(expected);
        problems.push(problem.at(Place::of(origin.clone()).label(label)));
    }
    Given { value: value.unwrap_or(false), origin }
}
