//! A whole resolution: whatever files, variables and flags hold, it ends with a usable configuration, the merge agrees
//! with the provenance (a debug assertion), and everything that was found can be shown.
//!
//! An input is several texts with a NUL between them: `config/app.plist`, the environment's file, and then any number of
//! `NAME=VALUE` and `--flag=VALUE`.

#![no_main]

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use propane_config::{Flag, Inputs, Kind, SETTINGS, load, report, worker_exports};
use tempfile::TempDir;

thread_local! {
    static ROOT: OnceCell<TempDir> = const { OnceCell::new() };
}

fuzz_target!(|bytes: &[u8]| {
    ROOT.with(|root| resolve(root.get_or_init(app_root), bytes));
});

/// In memory, where there is such a place: files are written by the million.
fn app_root() -> TempDir {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory can be made");
    fs::create_dir_all(root.path().join("config/environments")).expect("a directory can be made");
    root
}

fn resolve(root: &TempDir, bytes: &[u8]) {
    let mut parts = bytes.split(|byte| *byte == 0);
    for file in ["config/app.plist", "config/environments/production.plist"] {
        let path = root.path().join(file);
        match parts.next() {
            Some(text) => fs::write(path, text).expect("a file can be written"),
            // It may be missing already.
            None => drop(fs::remove_file(path)),
        }
    }
    let mut inputs = Inputs { cwd: root.path().to_owned(), hostname: Some("node-1".to_owned()), ..Inputs::default() };
    parts.enumerate().for_each(|(index, word)| add(&mut inputs, index + 1, word));
    check(&inputs);
}

fn add(inputs: &mut Inputs, index: usize, word: &[u8]) {
    let Some(sign) = word.iter().position(|byte| *byte == b'=') else { return };
    let value = OsString::from_vec(word[sign + 1..].to_vec());
    match word[..sign].strip_prefix(b"--") {
        // Only an app root in the world of this target.
        Some(b"app-root" | b"framework-root") => {}
        Some(name) => {
            let name = String::from_utf8_lossy(name).into_owned();
            inputs.args.flags.push(Flag { name, value, index });
        }
        None if word.starts_with(b"ARLEN_APP_ROOT") || word.starts_with(b"ARLEN_FRAMEWORK_ROOT") => {}
        None => drop(inputs.env.insert(OsString::from_vec(word[..sign].to_vec()), value)),
    }
}

fn check(inputs: &Inputs) {
    let resolution = load(inputs);
    for problem in &resolution.problems {
        assert!(!report::render(problem, true).is_empty());
        assert!(!report::one_line(problem).contains('\n'));
    }
    for (row, setting) in SETTINGS.iter().zip(&resolution.settings) {
        assert_eq!(row.key, setting.key);
        if let (Kind::Int { min, max }, Some(propane_config::Value::Int(number))) = (row.kind, &setting.value) {
            assert!((min..=max).contains(number));
        }
    }
    drop(worker_exports(&resolution));
}
