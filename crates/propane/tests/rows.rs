//! No setting is a promise that nothing keeps: each is either given to the workers or acted on by the manager.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use propane_config::{Export, SETTINGS, Setting};

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All sources of a crate, one after the other.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

/// Whether a field of this name is read, and not one whose name only begins so.
fn reads(text: &str, field: &str) -> bool {
    let is_end = |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_');
    text.match_indices(&format!(".{field}")).any(|(at, found)| is_end(&text[at + found.len()..]))
}

#[test]
fn every_row_is_used() {
    let manager = sources(&crates().join("propane-supervisor/src"));
    // What the worker is and how it gets its connections is already decided in the resolution.
    let resolution = sources(&crates().join("propane-config/src/resolve"));
    let is_used = |row: &&Setting| {
        row.export != Export::Never || reads(&manager, row.field) || resolution.contains(&format!("{:?}", row.key))
    };
    let unused: Vec<_> = SETTINGS.iter().filter(|row| !is_used(row)).map(|row| row.key).collect();
    assert!(unused.is_empty(), "nothing acts on {unused:?}");
}

#[test]
fn a_field_is_not_read_where_only_its_beginning_is() {
    assert!(reads("config.umask)", "umask"));
    assert!(!reads("config.umask_of(x)", "umask"));
}
