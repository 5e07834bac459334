//! Development tasks, run as `cargo xtask TASK`.

mod load;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask TASK

  load      put an HTTP load on a URL and tell every kind of failure apart (--help)
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("load") => load::run(words),
        Some("--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
