//! What is wrong only when several values are looked at together, or when files are missing.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use crate::choices::SocketStrategy;
use crate::document::{Content, Entry};
use crate::inputs::Inputs;
use crate::layer::Leaf;
use crate::names::{self, Variable};
use crate::options::{self, Options, is_environment_name};
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem};
use crate::settings::SETTINGS;
use crate::stack::Stack;
use crate::tree;
use crate::value::{Value, read_bool};
use crate::worker::{Strategy, WorkerChoice, unix_path};
use crate::world::{APP_FILE, FileRead, Framework, World};

/// Variables whose names are probably misspelt, or that Kubernetes made up.
pub(crate) fn variables(inputs: &Inputs) -> Vec<Problem> {
    let set = inputs.env.iter().filter(|(_, value)| !value.is_empty());
    let named = set.filter_map(|(name, value)| Some((name.to_str()?, value.to_string_lossy())));
    named.filter_map(|(name, value)| unknown_variable(name, names::judge_variable(name, &value))).collect()
}

fn unknown_variable(name: &str, judged: Variable) -> Option<Problem> {
    let (code, message, suggestion) = match judged {
        Variable::Fine => return None,
        Variable::Meant(meant) => (Code::UnknownVariable, "changes nothing", Some(names::did_you_mean(meant))),
        Variable::Unknown => (Code::UnknownVariable, "changes nothing: propane reads no such variable", None),
        Variable::ServiceLink => (
            Code::ServiceLink,
            "was made up by Kubernetes for a service",
            Some("set enableServiceLinks: false in the pod, or rename the service".to_owned()),
        ),
    };
    let problem = Problem::warning(code, format!("{name} {message}"));
    let problem = problem.at_origin(Origin::Env { variable: name.to_owned() });
    let meant = SETTINGS.iter().find(|row| matches!(judged, Variable::Meant(meant) if row.variable == Some(meant)));
    let problem = match meant {
        Some(row) => problem.also(row.key),
        None => problem,
    };
    Some(match suggestion {
        Some(suggestion) => problem.suggest(suggestion),
        None => problem,
    })
}

/// Roots and files that are not there.
pub(crate) fn files(options: &Options, world: &World, choice: &WorkerChoice) -> Vec<Problem> {
    let found = [
        app_root(options, world),
        framework(options, world),
        app_file(options, world, choice),
        environment(options, world),
    ];
    found.into_iter().flatten().collect()
}

fn app_root(options: &Options, world: &World) -> Option<Problem> {
    let error = world.app_root.as_ref().err()?;
    let message = format!("cannot read the app root {}: {error}", options.app_root.path.display());
    Some(Problem::error(Code::AppRoot, message).key("appRoot").at_origin(options.app_root.origin.clone()))
}

fn framework(options: &Options, world: &World) -> Option<Problem> {
    let Framework::Invalid(root) = &world.framework else { return None };
    let origin = options.framework_root.as_ref().map_or(Origin::Builtin, |root| root.origin.clone());
    Some(
        Problem::error(Code::FrameworkRoot, format!("invalid framework root: {}", root.display()))
            .key("frameworkRoot")
            .at_origin(origin)
            .expected("an Arlen checkout (GNUmakefile, src/Arlen) or release (build/arlen, bin/propane)"),
    )
}

/// Without its file a directory is an app only if something else says what to run.
fn app_file(options: &Options, world: &World, choice: &WorkerChoice) -> Option<Problem> {
    if world.app_root.is_err() || world.app_file != FileRead::Missing {
        return None;
    }
    let message = format!("there is no {APP_FILE} in {}", options.app_root.path.display());
    Some(match choice {
        WorkerChoice::Embedded => Problem::error(Code::MissingApp, message)
            .suggest("run propane from an app root, or name it with --app-root DIR or ARLEN_APP_ROOT"),
        _ => Problem::warning(Code::MissingApp, message).suggest("all settings have their defaults"),
    })
}

/// An environment without a file is legal, but its name may be misspelt. That the default environment has none in an app
/// that has no environments is no news.
fn environment(options: &Options, world: &World) -> Option<Problem> {
    let name = &options.environment.value;
    if world.app_root.is_err() || world.environment_file.exists() || !is_environment_name(name) {
        return None;
    }
    let path = options.environment_file()?;
    let origin = &options.environment.origin;
    let at = |problem: Problem| {
        let problem = problem.key("environment");
        if origin.is_explicit() { problem.at_origin(origin.clone()) } else { problem }
    };
    if let Some(meant) = environment_meant(name, &world.environments) {
        let message = format!("there is no environment {name:?}: {path} does not exist");
        return Some(at(Problem::error(Code::UnknownEnvironment, message)).suggest(names::did_you_mean(meant)));
    }
    let is_default = Some(Value::Text(name.clone())) == options::option("environment").default_value();
    let is_news = !is_default || !world.environments.is_empty();
    is_news.then(|| at(Problem::warning(Code::MissingEnvironment, format!("{path} does not exist"))))
}

/// A name that is nearly the one given, or that it abbreviates.
fn environment_meant<'w>(name: &str, environments: &'w [String]) -> Option<&'w str> {
    const SHORTEST: usize = 3;
    let lower = name.to_lowercase();
    let abbreviates = |other: &&String| name.len() >= SHORTEST && other.to_lowercase().starts_with(&lower);
    let near = names::nearest(name, environments.iter().map(String::as_str));
    near.or_else(|| environments.iter().find(abbreviates).map(String::as_str))
}

/// Settings that contradict each other.
pub(crate) struct Settings<'s, 'l> {
    pub(crate) stack: &'s Stack<'l>,
    pub(crate) choice: &'s WorkerChoice,
    pub(crate) strategy: Strategy,
    pub(crate) environment: &'s str,
    pub(crate) inputs: &'s Inputs,
    /// The files, lowest first.
    pub(crate) trees: &'s [tree::File<'s>],
    /// Settings that some layer has an invalid value for. What they contradict shows once they are mended.
    pub(crate) rejected: BTreeSet<&'static str>,
    /// The place of a value, with its source line.
    pub(crate) place: &'s dyn Fn(&Leaf) -> Place,
}

/// A setting that a contradiction is about, and what is to be written under its value.
type Party = (&'static str, &'static str);

impl Settings<'_, '_> {
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let found = [
            self.jobs(),
            self.reuse_port(),
            self.headers(),
            self.descriptor(),
            self.node_id(),
            self.respawn_delays(),
            self.shared_state(),
        ];
        let found = found.into_iter().flatten();
        let found = found.chain(self.unix_socket()).chain(self.descriptor_thresholds());
        found.chain(["cluster.name", "cluster.nodeID"].into_iter().filter_map(|key| self.header_text(key))).collect()
    }

    /// What a UNIX socket, which has one listener and no port, does not go with.
    fn unix_socket(&self) -> Vec<Problem> {
        const STRATEGY: &str = "propaneAccessories.socketStrategy";
        let Some(path) = unix_path(self.stack.text("host")) else { return Vec::new() };
        let is_set = |key| self.stack.winner(key).is_some_and(|leaf| leaf.origin.is_explicit());
        let host = &[("host", "a UNIX socket")];
        let mut problems = Vec::new();
        if path.is_empty() {
            let problem = Problem::error(Code::UnixSocket, "host = unix: names no file").expected("unix:/path");
            problems.extend(self.between(problem, ("host", ""), &[]));
        }
        if self.strategy.binds_by_itself() {
            let message = format!(
                "workers cannot bind a UNIX socket each, which socketStrategy = {} means",
                self.strategy.as_str()
            );
            let problem = Problem::error(Code::UnixSocket, message).expected("auto or shared");
            problems.extend(self.between(problem, (STRATEGY, ""), host));
        } else if !self.choice.may_take_descriptor() {
            let message = "an Arlen server cannot serve a UNIX socket";
            let problem = Problem::error(Code::UnixSocket, message).expected("an IP address or a host name");
            problems.extend(self.between(problem, ("host", ""), &[]));
        } else if self.stack.text(STRATEGY) == SocketStrategy::Inherit.as_str() {
            let message = "a UNIX socket has one listener: socketStrategy = shared is used instead of inherit";
            problems.extend(self.between(Problem::warning(Code::UnixSocket, message), (STRATEGY, ""), host));
        }
        if is_set("port") {
            let message = format!("port = {} means nothing, because host is a UNIX socket", self.stack.int("port"));
            problems.extend(self.between(Problem::warning(Code::UnixSocket, message), ("port", ""), host));
        }
        problems
    }

    fn jobs(&self) -> Option<Problem> {
        let (count, command) = ("propaneAccessories.jobWorkerCount", "propaneAccessories.jobWorkerCommand");
        match (self.stack.int(count), self.stack.text(command).trim().is_empty()) {
            (1.., true) => {
                let message = "--job-worker-count requires --job-worker-cmd (or propane accessories jobWorkerCommand)";
                let problem = Problem::error(Code::JobsWithoutCommand, message);
                self.between(problem, (count, ""), &[(command, "this is no command")])
            }
            (0, false) => {
                let message = format!("{command} is never run, because {count} is 0");
                let problem = Problem::warning(Code::CommandWithoutJobs, message);
                self.between(problem, (command, ""), &[(count, "no job workers")])
            }
            _ => None,
        }
    }

    fn reuse_port(&self) -> Option<Problem> {
        const KEY: &str = "enableReusePort";
        const WORKERS: &str = "propaneAccessories.workerCount";
        let asked = self.stack.winner(KEY)?;
        if asked.value != Value::Bool(false) || !asked.origin.is_explicit() {
            return None;
        }
        let workers = self.stack.int(WORKERS);
        if workers > 1 {
            let message = format!("enableReusePort = NO is overruled, because {workers} workers share the port");
            let problem = Problem::warning(Code::ReusePortOverruled, message);
            return self.between(problem, (KEY, ""), &[(WORKERS, "more than one")]);
        }
        let message = "enableReusePort = NO: a reload has to stop the old worker before it starts the new one";
        let problem = Problem::warning(Code::ReloadGap, message);
        let problem = problem.suggest("leave it out, or use socketStrategy = inherit");
        let strategy = ("propaneAccessories.socketStrategy", "workers bind by themselves");
        if self.strategy.binds_by_itself() { self.between(problem, (KEY, ""), &[strategy]) } else { None }
    }

    fn headers(&self) -> Option<Problem> {
        let is_on = |key| self.stack.winner(key).is_some_and(|leaf| leaf.value == Value::Bool(true));
        if !is_on("cluster.emitHeaders") || is_on("cluster.enabled") {
            return None;
        }
        let message = "cluster.emitHeaders has no effect without a cluster";
        let problem = Problem::warning(Code::HeadersWithoutCluster, message).suggest("set cluster.enabled = YES");
        self.between(problem, ("cluster.emitHeaders", ""), &[("cluster.enabled", "no cluster")])
    }

    /// Text that stands in headers, which a line break would end. Workers of this program do not start with it.
    fn header_text(&self, key: &'static str) -> Option<Problem> {
        if !self.stack.text(key).contains(char::is_control) {
            return None;
        }
        let message = format!("{key} holds a line break or another control character, which no header can");
        let is_embedded = matches!(self.choice, WorkerChoice::Embedded);
        let problem = if is_embedded { Problem::error } else { Problem::warning }(Code::HeaderText, message);
        self.between(problem, (key, ""), &[])
    }

    /// A command that asks for a descriptor under a strategy that has none.
    fn descriptor(&self) -> Option<Problem> {
        let is_command = matches!(self.choice, WorkerChoice::Command { .. });
        if !is_command || !self.choice.takes_descriptor() || !self.strategy.binds_by_itself() {
            return None;
        }
        let message =
            format!("workerCommand uses {{fd}}, but with socketStrategy = {} there is none", self.strategy.as_str());
        let problem = Problem::error(Code::Strategy, message).expected("auto, inherit or shared");
        let command = ("propaneAccessories.workerCommand", "asks for {fd}");
        self.between(problem, ("propaneAccessories.socketStrategy", ""), &[command])
    }

    /// An id that is set, but only to spaces, is not one.
    fn node_id(&self) -> Option<Problem> {
        let id = self.stack.text("cluster.nodeID");
        if id.is_empty() || !id.trim().is_empty() {
            return None;
        }
        let problem = Problem::warning(Code::EmptyValue, "cluster.nodeID is blank; the host name is used");
        self.between(problem, ("cluster.nodeID", ""), &[])
    }

    /// A limit below what it limits. 0 says plainly that there is no growth.
    fn respawn_delays(&self) -> Option<Problem> {
        let (delay, most) = ("propaneAccessories.respawnDelayMs", "propaneAccessories.respawnDelayMaxMs");
        let (first, limit) = (self.stack.int(delay), self.stack.int(most));
        if limit == 0 || limit >= first {
            return None;
        }
        let message = format!("{most} = {limit} is below {delay} = {first}: the delay never grows");
        let problem = Problem::warning(Code::RespawnDelays, message);
        self.between(problem, (most, ""), &[(delay, "already longer")])
    }

    /// Arlen's own advice: its workers keep their state in memory, each for itself, unless there is a place for it.
    fn shared_state(&self) -> Option<Problem> {
        const WORKERS: &str = "propaneAccessories.workerCount";
        let is_arlens = matches!(self.choice, WorkerChoice::ArlenApp { .. } | WorkerChoice::FrameworkServer { .. });
        let is_durable = |text: &str| read_bool(text) == Some(true);
        let variable = |name| self.inputs.variable(name);
        let has_place = self.app_text("database", "connectionString").is_some_and(|text| !text.trim().is_empty())
            || self.app_text("state", "durable").is_some_and(is_durable)
            || ["ARLEN_DATABASE_URL", "MOJOOBJC_DATABASE_URL"].into_iter().any(|name| variable(name).is_some())
            || variable("ARLEN_STATE_DURABLE").and_then(OsStr::to_str).is_some_and(is_durable);
        if !is_arlens
            || self.trees.is_empty()
            || has_place
            || self.environment != "production"
            || self.stack.int(WORKERS) <= 1
        {
            return None;
        }
        let message = format!("{} workers share no state: there is no database", self.stack.int(WORKERS));
        let problem = Problem::warning(Code::SharedState, message);
        let problem =
            problem.suggest("set database.connectionString, or state.durable = YES if there is another store");
        self.between(problem, (WORKERS, ""), &[])
    }

    /// The text of an app's key, from the highest file that has it.
    fn app_text(&self, group: &str, name: &str) -> Option<&str> {
        let find = |entries: &'_ [Entry<'_>], key: &str| entries.iter().position(|entry| entry.key == key);
        self.trees.iter().rev().find_map(|(entries, _)| {
            let Content::Dict(inner) = &entries[find(entries, group)?].value.content else { return None };
            match &inner[find(inner, name)?].value.content {
                Content::Text(text) => Some(&**text),
                Content::Typed(value) => value.as_boolean().map(|on| if on { "YES" } else { "NO" }),
                _ => None,
            }
        })
    }

    fn descriptor_thresholds(&self) -> Vec<Problem> {
        const WARN: &str = "propaneAccessories.workerFDWarnPercent";
        const CRITICAL: &str = "propaneAccessories.workerFDCriticalPercent";
        const RETIRE: &str = "propaneAccessories.workerFDRetirePercent";
        let is_below_warning = |key| (1..self.stack.int(WARN)).contains(&self.stack.int(key));
        let pairs = [
            (CRITICAL, "the warning never comes before it is critical"),
            (RETIRE, "workers are replaced before there is a warning"),
        ];
        let wrong = pairs.into_iter().filter(|(low, _)| is_below_warning(low));
        wrong.filter_map(|(low, consequence)| self.disorder(WARN, low, consequence)).collect()
    }

    fn disorder(&self, high: &'static str, low: &'static str, consequence: &str) -> Option<Problem> {
        let (more, less) = (self.stack.int(high), self.stack.int(low));
        let message = format!("{high} = {more} is above {low} = {less}: {consequence}");
        self.between(Problem::warning(Code::DescriptorThresholds, message), (high, ""), &[(low, "lower")])
    }

    /// The problem at the value of the setting it is about, with the values of the others. Nothing if one of them is
    /// invalid somewhere, which is told on its own. A value that nobody set has no place; where that is the one it is
    /// about, the first other one that was set is where to look.
    fn between(&self, problem: Problem, about: Party, others: &[Party]) -> Option<Problem> {
        let parties = || std::iter::once(&about).chain(others);
        if parties().any(|(key, _)| self.rejected.contains(key)) {
            return None;
        }
        let explicit = |key: &str| self.stack.winner(key).filter(|leaf| leaf.origin.is_explicit());
        let mut places = parties().filter_map(|(key, label)| Some((self.place)(explicit(key)?).label(*label)));
        let problem = others.iter().fold(problem.key(about.0), |problem, (key, _)| problem.also(key));
        let Some(first) = places.next() else { return Some(problem) };
        Some(places.fold(problem.at(first), Problem::related))
    }
}
