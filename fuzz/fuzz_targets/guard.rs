//! The worker's guard: whatever bytes come in whatever pieces, what it passes on is read by hyper as a plain and strict
//! reader reads it.
//!
//! An input is where the stream is cut (a byte that says how often, and each time how far on), and the stream.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/propane-worker/src/guard/differential.rs"]
mod differential;
// The tests of the module are not built here, nor is all of it used.
#[allow(dead_code, unexpected_cfgs)]
#[path = "../../crates/propane-worker/src/guard/mod.rs"]
mod guard;

/// Small, so that they are met.
const LIMITS: guard::HeadLimits = guard::HeadLimits { line: 128, head: 1024 };

fuzz_target!(|input: &[u8]| {
    let Some((count, rest)) = input.split_first() else { return };
    let (steps, stream) = rest.split_at(usize::from(count % 8).min(rest.len()));
    let mut at = 0;
    let cuts: Vec<usize> = steps
        .iter()
        .map(|step| {
            at = (at + usize::from(*step)).min(stream.len());
            at
        })
        .collect();
    differential::check(stream, &cuts, LIMITS);
});
