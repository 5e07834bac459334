//! `cargo xtask sim`: simulated schedules of faults against the supervisor.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::io::{IsTerminal, Write, stderr};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use propane_sim::coverage::{Fault, Mark, Sent, Step};
use propane_sim::{Failure, Rule, Tally};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask sim [--schedules N] [--seed S] [--threads T] [--coverage]

  --schedules N  how many schedules to run (default 100000); 1 tells the schedule as a story
  --seed S       the seed of the first one (default: a random one, which is printed)
  --threads T    how many at a time (default: one a processor)
  --coverage     tell in how many schedules each fault struck, each rule was judged, and each signal came in each step

Exit code 1 and a story under testdata/transcripts/ when a schedule breaks a rule.
";

struct Options {
    schedules: u64,
    seed: u64,
    threads: usize,
    coverage: bool,
}

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    match read(words) {
        Some(options) if options.schedules == 1 => tell(options.seed),
        Some(options) => search(&options),
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn read(mut words: impl Iterator<Item = String>) -> Option<Options> {
    let mut options = Options {
        schedules: 100_000,
        seed: RandomState::new().hash_one(0) >> 32, // short enough to be typed
        threads: thread::available_parallelism().map_or(1, usize::from),
        coverage: false,
    };
    while let Some(word) = words.next() {
        if word == "--coverage" {
            options.coverage = true;
            continue;
        }
        let value = words.next()?;
        match word.as_str() {
            "--schedules" => options.schedules = value.parse().ok()?,
            "--seed" => options.seed = value.parse().ok()?,
            "--threads" => options.threads = value.parse().ok()?,
            _ => return None,
        }
    }
    Some(options)
}

fn tell(seed: u64) -> ExitCode {
    print!("{}", propane_sim::replay(seed));
    match propane_sim::check(seed) {
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("seed {seed}: {}", failure.violation);
            ExitCode::FAILURE
        }
    }
}

fn search(options: &Options) -> ExitCode {
    println!("seed {}, {} schedules on {} threads", options.seed, options.schedules, options.threads);
    let (begun, on_terminal) = (Instant::now(), stderr().is_terminal());
    let progress = |done| {
        if on_terminal {
            eprint!("\r{done} of {}", options.schedules);
        }
    };
    let (tally, failure) = propane_sim::search(options.seed, options.schedules, options.threads, progress);
    if on_terminal {
        eprint!("\r\x1b[K");
    }
    summarise(&tally, begun.elapsed());
    if options.coverage {
        tell_coverage(&tally);
    }
    failure.map_or(ExitCode::SUCCESS, |failure| report(&failure))
}

fn summarise(tally: &Tally, took: Duration) {
    let Tally { schedules, steps, workers, reloads, coverage } = tally;
    let missing = coverage.missing().len();
    let (seconds, per_second) = (took.as_secs_f64(), rate(*schedules, took));
    println!("{schedules} schedules, {steps} steps, {workers} workers, {reloads} reloads in {seconds:.1} s");
    println!("{per_second} schedules/s; of {} marks of coverage {missing} were not reached", Mark::all().count());
}

/// One line a fault and a rule, and a table of signals and steps; each number counts schedules.
fn tell_coverage(tally: &Tally) {
    let count = |mark| tally.coverage.count(mark);
    println!("\nOf {} schedules, those in which", tally.schedules);
    for fault in Fault::ALL {
        println!("{:>10}  {fault}", count(Mark::Fault(*fault)));
    }
    println!("\nthose in which a rule was judged:");
    for rule in Rule::ALL {
        println!("{:>10}  {rule}", count(Mark::Rule(*rule)));
    }
    let columns = |text: &dyn Fn(Sent) -> String| {
        let cells: Vec<_> = Sent::ALL.iter().map(|sent| format!("{:>8}", text(*sent))).collect();
        cells.concat()
    };
    let heads = columns(&|sent| sent.to_string());
    println!("\nthose in which a signal came:\n{heads}");
    for step in Step::ALL {
        let counts = columns(&|sent| count(Mark::Signal(sent, *step)).to_string());
        println!("{counts}  {step}");
    }
}

fn rate(count: u64, took: Duration) -> u128 {
    u128::from(count) * 1_000 / took.as_millis().max(1)
}

fn report(failure: &Failure) -> ExitCode {
    let Failure { seed, violation } = failure;
    eprintln!("seed {seed}: {violation}");
    let story = propane_sim::shrink(failure);
    let path = Path::new("testdata/transcripts").join(format!("seed_{seed}.txt"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(&path);
    let written = fs::File::create(file).and_then(|mut file| file.write_all(story.as_bytes()));
    match written {
        Ok(()) => eprintln!("told in short in {}", path.display()),
        Err(error) => eprintln!("cannot write {}: {error}\n\n{story}", path.display()),
    }
    eprintln!("again: cargo xtask sim --schedules 1 --seed {seed}");
    eprintln!(
        "once mended, the story belongs to the others: give it a name, say in its first line what it tells, and run\n\
         PROPANE_UPDATE_TRANSCRIPTS=1 cargo test -p propane-core --test transcripts"
    );
    ExitCode::FAILURE
}
