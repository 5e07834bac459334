//! Runs schedules from seed 1 until one breaks a rule: `first_failure SCHEDULES` prints `SEED<TAB>RULE`, or nothing.
//!
//! `cargo xtask planted` runs this against a copy of the supervisor with a mistake in it.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use propane_sim::{Failure, search};

/// How long a schedule may take: far longer than any does, so that only a supervisor that never answers reaches it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How many schedules are run between two looks at the clock.
const PORTION: u64 = 100;

fn main() {
    let schedules = std::env::args().nth(1).and_then(|word| word.parse().ok()).expect("a number of schedules");
    let (sender, results) = mpsc::channel();
    thread::spawn(move || {
        for first in (1..=schedules).step_by(usize::try_from(PORTION).expect("a small number")) {
            let failure = search(first, PORTION.min(schedules + 1 - first), 1, |_| ()).1;
            let is_over = failure.is_some();
            if sender.send(failure).is_err() || is_over {
                return;
            }
        }
    });
    let mut first = 1;
    loop {
        match results.recv_timeout(ANSWER_TIMEOUT) {
            Ok(None) => first += PORTION,
            Ok(Some(Failure { seed, violation })) => return println!("{seed}\t{}", violation.rule),
            Err(mpsc::RecvTimeoutError::Timeout) => return println!("{first}\tthe supervisor answers"),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}
