//! `cargo xtask generate`: the files that are made from the table of settings and from the flags.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask generate [--check]

  --check   write nothing; fail if a file is not what it would be
";

/// The command that refreshes the files.
const REFRESH: &str = "cargo xtask generate";

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<_> = words.collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => write(),
        ["--check"] => check(),
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Every generated file with its contents.
fn files() -> [(PathBuf, String); 5] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // A tree of texts and numbers always has a serialised form.
    let schema = serde_json::to_string_pretty(&propane_config::schema::schema()).expect("the schema can be serialised");
    [
        (root.join("docs/settings.md"), propane_config::reference::markdown()),
        (root.join("docs/man/propane.1"), propane::manual_page()),
        (root.join("docs/man/propane.plist.5"), propane_config::manual::page()),
        (root.join("config-schema/app.plist"), propane_config::reference::template()),
        (root.join("config-schema/app.schema.json"), schema + "\n"),
    ]
}

fn write() -> ExitCode {
    for (path, contents) in stale() {
        if let Err(error) = fs::write(&path, contents) {
            eprintln!("cannot write {}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("wrote {}", path.display());
    }
    ExitCode::SUCCESS
}

fn check() -> ExitCode {
    let stale = stale();
    for (path, _) in &stale {
        eprintln!("{} is not up to date: run `{REFRESH}`", path.display());
    }
    if stale.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The files that are not what they should be.
fn stale() -> Vec<(PathBuf, String)> {
    files().into_iter().filter(|(path, contents)| fs::read_to_string(path).ok().as_ref() != Some(contents)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_files_are_up_to_date() {
        let stale: Vec<_> = stale().into_iter().map(|(path, _)| path).collect();
        assert!(stale.is_empty(), "{stale:?}: run `{REFRESH}`");
    }
}
