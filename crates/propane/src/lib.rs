//! The `propane` command.
//!
//! This file is the edge: what the process was started with comes in here once, what a command has to say goes out
//! here, and the exit code is decided here and in [`exit`]. The commands in between take and return values.

mod cli;
mod commands;
mod exit;
mod manual;
mod output;
mod run;

use std::ffi::OsString;
use std::process::ExitCode;

use propane_config::{Args, Inputs};

use crate::cli::Action;

pub use crate::manual::page as manual_page;

/// The word with which the manager starts the embedded worker: this program again, with a command line of its own.
const WORKER: &str = "worker";

/// The program, from what it was started with to its exit code.
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some((first, rest)) = words.split_first() {
        if first == WORKER {
            take_name();
            return propane_worker::embedded::main(rest.iter().cloned());
        }
        if first == propane_supervisor::WARDEN {
            take_name();
            return propane_supervisor::warden_main(rest);
        }
    }
    let request = match cli::parse(&words) {
        Ok(request) => request,
        Err(message) => return output::show_usage(&message),
    };
    let screen = output::screen(request.color);
    let inputs = inputs(request.args);
    match request.action {
        Action::Run => run::run(inputs, screen),
        Action::Config(command) => output::show(&command.answer(&inputs, screen)),
    }
}

/// Executed as /proc/self/exe, this would be called "exe" in process lists.
fn take_name() {
    // Only a name: a refusal changes nothing.
    let _ = nix::sys::prctl::set_name(c"propane");
}

/// The only place that reads the environment, the current directory and the host name.
fn inputs(args: Args) -> Inputs {
    Inputs {
        args,
        env: std::env::vars_os().collect(),
        cwd: std::env::current_dir().unwrap_or_default(),
        exe: std::env::current_exe().ok(),
        hostname: hostname::get().ok().and_then(|name| name.into_string().ok()),
    }
}
