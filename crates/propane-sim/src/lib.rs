//! Seeded worlds for `propane-core`.

mod checker;
mod fate;
mod plan;
mod recorder;
mod rng;
pub mod story;
mod world;

pub use checker::Violation;

pub fn dbg_run(seed: u64) -> (Option<Violation>, u32, u64, u32) {
    let plan = plan::Plan::of(seed);
    let o = world::run(&plan, false);
    (o.violation, o.steps, o.workers, o.generations)
}
/// replay
pub fn replay(seed: u64) -> String {
    let plan = plan::Plan::of(seed);
    let o = world::run(&plan, true);
    format!("{}\n{:?}", o.story, o.violation)
}
