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
use std::time::Instant;

use crate::manager::{Outcome, build, build_worker};
use crate::words::{misused, positive};

use launch::Tools;
use measures::Bench;
use peers::{PEERS, Peer, Session};
use report::{BASH, KERNEL, OURS, OURS_PLAIN};
use results::{Figure, Measured, Results, Settings, Skipped};
use system::Interrupt;

pub(crate) const USAGE: &str = "\
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
        Err(problem) => return misused("bench", &problem, USAGE),
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
            crowds: 1,
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
            idle_seconds: 4,
            kills: 5,
            few: 100,
            many: 1000,
            crowds: 3,
            crash_seconds: 3,
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
    let interrupt = Interrupt::by_signals()?;
    if plan.installs {
        install::install(&target);
        interrupt.check()?;
    }
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
    // Where the bash original is looked for.
    let framework = std::env::var_os("ARLEN_FRAMEWORK_ROOT").map(PathBuf::from);
    let own = install::directories(target);
    own.into_iter().chain(std::env::split_paths(&path)).chain(servers).chain(framework).collect()
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
    let mut progress = Progress::of(plan, &peers, &bench.settings);
    for round in 0..bench.settings.rounds {
        // Nobody is always the first, or always behind the same one.
        let turns = peers.iter().cycle().skip(round * 5 % peers.len().max(1)).take(peers.len());
        for (name, session) in Session::ALL.iter().filter(|(_, session)| plan.sessions.contains(session)) {
            let is_long = round < bench.settings.long_rounds;
            for peer in turns.clone().filter(|peer| peer.takes_part(*session, is_long)) {
                progress.say(round, name, peer.name);
                if let Err(error) = one(*session, peer, round, bench, &mut results) {
                    bench.interrupt.check()?;
                    eprintln!("bench: {name}: {}: {error}", peer.name);
                    results.failed.push(Skipped { peer: peer.name.to_owned(), reason: format!("{name}: {error}") });
                }
            }
            if *session == Session::Config {
                configurations(round, bench, &mut results)?;
            }
        }
    }
    results.machine.load_after = machine::load_average();
    Ok(results)
}

/// One session of one peer.
fn one(session: Session, peer: &Peer, round: usize, bench: &Bench, results: &mut Results) -> Outcome<()> {
    let is_compared_with_kernel = session == Session::Many && peer.name == OURS_PLAIN;
    for _ in 0..if is_compared_with_kernel { bench.settings.crowds } else { 1 } {
        if is_compared_with_kernel {
            results.record_all(KERNEL, round, bench.kernel()?);
        }
        let is_long = round < bench.settings.long_rounds;
        bench.session(session, peer, is_long, &mut |figures| results.record_all(peer.name, round, figures))?;
    }
    Ok(())
}

fn configurations(round: usize, bench: &Bench, results: &mut Results) -> Outcome<()> {
    for _ in 0..bench.settings.config_runs {
        let (ours, theirs) = bench.config()?;
        results.record(OURS, round, Figure::ConfigMs, ours.as_secs_f64() * 1e3);
        results.record(BASH, round, Figure::ConfigMs, theirs.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// Tells whoever waits how far it is.
struct Progress {
    began: Instant,
    turns: usize,
    done: usize,
    rounds: usize,
}

impl Progress {
    fn of(plan: &Plan, peers: &[&Peer], settings: &Settings) -> Self {
        let turns_of = |round: usize| {
            let is_long = round < settings.long_rounds;
            let of_session = |session: &Session| peers.iter().filter(|peer| peer.takes_part(*session, is_long)).count();
            plan.sessions.iter().map(of_session).sum::<usize>()
        };
        let turns = (0..settings.rounds).map(turns_of).sum();
        Self { began: Instant::now(), turns, done: 0, rounds: settings.rounds }
    }

    fn say(&mut self, round: usize, session: &str, peer: &str) {
        self.done += 1;
        let seconds = self.began.elapsed().as_secs();
        let (minutes, seconds) = (seconds / 60, seconds % 60);
        let (done, turns, round, rounds) = (self.done, self.turns, round + 1, self.rounds);
        eprintln!("bench: {minutes}:{seconds:02}  {done}/{turns}  round {round} of {rounds}, {session}: {peer}");
    }
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
