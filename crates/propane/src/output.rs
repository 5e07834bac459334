//! Where text leaves the process. A reader that went away is no failure: `propane config print | head -1` is fine.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

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

/// Colours are for terminals, unless `NO_COLOR` holds anything.
pub(crate) fn screen() -> Screen {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let stream = |is_terminal| Stream { is_terminal, coloured: wanted && is_terminal };
    Screen { stdout: stream(io::stdout().is_terminal()), stderr: stream(io::stderr().is_terminal()) }
}

/// Says it.
pub(crate) fn show(answer: &Answer) -> ExitCode {
    write_stderr(&answer.stderr);
    write(&mut io::stdout().lock(), &answer.stdout);
    ExitCode::from(answer.status)
}

/// Says how to use the program, or that it was used wrongly.
pub(crate) fn show_usage(message: &clap::Error) -> ExitCode {
    // A closed stream has nobody to tell.
    let _ = message.print();
    ExitCode::from(u8::try_from(message.exit_code()).unwrap_or(crate::exit::USAGE))
}

/// Says it to whoever reads the diagnostics.
pub(crate) fn write_stderr(text: &str) {
    write(&mut io::stderr().lock(), text);
}

fn write(stream: &mut impl Write, text: &str) {
    // Neither a closed pipe nor a full disk changes what was found, which is what the exit code tells.
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.flush());
}
