//! The supervisor's behaviour, told in stories: every file of testdata/transcripts is played and must end up as it is.
//! With `PROPANE_UPDATE_TRANSCRIPTS=1` the files are rewritten instead; then the diff is the thing to review.

use std::path::{Path, PathBuf};
use std::{env, fs};

use propane_sim::story;

fn stories() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/transcripts");
    let entries = fs::read_dir(folder).expect("the folder of transcripts");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// The first line in which two texts differ, for a message that can be read.
fn first_difference(expected: &str, told: &str) -> String {
    let lines = expected.lines().map(Some).chain(std::iter::repeat(None));
    let mut pairs = (1..).zip(lines.zip(told.lines().map(Some).chain(std::iter::repeat(None))));
    let found = pairs.find(|(_, (expected, told))| expected != told || expected.is_none());
    found
        .map(|(line, (expected, told))| format!("line {line}:\n  expected {expected:?}\n  but got  {told:?}"))
        .unwrap_or_default()
}

#[test]
fn every_story_ends_as_it_is_told() {
    let update = env::var_os("PROPANE_UPDATE_TRANSCRIPTS").is_some();
    let files = stories();
    assert!(files.len() >= 20, "only {} stories were found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let expected = fs::read_to_string(&file).expect("a readable story");
        match story::tell(&expected) {
            Err(error) => wrong.push(format!("{name}: {error}")),
            Ok(told) if told == expected => {}
            Ok(told) if update => fs::write(&file, told).expect("a writable story"),
            Ok(told) => wrong.push(format!("{name}, {}", first_difference(&expected, &told))),
        }
    }
    assert!(wrong.is_empty(), "{}\n\nPROPANE_UPDATE_TRANSCRIPTS=1 rewrites them; review the diff.", wrong.join("\n"));
}
