//! Development tasks: generate, check, sim, bench, load.

fn main() {}
