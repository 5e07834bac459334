//! Resolving again for a manager that runs: what only a restart can change keeps the value that it has.

use crate::inputs::Inputs;
use crate::layer::{Layer, LayerKind, Leaf};
use crate::options::Options;
use crate::resolve::{Resolution, ResolvedSetting, resolve};
use crate::settings::{Reload, setting};
use crate::worker::Strategy;
use crate::world::World;

/// What a reload finds.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// What to go on with: the layers as they are now, but for what is [`Reloaded::waiting`], whose running values also
    /// the derived values follow. Its problems are those of the layers.
    pub resolution: Resolution,
    /// What has changed and waits for a restart, in the table's order.
    pub waiting: Vec<Waiting>,
    /// What the layers say, where that is not the same.
    found: Option<Box<Resolution>>,
}

/// Why a configuration cannot be rolled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has errors, which are told one by one.
    Errors(usize),
    /// Its workers come by their connections in another way.
    Strategy {
        /// The way that the manager was started for.
        from: Strategy,
        /// The way that these workers need.
        to: Strategy,
    },
    /// Its worker has to be compiled first.
    Unprepared,
}

impl Reloaded {
    /// What the layers say now.
    pub fn found(&self) -> &Resolution {
        self.found.as_deref().unwrap_or(&self.resolution)
    }

    /// Whether a manager that was started for a strategy has to refuse it.
    pub fn refusal(&self, running: Strategy) -> Option<Refusal> {
        let resolution = &self.resolution;
        let errors = resolution.problems.iter().filter(|problem| problem.is_error()).count();
        if errors > 0 {
            Some(Refusal::Errors(errors))
        } else if resolution.strategy != running {
            Some(Refusal::Strategy { from: running, to: resolution.strategy })
        } else {
            resolution.worker.choice.prepare_step().map(|_| Refusal::Unprepared)
        }
    }
}

/// To follow "refused: ".
impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Errors(1) => out.write_str("the configuration has an error"),
            Self::Errors(count) => write!(out, "the configuration has {count} errors"),
            Self::Strategy { from, to } => write!(
                out,
                "the new worker command needs socketStrategy {} and the manager runs {}; restart it",
                to.as_str(),
                from.as_str()
            ),
            Self::Unprepared => out.write_str("the app is not compiled; prepare it first, or restart"),
        }
    }
}

/// A setting that has another value now, which only a restart applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The value in force.
    pub running: ResolvedSetting,
    /// The value that a restart will take.
    pub found: ResolvedSetting,
}

/// Reads everything that the inputs point at again, once, and resolves it for a manager that runs with `running`.
pub fn reload(inputs: &Inputs, running: &[ResolvedSetting]) -> Reloaded {
    let options = Options::of(inputs);
    let world = World::look(&options, inputs);
    let found = resolve(inputs, &options, &world, None);
    let waiting = waiting(running, &found.settings);
    if waiting.is_empty() {
        return Reloaded { resolution: found, waiting, found: None };
    }
    let mut resolution = resolve(inputs, &options, &world, Some(kept(&waiting)));
    for setting in &mut resolution.settings {
        if let Some(waiting) = waiting.iter().find(|waiting| waiting.running.key == setting.key) {
            *setting = waiting.running.clone();
        }
    }
    let resolution = Resolution { problems: found.problems.clone(), layers: found.layers.clone(), ..resolution };
    Reloaded { resolution, waiting, found: Some(Box::new(found)) }
}

fn waiting(running: &[ResolvedSetting], found: &[ResolvedSetting]) -> Vec<Waiting> {
    let needs_restart = |old: &&ResolvedSetting| old.reload == Reload::Restart && setting(&old.key).is_some();
    let now = |old: &ResolvedSetting| found.iter().find(|new| new.key == old.key && new.value != old.value);
    let changed = running.iter().filter(needs_restart).filter_map(|old| Some((old, now(old)?)));
    changed.map(|(old, new)| Waiting { running: old.clone(), found: new.clone() }).collect()
}

fn kept(waiting: &[Waiting]) -> Layer {
    let mut layer = Layer::new(LayerKind::Kept);
    layer.leaves.extend(waiting.iter().filter_map(|Waiting { running, .. }| {
        let value = running.value.clone()?;
        Some((setting(&running.key)?.key, Leaf { value, origin: running.origin.clone(), span: None }))
    }));
    layer
}

/// For a log: `port stays 3000 (config/app.plist:2:10 says 3001)`.
impl std::fmt::Display for Waiting {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { running, found } = self;
        write!(out, "{} stays {} ({} says {})", running.key, shown(running), found.origin, shown(found))
    }
}

impl Waiting {
    /// For an event: `port 3000 -> 3001`.
    pub fn change(&self) -> String {
        format!("{} {} -> {}", self.running.key, shown(&self.running), shown(&self.found))
    }
}

/// As a property list writes it. Every setting that needs a restart has a value.
fn shown(setting: &ResolvedSetting) -> String {
    setting.value.as_ref().map_or_else(String::new, |value| setting.shown(value).to_string())
}
