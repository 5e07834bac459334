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

  generate     write the files that are made from the settings table
  bench        measure what the manager costs and how fast it reacts
  soak         reload and kill by the thousand, and look for leaks
  scale        measure what a thousand workers cost the manager
  throughput   measure the worker library beside bare hyper, and idle connections
  conformance  compare what a worker answers with what the contract and the standard say
  load         put an HTTP load on a URL and tell every kind of failure apart
  sim          run simulated schedules of faults against the supervisor
  planted      check that the simulator catches mistakes planted in the supervisor

`cargo xtask TASK --help` says how a task is used.
";

/// The words after a task's name.
type Words = std::iter::Skip<std::vec::IntoIter<String>>;

/// A task: its name, how it is used, and what does it with the words after its name.
type Task = (&'static str, &'static str, fn(Words) -> ExitCode);

const TASKS: [Task; 9] = [
    ("generate", generate::USAGE, generate::run),
    ("bench", bench::USAGE, bench::run),
    ("soak", soak::USAGE, soak::run),
    ("scale", scale::USAGE, scale::run),
    ("throughput", throughput::USAGE, throughput::run),
    ("conformance", conformance::USAGE, conformance::run),
    ("load", load::USAGE, load::run),
    ("sim", sim::USAGE, sim::run),
    ("planted", planted::USAGE, planted::run),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let task = words.first().and_then(|word| TASKS.iter().find(|(name, ..)| name == word));
    if words.iter().any(|word| is_help(word)) {
        print!("{}", task.map_or(USAGE, |(_, usage, _)| usage));
        return ExitCode::SUCCESS;
    }
    let Some((.., run)) = task else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    run(words.into_iter().skip(1))
}

fn is_help(word: &str) -> bool {
    matches!(word, "--help" | "-h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_is_listed_and_says_how_it_is_used() {
        let listed: Vec<_> = USAGE.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
        assert_eq!(listed, TASKS.map(|(name, ..)| name));
        for (name, usage, _) in TASKS {
            assert!(usage.starts_with(&format!("Usage: cargo xtask {name} ")), "{name}: {usage}");
        }
    }
}
