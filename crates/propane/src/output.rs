//! Where text leaves the process. A reader that went away is no failure: `propane config print | head -1` is fine.

use std::fmt::Display;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use crate::exit;

/// What a command has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The answer.
    pub(crate) stdout: String,
    /// What else there is to say.
    pub(crate) stderr: String,
    /// The exit code.
    pub(crate) status: u8,
}

/// Where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Screen {
    /// Where answers go.
    pub(crate) stdout: Stream,
    /// Where diagnostics go.
    pub(crate) stderr: Stream,
}

/// One of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Somebody looks at it.
    pub(crate) is_terminal: bool,
    /// It shows colours.
    pub(crate) coloured: bool,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ColorChoice {
    /// On terminals that know them, unless `NO_COLOR` holds anything.
    #[default]
    Auto,
    /// Anywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Answer {
    /// Only an answer.
    pub(crate) fn fine(stdout: String) -> Self {
        Self { stdout, stderr: String::new(), status: exit::FINE }
    }

    /// Only why there is none.
    pub(crate) fn refusal(status: u8, reason: impl Display) -> Self {
        Self { stdout: String::new(), stderr: format!("propane: {reason}\n"), status }
    }
}

/// What the two streams are.
pub(crate) fn screen(color: ColorChoice) -> Screen {
    let is_unwelcome = || {
        let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
        is_dumb || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
    };
    let is_wanted = |is_terminal: bool| match color {
        ColorChoice::Auto => is_terminal && !is_unwelcome(),
        ColorChoice::Always => true,
        ColorChoice::Never => false,
    };
    let stream = |is_terminal| Stream { is_terminal, coloured: is_wanted(is_terminal) };
    Screen { stdout: stream(io::stdout().is_terminal()), stderr: stream(io::stderr().is_terminal()) }
}

/// Says it.
pub(crate) fn show(answer: &Answer) -> ExitCode {
    write_stderr(&answer.stderr);
    let mut stdout = io::stdout().lock();
    status_of(stdout.write_all(answer.stdout.as_bytes()).and_then(|()| stdout.flush()), answer.status)
}

/// Says how to use the program, or that it was used wrongly.
pub(crate) fn show_usage(message: &clap::Error) -> ExitCode {
    let status = u8::try_from(message.exit_code()).unwrap_or(exit::USAGE);
    status_of(message.print().and_then(|()| io::stdout().flush()), status)
}

/// Says it to whoever reads the diagnostics.
pub(crate) fn write_stderr(text: &str) {
    // Where diagnostics cannot be written, nobody can be told.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// An answer that was not written is none. A reader that has seen enough is no failure.
fn status_of(written: io::Result<()>, status: u8) -> ExitCode {
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            write_stderr(&format!("propane: cannot write the answer: {error}\n"));
            ExitCode::from(status.max(exit::FOUND))
        }
        _ => ExitCode::from(status),
    }
}
