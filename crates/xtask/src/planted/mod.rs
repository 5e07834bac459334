//! `cargo xtask planted`: mistakes planted in a copy of the supervisor, each of which the simulator has to catch.
//!
//! All of them are in one build of the copy, switched off; each is run with its own switched on. So a mistake costs the
//! time in which the simulator finds it, and not a build.

mod graft;
mod mistake;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::{Mutex, PoisonError};
use std::thread;

use propane_sim::Rule;

use mistake::Mistake;

/// How many schedules a mistake may hide in: as many as `.ci/run` runs, so that a mistake of tomorrow that is as well
/// hidden as any of these does not pass it.
const SCHEDULES: u64 = 20_000;

/// How many schedules of each mistake are looked through for all the rules that it breaks.
const RULE_SCHEDULES: &str = "2000";

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask planted [--rules] [NAME]...

  --rules  tell as well which rules of the simulator none of the mistakes breaks

Exit code 1 when the simulator does not catch one of the mistakes that are named, or of all.
";

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let (flags, names): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with('-'));
    if flags.iter().any(|flag| flag != "--rules") {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    }
    match check(&names, !flags.is_empty()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("planted: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plants all mistakes, and tells of each, or of those that are named, by which rule and after how many schedules it was
/// caught. Returns whether all were.
fn check(names: &[String], tells_rules: bool) -> Outcome<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mistakes = mistake::read_all(&root.join("crates/propane-sim/planted"))?;
    let known = |name: &&String| mistakes.iter().any(|mistake| mistake.name == **name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(format!("no mistake is called {name}").into());
    }
    let program = Copy::new(root).build(&mistakes)?;
    if let Some(caught) = first_failure(&program, None)? {
        return Err(format!("the supervisor is wrong before anything is planted: {caught}").into());
    }
    let wanted = |mistake: &Mistake| names.is_empty() || names.contains(&mistake.name);
    let chosen: VecDeque<_> = (1..).zip(&mistakes).filter(|(_, mistake)| wanted(mistake)).collect();
    let (count, caught) = (chosen.len(), catch_all(&program, chosen)?);
    println!("{caught} of {count} caught");
    if tells_rules {
        tell_unbroken_rules(&program, mistakes.len())?;
    }
    Ok(caught == count && count > 0)
}

/// How many of the mistakes are caught. As many are looked at in parallel as there are processors.
fn catch_all(program: &Path, mistakes: VecDeque<(usize, &Mistake)>) -> Outcome<usize> {
    let queue = Mutex::new(mistakes);
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        let mut count = 0;
        while let Some((number, mistake)) = next() {
            let caught = first_failure(program, Some(number)).map_err(|error| error.to_string())?;
            count += usize::from(caught.is_some());
            println!("{:44} {}", mistake.name, caught.as_deref().unwrap_or("NOT CAUGHT"));
        }
        Ok::<_, String>(count)
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let counts = workers.into_iter().map(|worker| worker.join().map_err(|_| "a thread has failed".to_owned())?);
        Ok(counts.sum::<Result<usize, String>>()?)
    })
}

/// A rule that no mistake breaks may be one that cannot be broken.
fn tell_unbroken_rules(program: &Path, count: usize) -> Outcome<()> {
    let mut rules: Vec<_> = Rule::ALL.iter().map(ToString::to_string).collect();
    for number in 1..=count {
        let output = run_program(program, number, &[RULE_SCHEDULES, "--all"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        rules.retain(|rule| !said.lines().any(|line| line.split_once('\t').is_some_and(|(_, broken)| broken == rule)));
    }
    println!("\nbroken by none of the mistakes: {rules:#?}");
    Ok(())
}

fn run_program(program: &Path, number: usize, words: &[&str]) -> io::Result<Output> {
    Command::new(program).args(words).env("PROPANE_PLANTED", number.to_string()).output()
}

/// What the simulator finds with a mistake switched on: the seed, which is the number of schedules as well, and the rule.
fn first_failure(program: &Path, number: Option<usize>) -> Outcome<Option<String>> {
    let output = run_program(program, number.unwrap_or(0), &[&SCHEDULES.to_string()])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match said.trim_end().split_once('\t') {
        Some((seed, rule)) => Ok(Some(format!("{seed:>6}  {rule}"))),
        None if output.status.success() => Ok(None),
        None => Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A copy of the two crates that matter, where mistakes do no harm. It stands beside the workspace's own build, always at
/// the same place, so that a second run has less to build.
struct Copy {
    root: PathBuf,
    folder: PathBuf,
}

impl Copy {
    fn new(root: PathBuf) -> Self {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        Self { root, folder: target.join("planted") }
    }

    /// Builds the copy with all mistakes in it, and returns the program that looks for them.
    fn build(&self, mistakes: &[Mistake]) -> Outcome<PathBuf> {
        let source = self.folder.join("source");
        self.make(&source)?;
        plant(&source, mistakes)?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--offline", "--package", "propane-sim", "--example", "first_failure"])
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", &self.folder)
            .env("RUSTFLAGS", "--cap-lints=warn") // a mistake may leave something unused
            .output()?;
        if !output.status.success() {
            return Err(format!("the mistakes cannot be built:\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(self.folder.join("debug/examples/first_failure"))
    }

    fn make(&self, source: &Path) -> Outcome<()> {
        if source.exists() {
            fs::remove_dir_all(source)?;
        }
        for part in ["crates/propane-core", "crates/propane-sim"] {
            copy_tree(&self.root.join(part), &source.join(part))?;
        }
        let manifest = fs::read_to_string(self.root.join("Cargo.toml"))?;
        let manifest = manifest.replace("default-members = [\"crates/propane\"]\n", "");
        fs::write(source.join("Cargo.toml"), manifest)?;
        fs::copy(self.root.join("Cargo.lock"), source.join("Cargo.lock"))?;
        Ok(())
    }
}

/// Which mistake is switched on.
const SWITCH: &str = "
#[allow(missing_docs)]
mod planted {
    use std::sync::LazyLock;

    static NUMBER: LazyLock<usize> = LazyLock::new(|| std::env::var(\"PROPANE_PLANTED\").unwrap().parse().unwrap());

    pub(crate) fn is(number: usize) -> bool {
        *NUMBER == number
    }
}
";

/// Puts all mistakes into the copy. Each is known by its place in the list, from 1.
fn plant(source: &Path, mistakes: &[Mistake]) -> Outcome<()> {
    let mut by_file: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (number, mistake) in (1..).zip(mistakes) {
        by_file.entry(&mistake.file).or_default().push((number, mistake));
    }
    for (file, mistakes) in by_file {
        let path = source.join(file);
        let right = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        fs::write(path, graft::graft(&right, &mistakes)?)?;
    }
    let library = source.join("crates/propane-core/src/lib.rs");
    let text = fs::read_to_string(&library)? + SWITCH;
    Ok(fs::write(library, text)?)
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
