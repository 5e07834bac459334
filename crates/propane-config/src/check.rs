//! What is wrong only when several values are looked at together, or when files are missing.

use crate::layer::Leaf;
use crate::names::{self, Variable};
use crate::options::{self, Options, is_environment_name};
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem};
use crate::settings::SETTINGS;
use crate::stack::Stack;
use crate::value::Value;
use crate::worker::{Strategy, WorkerChoice};
use crate::world::{FileRead, Framework, World};

/// The file that makes a directory an app.
pub(crate) const APP_FILE: &str = "config/app.plist";

/// Variables whose names are probably misspelt, or that Kubernetes made up.
pub(crate) fn variables(inputs: &crate::Inputs) -> Vec<Problem> {
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
    let abbreviates = |other: &&String| name.len() >= SHORTEST && other.starts_with(name);
    let near = names::nearest(name, environments.iter().map(String::as_str));
    near.or_else(|| environments.iter().find(abbreviates).map(String::as_str))
}

/// Settings that contradict each other.
pub(crate) struct Settings<'s, 'l> {
    pub(crate) stack: &'s Stack<'l>,
    pub(crate) choice: &'s WorkerChoice,
    pub(crate) strategy: Strategy,
    /// The place of a value, with its source line.
    pub(crate) place: &'s dyn Fn(&Leaf) -> Place,
}

impl Settings<'_, '_> {
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let found = [self.jobs(), self.reuse_port(), self.headers(), self.descriptor(), self.node_id()];
        found.into_iter().flatten().chain(self.descriptor_thresholds()).collect()
    }

    fn jobs(&self) -> Option<Problem> {
        let (count, command) = ("propaneAccessories.jobWorkerCount", "propaneAccessories.jobWorkerCommand");
        match (self.stack.int(count), self.stack.text(command).trim().is_empty()) {
            (1.., true) => {
                let message = "--job-worker-count requires --job-worker-cmd (or propane accessories jobWorkerCommand)";
                Some(self.about(Problem::error(Code::JobsWithoutCommand, message).also(command), count))
            }
            (0, false) => {
                let message = format!("{command} is never run, because {count} is 0");
                Some(self.about(Problem::warning(Code::CommandWithoutJobs, message).also(count), command))
            }
            _ => None,
        }
    }

    fn reuse_port(&self) -> Option<Problem> {
        const COUNT: &str = "propaneAccessories.workerCount";
        let asked = self.stack.winner("enableReusePort")?;
        if asked.value != Value::Bool(false) || !asked.origin.is_explicit() {
            return None;
        }
        let workers = self.stack.int(COUNT);
        if workers > 1 {
            let message = format!("enableReusePort = NO is overruled, because {workers} workers share the port");
            return Some(
                self.about(Problem::warning(Code::ReusePortOverruled, message).also(COUNT), "enableReusePort"),
            );
        }
        let message = "enableReusePort = NO: a reload has to stop the old worker before it starts the new one";
        let problem = self.about(Problem::warning(Code::ReloadGap, message), "enableReusePort");
        self.strategy.binds_by_itself().then(|| problem.suggest("leave it out, or use socketStrategy = inherit"))
    }

    fn headers(&self) -> Option<Problem> {
        let is_on = |key| self.stack.winner(key).is_some_and(|leaf| leaf.value == Value::Bool(true));
        let is_pointless = is_on("cluster.emitHeaders") && !is_on("cluster.enabled");
        let problem =
            Problem::warning(Code::HeadersWithoutCluster, "cluster.emitHeaders has no effect without a cluster")
                .also("cluster.enabled");
        is_pointless.then(|| self.about(problem, "cluster.emitHeaders").suggest("set cluster.enabled = YES"))
    }

    /// A command that asks for a descriptor under a strategy that has none.
    fn descriptor(&self) -> Option<Problem> {
        let is_command = matches!(self.choice, WorkerChoice::Command { .. });
        let contradicts = is_command && self.choice.takes_descriptor() && self.strategy.binds_by_itself();
        let message =
            format!("workerCommand uses {{fd}}, but with socketStrategy = {} there is none", self.strategy.as_str());
        let problem = Problem::error(Code::Strategy, message).expected("auto, inherit or shared");
        let problem = problem.also("propaneAccessories.workerCommand");
        contradicts.then(|| self.about(problem, "propaneAccessories.socketStrategy"))
    }

    /// An id that is set, but only to spaces, is not one.
    fn node_id(&self) -> Option<Problem> {
        let id = self.stack.text("cluster.nodeID");
        let problem = Problem::warning(Code::EmptyValue, "cluster.nodeID is blank; the host name is used");
        (!id.is_empty() && id.trim().is_empty()).then(|| self.about(problem, "cluster.nodeID"))
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
        wrong.map(|(low, consequence)| self.disorder(WARN, low, consequence)).collect()
    }

    fn disorder(&self, high: &str, low: &'static str, consequence: &str) -> Problem {
        let (more, less) = (self.stack.int(high), self.stack.int(low));
        let message = format!("{high} = {more} is above {low} = {less}: {consequence}");
        self.about(Problem::warning(Code::DescriptorThresholds, message).also(low), high)
    }

    /// The problem with its key and the place of that key's value.
    fn about(&self, problem: Problem, key: &str) -> Problem {
        let explicit = self.stack.winner(key).filter(|leaf| leaf.origin.is_explicit());
        let problem = problem.key(key);
        match explicit {
            Some(leaf) => problem.at((self.place)(leaf)),
            None => problem,
        }
    }
}
