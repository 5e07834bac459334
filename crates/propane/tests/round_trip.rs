//! What `config print` writes resolves to the same configuration again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use propane_config::saved::{self, SavedOverride};
use propane_config::{
    DefaultValue, Export, Inputs, Kind, SETTINGS, Setting, Shape, Value, load, openstep, worker_exports,
};
use proptest::prelude::*;

/// A valid value of a row.
fn value(row: &'static Setting) -> BoxedStrategy<Value> {
    match row.kind {
        Kind::Int { min, max } => (min..=max).prop_map(Value::Int).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::Choice(words) => prop::sample::select(words).prop_map(|word| Value::Text(word.to_owned())).boxed(),
        Kind::List => prop::collection::vec("[^\u{0},]{0,8}", 0..4).prop_map(Value::List).boxed(),
        Kind::Text(Shape::Octal) => "[0-7]{0,4}".prop_map(Value::Text).boxed(),
        Kind::Text(Shape::UrlPath) => "(/[a-z%?=]{0,8})?".prop_map(Value::Text).boxed(),
        // No NUL, which is refused, and no `@`, which could make a URL with a user, which is masked.
        Kind::Text(_) => "[a-z][^\u{0}@]{0,12}".prop_map(Value::Text).boxed(),
    }
}

/// Some rows with values, as a property list.
fn file() -> impl Strategy<Value = String> {
    let rows = prop::sample::subsequence(SETTINGS.iter().collect::<Vec<_>>(), 0..SETTINGS.len());
    let values = rows.prop_flat_map(|rows| rows.into_iter().map(|row| (Just(row), value(row))).collect::<Vec<_>>());
    values.prop_map(|values| {
        let mut text = String::from("{\n");
        let mut groups = std::collections::BTreeMap::<&str, String>::new();
        for (row, value) in values {
            let line = format!("{} = {value};\n", row.name());
            match row.group() {
                Some(group) => groups.entry(group).or_default().push_str(&line),
                None => text.push_str(&line),
            }
        }
        let groups: Vec<_> = groups.iter().map(|(group, lines)| format!("{group} = {{ {lines} }};\n")).collect();
        text + &groups.concat() + "appOwned = { name = \"x y\"; list = (1, { a = <*I5>; }); };\n}\n"
    })
}

fn app(text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("config")).unwrap();
    fs::write(root.path().join("config/app.plist"), text).unwrap();
    root
}

fn resolve(root: &Path) -> propane_config::Resolution {
    load(&Inputs { cwd: root.to_owned(), hostname: Some("node-1".into()), ..Inputs::default() })
}

fn printed(root: &Path, format: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_propane"));
    let command = command.env_clear().current_dir(root).args(["config", "print", "--format", format]);
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_printed_property_list_loads_back(text in file()) {
        let before = app(&text);
        let again = app(&printed(before.path(), "plist"));
        let (before, again) = (resolve(before.path()), resolve(again.path()));
        let mut expected = before.config.clone();
        // The program took the host's real name, since nothing set another.
        if before.setting("cluster.nodeID").unwrap().origin.to_string().starts_with("derived") {
            expected.cluster.node_id.clone_from(&again.config.cluster.node_id);
        }
        prop_assert_eq!(&again.config, &expected, "{}", text);
        prop_assert_eq!(before.tree.get("appOwned"), again.tree.get("appOwned"));
        let names = |resolution| worker_exports(resolution).into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        prop_assert_eq!(names(&before), names(&again), "workers get the same variables");
    }

    /// Saved as JSON, nothing of a resolution is lost: neither values nor origins, nor what lost.
    #[test]
    fn a_saved_document_reads_back(text in file(), above in file()) {
        let root = app(&text);
        fs::create_dir(root.path().join("config/environments")).unwrap();
        fs::write(root.path().join("config/environments/production.plist"), above).unwrap();
        let saved = saved::read(printed(root.path(), "json").as_bytes()).unwrap();
        let before = resolve(root.path());
        let is_the_hosts = |key: &str| {
            matches!(key, "cluster.nodeID" | "frameworkRoot" | "appRoot" | "pidFile")
        };
        prop_assert_eq!(&saved.environment, &before.run.environment);
        prop_assert_eq!(saved.settings.len(), before.settings.len());
        for (saved, before) in saved.settings.iter().zip(&before.settings).filter(|(_, it)| !is_the_hosts(&it.key)) {
            prop_assert_eq!((&saved.key, &saved.value, &saved.origin), (&before.key, &before.value, &before.origin));
            prop_assert_eq!((saved.kind.as_str(), saved.secret, saved.reload), (before.kind, before.secret, before.reload));
            let lost = before.overrides.iter();
            let lost: Vec<_> =
                lost.map(|it| SavedOverride { value: it.value.clone(), origin: it.origin.clone() }).collect();
            prop_assert_eq!(&saved.overrides, &lost);
        }
        let mut config = saved.config().unwrap();
        config.cluster.node_id.clone_from(&before.config.cluster.node_id);
        prop_assert_eq!(config, before.config);
    }
}

#[test]
fn printed_variables_resolve_to_the_same_values() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/apps/seed");
    let before = resolve(&root);
    let mut inputs = Inputs { cwd: root.clone(), hostname: Some("node-1".into()), ..Inputs::default() };
    for line in printed(&root, "env").lines().filter(|line| !line.starts_with('#')) {
        let words = shell_words::split(line).unwrap();
        let (name, value) = words[0].split_once('=').unwrap();
        inputs.env.insert(name.into(), value.into());
    }
    inputs.env.insert("ARLEN_CLUSTER_NODE_ID".into(), before.config.cluster.node_id.clone().into());
    assert_eq!(load(&inputs).config, before.config);
}

/// The rows that `file` cannot break a resolution with are all rows.
#[test]
fn every_row_s_default_is_valid() {
    for row in SETTINGS.iter().filter(|row| row.export != Export::WhenSet || row.default != DefaultValue::Workers) {
        let Some(default) = row.default_value() else { continue };
        let text = default.to_variable();
        assert_eq!(row.kind.read_text(&text), Ok(default.clone()), "{}", row.key);
        assert!(!openstep::quoted(&text).is_empty());
    }
}
