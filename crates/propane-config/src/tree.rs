//! The merged tree of the files, and the keys in it that belong to the app.
//!
//! propane passes these keys through untouched and only shows where they come from. Dictionaries merge by key,
//! everything else is replaced: the rule that figment follows for the settings.

use crate::document::{Content, Entry, Node};
use crate::embedded::holds_secret;
use crate::names;
use crate::openstep;
use crate::origin::Origin;
use crate::resolve::{Override, ResolvedSetting};
use crate::secrets::is_secret_key;
use crate::settings::{GROUPS, Reload};
use crate::source::Source;
use crate::value::Value;

/// A file's root dictionary with the file.
pub(crate) type File<'f> = (&'f [Entry<'f>], &'f Source<'f>);

/// The tree of the files, lowest first.
pub(crate) fn merged(files: &[File<'_>]) -> plist::Dictionary {
    let mut tree = plist::Dictionary::new();
    for (entries, _) in files {
        let pairs = entries.iter().map(|entry| (entry.key.clone().into_owned(), entry.value.content.to_plist()));
        pairs.for_each(|(key, value)| put(&mut tree, key, value));
    }
    tree
}

fn put(tree: &mut plist::Dictionary, key: String, value: plist::Value) {
    match (tree.get_mut(&key), value) {
        (Some(plist::Value::Dictionary(below)), plist::Value::Dictionary(above)) => {
            above.into_iter().for_each(|(key, value)| put(below, key, value));
        }
        (_, value) => {
            tree.insert(key, value);
        }
    }
}

/// Untyped scalars stay strings; what JSON has no type for is written as a property list writes it.
pub fn tree_to_json(value: &plist::Value) -> serde_json::Value {
    match value {
        plist::Value::Dictionary(pairs) => pairs
            .iter()
            .map(|(key, value)| (key.clone(), tree_to_json(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        plist::Value::Array(items) => items.iter().map(tree_to_json).collect::<Vec<_>>().into(),
        plist::Value::String(text) => text.clone().into(),
        plist::Value::Boolean(on) => (*on).into(),
        plist::Value::Real(number) => (*number).into(),
        plist::Value::Integer(number) => match (number.as_signed(), number.as_unsigned()) {
            (Some(signed), _) => signed.into(),
            (None, Some(unsigned)) => unsigned.into(),
            (None, None) => serde_json::Value::Null,
        },
        other => openstep::scalar(other).into(),
    }
}

/// The app's own values, one for every scalar and every list of scalars.
pub(crate) fn app_settings(files: &[File<'_>]) -> Vec<ResolvedSetting> {
    let mut out = Vec::new();
    let layers: Vec<_> = files.iter().map(|(entries, source)| (*entries, *source)).collect();
    let is_apps = |key: &str| !GROUPS.contains(&key) && names::setting_at_top(key).is_none();
    each_key(&layers, |key, held| {
        if is_apps(key) {
            // One that is called like an option is another thing, and must not pass for it.
            let name = if names::option_of(key).is_some() { openstep::always_quoted(key) } else { segment(key) };
            flatten(&name, is_secret_key(key), held, &mut out);
        }
    });
    out
}

/// Calls `visit` with every key and the nodes under it, the winner first.
fn each_key<'f>(layers: &[File<'f>], mut visit: impl FnMut(&'f str, &[Held<'f>])) {
    let mut order: Vec<&str> = Vec::new();
    let mut held: std::collections::HashMap<&str, Vec<Held<'_>>> = std::collections::HashMap::new();
    for (entries, source) in layers {
        for entry in *entries {
            let nodes = held.entry(&entry.key).or_insert_with(|| {
                order.push(&entry.key);
                Vec::new()
            });
            nodes.insert(0, (&entry.value, source));
        }
    }
    for key in order {
        visit(key, &held[key]);
    }
}

type Held<'f> = (&'f Node<'f>, &'f Source<'f>);

fn flatten(path: &str, secret: bool, held: &[Held<'_>], out: &mut Vec<ResolvedSetting>) {
    let Some((winner, source)) = held.first() else { return };
    match &winner.content {
        Content::Dict(_) => {
            // A dictionary merges with those right below it; what lies under a scalar is gone.
            let dicts = held.iter().map_while(|(node, source)| match &node.content {
                Content::Dict(entries) => Some((entries.as_slice(), *source)),
                _ => None,
            });
            let layers: Vec<File<'_>> = dicts.collect::<Vec<_>>().into_iter().rev().collect();
            each_key(&layers, |key, held| {
                flatten(&format!("{path}.{}", segment(key)), secret || is_secret_key(key), held, out);
            });
        }
        Content::Array(items) if !items.iter().all(|item| is_scalar(&item.content)) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), secret, &[(item, source)], out);
            }
        }
        content => out.extend(value(content).map(|value| app_setting(path, secret, value, held))),
    }
}

fn app_setting(path: &str, secret: bool, value: Value, held: &[Held<'_>]) -> ResolvedSetting {
    let origin = |(node, source): &Held<'_>| source.origin(node.span);
    let lost = |held: &Held<'_>| Some(Override { value: self::value(&held.0.content)?, origin: origin(held) });
    let holds_one = matches!(&value, Value::Text(text) if holds_secret(text));
    ResolvedSetting {
        key: path.to_owned(),
        kind: kind(&value),
        origin: held.first().map_or(Origin::Builtin, origin),
        overrides: held.iter().skip(1).filter_map(lost).collect(),
        value: Some(value),
        secret: secret || holds_one,
        reload: Reload::Generation,
        app: true,
    }
}

fn segment(key: &str) -> String {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let is_plain = !key.is_empty() && key.bytes().all(is_word);
    if is_plain { key.to_owned() } else { openstep::always_quoted(key) }
}

fn is_scalar(content: &Content<'_>) -> bool {
    matches!(content, Content::Text(_) | Content::Typed(_))
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Int(_) => "int",
        Value::Bool(_) => "bool",
        Value::Text(_) => "string",
        Value::List(_) => "list",
    }
}

fn value(content: &Content<'_>) -> Option<Value> {
    match content {
        Content::Text(text) => Some(Value::Text(text.clone().into_owned())),
        Content::Array(items) => items.iter().map(|item| word(&item.content)).collect::<Option<_>>().map(Value::List),
        Content::Dict(_) => None,
        Content::Typed(typed) => Some(match **typed {
            plist::Value::Boolean(on) => Value::Bool(on),
            plist::Value::Integer(number) if number.as_signed().is_some() => {
                Value::Int(number.as_signed().unwrap_or_default())
            }
            _ => Value::Text(word(content)?),
        }),
    }
}

/// A scalar as text.
fn word(content: &Content<'_>) -> Option<String> {
    match content {
        Content::Text(text) => Some(text.clone().into_owned()),
        Content::Typed(typed) => Some(match &**typed {
            plist::Value::Boolean(on) => Value::Bool(*on).to_string(),
            plist::Value::Integer(number) => number.to_string(),
            plist::Value::Real(number) => number.to_string(),
            plist::Value::Date(date) => date.to_xml_format(),
            other => openstep::scalar(other),
        }),
        Content::Array(_) | Content::Dict(_) => None,
    }
}
