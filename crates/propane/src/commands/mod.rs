//! The commands that show the configuration. Each turns a resolution into an answer.

pub(crate) mod config_check;
pub(crate) mod config_print;
mod formats;

use propane_config::{Resolution, report};

/// All problems, each followed by an empty line.
pub(crate) fn problems(resolution: &Resolution, coloured: bool) -> String {
    let problems: Vec<_> = resolution.problems.iter().map(|problem| report::render(problem, coloured)).collect();
    problems.iter().flat_map(|problem| [problem.as_str(), "\n\n"]).collect()
}
