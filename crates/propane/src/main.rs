//! The `propane` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    propane::main()
}
