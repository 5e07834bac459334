//! One layer each: the values it sets, where each of them stands, and what is wrong with the others.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use figment::value::{Dict, Map};
use figment::{Metadata, Profile, Provider};
use serde::Serialize;

use crate::document::{Content, Document, Entry, Node, Span};
use crate::inputs::Inputs;
use crate::names;
use crate::origin::Origin;
use crate::problem::{Code, Place, Problem};
use crate::secrets::MASK;
use crate::settings::{GROUPS, SETTINGS, Setting};
use crate::source::Source;
use crate::value::{Misfit, Value};

/// Unknown keys of one file that are reported one by one.
const MAX_UNKNOWN_KEYS: usize = 20;
/// Keys of an app's own that are compared with ours. An app that has more of them made them by a program, which does not
/// misspell.
const MAX_COMPARED_KEYS: usize = 1000;

/// The layers. Their order is the precedence, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerKind {
    /// The table's defaults.
    Builtin,
    /// `config/app.plist`.
    App,
    /// `config/environments/<env>.plist`.
    Environment,
    /// Variables.
    Variables,
    /// Flags.
    Arguments,
    /// What a running manager keeps until it is started again.
    Kept,
    /// Rules over the others' values.
    Derived,
}

/// A layer's valid values.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) kind: LayerKind,
    pub(crate) leaves: BTreeMap<&'static str, Leaf>,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
    /// Where in its file it stands.
    pub(crate) span: Option<Span>,
}

/// A value that a layer tried to set. It is left out of the layer, so that the next lower one shows in its place.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    pub(crate) setting: &'static Setting,
    pub(crate) kind: LayerKind,
    pub(crate) problem: Problem,
}

/// What a layer has besides its values.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rejected: Vec<Rejected>,
    pub(crate) problems: Vec<Problem>,
}

impl LayerKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Builtin => "built-in defaults",
            Self::App => "app file",
            Self::Environment => "environment file",
            Self::Variables => "environment variables",
            Self::Arguments => "command line",
            Self::Kept => "kept until a restart",
            Self::Derived => "derived values",
        }
    }
}

impl Layer {
    pub(crate) fn new(kind: LayerKind) -> Self {
        Self { kind, leaves: BTreeMap::new() }
    }

    pub(crate) fn builtin() -> Self {
        let leaf = |value| Leaf { value, origin: Origin::Builtin, span: None };
        let leaves = SETTINGS.iter().filter_map(|setting| Some((setting.key, leaf(setting.default_value()?))));
        Self { kind: LayerKind::Builtin, leaves: leaves.collect() }
    }

    pub(crate) fn variables(inputs: &Inputs, findings: &mut Findings) -> Self {
        let mut layer = Self::new(LayerKind::Variables);
        for setting in SETTINGS {
            layer.add_variable(setting, inputs, findings);
        }
        layer
    }

    pub(crate) fn arguments(inputs: &Inputs, findings: &mut Findings) -> Self {
        let mut layer = Self::new(LayerKind::Arguments);
        for setting in SETTINGS {
            if let Some(flag) = setting.flag.and_then(|name| inputs.args.flag(name)) {
                let origin = Origin::arg(&flag.name, flag.index);
                layer.add_text(setting, &flag.value, origin, findings);
            }
        }
        layer
    }

    pub(crate) fn file(kind: LayerKind, source: &Source<'_>, document: &Document<'_>, findings: &mut Findings) -> Self {
        let mut layer = Self::new(kind);
        let Content::Dict(entries) = &document.root.content else {
            let place = Place::in_file(source, document.root.span);
            let found = document.root.content.describe();
            let message = format!("{} holds {found} where a dictionary is expected", source.path);
            findings.problems.push(Problem::error(Code::Syntax, message).at(place));
            return layer;
        };
        let mut unknown = Vec::new();
        let mut apps_own = 0;
        for entry in entries {
            if GROUPS.contains(&&*entry.key) {
                layer.add_group(entry, source, findings, &mut unknown);
            } else if let Some(setting) = names::setting_at_top(&entry.key) {
                layer.add_node(setting, &entry.value, source, findings);
            } else if names::instead_of(&entry.key).is_some() {
                unknown.push(Unknown { group: None, entry, meant: None });
            } else {
                apps_own += 1;
                let meant = (apps_own <= MAX_COMPARED_KEYS).then(|| names::key_meant_at_top(&entry.key)).flatten();
                unknown.extend(meant.map(|meant| Unknown { group: None, entry, meant: Some(meant) }));
            }
        }
        findings.report_unknown_keys(source, &unknown);
        layer
    }

    fn add_group<'d>(
        &mut self,
        group: &'d Entry<'d>,
        source: &Source<'_>,
        findings: &mut Findings,
        unknown: &mut Vec<Unknown<'d>>,
    ) {
        let Content::Dict(entries) = &group.value.content else {
            let place = Place::in_file(source, group.value.span);
            let place = place.label(format!("found {}", group.value.content.describe()));
            let problem = Problem::error(Code::Type, format!("{} must be a dictionary", group.key)).key(&*group.key);
            findings.problems.push(problem.at(place).expected(format!("{} = {{ … }};", group.key)));
            return;
        };
        for entry in entries {
            match names::setting_of(&format!("{}.{}", group.key, entry.key)) {
                Some(setting) => self.add_node(setting, &entry.value, source, findings),
                None => unknown.push(Unknown { group: Some(&group.key), entry, meant: None }),
            }
        }
    }

    fn add_node(&mut self, setting: &'static Setting, node: &Node<'_>, source: &Source<'_>, findings: &mut Findings) {
        match setting.kind.read_content(&node.content) {
            Ok(value) => {
                self.leaves.insert(setting.key, Leaf { value, origin: source.origin(node.span), span: node.span });
            }
            Err(misfit) => {
                let misfit = if source.is_secret(node.span) { Misfit::new(format!("found {MASK}")) } else { misfit };
                findings.reject(setting, self.kind, Place::in_file(source, node.span), misfit);
            }
        }
    }

    fn add_variable(&mut self, setting: &'static Setting, inputs: &Inputs, findings: &mut Findings) {
        let Some(name) = setting.variable else { return };
        let legacy = setting.legacy_variable().filter(|legacy| inputs.variable(legacy).is_some());
        if let Some(legacy) = &legacy {
            findings.problems.push(deprecated(setting, legacy, name, inputs.variable(name).is_some()));
        }
        let name = if inputs.variable(name).is_some() { Some(name.to_owned()) } else { legacy };
        if let Some(name) = name
            && let Some(value) = inputs.variable(&name)
        {
            self.add_text(setting, value, Origin::Env { variable: name }, findings);
        }
    }

    fn add_text(&mut self, setting: &'static Setting, text: &OsStr, origin: Origin, findings: &mut Findings) {
        let not_text = || Misfit::new("is not UTF-8");
        match text.to_str().ok_or_else(not_text).and_then(|text| setting.kind.read_text(text)) {
            Ok(value) => {
                self.leaves.insert(setting.key, Leaf { value, origin, span: None });
            }
            Err(_) if is_service_address(&origin, text) => {
                findings.rejected.push(Rejected { setting, kind: self.kind, problem: service_link(setting, origin) });
            }
            Err(misfit) => findings.reject(setting, self.kind, Place::of(origin), misfit),
        }
    }
}

/// An unknown key.
struct Unknown<'d> {
    /// The closed group it stands in; `None` at the top level.
    group: Option<&'d str>,
    entry: &'d Entry<'d>,
    /// What was probably meant. In a group it is looked for only when it is to be told.
    meant: Option<&'static str>,
}

impl Unknown<'_> {
    fn problem(&self, source: &Source<'_>) -> Problem {
        let name = source.named(&self.entry.key, self.entry.key_span);
        let key = match self.group {
            Some(group) => format!("{group}.{name}"),
            None => name,
        };
        let meant = self.meant.or_else(|| names::key_meant_in_group(self.group?, &self.entry.key));
        let problem = Problem::warning(Code::UnknownKey, format!("{key} is no setting and changes nothing"))
            .key(key)
            .at(Place::in_file(source, self.entry.key_span));
        match (meant, names::instead_of(&self.entry.key)) {
            (Some(meant), _) => problem.also(meant).suggest(names::did_you_mean(meant)),
            (None, Some(instead)) => problem.suggest(instead),
            (None, None) => problem,
        }
    }
}

impl Findings {
    fn reject(&mut self, setting: &'static Setting, kind: LayerKind, place: Place, misfit: Misfit) {
        let code = if misfit.out_of_range { Code::Range } else { Code::Type };
        let expected = setting.kind.expected();
        let problem = Problem::error(code, format!("{} must be {expected}", setting.key))
            .key(setting.key)
            .at(place.label(misfit.label))
            .expected(expected);
        let problem = match misfit.meant {
            Some(meant) => problem.suggest(names::did_you_mean(meant)),
            None => problem,
        };
        self.rejected.push(Rejected { setting, kind, problem });
    }

    fn report_unknown_keys(&mut self, source: &Source<'_>, unknown: &[Unknown<'_>]) {
        self.problems.extend(unknown.iter().take(MAX_UNKNOWN_KEYS).map(|unknown| unknown.problem(source)));
        if unknown.len() > MAX_UNKNOWN_KEYS {
            let message = format!("{} more unknown keys in {}", unknown.len() - MAX_UNKNOWN_KEYS, source.path);
            let more = unknown.len() - MAX_UNKNOWN_KEYS;
            self.problems.push(Problem::warning(Code::UnknownKey, message).standing_for(more));
        }
    }
}

fn deprecated(setting: &Setting, legacy: &str, name: &str, is_hidden: bool) -> Problem {
    let effect = if is_hidden { format!(" and hidden by {name}") } else { String::new() };
    Problem::warning(Code::DeprecatedVariable, format!("{legacy} is deprecated{effect}"))
        .key(setting.key)
        .at_origin(Origin::Env { variable: legacy.to_owned() })
        .suggest(format!("use {name} instead"))
}

fn is_service_address(origin: &Origin, text: &OsStr) -> bool {
    matches!(origin, Origin::Env { .. }) && text.to_str().is_some_and(names::is_service_address)
}

fn service_link(setting: &Setting, origin: Origin) -> Problem {
    let message = format!("{} was made up by Kubernetes for a service of that name, and is no {}", origin, setting.key);
    Problem::error(Code::ServiceLink, message)
        .key(setting.key)
        .at_origin(origin)
        .expected(setting.kind.expected())
        .suggest("set enableServiceLinks: false in the pod, or rename the service")
}

/// How figment sees a layer. Values stay out of its errors and its metadata carries the layer's name, so that the
/// winner of its merge can be compared with ours.
impl Provider for &Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.kind.name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut top = Dict::new();
        let mut groups: BTreeMap<&str, Dict> = BTreeMap::new();
        for (key, leaf) in &self.leaves {
            match key.split_once('.') {
                Some((group, name)) => {
                    groups.entry(group).or_default().insert(name.to_owned(), to_figment(&leaf.value))
                }
                None => top.insert((*key).to_owned(), to_figment(&leaf.value)),
            };
        }
        top.extend(groups.into_iter().map(|(group, dict)| (group.to_owned(), dict.into())));
        Ok(Profile::Default.collect(top))
    }
}

fn to_figment(value: &Value) -> figment::value::Value {
    match value {
        Value::Int(number) => (*number).into(),
        Value::Bool(on) => (*on).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(words) => words.clone().into(),
    }
}
