//! What is wrong in an app's files, for one environment or for every one that has a file.

use std::collections::HashMap;

use serde::Serialize;

use crate::inputs::{Flag, Inputs};
use crate::options::{self, Options, is_environment_name};
use crate::origin::Origin;
use crate::problem::{Code, Problem};
use crate::report;
use crate::resolve::{FileState, Resolution, load, order};
use crate::world::{self, ENVIRONMENTS};

/// The files that were looked at, and all that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The environments it was done for.
    pub environments: Vec<String>,
    /// The files, each once.
    pub files: Vec<CheckedFile>,
    /// The problems, each once.
    pub problems: Vec<Problem>,
}

/// A file and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckedFile {
    /// Relative to the app root.
    pub path: String,
    /// What became of it.
    pub state: FileState,
}

/// A problem and the environments it was found in.
struct Found {
    problem: Problem,
    environments: Vec<String>,
}

impl Sweep {
    /// Of a resolution for one environment.
    pub fn of(resolution: &Resolution) -> Self {
        Self {
            environments: vec![resolution.run.environment.clone()],
            files: files(resolution),
            problems: resolution.problems.clone(),
        }
    }

    /// Resolves for every environment that has a file; for the one asked for if there is none.
    pub fn all(inputs: &Inputs) -> Self {
        let listing = world::environment_names(&Options::of(inputs).app_root.path);
        let unlisted = listing.as_ref().err().map(unlisted);
        let (names, strangers): (Vec<_>, Vec<_>) = listing.unwrap_or_default().into_iter().partition(|name| {
            let name = name.to_str();
            name.is_some_and(is_environment_name)
        });
        let names: Vec<_> = names.into_iter().filter_map(|name| name.into_string().ok()).collect();
        let mut sweep = match names.as_slice() {
            [] => Self::of(&load(inputs)),
            names => Self::over(inputs, names),
        };
        sweep.problems.extend(unlisted);
        sweep.problems.extend(strangers.iter().map(stranger));
        sweep.problems.sort_by_cached_key(order);
        sweep
    }

    fn over(inputs: &Inputs, names: &[String]) -> Self {
        let mut sweep = Self { environments: names.to_vec(), files: Vec::new(), problems: Vec::new() };
        let (mut found, mut index) = (Vec::<Found>::new(), HashMap::new());
        for name in names {
            let resolution = load(&for_environment(inputs, name));
            for file in files(&resolution) {
                if !sweep.files.contains(&file) {
                    sweep.files.push(file);
                }
            }
            for problem in resolution.problems {
                let at = *index.entry(report::one_line(&problem)).or_insert(found.len());
                match found.get_mut(at) {
                    Some(known) => known.again(problem, name),
                    None => found.push(Found { problem, environments: vec![name.clone()] }),
                }
            }
        }
        sweep.problems = found.into_iter().map(|found| found.told(names)).collect();
        sweep
    }
}

impl Found {
    /// The same in another environment, where other values may have to do with it.
    fn again(&mut self, problem: Problem, environment: &str) {
        for place in problem.related {
            if !self.problem.related.contains(&place) {
                self.problem.related.push(place);
            }
        }
        self.environments.push(environment.to_owned());
    }

    /// The problem, with the environments it belongs to where its place does not tell.
    fn told(self, all: &[String]) -> Problem {
        let mut problem = self.problem;
        let place = problem.place.as_ref().map(|place| &place.origin);
        let is_of_file = matches!(place, Some(Origin::File { path, .. }) if path.starts_with(ENVIRONMENTS));
        if self.environments.len() < all.len() && !(is_of_file && problem.code.is_of_one_file()) {
            problem.environments = self.environments;
        }
        problem
    }
}

/// As if started for this environment.
fn for_environment(inputs: &Inputs, name: &str) -> Inputs {
    let mut inputs = inputs.clone();
    let flag = options::option("environment").flag.unwrap_or_default();
    inputs.args.flags.push(Flag { name: flag.to_owned(), value: name.into(), index: 0 });
    inputs
}

fn files(resolution: &Resolution) -> Vec<CheckedFile> {
    let layers = resolution.layers.iter();
    layers.filter_map(|layer| Some(CheckedFile { path: layer.path.clone()?, state: layer.state? })).collect()
}

fn unlisted(error: &std::io::Error) -> Problem {
    Problem::error(Code::Unreadable, format!("cannot list {ENVIRONMENTS}: {error}"))
        .at_origin(Origin::File { path: ENVIRONMENTS.to_owned(), position: None })
}

/// A file that looks like an environment's, but that no name of an environment leads to.
fn stranger(name: &std::ffi::OsString) -> Problem {
    let path = format!("{ENVIRONMENTS}/{}.plist", name.to_string_lossy());
    Problem::warning(Code::EnvironmentName, format!("{path} is never read: no environment can have that name"))
        .at_origin(Origin::File { path, position: None })
        .expected("letters, digits, '_' and '-'")
}
