//! `propane` itself: the manager.

use std::process::ExitCode;

use propane_config::Inputs;

use crate::commands::problems;
use crate::output::Screen;
use crate::{exit, output};

/// Runs the manager until it has stopped. Nothing is started while anything is wrong with the configuration.
pub(crate) fn run(inputs: Inputs, screen: Screen) -> ExitCode {
    let resolution = propane_config::load(&inputs);
    output::write_stderr(&problems(&resolution.problems, screen.stderr.coloured));
    if let Some(code) = exit::of_start(&resolution) {
        return ExitCode::from(code);
    }
    propane_supervisor::install_diagnostics();
    ExitCode::from(propane_supervisor::run(inputs, &resolution))
}
