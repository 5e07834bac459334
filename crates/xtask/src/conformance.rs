//! `cargo xtask conformance`: compares what a worker answers with what the contract and the standard say.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

use propane_conformance::{Limits, Source, check, check_session_limit, rows};

use crate::words::misused;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask conformance --address HOST:PORT [--contract-only] [--max-http-sessions N]
                               [--max-line-bytes N] [--max-head-bytes N] [--max-body-bytes N]

  --address HOST:PORT     the worker to ask, propane's own or any other
  --contract-only         leave out what only the standard says
  --max-http-sessions N   check the session limit too; the worker must have no other connection
  --max-line-bytes N      the worker's limits, where they are not the contract's (4096, 32768, 1048576)
  --max-head-bytes N
  --max-body-bytes N

Exits 1 if anything differs.
";

struct Plan {
    address: SocketAddr,
    contract_only: bool,
    sessions: Option<usize>,
    limits: Limits,
}

/// Runs the task with the words after its name.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    match parse(words) {
        Ok(plan) => compare(&plan),
        Err(problem) => misused("conformance", &problem, USAGE),
    }
}

fn compare(plan: &Plan) -> ExitCode {
    let rows = rows(plan.limits).into_iter().filter(|row| !plan.contract_only || row.source == Source::Contract);
    let mut results: Vec<_> = rows.map(|row| check(plan.address, &row)).collect();
    results.extend(plan.sessions.map(|sessions| check_session_limit(plan.address, sessions)));
    let differences: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    for difference in &differences {
        println!("{difference}");
    }
    println!("{} of {} rows as expected", results.len() - differences.len(), results.len());
    if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let (mut address, mut contract_only, mut sessions, mut limits) = (None, false, None, Limits::default());
    while let Some(flag) = words.next() {
        if flag == "--contract-only" {
            contract_only = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{flag} requires a value"))?;
        match flag.as_str() {
            "--address" => address = Some(resolve(&value)?),
            "--max-http-sessions" => sessions = Some(number(&flag, &value)?),
            "--max-line-bytes" => limits.line_bytes = number(&flag, &value)?,
            "--max-head-bytes" => limits.head_bytes = number(&flag, &value)?,
            "--max-body-bytes" => limits.body_bytes = number(&flag, &value)?,
            _ => return Err(format!("unknown argument {flag}")),
        }
    }
    let address = address.ok_or("--address is required")?;
    Ok(Plan { address, contract_only, sessions, limits })
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let addresses = text.to_socket_addrs().map_err(|error| format!("--address {text}: {error}"))?;
    addresses.into_iter().next().ok_or_else(|| format!("--address {text}: the name has no address"))
}

fn number(flag: &str, text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{flag}: expected a number but got {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_change_the_plan_and_nonsense_is_named() {
        let parsed = |line: &str| parse(line.split_whitespace().map(str::to_owned));
        let plan = parsed("--address 127.0.0.1:81 --contract-only --max-line-bytes 100").unwrap();
        assert_eq!((plan.address.port(), plan.contract_only, plan.limits.line_bytes), (81, true, 100));
        let problem = |line: &str| parsed(line).map(|_| ()).unwrap_err();
        assert_eq!(problem(""), "--address is required");
        assert_eq!(problem("--address"), "--address requires a value");
        assert_eq!(problem("--max-http-sessions x"), "--max-http-sessions: expected a number but got \"x\"");
    }
}
