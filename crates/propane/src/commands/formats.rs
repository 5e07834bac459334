//! The forms of `config print`. Every value goes through [`Secrets`] on its way out, so that no form can leak one.

use std::collections::BTreeMap;
use std::fmt::Write;

use propane_config::saved::{self, SavedOverride, SavedSetting};
use propane_config::secrets::MASK;
use propane_config::{
    DefaultValue, Export, LayerInfo, Origin, Override, Problem, Resolution, ResolvedSetting, SETTINGS, Value, is_under,
    openstep, setting, tree_to_json,
};
use serde::Serialize;

use crate::commands::config_print::PrintOptions;
use crate::commands::disclosure::Secrets;

/// Values longer than this do not push the origins of all others to the right.
const WIDEST_VALUE: usize = 16;
/// What stands in place of a value where there is none.
pub(super) const NOTHING: &str = "-";
const MASKED_NOTE: &str = "secrets are masked, so this does not load back to the same configuration";

/// `key = value   # origin`, with what was overridden below it.
pub(super) fn text(settings: &[&ResolvedSetting], all: bool, secrets: Secrets, coloured: bool) -> String {
    table(settings.iter().flat_map(|setting| rows(setting, all, secrets)).collect(), coloured)
}

/// Rows under each other.
pub(super) fn table(rows: Vec<Row<'_>>, coloured: bool) -> String {
    let key_width = rows.iter().map(|row| row.key.chars().count()).max().unwrap_or(0);
    let widths = rows.iter().map(|row| row.value.chars().count()).filter(|width| *width <= WIDEST_VALUE);
    let value_width = widths.max().unwrap_or(0);
    let (dim, plain) = if coloured { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
    let mut out = String::new();
    for Row { key, value, note } in rows {
        let sign = if key.is_empty() { ' ' } else { '=' };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{key:key_width$} {sign} {value:value_width$}   {dim}# {note}{plain}");
    }
    out
}

/// A line of a [`table`].
pub(super) struct Row<'s> {
    /// Empty where the line belongs to the one above.
    pub(super) key: &'s str,
    pub(super) value: String,
    pub(super) note: String,
}

fn rows(setting: &ResolvedSetting, all: bool, secrets: Secrets) -> Vec<Row<'_>> {
    let value = setting.value.as_ref().map(|value| secrets.shown(setting, value));
    let secret = if setting.secret { " (secret)" } else { "" };
    let note = origin_words(setting, Origin::to_string) + if value.is_some() { secret } else { "" };
    let winner =
        Row { key: &setting.key, value: value.map_or_else(|| NOTHING.to_owned(), |value| as_plist(&value)), note };
    let overrides = if all { setting.overrides.as_slice() } else { &[] };
    let losers = overrides.iter().map(|lost| Row {
        key: "",
        value: as_plist(&secrets.shown(setting, &lost.value)),
        note: format!("  over {}", lost.origin),
    });
    std::iter::once(winner).chain(losers).collect()
}

/// Where the value came from, or why there is none.
pub(super) fn origin_words(setting: &ResolvedSetting, words: fn(&Origin) -> String) -> String {
    match setting.value {
        Some(_) => words(&setting.origin),
        None if is_workers_own(setting) => "each worker has its own default".to_owned(),
        None => "there is none".to_owned(),
    }
}

fn is_workers_own(printed: &ResolvedSetting) -> bool {
    setting(&printed.key).is_some_and(|row| row.default == DefaultValue::Workers)
}

/// As a property list writes it; the mask stays as it is.
pub(super) fn as_plist(value: &Value) -> String {
    match value {
        Value::Text(text) if text == MASK => MASK.to_owned(),
        other => other.to_string(),
    }
}

#[derive(Serialize)]
struct Document<'r> {
    format: &'static str,
    environment: &'r str,
    settings: Vec<SavedSetting>,
    problems: &'r [Problem],
    layers: &'r [LayerInfo],
    plist: serde_json::Value,
}

pub(super) fn json(
    resolution: &Resolution,
    settings: &[&ResolvedSetting],
    options: &PrintOptions,
    secrets: Secrets,
) -> String {
    let wanted = selected(&secrets.tree(&resolution.tree).0, "", options);
    to_json(&Document {
        format: saved::FORMAT,
        environment: &resolution.run.environment,
        settings: settings.iter().map(|setting| to_saved(setting, secrets)).collect(),
        problems: &resolution.problems,
        layers: &resolution.layers,
        plist: tree_to_json(&plist::Value::Dictionary(wanted)),
    })
}

/// JSON for programs and, being indented, for people.
pub(super) fn to_json(value: &impl Serialize) -> String {
    // Structs of texts, numbers and lists always have a serialised form.
    serde_json::to_string_pretty(value).expect("the answer can be serialised") + "\n"
}

/// The setting as it may be saved.
pub(super) fn to_saved(setting: &ResolvedSetting, secrets: Secrets) -> SavedSetting {
    let lost =
        |lost: &Override| SavedOverride { value: secrets.shown(setting, &lost.value), origin: lost.origin.clone() };
    SavedSetting {
        key: setting.key.clone(),
        value: setting.value.as_ref().map(|value| secrets.shown(setting, value)),
        kind: setting.kind.to_owned(),
        origin: setting.origin.clone(),
        overrides: setting.overrides.iter().map(lost).collect(),
        secret: setting.secret,
        reload: setting.reload,
    }
}

/// The part of a tree whose keys are asked for.
fn selected(tree: &plist::Dictionary, path: &str, options: &PrintOptions) -> plist::Dictionary {
    let mut out = plist::Dictionary::new();
    for (key, value) in tree {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            _ if options.wants(&path) => out.insert(key.clone(), value.clone()),
            plist::Value::Dictionary(inner) if options.prefixes.iter().any(|prefix| is_under(prefix, &path)) => {
                out.insert(key.clone(), selected(inner, &path, options).into())
            }
            _ => None,
        };
    }
    out
}

/// A property list of all settings, with their origins as comments, and the app's own keys.
pub(super) fn plist(
    resolution: &Resolution,
    settings: &[&ResolvedSetting],
    options: &PrintOptions,
    secrets: Secrets,
) -> String {
    let (tree, is_masked) = secrets.tree(&resolution.tree);
    let table: Vec<_> = settings.iter().filter(|printed| setting(&printed.key).is_some()).collect();
    let mut out = String::new();
    if is_masked || table.iter().any(|setting| secrets.masks(setting)) {
        let _ = writeln!(out, "// {MASKED_NOTE}");
    }
    out.push_str("{\n");
    let mut groups: BTreeMap<usize, (&str, Vec<String>)> = BTreeMap::new();
    for printed in table {
        match printed.key.split_once('.') {
            None => {
                let _ = write!(out, "  {}", plist_line(printed, &printed.key, secrets));
            }
            Some((group, name)) => {
                // Groups keep the order in which the table has them.
                let order = SETTINGS.iter().position(|row| row.key.starts_with(group)).unwrap_or_default();
                groups.entry(order).or_insert((group, Vec::new())).1.push(plist_line(printed, name, secrets));
            }
        }
    }
    for (group, lines) in groups.into_values() {
        let _ = writeln!(out, "  {group} = {{\n    {}  }};", lines.join("    "));
    }
    for (key, value) in selected(&tree, "", options).iter().filter(|(key, _)| is_the_apps(key)) {
        let _ = writeln!(out, "  {} = {};", openstep::quoted(key), written(value, 2));
    }
    out.push_str("}\n");
    out
}

fn is_the_apps(key: &str) -> bool {
    setting(key).is_none() && !propane_config::GROUPS.contains(&key)
}

/// `name = value; // origin`. What only workers have a default for is commented out unless a layer set it, because
/// setting it would export it.
fn plist_line(printed: &ResolvedSetting, name: &str, secrets: Secrets) -> String {
    let row = setting(&printed.key);
    let is_unset = printed.origin == Origin::Builtin && row.is_some_and(|row| row.export == Export::WhenSet);
    let comment = if is_unset { "// " } else { "" };
    match &printed.value {
        Some(value) => {
            format!("{comment}{name} = {}; // {}\n", secrets.shown(printed, value), one_line(&printed.origin))
        }
        None => format!("// {name} is each worker's own\n"),
    }
}

/// An origin that ends no comment before its time.
fn one_line(origin: &Origin) -> String {
    origin.to_string().replace(['\n', '\r'], " ")
}

fn written(value: &plist::Value, indent: usize) -> String {
    let (pad, end) = (" ".repeat(indent + 2), " ".repeat(indent));
    match value {
        plist::Value::Dictionary(pairs) if pairs.is_empty() => "{}".to_owned(),
        plist::Value::Dictionary(pairs) => {
            let lines = pairs.iter();
            let lines =
                lines.map(|(key, value)| format!("{pad}{} = {};\n", openstep::quoted(key), written(value, indent + 2)));
            format!("{{\n{}{end}}}", lines.collect::<String>())
        }
        plist::Value::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| written(item, indent + 2)).collect();
            format!("({})", items.join(", "))
        }
        scalar => openstep::scalar(scalar),
    }
}

/// `VARIABLE=value` for every setting that has one, quoted for a shell.
pub(super) fn env(settings: &[&ResolvedSetting], secrets: Secrets) -> String {
    let mut out = String::new();
    if settings.iter().any(|printed| secrets.masks(printed) && setting(&printed.key).is_some()) {
        let _ = writeln!(out, "# {MASKED_NOTE}");
    }
    for printed in settings {
        let Some((row, variable)) = setting(&printed.key).and_then(|row| Some((row, row.variable?))) else { continue };
        let Some(value) = &printed.value else { continue };
        let is_unset = printed.origin == Origin::Builtin && row.export == Export::WhenSet;
        let comment = if is_unset { "#" } else { "" };
        let value = secrets.shown(printed, value).to_variable();
        let _ = writeln!(out, "{comment}{variable}={}", shell_words::quote(&value));
    }
    out
}
