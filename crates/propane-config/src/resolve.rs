//! From inputs and facts to a resolution. Pure: the same arguments always give the same result.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check;
use crate::choices::SocketStrategy;
use crate::derive::derive;
use crate::document::{self, Content, Entry, Node, Reading, RemarkKind, Span};
use crate::inputs::{Args, Inputs};
use crate::layer::{Findings, Layer, LayerKind, Leaf, Rejected};
use crate::options::{self, Options, RunOptions};
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem, Severity};
use crate::secrets::{MASK, has_url_user, is_secret_key, mask_url_users};
use crate::settings::{GROUPS, Reload, ResolvedConfig, SETTINGS, Setting, setting};
use crate::source::Source;
use crate::stack::Stack;
use crate::tree;
use crate::value::Value;
use crate::worker::{Strategy, Worker, WorkerChoice};
use crate::world::{APP_FILE, FileRead, Framework, World};

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
        Value::Text(text) => Value::Text(mask_url_users(text)),
        Value::List(words) => Value::List(words.iter().map(|word| mask_url_users(word)).collect()),
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
    let sources: Vec<_> = files.iter().map(|file| (file.kind, &file.source)).collect();

    let trees: Vec<_> = files.iter().filter_map(FileLayer::tree).collect();

    let mut findings = Findings::default();
    let mut layers = vec![Layer::builtin()];
    layers.extend(files.iter().map(|file| file.layer(&mut findings)));
    layers.push(Layer::variables(inputs, &mut findings));
    layers.push(Layer::arguments(inputs, &mut findings));
    layers.extend(kept);

    let stack = Stack::new(&layers);
    let (worker, command_problem) = choose_worker(&stack, options, world, &sources);
    let strategy = Strategy::effective(asked_strategy(&stack), &worker.choice, stack.text("host"));
    let derived = derive(&stack, strategy, inputs.hostname.as_deref());

    let place = |leaf: &Leaf| place_of(leaf, &sources);
    let rejected = findings.rejected.iter().map(|rejected| rejected.setting.key).collect();
    let settings = check::Settings {
        stack: &stack,
        choice: &worker.choice,
        strategy,
        environment: &options.environment.value,
        inputs,
        trees: &trees,
        rejected,
        place: &place,
    };
    let mut problems = options.problems.clone();
    problems.extend(check::files(options, world, &worker.choice));
    problems.extend(findings.problems);
    problems.extend(findings.rejected.into_iter().map(|rejected| judge(rejected, &stack, &place)));
    problems.extend(command_problem);
    problems.extend(check::variables(inputs));
    // With values missing, contradictions would be those of the defaults.
    if files.iter().all(|file| matches!(file.state(), FileState::Read | FileState::Missing)) {
        problems.extend(settings.problems());
    }
    problems.sort_by_cached_key(order);

    let stack = Stack::new(layers.iter().chain([&derived]));
    let framework = match &world.framework {
        Framework::Found { root, .. } => Some(root.as_path()),
        Framework::None | Framework::Invalid(_) => None,
    };
    let physical = world.app_root.as_ref().ok().map(std::path::PathBuf::as_path);
    Resolution {
        config: stack.merge(),
        run: options.run_options(inputs, physical, framework),
        settings: SETTINGS
            .iter()
            .map(|row| table_setting(row, &stack))
            .chain(option_settings(options, inputs, framework))
            .chain(tree::app_settings(&trees))
            .collect(),
        worker,
        strategy,
        problems,
        layers: layers.iter().chain([&derived]).map(|layer| layer_info(layer, &files)).collect(),
        tree: tree::merged(&trees),
    }
}

/// A file on its way to being a layer.
struct FileLayer<'w> {
    kind: LayerKind,
    source: Source<'w>,
    read: &'w FileRead,
    reading: Option<Reading<'w>>,
}

impl<'w> FileLayer<'w> {
    fn read(kind: LayerKind, path: &'w str, read: &'w FileRead) -> Self {
        let reading = matches!(read, FileRead::Read(_)).then(|| document::examine(read.bytes()));
        let is_sound = reading.as_ref().is_none_or(|reading| reading.faults.is_empty());
        Self { kind, source: Source::new(path, read.bytes(), is_sound), read, reading }
    }

    /// The file's values. One that is no property list has none, but what is wrong with what could be read of it is
    /// told all the same.
    fn layer(&self, findings: &mut Findings) -> Layer {
        if let FileRead::Unreadable(error) = self.read {
            let message = format!("cannot read {}: {error}", self.source.path);
            findings.problems.push(Problem::error(Code::Unreadable, message).at(Place::in_file(&self.source, None)));
        }
        let Some(reading) = &self.reading else { return Layer::new(self.kind) };
        findings.problems.extend(reading.faults.iter().map(|fault| self.syntax_error(fault)));
        let Some(document) = &reading.document else { return Layer::new(self.kind) };
        let layer = Layer::file(self.kind, &self.source, document, findings);
        let remarks = document.remarks.iter().map(|remark| self.remark(remark));
        // A value that is rejected is not also remarked on.
        let place = |problem: &Problem| problem.place.as_ref().map(|place| place.origin.clone());
        let is_told = |problem: &Problem| findings.rejected.iter().any(|told| place(&told.problem) == place(problem));
        let remarks: Vec<_> = remarks.filter(|remark| !is_told(remark)).collect();
        findings.problems.extend(remarks);
        if reading.faults.is_empty() { layer } else { Layer::new(self.kind) }
    }

    fn syntax_error(&self, fault: &document::Fault) -> Problem {
        let message = match fault.span {
            Some(_) => fault.message.clone(),
            None => format!("{} {}", self.source.path, fault.message),
        };
        let place = Place::in_file(&self.source, fault.span).label(fault.label.clone());
        let mut problem = Problem::error(Code::Syntax, message).at(place);
        problem.related.extend(fault.found.map(|found| Place::in_file(&self.source, Some(found)).label("found this")));
        match &fault.help {
            Some(help) => problem.suggest(help.clone()),
            None => problem,
        }
    }

    fn remark(&self, remark: &document::Remark) -> Problem {
        let place = Place::in_file(&self.source, Some(remark.span));
        match &remark.kind {
            RemarkKind::Braceless => {
                let message = format!("{} has no braces around it, which Arlen's own reader needs", self.source.path);
                Problem::warning(Code::Braceless, message).at(place).suggest("write { before it and } after it")
            }
            RemarkKind::DuplicateKey { key, again } => {
                let counts = Place::in_file(&self.source, Some(*again)).label("this one counts");
                let key = self.source.named(key, Some(remark.span));
                let message = format!("{key} is set twice in one dictionary");
                let mut problem =
                    Problem::warning(Code::DuplicateKey, message).at(place.label("no effect")).related(counts);
                problem.key = self.key_at(*again);
                problem
            }
            RemarkKind::EmptyValue => Problem::warning(Code::EmptyValue, "a value without any text is taken as empty")
                .at(place)
                .suggest("write \"\" if that is meant"),
            RemarkKind::CutEscape => {
                let message = "an escape that the closing quote cuts short is dropped, as Arlen's own reader does";
                Problem::warning(Code::CutEscape, message).at(place).suggest("write all digits: \\U0041 or \\101")
            }
            RemarkKind::OpenComment => {
                Problem::warning(Code::OpenComment, "this comment is never closed").at(place).suggest("end it with */")
            }
            RemarkKind::AndMore(count) => {
                let message = format!("{count} more values in {} are probably not meant as they are", self.source.path);
                let problem = Problem::warning(Code::AndMore, message).standing_for(*count);
                problem.at_origin(self.source.origin(Some(remark.span)))
            }
        }
    }

    /// The setting, or the group of settings, whose key stands there.
    fn key_at(&self, span: Span) -> Option<String> {
        let root = &self.reading.as_ref()?.document.as_ref()?.root;
        let at = |node: &Node<'_>| match &node.content {
            Content::Dict(entries) => {
                entries.iter().find(|entry| entry.key_span == Some(span)).map(|entry| entry.key.to_string())
            }
            _ => None,
        };
        let Content::Dict(entries) = &root.content else { return None };
        let groups = entries.iter().filter(|entry| GROUPS.contains(&&*entry.key));
        let in_group = |group: &Entry<'_>| Some(format!("{}.{}", group.key, at(&group.value)?));
        at(root)
            .or_else(|| groups.into_iter().find_map(in_group))
            .filter(|key| GROUPS.contains(&key.as_str()) || setting(key).is_some())
    }

    fn tree(&self) -> Option<tree::File<'_>> {
        let reading = self.reading.as_ref().filter(|reading| reading.faults.is_empty())?;
        match &reading.document.as_ref()?.root.content {
            Content::Dict(entries) => Some((entries, &self.source)),
            _ => None,
        }
    }

    fn state(&self) -> FileState {
        match self.read {
            FileRead::Missing => FileState::Missing,
            FileRead::Unreadable(_) => FileState::Unreadable,
            FileRead::Read(_) if self.tree().is_some() => FileState::Read,
            FileRead::Read(_) => FileState::Invalid,
        }
    }
}

type Sources<'s> = [(LayerKind, &'s Source<'s>)];

/// The place of a value, quoted where it stands in a file.
fn place_of(leaf: &Leaf, sources: &Sources<'_>) -> Place {
    let is_its_file = |source: &Source<'_>| matches!(&leaf.origin, Origin::File { path, .. } if path == source.path);
    match sources.iter().find(|(_, source)| is_its_file(source)) {
        Some((_, source)) => Place::in_file(source, leaf.span),
        None => Place::of(leaf.origin.clone()),
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

fn choose_worker(
    stack: &Stack<'_>,
    options: &Options,
    world: &World,
    sources: &Sources<'_>,
) -> (Worker, Option<Problem>) {
    const KEY: &str = "propaneAccessories.workerCommand";
    let root = world.app_root.as_ref().unwrap_or(&options.app_root.path);
    let leaf = stack.winner(KEY).filter(|_| !stack.text(KEY).trim().is_empty());
    let (command, problem) = match leaf.map(|leaf| (leaf, shell_words::split(stack.text(KEY)))) {
        None => (None, None),
        Some((leaf, Ok(words))) if !words.is_empty() => (Some((words, leaf.origin.to_string())), None),
        Some((leaf, _)) => {
            let message = "propaneAccessories.workerCommand cannot be split into words: a quote is never closed";
            let problem = Problem::error(Code::WorkerCommand, message).key(KEY).at(place_of(leaf, sources));
            // It still is a command, so that nothing else is said about what would run without it.
            (Some((vec![stack.text(KEY).to_owned()], leaf.origin.to_string())), Some(problem))
        }
    };
    (WorkerChoice::choose(command, root, world), problem)
}

fn table_setting(row: &Setting, stack: &Stack<'_>) -> ResolvedSetting {
    let mut candidates = stack.candidates(row.key).map(|(_, leaf)| leaf);
    let winner = candidates.next();
    let value = winner.map(|leaf| leaf.value.clone());
    let overrides: Vec<_> =
        candidates.map(|leaf| Override { value: leaf.value.clone(), origin: leaf.origin.clone() }).collect();
    let holds_user = |value: &Value| matches!(value, Value::Text(text) if has_url_user(text));
    let secret = is_secret_key(row.key) || value.iter().chain(overrides.iter().map(|lost| &lost.value)).any(holds_user);
    ResolvedSetting {
        key: row.key.to_owned(),
        value,
        kind: row.kind.name(),
        origin: winner.map_or(Origin::Builtin, |leaf| leaf.origin.clone()),
        overrides,
        secret,
        reload: row.reload,
        app: false,
    }
}

fn option_settings(options: &Options, inputs: &Inputs, framework: Option<&std::path::Path>) -> Vec<ResolvedSetting> {
    let path = |path: &std::path::Path| Some(Value::Text(path.display().to_string()));
    let switch = |key, given: &options::Given<bool>| option_setting(key, Some(Value::Bool(given.value)), &given.origin);
    let around = Origin::Derived { rule: "the directory around this program".to_owned(), inputs: Vec::new() };
    let framework_origin = match (&options.framework_root, framework) {
        (Some(given), _) => given.origin.clone(),
        (None, Some(_)) => around,
        (None, None) => Origin::Builtin,
    };
    let log = options.lifecycle_log.as_ref();
    let mut settings = vec![
        option_setting(
            "environment",
            Some(Value::Text(options.environment.value.clone())),
            &options.environment.origin,
        ),
        option_setting("appRoot", path(&options.app_root.path), &options.app_root.origin),
        option_setting("frameworkRoot", framework.and_then(path), &framework_origin),
        option_setting("pidFile", path(&options.pid_file.path), &options.pid_file.origin),
        option_setting(
            "lifecycleLog",
            log.map_or_else(|| options::option("lifecycleLog").default_value(), |log| path(&log.path)),
            &log.map_or(Origin::Builtin, |log| log.origin.clone()),
        ),
        switch("noRespawn", &options.no_respawn),
        switch("once", &options.once),
        switch("printRoutes", &options.print_routes),
    ];
    settings.extend(worker_args(inputs));
    settings
}

fn option_setting(key: &str, value: Option<Value>, origin: &Origin) -> ResolvedSetting {
    let row = options::option(key);
    let default = row.default_value().filter(|_| origin.is_explicit());
    ResolvedSetting {
        key: key.to_owned(),
        value,
        kind: row.kind.name(),
        origin: origin.clone(),
        overrides: default.map(|value| Override { value, origin: Origin::Builtin }).into_iter().collect(),
        secret: false,
        reload: row.reload,
        app: false,
    }
}

/// The words after `--`, where there are any.
fn worker_args(inputs: &Inputs) -> Option<ResolvedSetting> {
    let words: Vec<_> = inputs.args.worker_args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let origin = Origin::Arg { flag: "--".to_owned(), index: inputs.args.separator };
    (!words.is_empty()).then(|| ResolvedSetting {
        key: "workerArgs".to_owned(),
        kind: "list",
        secret: words.iter().any(|word| has_url_user(word)),
        value: Some(Value::List(words)),
        origin,
        overrides: Vec::new(),
        reload: Reload::Restart,
        app: false,
    })
}

fn layer_info(layer: &Layer, files: &[FileLayer<'_>]) -> LayerInfo {
    let file = files.iter().find(|file| file.kind == layer.kind && !file.source.path.is_empty());
    LayerInfo {
        kind: layer.kind,
        path: file.map(|file| file.source.path.to_owned()),
        state: file.map(FileLayer::state),
        values: layer.leaves.len(),
    }
}
