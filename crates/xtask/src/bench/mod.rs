//! `cargo xtask bench`: propane and its peers at the same work, in one run on one machine.
//!
//! Rounds go over all peers in turn, so that what disturbs the machine disturbs all alike. Nothing here passes or fails:
//! `report.rs` says where propane leads and where not.

mod chart;
mod install;
mod launch;
mod machine;
mod measures;
mod peers;
mod probe;
mod report;
mod results;
mod stats;
mod subject;
mod system;
mod tables;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::manager::{Outcome, build, build_worker};
use crate::words::positive;

use launch::Tools;
use measures::Bench;
use peers::{PEERS, Peer, Session};
use report::{BASH, KERNEL, OURS};
use results::{Figure, Measured, Results, Settings, Skipped};
use system::Interrupt;

const USAGE: &str = "\
Usage: cargo xtask bench [--quick] [--rounds N] [--only SESSIONS] [--peers NAMES] [--install] [--report]

  --quick          little of everything, to try it out
  --rounds N       how often each peer has its turn (5)
  --only SESSIONS  some of steady,reload,many,crash-loop,config
  --peers NAMES    some of the peers (\"propane,nginx,propane + worker\")
  --install        install the peers first: Debian's packages (as root), the rest under the target directory
  --report         measure nothing: write the report of bench/results.json again

Writes bench/RESULTS.md, bench/results.json and charts; a run that is quick or leaves something out writes them under
the target directory instead. Peers are looked for in PATH; who is missing is left out, and the report says so.
";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    is_quick: bool,
    rounds: Option<usize>,
    sessions: Vec<Session>,
    /// None are all.
    peers: Option<Vec<String>>,
    installs: bool,
    only_reports: bool,
}

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let plan = match parse(words) {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("xtask bench: {problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match act(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Plan, String> {
    let all = Session::ALL.map(|(_, session)| session).to_vec();
    let mut plan =
        Plan { is_quick: false, rounds: None, sessions: all, peers: None, installs: false, only_reports: false };
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} requires a value"));
        match flag.as_str() {
            "--quick" => plan.is_quick = true,
            "--rounds" => plan.rounds = Some(positive(&flag, &value()?)?),
            "--only" => plan.sessions = value()?.split(',').map(session).collect::<Result<_, _>>()?,
            "--peers" => plan.peers = Some(value()?.split(',').map(peer_name).collect::<Result<_, _>>()?),
            "--install" => plan.installs = true,
            "--report" => plan.only_reports = true,
            _ => return Err(format!("unknown argument {flag}")),
        }
    }
    Ok(plan)
}

fn session(name: &str) -> Result<Session, String> {
    let found = Session::ALL.iter().find(|(known, _)| *known == name);
    found.map(|(_, session)| *session).ok_or_else(|| format!("unknown session {name:?}"))
}

fn peer_name(name: &str) -> Result<String, String> {
    let is_known = PEERS.iter().any(|peer| peer.name == name);
    if is_known { Ok(name.to_owned()) } else { Err(format!("unknown peer {name:?}")) }
}

impl Plan {
    /// Only a whole run may replace the figures of a whole run.
    fn is_whole(&self) -> bool {
        !self.is_quick && self.peers.is_none() && self.sessions.len() == Session::ALL.len()
    }

    fn wants(&self, peer: &Peer) -> bool {
        self.peers.as_ref().is_none_or(|names| names.iter().any(|name| name == peer.name))
    }

    fn settings(&self) -> Settings {
        let quick = Settings {
            rounds: self.rounds.unwrap_or(1),
            long_rounds: 1,
            workers: 4,
            idle_seconds: 2,
            kills: 2,
            clients: 32,
            few: 20,
            many: 100,
            crash_seconds: 1,
            config_runs: 5,
        };
        if self.is_quick {
            return quick;
        }
        let rounds = self.rounds.unwrap_or(5);
        Settings {
            rounds,
            long_rounds: rounds.min(3),
            idle_seconds: 6,
            kills: 5,
            few: 100,
            many: 1000,
            crash_seconds: 6,
            config_runs: 20,
            ..quick
        }
    }
}

fn act(plan: &Plan) -> Outcome<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize()?;
    if plan.only_reports {
        let results = serde_json::from_str(&fs::read_to_string(root.join("bench/results.json"))?)?;
        return write(&root.join("bench"), &results);
    }
    let (propane, worker) = (build()?, build_worker()?);
    let target = propane.parent().and_then(Path::parent).ok_or("cargo names no target directory")?.to_owned();
    if plan.installs {
        install::install(&target);
    }
    let interrupt = Interrupt::by_signals()?;
    system::adopt_orphans()?;
    let names = peers::programs().chain(["python3"]);
    let tools = Tools::find(names, &directories(&target), propane, worker, root.join("bench/workers"));
    let bench = Bench { tools, settings: plan.settings(), interrupt };
    let results = measure(plan, &bench);
    system::sweep();
    let out = if plan.is_whole() { root.join("bench") } else { target.join("bench") };
    write(&out, &results?)
}

/// Where programs are looked for: those of the benchmark's own first, then `PATH`, then where Debian keeps servers.
fn directories(target: &Path) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let servers = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    install::directories(target).into_iter().chain(std::env::split_paths(&path)).chain(servers).collect()
}

fn measure(plan: &Plan, bench: &Bench) -> Outcome<Results> {
    let (peers, skipped) = choose(plan, &bench.tools);
    let introduced = peers.iter().map(|peer| introduce(peer, &bench.tools)).collect::<Outcome<_>>()?;
    // pm2 leaves a daemon behind for having said its version.
    system::sweep();
    let mut results = Results {
        machine: machine::describe(),
        settings: bench.settings.clone(),
        peers: introduced,
        skipped,
        failed: Vec::new(),
        values: BTreeMap::new(),
    };
    for round in 0..bench.settings.rounds {
        for (name, session) in Session::ALL.iter().filter(|(_, session)| plan.sessions.contains(session)) {
            let is_long = matches!(session, Session::Many | Session::CrashLoop);
            if is_long && round >= bench.settings.long_rounds {
                continue;
            }
            for peer in peers.iter().filter(|peer| peer.sessions.contains(session)) {
                eprintln!("bench: round {} of {}: {name}: {}", round + 1, bench.settings.rounds, peer.name);
                let outcome =
                    bench.session(*session, peer, &mut |figures| results.record_all(peer.name, round, figures));
                bench.interrupt.check()?;
                if let Err(error) = outcome {
                    eprintln!("bench: {name}: {}: {error}", peer.name);
                    results.failed.push(Skipped { peer: peer.name.to_owned(), reason: format!("{name}: {error}") });
                }
            }
            alone(*session, round, bench, &mut results)?;
        }
    }
    results.machine.load_after = machine::load_average();
    Ok(results)
}

/// What no peer takes part in.
fn alone(session: Session, round: usize, bench: &Bench, results: &mut Results) -> Outcome<()> {
    match session {
        Session::Many => {
            results.record_all(KERNEL, round, bench.kernel()?);
        }
        Session::Config => {
            for _ in 0..bench.settings.config_runs {
                let (ours, theirs) = bench.config()?;
                results.record(OURS, round, Figure::ConfigMs, ours.as_secs_f64() * 1e3);
                results.record(BASH, round, Figure::ConfigMs, theirs.as_secs_f64() * 1e3);
            }
        }
        Session::Steady | Session::Reload | Session::CrashLoop => {}
    }
    Ok(())
}

fn choose(plan: &Plan, tools: &Tools) -> (Vec<&'static Peer>, Vec<Skipped>) {
    let mut skipped = Vec::new();
    let is_there = |peer: &&Peer| {
        let missing = peer.missing(tools);
        if !missing.is_empty() {
            let reason = format!("not installed: {}", missing.join(", "));
            eprintln!("bench: {} is left out, {reason}", peer.name);
            skipped.push(Skipped { peer: peer.name.to_owned(), reason });
        }
        missing.is_empty()
    };
    let peers = PEERS.iter().filter(|peer| plan.wants(peer)).filter(is_there).collect();
    (peers, skipped)
}

fn introduce(peer: &Peer, tools: &Tools) -> Outcome<Measured> {
    let home = tempfile::tempdir()?;
    let mut command = match peer.version {
        [] => Command::new(&tools.propane),
        [program, ..] => Command::new(tools.path(program)),
    };
    command.env("PM2_HOME", home.path()).args(if peer.version.is_empty() {
        &["--version"]
    } else {
        &peer.version[1..]
    });
    Ok(Measured {
        name: peer.name.to_owned(),
        version: machine::version(&mut command),
        worker: peer.worker.label().to_owned(),
        reload: peer.reload.label(),
        notes: peer.notes.iter().map(|&note| note.to_owned()).collect(),
    })
}

fn write(directory: &Path, results: &Results) -> Outcome<()> {
    fs::create_dir_all(directory)?;
    let charts = report::charts(results);
    let files = [("RESULTS.md".to_owned(), report::markdown(results)), ("results.json".to_owned(), results.to_json()?)];
    for (name, text) in files.into_iter().chain(charts) {
        fs::write(directory.join(name), text)?;
    }
    println!("wrote {}", directory.join("RESULTS.md").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Plan, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn only_a_whole_run_counts() {
        assert!(parsed("").unwrap().is_whole() && parsed("--rounds 3 --install").unwrap().is_whole());
        for part in ["--quick", "--only steady", "--peers nginx"] {
            assert!(!parsed(part).unwrap().is_whole(), "{part}");
        }
        assert_eq!(parsed("--only many,config").unwrap().sessions, [Session::Many, Session::Config]);
    }

    #[test]
    fn nonsense_is_named() {
        assert_eq!(parsed("--only idle").unwrap_err(), "unknown session \"idle\"");
        assert_eq!(parsed("--peers apache").unwrap_err(), "unknown peer \"apache\"");
        assert_eq!(parsed("--rounds 0").unwrap_err(), "--rounds: expected a number from 1 but got \"0\"");
        assert_eq!(parsed("--fast").unwrap_err(), "unknown argument --fast");
    }
}
