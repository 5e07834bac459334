//! Reading the configuration again at a reload. What can only change with a restart keeps its running value, and is
//! named; what cannot be used changes nothing.

use std::path::Path;

use propane_config::{
    Inputs, Reloaded, Resolution, ResolvedConfig, ResolvedSetting, Strategy, Waiting, report, worker_exports,
};
use propane_core::{Generation, Report};

use crate::journal::Journal;
use crate::plan::{Plan, Sources};
use crate::running::RunningFile;
use crate::sockets::Address;
use crate::spawn::Identity;

/// What every later resolution is compared with.
#[derive(Debug)]
pub(crate) struct Loader {
    inputs: Inputs,
    running: Vec<ResolvedSetting>,
    /// How workers come by their connections, and what the configuration asked for.
    strategy: Strategy,
    asked_strategy: Strategy,
    identity: Option<Identity>,
    /// Where the manager listens, where that is not quite what the configuration says.
    address: Option<Address>,
    saved: Option<RunningFile>,
}

impl Loader {
    /// Starts from the resolution that the manager booted with.
    pub(crate) fn new(inputs: Inputs, resolution: &Resolution, strategy: Strategy, identity: Option<Identity>) -> Self {
        let (running, asked_strategy) = (resolution.settings.clone(), resolution.strategy);
        Self { inputs, running, strategy, asked_strategy, identity, address: None, saved: None }
    }

    /// Has workers told of this address, whatever the configuration says.
    pub(crate) fn listens_on(&mut self, address: Address) {
        self.address = Some(address);
    }

    /// Saves what runs from now on, beginning with the resolution that the manager booted with. Without that file the
    /// manager is as good; only nobody can compare what it runs.
    pub(crate) fn save_to(&mut self, path: &Path, resolution: &Resolution) {
        match RunningFile::create(path, &self.inputs, resolution) {
            Ok(file) => self.saved = Some(file),
            Err(error) => tracing::warn!("cannot save the running configuration: {error}"),
        }
    }

    /// Follows a reload to its end, which decides what runs.
    pub(crate) fn hear(&mut self, report: &Report) {
        if let Some(saved) = &mut self.saved {
            saved.hear(report);
        }
    }

    /// The plan of a resolution.
    pub(crate) fn plan(&self, resolution: &Resolution) -> Plan {
        let (mut config, mut exports) = (resolution.config.clone(), worker_exports(resolution));
        if let Some(address) = &self.address {
            tell(address, &mut config, &mut exports);
        }
        Plan::new(&Sources {
            config: &config,
            run: &resolution.run,
            choice: &resolution.worker.choice,
            strategy: self.strategy,
            exports,
            environment: &self.inputs.env,
            identity: self.identity.clone(),
        })
    }

    /// Resolves again for a new generation, and tells what is wrong and what has to wait. `None` if the running one has to
    /// stay.
    pub(crate) fn load(&mut self, generation: Generation, journal: &mut Journal) -> Option<Plan> {
        let reloaded = propane_config::reload(&self.inputs, &self.running);
        for problem in &reloaded.resolution.problems {
            // It says itself whether it is an error.
            tracing::info!("{}", report::render(problem, false));
        }
        if let Some(refusal) = reloaded.refusal(self.asked_strategy) {
            tracing::error!("reload refused: {refusal}");
            return None;
        }
        let Reloaded { resolution, waiting, .. } = reloaded;
        if !waiting.is_empty() {
            tell_of_restart(journal, &waiting);
        }
        if let Some(saved) = &mut self.saved {
            saved.prepare(generation, &self.inputs, &resolution);
        }
        let plan = self.plan(&resolution);
        self.running = resolution.settings;
        Some(plan)
    }
}

/// A UNIX socket has no port: the configured one stays, and means nothing.
fn tell(address: &Address, config: &mut ResolvedConfig, exports: &mut [(String, String)]) {
    config.host = address.host();
    config.port = address.tcp().map_or(config.port, |address| address.port());
    for (name, value) in exports {
        match name.as_str() {
            "ARLEN_HOST" => value.clone_from(&config.host),
            "ARLEN_PORT" => *value = config.port.to_string(),
            _ => {}
        }
    }
}

/// One line for people, one event for programs; both again at every reload, until a restart or until it is put back.
fn tell_of_restart(journal: &mut Journal, waiting: &[Waiting]) {
    let joined =
        |separator: &str, text: fn(&Waiting) -> String| waiting.iter().map(text).collect::<Vec<_>>().join(separator);
    tracing::warn!("changed, but only a restart applies it: {}", joined("; ", Waiting::to_string));
    let keys = joined(",", |waiting| waiting.running.key.clone());
    let line = journal.event("manager_reload_needs_restart").field("keys", keys);
    journal.write(line.field("changes", joined("; ", Waiting::change)));
}

#[cfg(test)]
mod tests {
    use propane_config::{Export, Kind, Reload, SETTINGS, Setting, Shape, Value, load};

    use super::*;

    /// An app root whose settings all count.
    struct App(tempfile::TempDir);

    impl App {
        fn new() -> Self {
            let app = Self(tempfile::tempdir().unwrap());
            std::fs::create_dir_all(app.0.path().join("config/environments")).unwrap();
            let base = "{ propaneAccessories = { workerCount = 1; jobWorkerCount = 1; jobWorkerCommand = true; }; }";
            std::fs::write(app.0.path().join("config/app.plist"), base).unwrap();
            app.set(&[]);
            app
        }

        /// Sets values over those, one a line, each group once.
        fn set(&self, values: &[(&str, &str)]) {
            let line = |(key, value): &(&str, &str)| match key.split_once('.') {
                Some((group, name)) => format!("{group} = {{ {name} = {value}; }};\n"),
                None => format!("{key} = {value};\n"),
            };
            let lines: String = values.iter().map(line).collect();
            std::fs::write(self.0.path().join("config/environments/production.plist"), format!("{{\n{lines}}}\n"))
                .unwrap();
        }

        fn inputs(&self) -> Inputs {
            Inputs { cwd: self.0.path().to_owned(), hostname: Some("node-1".into()), ..Inputs::default() }
        }
    }

    /// A valid value that is not the one in force.
    fn other(row: &Setting, now: Option<&Value>) -> Value {
        match (row.kind, now) {
            (Kind::Int { max, .. }, Some(Value::Int(number))) => {
                Value::Int(if *number < max { number + 1 } else { max - 1 })
            }
            (Kind::Int { min, .. }, _) => Value::Int(min),
            (Kind::Bool, now) => Value::Bool(now != Some(&Value::Bool(true))),
            (Kind::Choice(words), now) => {
                let word = words.iter().map(|word| Value::Text((*word).to_owned())).find(|word| Some(word) != now);
                word.expect("a choice has two words or more")
            }
            (Kind::List, _) => Value::List(vec!["other".into()]),
            (Kind::Text(Shape::Path | Shape::UrlPath), _) => Value::Text("/other".into()),
            (Kind::Text(Shape::Octal), _) => Value::Text("027".into()),
            (Kind::Text(Shape::Any | Shape::NonEmpty), _) => Value::Text("other".into()),
        }
    }

    /// What the table says of a change is what becomes of it: nothing at all before a restart, numbers of the manager's
    /// own, or something that new workers get.
    #[test]
    fn every_setting_changes_when_the_table_says() {
        for row in SETTINGS {
            let app = App::new();
            let booted = load(&app.inputs());
            assert_eq!(booted.problems, []);
            let loader = Loader::new(app.inputs(), &booted, booted.strategy, None);
            let before = loader.plan(&booted);
            let value = other(row, booted.setting(row.key).unwrap().value.as_ref());
            app.set(&[(row.key, &value.to_string())]);
            let Reloaded { resolution, waiting, .. } = propane_config::reload(&loader.inputs, &loader.running);
            let mut after = loader.plan(&resolution);
            match row.reload {
                Reload::Restart => {
                    let keys: Vec<_> = waiting.iter().map(|waiting| waiting.running.key.as_str()).collect();
                    assert_eq!((keys, &after), (vec![row.key], &before));
                    assert_eq!(resolution.setting(row.key), booted.setting(row.key));
                }
                Reload::Live => {
                    assert_ne!(after.policy, before.policy, "{}", row.key);
                    after.policy = before.policy.clone();
                    if row.export != Export::Never {
                        // New workers are told of it as well.
                        after.variables.clone_from(&before.variables);
                    }
                    assert_eq!(after, before, "{} is the manager's own", row.key);
                }
                Reload::Generation => assert_ne!(after, before, "{}", row.key),
            }
            assert_eq!(waiting.is_empty(), row.reload != Reload::Restart, "{}", row.key);
        }
    }

    #[test]
    fn what_waits_for_a_restart_waits_until_it_is_put_back() {
        let app = App::new();
        let booted = load(&app.inputs());
        let mut loader = Loader::new(app.inputs(), &booted, booted.strategy, None);
        let mut reload = |values: &[(&str, &str)]| {
            app.set(values);
            let Reloaded { resolution, waiting, .. } = propane_config::reload(&loader.inputs, &loader.running);
            loader.running = resolution.settings;
            waiting.iter().map(Waiting::to_string).collect::<Vec<_>>()
        };
        let said = ["port stays 3000 (config/environments/production.plist:2:8 says 4000)"];
        assert_eq!(reload(&[("port", "4000")]), said);
        assert_eq!(reload(&[("port", "4000"), ("connectionTimeoutSeconds", "7")]), said);
        assert_eq!(reload(&[]), [""; 0]);
    }

    /// A single worker binds beside its successor only where it binds by itself: by the strategy that runs, and not by
    /// the one that waits.
    #[test]
    fn derived_values_follow_what_is_in_force() {
        let app = App::new();
        let booted = load(&app.inputs());
        app.set(&[("propaneAccessories.socketStrategy", "reuseport")]);
        let found = load(&app.inputs());
        assert!(found.config.enable_reuse_port && !booted.config.enable_reuse_port);
        let reloaded = propane_config::reload(&app.inputs(), &booted.settings);
        assert!(!reloaded.resolution.config.enable_reuse_port);
        assert_eq!(reloaded.resolution.strategy, booted.strategy);
    }
}
