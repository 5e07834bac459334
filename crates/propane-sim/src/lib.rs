//! The adversary of `propane-core`: seeded worlds in which everything goes wrong, and rules that must hold all the same.
//!
//! A seed stands for one schedule: its own configuration, its own mix of faults, an operator who sends signals at the
//! worst moments, a driver that may oversleep. The schedule has three phases. First anything may go wrong, and no rule
//! may be broken (safety). Then faults stop, and what is wanted has to come about within a bound (liveness). At last the
//! manager is told to stop, and has to, in time.
//!
//! The rules know nothing of the supervisor's insides: they see the events that go in and the actions that come out, and
//! keep books of their own.
//!
//! What schedules come to is counted ([`coverage`]), and nothing may be missing. That the rules can fail is shown by the
//! mistakes under `planted/`, each of which has to be caught (`cargo xtask planted`).
//!
//! A schedule that breaks a rule prints its seed, can be told as a [`story`], and shrinks to a short one, which belongs
//! under `testdata/transcripts/` once the mistake is mended.
//!
//! ```
//! let tally = propane_sim::check(1).expect("no rule is broken");
//! assert!(tally.steps > 0 && propane_sim::replay(1).starts_with("# Seed 1"));
//! ```

mod checker;
pub mod coverage;
mod fate;
mod plan;
mod recorder;
mod rng;
mod search;
mod shrink;
pub mod story;
mod world;

pub use checker::{Rule, Violation};
pub use search::{Failure, Tally, check, search};

use plan::Plan;
use world::run;

/// The schedule of a seed as a story that can be told again.
pub fn replay(seed: u64) -> String {
    tell(&Plan::of(seed), &format!("# Seed {seed}."))
}

/// The schedule of a failure, made as small as it gets, as a story that can be told again.
pub fn shrink(failure: &Failure) -> String {
    let Failure { seed, violation } = failure;
    let breaks = |plan: &Plan| run(plan, false).violation.is_some_and(|found| found.rule == violation.rule);
    let plan = shrink::shrink(Plan::of(*seed), breaks);
    tell(&plan, &format!("# Seed {seed}, made smaller."))
}

fn tell(plan: &Plan, title: &str) -> String {
    let outcome = run(plan, true);
    let end = match outcome.violation {
        Some(violation) => format!("\n# Broken rule: {}.\n", violation.rule),
        None => String::new(),
    };
    format!("{title}\n{}{end}", outcome.story)
}
