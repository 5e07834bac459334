//! `cargo xtask planted`: mistakes planted in a copy of the supervisor, each of which the simulator has to catch.
//!
//! A mistake is a file under `crates/propane-sim/planted/`: a line of prose, the file that is wrong, and what stands
//! there rightly and wrongly. The right text must be found exactly once, so a mistake that has become stale is noticed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// How many schedules a mistake may hide in.
const SCHEDULES: u64 = 100_000;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    match check(&words.collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("planted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One mistake.
struct Mistake {
    name: String,
    file: String,
    right: String,
    wrong: String,
}

/// Plants each mistake, or those that are named, and tells whether all were caught.
fn check(names: &[String]) -> Outcome<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut mistakes = mistakes(&root.join("crates/propane-sim/planted"))?;
    mistakes.retain(|mistake| names.is_empty() || names.contains(&mistake.name));
    let scratch = tempfile::tempdir()?;
    let copy = Copy { root: &root, scratch: scratch.path() };
    copy.make()?;
    if let Some(rule) = copy.broken_rule()? {
        return Err(format!("the supervisor is wrong before anything is planted: {rule}").into());
    }
    let mut caught = 0;
    for mistake in &mistakes {
        let rule = copy.plant(mistake)?;
        caught += usize::from(rule.is_some());
        println!("{:40} {}", mistake.name, rule.as_deref().unwrap_or("NOT CAUGHT"));
    }
    println!("{caught} of {} caught", mistakes.len());
    Ok(caught == mistakes.len() && !mistakes.is_empty())
}

fn mistakes(folder: &Path) -> Outcome<Vec<Mistake>> {
    let mut paths: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Outcome<Mistake> {
    let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let text = fs::read_to_string(path)?;
    let parts = || {
        let (head, rest) = text.split_once("\n<<<<\n")?;
        let (right, rest) = rest.split_once("\n====\n")?;
        let (wrong, _) = rest.split_once("\n>>>>\n")?;
        let file = head.lines().find_map(|line| line.strip_prefix("file: "))?;
        Some(Mistake { name: name.clone(), file: file.to_owned(), right: right.to_owned(), wrong: wrong.to_owned() })
    };
    parts().ok_or_else(|| format!("{} is not a planted mistake", path.display()).into())
}

/// A copy of the two crates that matter, where mistakes do no harm.
struct Copy<'a> {
    root: &'a Path,
    scratch: &'a Path,
}

impl Copy<'_> {
    fn make(&self) -> Outcome<()> {
        for part in ["crates/propane-core", "crates/propane-sim"] {
            copy_tree(&self.root.join(part), &self.scratch.join(part))?;
        }
        let manifest = fs::read_to_string(self.root.join("Cargo.toml"))?;
        let manifest = manifest.replace("default-members = [\"crates/propane\"]\n", "");
        fs::write(self.scratch.join("Cargo.toml"), manifest)?;
        fs::copy(self.root.join("Cargo.lock"), self.scratch.join("Cargo.lock"))?;
        Ok(())
    }

    /// Plants a mistake, sees what becomes of it, and takes it out again.
    fn plant(&self, mistake: &Mistake) -> Outcome<Option<String>> {
        let path = self.scratch.join(&mistake.file);
        let right = fs::read_to_string(&path)?;
        let count = right.matches(&mistake.right).count();
        if count != 1 {
            return Err(format!("{}: its text stands {count} times in {}", mistake.name, mistake.file).into());
        }
        fs::write(&path, right.replace(&mistake.right, &mistake.wrong))?;
        let rule = self.broken_rule();
        fs::write(&path, right)?;
        rule
    }

    /// Which rule the simulator finds broken in the copy, if any.
    fn broken_rule(&self) -> Outcome<Option<String>> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["test", "--quiet", "--offline", "--package", "propane-sim", "--test", "schedules"])
            .args(["--", "no_rule_is_broken"])
            .current_dir(self.scratch)
            .env("CARGO_TARGET_DIR", self.target())
            .env("PROPANE_SIM_SCHEDULES", SCHEDULES.to_string())
            .output()?;
        if output.status.success() {
            return Ok(None);
        }
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let rule = said.lines().find_map(|line| line.split_once("broken rule: "));
        rule.map(|(_, rule)| Some(rule.to_owned())).ok_or_else(|| format!("no rule, but no success:\n{said}").into())
    }

    /// Beside the workspace's own build, so that a second run has less to do.
    fn target(&self) -> PathBuf {
        let own = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), PathBuf::from);
        own.join("planted")
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
