//! `cargo xtask soak`: reloads and kills by the thousand, and whether the manager is afterwards what it was before.

use std::process::ExitCode;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::manager::{Manager, Outcome, build, scratch_app, spin_until};
use crate::words::{misused, number_flags};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask soak [--reloads N] [--kills N]

  --reloads N  how many HUPs, each awaited (1000)
  --kills N    how many workers are killed, each replacement awaited (1000)

Exits 1 if descriptors, children or memory of the manager have grown.
";

/// Before the first figure is taken, so that what is made once is there.
const WARM_UP: usize = 20;
/// The allocator keeps what it needs at the worst moment; a leak in a thousand turns is more.
const RSS_GROWTH_KIB_MAX: u64 = 512;

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let [reloads, kills] = match number_flags(words, [("--reloads", 1000), ("--kills", 1000)]) {
        Ok(numbers) => numbers,
        Err(problem) => return misused("soak", &problem, USAGE),
    };
    match soak(reloads, kills) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What may not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    children: usize,
    rss_kib: u64,
}

impl Holdings {
    fn of(manager: &Manager) -> Self {
        Self {
            descriptors: manager.descriptors(),
            children: manager.children().len(),
            rss_kib: manager.proc_number("status", "VmRSS:"),
        }
    }

    fn has_grown_from(self, before: Self) -> bool {
        (self.descriptors, self.children) != (before.descriptors, before.children)
            || self.rss_kib > before.rss_kib + RSS_GROWTH_KIB_MAX
    }
}

fn soak(reloads: usize, kills: usize) -> Outcome<bool> {
    let (binary, app) = (build()?, scratch_app()?);
    let flags = ["--respawn-delay-ms", "0", "--respawn-delay-max-ms", "0", "--reload-overlap-seconds", "0"];
    let mut manager = Manager::start(&binary, app.path(), &flags)?;
    turn(&mut manager, WARM_UP, WARM_UP)?;
    let before = Holdings::of(&manager);
    println!("before: {before:?}");
    let began = Instant::now();
    turn(&mut manager, reloads, kills)?;
    let after = Holdings::of(&manager);
    println!("after {reloads} reloads and {kills} kills in {:.0} s: {after:?}", began.elapsed().as_secs_f64());
    manager.stop()?;
    Ok(!after.has_grown_from(before))
}

fn turn(manager: &mut Manager, reloads: usize, kills: usize) -> Outcome<()> {
    for _ in 0..reloads {
        manager.forget_log();
        manager.signal(Signal::SIGHUP)?;
        manager.wait_for("event=manager_reload_completed", 1)?;
    }
    for nth in 0..kills {
        manager.forget_log();
        let children = manager.children();
        let victim = children.get(nth % children.len().max(1)).ok_or("there is no worker")?;
        kill(Pid::from_raw(*victim), Signal::SIGKILL)?;
        manager.wait_for("event=worker_ready", 1)?;
    }
    let wanted = 4;
    spin_until("four children", || manager.children().len() == wanted)
}
