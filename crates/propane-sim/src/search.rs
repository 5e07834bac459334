//! Runs many schedules, on as many threads as there are, until one breaks a rule.

use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::checker::{Rule, Violation};
use crate::coverage::{self, Coverage, Mark};
use crate::plan::Plan;
use crate::run;

/// How many schedules a thread takes at a time: enough that the threads do not wait for each other, few enough that
/// progress can be seen.
const PORTION: u64 = 256;

/// A schedule that broke a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was wrong.
    pub violation: Violation,
}

/// How much has been gone through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Schedules that were run.
    pub schedules: u64,
    /// Events that were handled in them.
    pub steps: u64,
    /// Workers that were started in them.
    pub workers: u64,
    /// Reloads that were asked for in them.
    pub reloads: u64,
    /// What they have come to.
    pub coverage: Coverage,
}

/// Runs the schedule of one seed. A panic of the supervisor is a broken rule as well.
///
/// # Errors
/// When a rule is broken.
pub fn check(seed: u64) -> Result<Tally, Failure> {
    coverage::begin();
    coverage::see(Mark::Rule(Rule::NoPanic));
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&Plan::of(seed), false)));
    let Ok(outcome) = outcome else {
        return Err(Failure { seed, violation: Violation::new(Rule::NoPanic, "see above") });
    };
    match outcome.violation {
        Some(violation) => Err(Failure { seed, violation }),
        None => Ok(Tally {
            schedules: 1,
            steps: outcome.steps.into(),
            workers: outcome.workers,
            reloads: outcome.generations.into(),
            coverage: Coverage::of_schedule(),
        }),
    }
}

/// Runs the schedules of `schedules` seeds from `seed` on. `progress` is told now and then how many are done.
///
/// What was gone through comes back, with the first failure if there was one; then the rest is not run.
pub fn search(seed: u64, schedules: u64, threads: usize, progress: impl Fn(u64) + Sync) -> (Tally, Option<Failure>) {
    let search =
        Search { seed, schedules, taken: AtomicU64::new(0), over: AtomicBool::new(false), found: Mutex::default() };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| search.work(&progress));
        }
    });
    search.found.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Search {
    seed: u64,
    schedules: u64,
    taken: AtomicU64,
    over: AtomicBool,
    found: Mutex<(Tally, Option<Failure>)>,
}

impl Search {
    fn work(&self, progress: &(impl Fn(u64) + Sync)) {
        while !self.over.load(Ordering::Relaxed) {
            let first = self.taken.fetch_add(PORTION, Ordering::Relaxed);
            if first >= self.schedules {
                return;
            }
            let done = self.portion(first, (first + PORTION).min(self.schedules));
            progress(done);
        }
    }

    /// Runs some schedules, and returns how many are done in all.
    fn portion(&self, first: u64, end: u64) -> u64 {
        let mut sum = Tally::default();
        let mut failure = None;
        for index in first..end {
            match check(self.seed.wrapping_add(index)) {
                Ok(tally) => sum.add(&tally),
                Err(found) => failure = failure.or(Some(found)),
            }
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.0.add(&sum);
        if let Some(failure) = failure {
            self.over.store(true, Ordering::Relaxed);
            found.1 = found.1.take().or(Some(failure));
        }
        found.0.schedules
    }
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.schedules += other.schedules;
        self.steps += other.steps;
        self.workers += other.workers;
        self.reloads += other.reloads;
        self.coverage.add(&other.coverage);
    }
}
