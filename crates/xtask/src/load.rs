//! `cargo xtask load`: puts a load on a URL and prints what became of it.

use std::process::ExitCode;
use std::time::Duration;

use propane_load::{Load, Mode, Target};

use crate::words::{misused, positive};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask load [--url URL] [--clients N] [--seconds S] [--keep-alive]

  --url URL      what to ask for, http only (http://127.0.0.1:3000/)
  --clients N    requests at the same time (64)
  --seconds S    how long (10)
  --keep-alive   keep connections, instead of a new one for each request

Exits 1 if any request failed.
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    target: Target,
    clients: usize,
    seconds: u64,
    mode: Mode,
}

/// Runs the task with the words after its name.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let plan = match parse(words) {
        Ok(plan) => plan,
        Err(problem) => return misused("load", &problem, USAGE),
    };
    let report = Load::on(&plan.target, plan.clients, plan.mode).run_for(Duration::from_secs(plan.seconds));
    print!("{report}");
    if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut url = "http://127.0.0.1:3000/".to_owned();
    let (mut clients, mut seconds, mut mode) = (64, 10, Mode::NewConnections);
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} requires a value"));
        match flag.as_str() {
            "--url" => url = value()?,
            "--clients" => clients = positive(&flag, &value()?)?,
            "--seconds" => seconds = positive(&flag, &value()?)?,
            "--keep-alive" => mode = Mode::KeepAlive,
            _ => return Err(format!("unknown argument {flag}")),
        }
    }
    let target = Target::parse(&url).map_err(|error| error.to_string())?;
    Ok(Plan { target, clients, seconds, mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Plan, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_change_the_plan() {
        let plan = parsed("--url http://127.0.0.1:81/x --clients 3 --seconds 4 --keep-alive").unwrap();
        let target = Target::parse("http://127.0.0.1:81/x").unwrap();
        assert_eq!(plan, Plan { target, clients: 3, seconds: 4, mode: Mode::KeepAlive });
        assert_eq!(parsed("").unwrap().mode, Mode::NewConnections);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parsed("--clients 0").unwrap_err(), "--clients: expected a number from 1 but got \"0\"");
        assert_eq!(parsed("--seconds").unwrap_err(), "--seconds requires a value");
        assert_eq!(parsed("--rate 3").unwrap_err(), "unknown argument --rate");
        assert!(parsed("--url ftp://x/").unwrap_err().contains("expected http://"));
    }
}
