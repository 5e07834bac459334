//! Reading the configuration again at a reload. What can only change with a restart keeps its running value, and is
//! named; what cannot be used changes nothing.

use propane_config::{Change, Inputs, Reload, Resolution, ResolvedConfig, Strategy, changes, worker_exports};
use serde_json::Value;

use crate::journal::Journal;
use crate::plan::{Plan, Sources};
use crate::spawn::Identity;

/// What every later resolution is compared with.
#[derive(Debug)]
pub(crate) struct Loader {
    inputs: Inputs,
    running: ResolvedConfig,
    exports: Vec<(String, String)>,
    /// How workers come by their connections, and what the configuration asked for.
    strategy: Strategy,
    asked_strategy: Strategy,
    identity: Option<Identity>,
}

/// Why a configuration without errors cannot be rolled out.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It has errors, which are told one by one.
    Errors(usize),
    /// Its workers come by their connections in another way.
    Strategy { from: Strategy, to: Strategy },
    /// Its worker has to be compiled first.
    Unprepared,
}

impl Loader {
    /// Starts from the resolution that the manager booted with.
    pub(crate) fn new(inputs: Inputs, resolution: &Resolution, strategy: Strategy, identity: Option<Identity>) -> Self {
        let exports = worker_exports(resolution);
        let (running, asked_strategy) = (resolution.config.clone(), resolution.strategy);
        Self { inputs, running, exports, strategy, asked_strategy, identity }
    }

    /// The plan of the resolution that the manager booted with.
    pub(crate) fn first_plan(&self, resolution: &Resolution) -> Plan {
        self.plan(resolution, &resolution.config, self.exports.clone())
    }

    /// Resolves again, and tells what is wrong. `None` if the running generation has to stay.
    pub(crate) fn load(&mut self, journal: &mut Journal) -> Option<Plan> {
        let resolution = propane_config::load(&self.inputs);
        for problem in &resolution.problems {
            let line = propane_config::report::one_line(problem);
            // It says itself whether it is an error.
            tracing::info!("{line}");
        }
        if let Some(refusal) = self.refusal(&resolution) {
            tracing::error!("reload refused: {}", refusal.text());
            return None;
        }
        let waiting = self.restart_changes(&resolution.config);
        if !waiting.is_empty() {
            tell_of_restart(journal, &waiting);
        }
        let config = keep_running(&self.running, &resolution.config, &waiting);
        let exports = self.keep_exports(worker_exports(&resolution), &waiting);
        let plan = self.plan(&resolution, &config, exports.clone());
        self.running = config;
        self.exports = exports;
        Some(plan)
    }

    fn refusal(&self, resolution: &Resolution) -> Option<Refusal> {
        let errors = resolution.problems.iter().filter(|problem| problem.is_error()).count();
        let asks_the_same =
            resolution.config.propane_accessories.socket_strategy == self.running.propane_accessories.socket_strategy;
        if errors > 0 {
            Some(Refusal::Errors(errors))
        } else if asks_the_same && resolution.strategy != self.asked_strategy {
            Some(Refusal::Strategy { from: self.asked_strategy, to: resolution.strategy })
        } else {
            resolution.worker.choice.prepare_step().map(|_| Refusal::Unprepared)
        }
    }

    fn restart_changes(&self, new: &ResolvedConfig) -> Vec<Change> {
        let changes = changes(&self.running, new);
        changes.into_iter().filter(|change| change.reload == Reload::Restart).collect()
    }

    /// The exports of the new configuration, but for what waits for a restart.
    fn keep_exports(&self, new: Vec<(String, String)>, waiting: &[Change]) -> Vec<(String, String)> {
        let variables = waiting.iter().filter_map(|change| propane_config::setting(change.key)?.variable);
        let waiting: Vec<&str> = variables.collect();
        let (keep, replace) =
            (|name: &String| !waiting.contains(&name.as_str()), |name: &String| waiting.contains(&name.as_str()));
        let old = self.exports.iter().filter(|(name, _)| replace(name)).cloned();
        new.into_iter().filter(|(name, _)| keep(name)).chain(old).collect()
    }

    fn plan(&self, resolution: &Resolution, config: &ResolvedConfig, exports: Vec<(String, String)>) -> Plan {
        Plan::new(&Sources {
            config,
            run: &resolution.run,
            choice: &resolution.worker.choice,
            strategy: self.strategy,
            exports,
            environment: &self.inputs.env,
            identity: self.identity.clone(),
        })
    }
}

impl Refusal {
    fn text(&self) -> String {
        match self {
            Self::Errors(1) => "the configuration has an error".to_owned(),
            Self::Errors(count) => format!("the configuration has {count} errors"),
            Self::Strategy { from, to } => format!(
                "the new worker command needs socketStrategy {} and the manager runs {}; restart it",
                to.as_str(),
                from.as_str()
            ),
            Self::Unprepared => "the app is not compiled; prepare it first, or restart".to_owned(),
        }
    }
}

fn tell_of_restart(journal: &mut Journal, waiting: &[Change]) {
    let keys = waiting.iter().map(|change| change.key).collect::<Vec<_>>().join(",");
    tracing::warn!("changed, but only a restart applies it: {keys}");
    let line = journal.event("manager_reload_needs_restart").field("keys", keys);
    journal.write(line);
}

/// `new` with the running value of every setting that waits for a restart.
fn keep_running(running: &ResolvedConfig, new: &ResolvedConfig, waiting: &[Change]) -> ResolvedConfig {
    let (Ok(running), Ok(mut kept)) = (serde_json::to_value(running), serde_json::to_value(new)) else {
        return new.clone();
    };
    for change in waiting {
        let pointer = format!("/{}", change.key.replace('.', "/"));
        if let (Some(old), Some(place)) = (running.pointer(&pointer), kept.pointer_mut(&pointer)) {
            *place = Value::clone(old);
        }
    }
    serde_json::from_value(kept).unwrap_or_else(|_| new.clone())
}
