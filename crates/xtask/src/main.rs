//! Development tasks, run as `cargo xtask TASK`.

mod bench;
mod conformance;
mod generate;
mod load;
mod manager;
mod planted;
mod scale;
mod sim;
mod soak;
mod throughput;
mod words;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask TASK

  generate     write the files that are made from the settings table (--check)
  bench        measure what the manager costs and how fast it reacts (--help)
  soak         reload and kill by the thousand, and look for leaks (--help)
  scale        measure what a thousand workers cost the manager (--help)
  throughput   measure the worker library beside bare hyper, and idle connections (--help)
  conformance  compare what a worker answers with what the contract and the standard say (--help)
  load         put an HTTP load on a URL and tell every kind of failure apart (--help)
  sim          run simulated schedules of faults against the supervisor (--help)
  planted      check that the simulator catches mistakes planted in the supervisor ([NAME]...)
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    match words.next().as_deref() {
        Some("generate") => generate::run(words),
        Some("bench") => bench::run(words),
        Some("conformance") => conformance::run(words),
        Some("load") => load::run(words),
        Some("soak") => soak::run(words),
        Some("throughput") => throughput::run(words),
        Some("scale") => scale::run(words),
        Some("sim") => sim::run(words),
        Some("planted") => planted::run(words),
        Some("--help" | "-h") => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
