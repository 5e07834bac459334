//! docs/guarantees.md names a test for every promise; here it is made sure that they exist.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

/// The words in backquotes of the last column of every row.
fn proofs(page: &str) -> impl Iterator<Item = &str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let columns = rows.filter_map(|row| row.rsplit(" | ").next());
    columns.flat_map(|column| column.split('`').skip(1).step_by(2))
}

/// Files are those of this crate's tests, or of any crate by their whole path.
fn exists(root: &Path, proof: &str) -> bool {
    match proof.split_once("::") {
        Some((file, name)) => {
            let places = ["crates/propane/tests", "crates"].map(|place| root.join(place).join(file));
            let code = places.iter().find_map(|path| fs::read_to_string(path).ok()).unwrap_or_default();
            let lines: Vec<&str> = code.lines().map(str::trim_start).collect();
            lines.windows(2).any(|pair| pair[0] == "#[test]" && pair[1].starts_with(&format!("fn {name}()")))
        }
        None => root.join("testdata/transcripts").join(proof).is_file(),
    }
}

#[test]
fn every_promise_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("docs/guarantees.md")).unwrap();
    let missing: Vec<_> = proofs(&text).filter(|proof| !exists(&root, proof)).collect();
    assert!(missing.is_empty(), "no such test or transcript: {missing:#?}");
    assert!(proofs(&text).count() > 50, "the page is read as it is written");
}
