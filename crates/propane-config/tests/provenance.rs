//! Who is said to have won has won: whatever stands in whichever layers, the origin of every value is the highest layer
//! that sets it, what it overrode are the others in order, and the typed configuration (figment's merge) holds that value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use propane_config::{Args, DefaultValue, Flag, Inputs, Kind, Origin, Resolution, SETTINGS, Setting, load};
use proptest::prelude::*;

/// The layers above the defaults, lowest first.
const LAYERS: [&str; 4] = ["app", "environment", "variable", "flag"];

/// A value for a setting in some of the layers.
#[derive(Debug, Clone)]
struct Choice {
    row: &'static Setting,
    values: [Option<String>; LAYERS.len()],
}

/// Texts are left out: which are valid depends on each.
fn value_of(kind: Kind) -> Option<BoxedStrategy<String>> {
    match kind {
        Kind::Int { min, max } => Some((min..=max.min(min + 1000)).prop_map(|number| number.to_string()).boxed()),
        Kind::Bool => Some(prop::sample::select(vec!["YES", "NO", "on", "0"]).prop_map(str::to_owned).boxed()),
        Kind::Choice(words) => Some(prop::sample::select(words.to_vec()).prop_map(str::to_owned).boxed()),
        Kind::Text(_) | Kind::List => None,
    }
}

fn choices() -> impl Strategy<Value = Vec<Choice>> {
    let choice = |row: &'static Setting| {
        let value = value_of(row.kind)?;
        let maybe = |there: bool| if there { prop::option::of(value.clone()).boxed() } else { Just(None).boxed() };
        let layers = [maybe(true), maybe(true), maybe(row.variable.is_some()), maybe(row.flag.is_some())];
        Some(layers.prop_map(move |values| Choice { row, values }))
    };
    SETTINGS.iter().filter_map(choice).collect::<Vec<_>>()
}

fn resolve(choices: &[Choice]) -> Resolution {
    let root = tempfile::tempdir().unwrap();
    let (mut env, mut flags) = (BTreeMap::new(), Vec::new());
    for Choice { row, values: [_, _, variable, flag] } in choices {
        if let (Some(name), Some(value)) = (row.variable, variable) {
            env.insert(name.into(), value.into());
        }
        if let (Some(name), Some(value)) = (row.flag, flag) {
            flags.push(Flag { name: name.to_owned(), value: value.into(), index: flags.len() + 1 });
        }
    }
    write(&root.path().join("config/app.plist"), choices, 0);
    write(&root.path().join("config/environments/production.plist"), choices, 1);
    let args = Args { flags, ..Args::default() };
    load(&Inputs { args, env, cwd: root.path().to_owned(), hostname: Some("node".into()), ..Inputs::default() })
}

fn write(path: &Path, choices: &[Choice], layer: usize) {
    let mut groups: BTreeMap<&str, String> = BTreeMap::new();
    for choice in choices {
        let (group, name) = choice.row.key.split_once('.').unwrap_or(("", choice.row.key));
        if let Some(value) = &choice.values[layer] {
            writeln!(groups.entry(group).or_default(), "{name} = \"{value}\";").unwrap();
        }
    }
    let text: String = groups
        .iter()
        .map(|(group, lines)| if group.is_empty() { lines.clone() } else { format!("{group} = {{ {lines} }};\n") })
        .collect();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{{\n{text}}}\n")).unwrap();
}

/// Which of [`LAYERS`] an origin is.
fn layer_of(origin: &Origin) -> Option<&'static str> {
    match origin {
        Origin::File { path, .. } if path.contains("environments") => Some("environment"),
        Origin::File { .. } => Some("app"),
        Origin::Env { .. } => Some("variable"),
        Origin::Arg { .. } => Some("flag"),
        Origin::Builtin | Origin::Derived { .. } => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_winner_is_the_highest_layer_and_its_value_is_in_force(choices in choices()) {
        let resolution = resolve(&choices);
        let typed = serde_json::to_value(&resolution.config).unwrap();
        for Choice { row, values } in &choices {
            let found = resolution.setting(row.key).unwrap();
            if matches!(found.origin, Origin::Derived { .. }) {
                continue; // a rule has the last word, which has tests of its own
            }
            let mut expected: Vec<_> =
                LAYERS.iter().zip(values).filter(|(_, value)| value.is_some()).map(|(layer, _)| Some(*layer)).collect();
            expected.reverse();
            if let DefaultValue::Int(_) | DefaultValue::Bool(_) | DefaultValue::Text(_) = row.default {
                expected.push(None);
            }
            let origins = std::iter::once(&found.origin).chain(found.overrides.iter().map(|lost| &lost.origin));
            let mut origins: Vec<_> = origins.map(layer_of).collect();
            // A setting that nobody sets and that has no default of its own has an origin all the same.
            if expected.is_empty() && origins == [None] {
                origins.clear();
            }
            prop_assert_eq!(&origins, &expected, "{}", row.key);
            let in_force = row.key.split('.').try_fold(&typed, |tree, name| tree.get(name));
            let said = found.value.as_ref().map(|value| serde_json::to_value(value).unwrap());
            prop_assert_eq!(in_force.filter(|value| !value.is_null()).cloned(), said, "{}", row.key);
        }
    }
}
