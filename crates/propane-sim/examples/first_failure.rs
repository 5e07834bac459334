//! Runs schedules from seed 1 until one breaks a rule, and prints `SEED<TAB>RULE`, or nothing: `first_failure SCHEDULES`.
//! With `--all` it runs them all, and prints that of each rule that is broken.
//!
//! `cargo xtask planted` runs this against a copy of the supervisor with a mistake in it.

use std::collections::BTreeSet;
use std::env;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use propane_sim::check;

/// How long a schedule may take: far longer than any does, so that only a supervisor that never answers reaches it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

fn main() {
    let schedules = env::args().nth(1).and_then(|word| word.parse().ok()).expect("a number of schedules");
    let all = env::args().nth(2).is_some_and(|word| word == "--all");
    let (sender, results) = mpsc::channel();
    thread::spawn(move || {
        let broken = |seed: u64| check(seed).err().map(|failure| failure.violation.rule);
        (1..=schedules).try_for_each(|seed| sender.send(broken(seed)))
    });
    let mut found = BTreeSet::new();
    for seed in 1.. {
        let rule = match results.recv_timeout(ANSWER_TIMEOUT) {
            Ok(None) => continue,
            Ok(Some(rule)) => rule.to_string(),
            Err(RecvTimeoutError::Timeout) => return println!("{seed}\tthe supervisor answers"),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        if found.insert(rule.clone()) {
            println!("{seed}\t{rule}");
        }
        if !all {
            return;
        }
    }
}
