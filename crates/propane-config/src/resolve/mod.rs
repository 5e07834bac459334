//! From inputs and facts to a resolution. Pure: the same arguments always give the same result.

mod file;
mod listing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::check;
use crate::choices::SocketStrategy;
use crate::derive::derive;
use crate::embedded::mask_within;
use crate::inputs::{Args, Inputs};
use crate::layer::{Findings, Layer, LayerKind, Leaf, Rejected};
use crate::options::{self, Options, RunOptions};
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem, Severity};
use crate::secrets::{MASK, is_secret_key};
use crate::settings::{Reload, ResolvedConfig, SETTINGS};
use crate::stack::Stack;
use crate::tree;
use crate::value::Value;
use crate::worker::{Strategy, Worker, WorkerChoice};
use crate::world::{APP_FILE, FileRead, Framework, World};

use file::FileLayer;
use listing::{option_settings, table_setting};

/// A configuration with everything that can be said about it.
#[derive(Debug, Clone)]
pub struct Resolution {
    /// The values to act on. Where a layer's value is invalid, the next lower layer's stands here.
    pub config: ResolvedConfig,
    /// How to run.
    pub run: RunOptions,
    /// What workers run.
    pub worker: Worker,
    /// How workers get their connections.
    pub strategy: Strategy,
    /// Every value with its origin: settings in the table's order, then options, then the app's own keys.
    pub settings: Vec<ResolvedSetting>,
    /// Everything that is wrong, in the order of the layers.
    pub problems: Vec<Problem>,
    /// The layers, lowest first.
    pub layers: Vec<LayerInfo>,
    /// The merged files, untouched: app keys included, secrets not masked.
    pub tree: plist::Dictionary,
}

/// A value, where it came from and what it overrode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedSetting {
    /// Its key.
    pub key: String,
    /// Its value; `None` where each worker has its own default.
    pub value: Option<Value>,
    /// Name of its type.
    pub kind: &'static str,
    /// Where the value came from.
    pub origin: Origin,
    /// What lost against it, from the nearest layer down.
    pub overrides: Vec<Override>,
    /// Whether its value must not be shown.
    pub secret: bool,
    /// What a reload does with a change.
    pub reload: Reload,
    /// Whether it is the app's own and not one of the table's.
    pub app: bool,
}

/// A value that lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// What is known about a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerInfo {
    /// Which one.
    pub kind: LayerKind,
    /// Its file, relative to the app root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What became of its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<FileState>,
    /// How many settings it sets.
    pub values: usize,
}

/// What became of a layer's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// It was read.
    Read,
    /// There is none.
    Missing,
    /// It cannot be read.
    Unreadable,
    /// It was read, but is no property list of settings. None of its values count.
    Invalid,
}

impl Resolution {
    /// Whether a start is refused.
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(Problem::is_error)
    }

    /// A setting or option by its key.
    pub fn setting(&self, key: &str) -> Option<&ResolvedSetting> {
        self.settings.iter().find(|setting| setting.key == key)
    }
}

impl ResolvedSetting {
    /// One of its values (the winner, or one that lost) as it may be shown.
    pub fn shown(&self, value: &Value) -> Value {
        shown(&self.key, value)
    }
}

/// A value of a setting, an option or an app's own key as it may be shown.
pub(crate) fn shown(key: &str, value: &Value) -> Value {
    // A part of the key that is no plain word stands in quotes.
    let is_secret = |key: &str| key.split(['.', '[']).any(|part| is_secret_key(part.trim_matches('"')));
    match value {
        _ if is_secret(key) => Value::Text(MASK.to_owned()),
        Value::Text(text) => Value::Text(mask_within(text)),
        Value::List(words) => Value::List(words.iter().map(|word| mask_within(word)).collect()),
        Value::Int(_) | Value::Bool(_) => value.clone(),
    }
}

/// Gathers the facts that the inputs point at, and resolves. What is wrong, even all of it, is among the problems.
pub fn load(inputs: &Inputs) -> Resolution {
    let options = Options::of(inputs);
    let world = World::look(&options, inputs);
    resolve(inputs, &options, &world, None)
}

/// What there is where nobody has set anything: no file, no variable and no flag but those that say where the app is.
pub fn load_defaults(inputs: &Inputs) -> Resolution {
    let places = ["appRoot", "frameworkRoot"].map(options::option);
    let mut bare = Inputs { args: Args::default(), env: BTreeMap::new(), ..inputs.clone() };
    for row in places {
        bare.args.flags.extend(row.flag.and_then(|name| inputs.args.flag(name)).cloned());
        bare.env.extend(row.variable.and_then(|name| Some((name.into(), inputs.variable(name)?.to_owned()))));
    }
    let options = Options::of(&bare);
    let world =
        World { app_file: FileRead::Missing, environment_file: FileRead::Missing, ..World::look(&options, &bare) };
    // That the files are missing is no problem of theirs.
    Resolution { problems: Vec::new(), ..resolve(&bare, &options, &world, None) }
}

/// Resolves. What is `kept` wins over every layer, and the derived values follow it.
pub(crate) fn resolve(inputs: &Inputs, options: &Options, world: &World, kept: Option<Layer>) -> Resolution {
    let environment_path = options.environment_file().unwrap_or_default();
    let files = [
        FileLayer::read(LayerKind::App, APP_FILE, &world.app_file),
        FileLayer::read(LayerKind::Environment, &environment_path, &world.environment_file),
    ];
    let trees: Vec<_> = files.iter().filter_map(FileLayer::tree).collect();
    let subject = Subject { inputs, options, world, files: &files, trees: &trees };
    let mut findings = Findings::default();
    let mut layers = subject.layers(kept, &mut findings);
    let chosen = subject.choose(&Stack::new(&layers));
    let problems = subject.problems(&Stack::new(&layers), &chosen, findings);
    layers.push(derive(&Stack::new(&layers), chosen.strategy, inputs.hostname.as_deref()));
    let stack = Stack::new(&layers);
    Resolution {
        config: stack.merge(),
        run: options.run_options(inputs, subject.physical_root(), subject.framework()),
        settings: subject.settings(&stack),
        worker: chosen.worker,
        strategy: chosen.strategy,
        problems,
        layers: layers.iter().map(|layer| subject.layer_info(layer)).collect(),
        tree: tree::merged(&trees),
    }
}

/// What is resolved.
struct Subject<'s> {
    inputs: &'s Inputs,
    options: &'s Options,
    world: &'s World,
    /// The files, lowest first.
    files: &'s [FileLayer<'s>],
    trees: &'s [tree::File<'s>],
}

/// What workers run, and how they get their connections.
struct Chosen {
    worker: Worker,
    strategy: Strategy,
    /// What is wrong with the command.
    problem: Option<Problem>,
}

impl Subject<'_> {
    /// All layers but the derived one, lowest first.
    fn layers(&self, kept: Option<Layer>, findings: &mut Findings) -> Vec<Layer> {
        let mut layers = vec![Layer::builtin()];
        layers.extend(self.files.iter().map(|file| file.layer(findings)));
        layers.push(Layer::variables(self.inputs, findings));
        layers.push(Layer::arguments(self.inputs, findings));
        layers.extend(kept);
        layers
    }

    fn choose(&self, stack: &Stack<'_>) -> Chosen {
        let (worker, problem) = self.choose_worker(stack);
        let strategy = Strategy::effective(asked_strategy(stack), &worker.choice, stack.text("host"));
        Chosen { worker, strategy, problem }
    }

    fn choose_worker(&self, stack: &Stack<'_>) -> (Worker, Option<Problem>) {
        const KEY: &str = "propaneAccessories.workerCommand";
        let root = self.world.app_root.as_ref().unwrap_or(&self.options.app_root.path);
        let leaf = stack.winner(KEY).filter(|_| !stack.text(KEY).trim().is_empty());
        let (command, problem) = match leaf.map(|leaf| (leaf, shell_words::split(stack.text(KEY)))) {
            None => (None, None),
            Some((leaf, Ok(words))) if !words.is_empty() => (Some((words, leaf.origin.to_string())), None),
            Some((leaf, _)) => {
                let message = "propaneAccessories.workerCommand cannot be split into words: a quote is never closed";
                let problem = Problem::error(Code::WorkerCommand, message).key(KEY).at(self.place_of(leaf));
                // It still is a command, so that nothing else is said about what would run without it.
                (Some((vec![stack.text(KEY).to_owned()], leaf.origin.to_string())), Some(problem))
            }
        };
        (WorkerChoice::choose(command, root, self.world), problem)
    }

    /// Everything that is wrong, in the order of the layers.
    fn problems(&self, stack: &Stack<'_>, chosen: &Chosen, findings: Findings) -> Vec<Problem> {
        let Findings { problems: found, rejected } = findings;
        let keys = rejected.iter().map(|rejected| rejected.setting.key).collect();
        let place = |leaf: &Leaf| self.place_of(leaf);
        let mut problems = self.options.problems.clone();
        problems.extend(check::files(self.options, self.world, &chosen.worker.choice));
        problems.extend(found);
        problems.extend(rejected.into_iter().map(|rejected| judge(rejected, stack, &place)));
        problems.extend(chosen.problem.clone());
        problems.extend(check::variables(self.inputs));
        // With values missing, contradictions would be those of the defaults.
        if self.files.iter().all(|file| matches!(file.state(), FileState::Read | FileState::Missing)) {
            problems.extend(self.contradictions(stack, chosen, keys, &place));
        }
        problems.sort_by_cached_key(order);
        problems
    }

    fn contradictions(
        &self,
        stack: &Stack<'_>,
        chosen: &Chosen,
        rejected: BTreeSet<&'static str>,
        place: &dyn Fn(&Leaf) -> Place,
    ) -> Vec<Problem> {
        let settings = check::Settings {
            stack,
            choice: &chosen.worker.choice,
            strategy: chosen.strategy,
            environment: &self.options.environment.value,
            inputs: self.inputs,
            trees: self.trees,
            rejected,
            place,
        };
        settings.problems()
    }

    fn framework(&self) -> Option<&Path> {
        match &self.world.framework {
            Framework::Found { root, .. } => Some(root.as_path()),
            Framework::None | Framework::Invalid(_) => None,
        }
    }

    /// The app root with its links resolved.
    fn physical_root(&self) -> Option<&Path> {
        self.world.app_root.as_ref().ok().map(PathBuf::as_path)
    }

    fn settings(&self, stack: &Stack<'_>) -> Vec<ResolvedSetting> {
        let table = SETTINGS.iter().map(|row| table_setting(row, stack));
        let options = option_settings(self.options, self.inputs, self.framework());
        table.chain(options).chain(tree::app_settings(self.trees)).collect()
    }

    fn layer_info(&self, layer: &Layer) -> LayerInfo {
        let file = self.files.iter().find(|file| file.kind == layer.kind && !file.source.path.is_empty());
        LayerInfo {
            kind: layer.kind,
            path: file.map(|file| file.source.path.to_owned()),
            state: file.map(FileLayer::state),
            values: layer.leaves.len(),
        }
    }

    /// The place of a value, quoted where it stands in a file.
    fn place_of(&self, leaf: &Leaf) -> Place {
        let is_its_file =
            |file: &&FileLayer<'_>| matches!(&leaf.origin, Origin::File { path, .. } if path == file.source.path);
        match self.files.iter().find(is_its_file) {
            Some(file) => Place::in_file(&file.source, leaf.span),
            None => Place::of(leaf.origin.clone()),
        }
    }
}

/// An invalid value is an error in whatever layer, and says what hides it. Only a service link, which nobody wrote, is
/// forgiven where it is hidden.
fn judge(rejected: Rejected, stack: &Stack<'_>, place: &dyn Fn(&Leaf) -> Place) -> Problem {
    let hides = stack.candidates(rejected.setting.key).find(|(kind, _)| *kind > rejected.kind);
    let mut problem = rejected.problem;
    if let Some((_, leaf)) = hides {
        problem = problem.related(place(leaf).label("hidden today by this value"));
        if problem.code == Code::ServiceLink {
            problem.severity = Severity::Warning;
        }
    }
    problem
}

/// Problems are told in the order of the layers, those of one file from its top down.
pub(crate) fn order(problem: &Problem) -> (u8, String, usize, usize) {
    match problem.place.as_ref().map(|place| &place.origin) {
        Some(Origin::File { path, position }) => {
            let (line, column) = position.map_or((0, 0), |at| (at.line, at.column));
            (1, path.clone(), line, column)
        }
        Some(Origin::Env { .. }) => (2, String::new(), 0, 0),
        Some(Origin::Arg { index, .. }) => (3, String::new(), *index, 0),
        Some(Origin::Builtin | Origin::Derived { .. }) | None => (0, String::new(), 0, 0),
    }
}

fn asked_strategy(stack: &Stack<'_>) -> SocketStrategy {
    let asked = stack.text("propaneAccessories.socketStrategy");
    SocketStrategy::ALL.into_iter().find(|word| word.as_str() == asked).unwrap_or(SocketStrategy::Auto)
}
