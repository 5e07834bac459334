//! `propane` itself: the manager.

use std::process::ExitCode;

use propane_config::{Inputs, Resolution};

use crate::commands::problems;
use crate::{exit, output};

/// Runs the manager until it is told to stop. Nothing is started while anything is wrong with the configuration.
#[expect(clippy::needless_pass_by_value, reason = "the manager keeps both")]
pub(crate) fn run(_inputs: Inputs, resolution: Resolution) -> ExitCode {
    let report = problems(&resolution, output::colours().stderr);
    output::write_stderr(&report);
    ExitCode::from(exit::of_start(&resolution).unwrap_or(0))
}
