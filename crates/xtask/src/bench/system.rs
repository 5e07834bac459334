//! Processes as Linux shows them: who descends from whom, what they have used, and how to be rid of them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::manager::Outcome;

/// Between two looks at something that nobody tells of. A look into `/proc` takes the very locks that a spawn needs.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_micros(50);
/// Between two looks at something that takes long, or at all of `/proc`.
pub(super) const SLOW_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Whether the one at the keyboard has had enough.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Set by INT, TERM and HUP. A second one changes nothing: what runs is ended first, which takes no time.
    pub(super) fn by_signals() -> Outcome<Self> {
        let interrupt = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupt.0))?;
        }
        Ok(interrupt)
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Outcome<()> {
        if self.is_set() { Err("interrupted".into()) } else { Ok(()) }
    }

    /// Waits until `look` sees something, looking every `interval`, and returns it.
    pub(super) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        interval: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Outcome<T> {
        let began = Instant::now();
        loop {
            if let Some(seen) = look() {
                return Ok(seen);
            }
            self.check()?;
            if began.elapsed() > limit {
                return Err(format!("waited {} s in vain for {what}", limit.as_secs()).into());
            }
            std::thread::park_timeout(interval);
        }
    }

    /// Lets time pass: the length of an observation, not a wait for something.
    pub(super) fn let_pass(&self, duration: Duration) -> Outcome<()> {
        let began = Instant::now();
        while let Some(rest) = duration.checked_sub(began.elapsed()).filter(|rest| !rest.is_zero()) {
            self.check()?;
            std::thread::park_timeout(rest.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    /// Runs a command to its end, and fails if it fails or takes too long.
    pub(super) fn run(&self, command: &mut Command, limit: Duration) -> Outcome<()> {
        let what = format!("{command:?}");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let ended = self.wait_for(&what, limit, SLOW_LOOK_INTERVAL, || child.try_wait().ok().flatten());
        let status = ended.inspect_err(|_| end(&mut child))?;
        if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
    }
}

/// Kills a child and reaps it.
fn end(child: &mut Child) {
    // A child that has ended by itself needs neither.
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for the end of a process of ours.
pub(super) fn ended(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().ok().flatten()
}

/// Makes every orphan among this process's descendants its child, so that none is out of sight.
pub(super) fn adopt_orphans() -> Outcome<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// A process: its parent, and whether it lives or only waits to be reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    is_alive: bool,
}

/// Reads a line of `/proc/PID/stat` (`proc_pid_stat(5)`).
fn parse_stat(stat: &str) -> Option<Entry> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    Some(Entry { parent: fields.next()?.parse().ok()?, is_alive: !matches!(state, "Z" | "X") })
}

fn processes() -> BTreeMap<i32, Entry> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| Some((pid, parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

fn below(root: i32, processes: &BTreeMap<i32, Entry>) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        let children = processes.iter().filter(|(_, entry)| entry.parent == parent).map(|(pid, _)| *pid);
        next.extend(children.filter(|pid| found.insert(*pid)));
    }
    found
}

/// All living processes that descend from this one: everything that a measurement has started, as nothing else runs.
pub(super) fn descendants() -> BTreeSet<i32> {
    let processes = processes();
    let mut found = below(Pid::this().as_raw(), &processes);
    found.retain(|pid| processes[pid].is_alive);
    found
}

/// Everything that runs beside the workers and what they have started: the managing processes.
pub(super) fn beside(is_worker: impl Fn(i32) -> bool) -> BTreeSet<i32> {
    let mut all = descendants();
    let processes = processes();
    let workers: Vec<i32> = all.iter().copied().filter(|pid| is_worker(*pid)).collect();
    for worker in workers {
        all.remove(&worker);
        all = &all - &below(worker, &processes);
    }
    all
}

pub(super) fn parent(pid: i32) -> Option<i32> {
    Some(parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?.parent)
}

pub(super) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.ok().and_then(|stat| parse_stat(&stat)).is_some_and(|entry| entry.is_alive)
}

/// The children of a process, whichever of its threads has started them.
pub(super) fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The words of a process's command line, each ended by a NUL.
pub(super) fn command_line(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Ends everything that descends from this process, and reaps it.
pub(super) fn sweep() {
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(30) {
        let rest = below(Pid::this().as_raw(), &processes());
        if rest.is_empty() {
            return;
        }
        for pid in rest {
            // Whoever has gone since needs no signal, and who is not our own child is not ours to reap.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
        std::thread::park_timeout(SLOW_LOOK_INTERVAL);
    }
    eprintln!("bench: some processes cannot be ended: {:?}", descendants());
}

/// What processes have used so far, and the memory they hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Voluntary and involuntary context switches of all threads.
    pub(super) switches: u64,
    /// Time on a processor.
    pub(super) cpu: Duration,
    /// That of the children that they have reaped.
    pub(super) children_cpu: Duration,
    pub(super) rss_kib: u64,
    pub(super) pss_kib: u64,
    /// The part of RSS that is no file's.
    pub(super) anonymous_kib: u64,
}

impl Usage {
    pub(super) fn of(pids: &BTreeSet<i32>) -> Self {
        pids.iter().fold(Self::default(), |sum, pid| sum.and(Self::of_one(*pid)))
    }

    fn and(self, other: Self) -> Self {
        Self {
            switches: self.switches + other.switches,
            cpu: self.cpu + other.cpu,
            children_cpu: self.children_cpu + other.children_cpu,
            rss_kib: self.rss_kib + other.rss_kib,
            pss_kib: self.pss_kib + other.pss_kib,
            anonymous_kib: self.anonymous_kib + other.anonymous_kib,
        }
    }

    fn of_one(pid: i32) -> Self {
        let read = |path: &str| fs::read_to_string(format!("/proc/{pid}/{path}")).unwrap_or_default();
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let (mut switches, mut nanos) = (0, 0);
        for task in tasks.filter_map(|task| task.file_name().into_string().ok()) {
            let status = read(&format!("task/{task}/status"));
            switches += number(&status, "voluntary_ctxt_switches:") + number(&status, "nonvoluntary_ctxt_switches:");
            nanos += number(&read(&format!("task/{task}/schedstat")), "");
        }
        let memory = read("smaps_rollup");
        Self {
            switches,
            cpu: Duration::from_nanos(nanos),
            children_cpu: children_time(&read("stat")),
            rss_kib: number(&memory, "Rss:"),
            pss_kib: number(&memory, "Pss:"),
            anonymous_kib: number(&memory, "Anonymous:"),
        }
    }
}

/// The time of reaped children (`proc_pid_stat(5)`: cutime and cstime, in clock ticks of a hundredth of a second).
fn children_time(stat: &str) -> Duration {
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: u64 = fields.skip(13).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// The first number of the line that begins with `key`.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_confuse() {
        assert_eq!(parse_stat("12 (a) b) S 7 12 12 0"), Some(Entry { parent: 7, is_alive: true }));
        assert_eq!(parse_stat("12 (x) Z 1 12"), Some(Entry { parent: 1, is_alive: false }));
        assert_eq!(parse_stat("nonsense"), None);
    }

    #[test]
    fn grandchildren_descend_too() {
        let row = |pid, parent| (pid, Entry { parent, is_alive: true });
        let processes = BTreeMap::from([row(1, 0), row(5, 1), row(9, 5), row(3, 9), row(4, 1)]);
        assert_eq!(below(5, &processes), BTreeSet::from([3, 9]));
        assert_eq!(below(4, &processes), BTreeSet::new());
    }

    #[test]
    fn children_that_have_gone_have_used_time_too() {
        let stat = "12 (a) b) S 7 12 12 0 -1 4194304 9 9 0 0 1 2 30 4 20 0 1 0 100";
        assert_eq!(children_time(stat), Duration::from_millis(340));
    }

    #[test]
    fn usage_is_read_line_by_line() {
        let status = "Rss:   12 kB\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n";
        assert_eq!(number(status, "Rss:"), 12);
        assert_eq!(number(status, "nonvoluntary_ctxt_switches:"), 4);
        assert_eq!(number("170 2 3\n", ""), 170);
        assert_eq!(number("", "Rss:"), 0);
    }
}
