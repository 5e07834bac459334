//! The rules hold, in enough schedules to mean something; and the schedules contain what they are meant to.

use std::env;
use std::thread;

use propane_sim::{check, replay, search, shrink, story};

/// How many schedules are run in a test. `cargo xtask sim` runs as many as one likes.
const SCHEDULES: u64 = 30_000;

#[test]
fn no_rule_is_broken() {
    let schedules = env::var("PROPANE_SIM_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(SCHEDULES);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (tally, failure) = search(1, schedules, threads, |_| ());
    if let Some(failure) = failure {
        panic!("seed {}: {}\n\n{}", failure.seed, failure.violation, shrink(&failure));
    }
    assert_eq!(tally.schedules, schedules);
    assert!(tally.steps > 30 * schedules, "{} steps are hardly anything", tally.steps);
    let missing = tally.coverage.missing();
    assert!(missing.is_empty(), "never seen: {missing:#?}");
}

#[test]
fn a_seed_is_always_the_same_schedule_and_its_story_is_true() {
    for seed in 0..300 {
        let told = replay(seed);
        assert_eq!(told, replay(seed), "seed {seed} differs from itself");
        assert_eq!(story::tell(&told).as_ref(), Ok(&told), "the story of seed {seed} is not what happens");
        assert!(check(seed).is_ok(), "seed {seed}");
    }
}

/// A simulator that no longer gets into a corner would go on finding nothing wrong there.
#[test]
fn everything_that_can_happen_happens() {
    let needed = [
        // Faults, as the driver tells of them.
        "spawn-failed w1 cannot",
        "spawn-failed w1 permanent",
        "group-alive",
        "group-emptied",
        "configuration refused",
        "HUP",
        "TTIN",
        "TTOU",
        "USR1",
        "INT",
        "QUIT",
        "sleep 90",
        // What comes of them.
        "ABRT",
        "not ready in",
        "silent for",
        "grace over",
        "no respawn",
        "retry in",
        "resized from 1 to 1",
        "close slot",
        "keep generations 0 1",
        "fd pressure warning",
        "fd pressure critical",
        "recycled: max_lifetime",
        "recycled: max_rss",
        "recycled: fd_count_threshold",
        "recycled: fd_percent_threshold",
        "failed: worker exited",
        "failed: spawn failed",
        "failed: boot timeout",
        "failed: heartbeat timeout",
        "failed: configuration",
        "failed: shutdown",
        ", 2 of 3 replaced",
        "1 killed, after",
        "turn away from",
        "turning-away-refused",
        "drained: 1 waited",
        "not drained in",
        "cut off from",
        " cut, after",
        "killed: reload_abort",
        "told to stop: reload_abort",
        "told to stop: recycle_abort",
        "told to stop: scale_down",
        "exit 0: signal_term",
        "exit 0: signal_int",
        "exit 0: signal_quit",
        "exit 1: boot_failed",
        "exit 1: start_limit",
        "exit 2: once_mode_worker_exit",
        "exit 137: workers_exhausted_no_respawn",
    ];
    let mut missing = needed.to_vec();
    for seed in 0..5_000 {
        let story = replay(seed);
        missing.retain(|needle| !story.contains(needle));
        if missing.is_empty() {
            return;
        }
    }
    panic!("never seen: {missing:#?}");
}
