//! The exit codes, all of them.

use propane_config::{Code, Problem, Resolution};

/// Everything is as it should be.
pub(crate) const FINE: u8 = 0;
/// A command found errors, or a start failed on what is around propane.
pub(crate) const FOUND: u8 = 1;
/// The command line or a file could not be read, or a start was refused.
pub(crate) const USAGE: u8 = 2;
/// There is no such key or environment.
pub(crate) const UNKNOWN: u8 = 3;

/// Of a command that reads the configuration. What could not be read comes before what was not found in it.
pub(crate) fn of_command(resolution: &Resolution) -> u8 {
    of_problems(&resolution.problems)
}

/// The same, of problems.
pub(crate) fn of_problems(problems: &[Problem]) -> u8 {
    let codes: Vec<u8> = problems.iter().filter(|problem| problem.is_error()).map(of_problem).collect();
    [USAGE, UNKNOWN, FOUND].into_iter().find(|code| codes.contains(code)).unwrap_or(FINE)
}

/// Of a start that the configuration refuses. `None` lets it go on.
pub(crate) fn of_start(resolution: &Resolution) -> Option<u8> {
    let mut errors = resolution.problems.iter().filter(|problem| problem.is_error()).peekable();
    errors.peek()?;
    Some(if errors.all(is_of_the_world) { FOUND } else { USAGE })
}

fn of_problem(problem: &Problem) -> u8 {
    match problem.code {
        Code::Syntax | Code::Unreadable | Code::MissingApp | Code::EnvironmentName => USAGE,
        Code::UnknownEnvironment => UNKNOWN,
        _ if is_of_the_world(problem) => USAGE,
        _ => FOUND,
    }
}

/// Wrong with the machine and not with the configuration.
fn is_of_the_world(problem: &Problem) -> bool {
    matches!(problem.code, Code::AppRoot | Code::FrameworkRoot)
}
