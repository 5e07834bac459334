//! The table of settings agrees with what is made from it.

use std::collections::BTreeSet;

use propane_config::{Inputs, SETTINGS, load};

/// Every path to a leaf, dotted.
fn leaves(prefix: &str, value: &serde_json::Value, out: &mut BTreeSet<String>) {
    match value {
        serde_json::Value::Object(pairs) => {
            for (key, value) in pairs {
                leaves(&format!("{prefix}.{key}"), value, out);
            }
        }
        _ => {
            out.insert(prefix.trim_start_matches('.').to_owned());
        }
    }
}

#[test]
fn every_row_is_a_field_of_the_typed_configuration_and_every_field_a_row() {
    let config = load(&Inputs::default()).config;
    let mut fields = BTreeSet::new();
    leaves("", &serde_json::to_value(&config).unwrap(), &mut fields);
    let rows: BTreeSet<_> = SETTINGS.iter().map(|row| row.key.to_owned()).collect();
    assert_eq!(fields, rows);
}

#[test]
fn no_two_rows_share_a_name() {
    let names = |name: fn(&propane_config::Setting) -> Option<String>| {
        let all: Vec<_> = SETTINGS.iter().chain(propane_config::OPTIONS).filter_map(name).collect();
        let distinct: BTreeSet<_> = all.iter().cloned().collect();
        assert_eq!(all.len(), distinct.len(), "{all:?}");
    };
    names(|row| Some(row.key.to_owned()));
    names(|row| row.variable.map(ToOwned::to_owned));
    names(|row| row.flag.map(ToOwned::to_owned));
}

/// The template sets nothing, and what its lines would set are the defaults.
#[test]
fn the_template_says_how_to_set_everything_to_its_default() {
    let template = propane_config::reference::template();
    let resolve = |text: &str| {
        let root = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(root.path().join("config")).expect("a directory");
        std::fs::write(root.path().join("config/app.plist"), text).expect("a file");
        load(&Inputs { cwd: root.path().to_owned(), ..Inputs::default() })
    };
    let as_it_is = resolve(&template);
    assert_eq!(as_it_is.problems, []);
    let is_setting = |line: &str| line.contains(" = ") && line.ends_with(';') && !line.contains("Template");
    let lines =
        template.lines().map(|line| if is_setting(line) { line.replacen("// ", "", 1) } else { line.to_owned() });
    let uncommented = resolve(&lines.collect::<Vec<_>>().join("\n"));
    assert!(!uncommented.has_errors(), "{:#?}", uncommented.problems);
    let set = SETTINGS.iter().filter(|row| {
        uncommented.setting(row.key).is_some_and(|set| !set.overrides.is_empty() || set.origin.is_explicit())
    });
    assert_eq!(set.count(), SETTINGS.len());
    let differs = |key: &&str| {
        as_it_is.setting(key).map(|setting| &setting.value) != uncommented.setting(key).map(|setting| &setting.value)
    };
    let differences: Vec<_> = SETTINGS.iter().map(|row| row.key).filter(differs).collect();
    assert_eq!(differences, ["serveStatic", "staticAllowExtensions", "logFormat"], "the workers' own defaults");
}
