//! What `/proc` says of processes (`proc(5)`): groups, descriptors, sizes, and what their threads wait for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;

use procfs::FromRead;
use procfs::process::{FDTarget, Process, Stat};
use propane_core::Sample;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A process named so that a re-used pid is told apart: pid and start time in clock ticks since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
}

impl ProcessId {
    /// The number by which everything that descends from a worker of this manager is known: their limit of file locks,
    /// which no kernel has looked at since Linux 2.4 and everybody may see. A process passes it on, whatever becomes of
    /// its environment, its session and its parents. The later a manager has started the lower it is, because a manager
    /// below another one's worker may only lower it.
    pub(crate) fn mark(self) -> u64 {
        let number = self.start_time << PID_BITS | u64::from(self.pid.unsigned_abs());
        MARKS.end() - number % (MARKS.end() - MARKS.start())
    }
}

/// No pid needs more (`proc(5)`, `pid_max`).
const PID_BITS: u32 = 22;

/// What marks are among: numbers that nobody limits anything to, and that every kernel keeps as they are.
const MARKS: std::ops::RangeInclusive<u64> = 1 << 62..=(1 << 63) - 1;

/// The mark of a process, if it has one.
pub(crate) fn mark(pid: i32) -> Option<u64> {
    let limits = Process::new(pid).and_then(|process| process.limits()).ok()?;
    match limits.max_file_locks.soft_limit {
        procfs::process::LimitValue::Value(value) => MARKS.contains(&value).then_some(value),
        procfs::process::LimitValue::Unlimited => None,
    }
}

/// Starts something that bears the mark of this manager from its first moment: this process has it meanwhile.
pub(crate) fn marked<T>(start: impl FnOnce() -> T) -> T {
    let own = getrlimit(Resource::Locks);
    let mark = identify(std::process::id().cast_signed()).map(ProcessId::mark);
    // Where it may not be set it is done without, as by a worker.
    let is_set = mark.is_some() && setrlimit(Resource::Locks, Rlimit { current: mark, ..own }).is_ok();
    let started = start();
    if is_set {
        // Cannot fail, because it only puts back what the hard limit, which has not changed, allowed.
        let _ = setrlimit(Resource::Locks, own);
    }
    started
}

/// A living process among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Relative {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
}

/// Everybody who lives, zombies apart. Nobody where `/proc` is another pid namespace's: its numbers mean others here.
pub(crate) fn everybody() -> Vec<Relative> {
    let is_ours = fs::read_link("/proc/self").is_ok_and(|me| me.as_os_str() == &*std::process::id().to_string());
    let processes = is_ours.then(procfs::process::all_processes).into_iter().flatten().flatten().flatten();
    let alive = processes.filter_map(|process| process.stat().ok()).filter(|stat| !is_dead(stat));
    alive
        .map(|stat| Relative { id: ProcessId { pid: stat.pid, start_time: stat.starttime }, parent: stat.ppid })
        .collect()
}

/// The process `pid`, if there is one.
pub(crate) fn identify(pid: i32) -> Option<ProcessId> {
    stat(pid).map(|stat| ProcessId { pid, start_time: stat.starttime })
}

/// Whether a process is still at work: a zombie is not, whoever should have reaped it.
pub(crate) fn is_alive(id: ProcessId) -> bool {
    stat(id.pid).is_some_and(|stat| stat.starttime == id.start_time && !is_dead(&stat))
}

/// A zombie whose other threads live is not dead.
fn is_dead(stat: &Stat) -> bool {
    stat.state == 'X' || stat.state == 'Z' && stat.num_threads < 2
}

/// To whom a process belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kin {
    /// Its process group.
    pub(crate) group: i32,
    /// The pid of its parent.
    pub(crate) parent: i32,
}

/// To whom the process `pid` belongs, if there is one.
pub(crate) fn kin(pid: i32) -> Option<Kin> {
    stat(pid).map(|stat| Kin { group: stat.pgrp, parent: stat.ppid })
}

/// 52 numbers and a name of 64 bytes at the most.
const STAT_BYTES_MAX: usize = 2048;

/// `/proc/PID/stat`. Read in as few calls as can be, because it is asked for each worker.
fn stat(pid: i32) -> Option<Stat> {
    let mut text = [0u8; STAT_BYTES_MAX];
    let length = fs::File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut text)).ok()?;
    Stat::from_read(&text[..length]).ok()
}

/// This boot of this machine.
pub(crate) fn boot_id() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}

/// As whom a process runs.
pub(crate) fn owner(pid: i32) -> Option<u32> {
    Process::new(pid).and_then(|process| process.status()).ok().map(|status| status.euid)
}

/// The name of a process, for messages.
pub(crate) fn name(pid: i32) -> String {
    stat(pid).map_or_else(|| "?".to_owned(), |stat| stat.comm)
}

/// A process and all its living descendants, itself first.
pub(crate) fn family(pid: i32) -> Vec<i32> {
    let mut family = vec![pid];
    let mut next = 0;
    while next < family.len() {
        family.extend(children(family[next]));
        next += 1;
    }
    family
}

/// The living children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether a process of a group is alive, zombies apart.
pub(crate) fn group_is_alive(group: i32) -> bool {
    groups().any(|living| living == group)
}

/// All groups with a living process.
pub(crate) fn living_groups() -> BTreeSet<i32> {
    groups().collect()
}

/// The groups of all living processes, one after the other.
fn groups() -> impl Iterator<Item = i32> {
    let everybody = procfs::process::all_processes().into_iter().flatten().flatten();
    everybody.filter_map(|process| process.stat().ok()).filter(|stat| !is_dead(stat)).map(|stat| stat.pgrp)
}

/// The descriptors of a process, by number. Fails where they may not be looked at: whoever may list them and not read them,
/// root without `CAP_SYS_PTRACE` say, would see none.
pub(crate) fn descriptors(pid: i32) -> io::Result<Vec<(i32, FDTarget)>> {
    let fds = Process::new(pid).and_then(|process| process.fd()).map_err(to_io)?;
    let seen: Vec<_> = fds.flatten().map(|fd| (fd.fd, fd.target)).collect();
    let denied = |error: io::Error| (error.kind() == io::ErrorKind::PermissionDenied).then_some(error);
    match seen.is_empty().then(|| fs::read_link(format!("/proc/{pid}/fd/0"))) {
        Some(Err(error)) => denied(error).map_or(Ok(seen), Err),
        _ => Ok(seen),
    }
}

/// The sockets that any of these processes holds, as far as that may be seen.
pub(crate) fn sockets(pids: &[i32]) -> BTreeSet<u64> {
    pids.iter().flat_map(|pid| sockets_of(*pid).unwrap_or_default()).collect()
}

/// The sockets that a process holds; fails where they may not be looked at. Takes a third of the time that all its
/// [`descriptors`] do.
pub(crate) fn sockets_of(pid: i32) -> io::Result<Vec<u64>> {
    let mut sockets = Vec::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd"))? {
        match fs::read_link(fd?.path()) {
            Ok(target) => sockets.extend(target.to_str().and_then(socket_inode)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // Closed meanwhile.
            Err(_) => {}
        }
    }
    Ok(sockets)
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Which processes hold the socket `inode`.
pub(crate) fn holders(inode: u64) -> Vec<i32> {
    let pids = procfs::process::all_processes().into_iter().flatten().flatten().map(|process| process.pid());
    pids.filter(|pid| holds(*pid, inode)).collect()
}

/// Whether a process holds the socket `inode`.
pub(crate) fn holds(pid: i32, inode: u64) -> bool {
    sockets_of(pid).is_ok_and(|sockets| sockets.contains(&inode))
}

/// Whether the epoll instance `fd` of a process watches the socket `inode` (`proc(5)`, `/proc/PID/fdinfo`).
pub(crate) fn epoll_watches(pid: i32, fd: i32, inode: u64) -> bool {
    epoll_info_names(&descriptor_info(pid, fd), inode)
}

/// What the kernel tells of a descriptor of a process; nothing where it does not.
pub(crate) fn descriptor_info(pid: i32, fd: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default()
}

fn epoll_info_names(info: &str, inode: u64) -> bool {
    let named =
        |line: &str| line.rsplit_once("ino:").and_then(|(_, rest)| rest.split_whitespace().next().map(str::to_owned));
    info.lines()
        .filter(|line| line.starts_with("tfd:"))
        .filter_map(named)
        .any(|hex| u64::from_str_radix(&hex, 16) == Ok(inode))
}

/// The system calls that the threads of a process sleep in: number and arguments.
pub(crate) fn sleeping_in(pid: i32) -> Vec<(i64, Vec<u64>)> {
    let tasks = Process::new(pid).and_then(|process| process.tasks()).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| blocked_call(&fs::read_to_string(format!("/proc/{pid}/task/{}/syscall", task.tid)).ok()?))
        .collect()
}

/// `/proc/PID/task/TID/syscall`: `NUMBER 0xARG … 0xSP 0xPC`, or `running`, or `-1 …`.
fn blocked_call(text: &str) -> Option<(i64, Vec<u64>)> {
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok().filter(|number| *number >= 0)?;
    let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
    Some((number, words.filter_map(hex).collect()))
}

/// Looks at a worker's resources.
pub(crate) fn sample(pid: i32) -> Option<Sample> {
    let process = Process::new(pid).ok()?;
    let targets: Vec<String> = fd_links(pid);
    let soft = process.limits().ok()?.max_open_files.soft_limit;
    Some(Sample {
        fd_count: targets.len() as u64,
        fd_limit: match soft {
            procfs::process::LimitValue::Unlimited => u64::MAX,
            procfs::process::LimitValue::Value(value) => value,
        },
        rss_kib: process.statm().ok()?.resident * procfs::page_size() / 1024,
        top_fd_targets: top_targets(&targets),
    })
}

fn fd_links(pid: i32) -> Vec<String> {
    let fds = fs::read_dir(PathBuf::from(format!("/proc/{pid}/fd"))).into_iter().flatten().flatten();
    fds.map(|fd| fs::read_link(fd.path()).map_or_else(|_| "?".to_owned(), |link| link.to_string_lossy().into_owned()))
        .collect()
}

/// Up to five `count_target` items, most frequent first, blanks as `_` (ARLEN-CONTRACT A8). Numbered kernel objects are
/// counted by kind: nobody can act on an inode number.
fn top_targets(targets: &[String]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for target in targets {
        *counts.entry(kind_of(target)).or_default() += 1;
    }
    let mut items: Vec<_> = counts.into_iter().collect();
    items.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    items.iter().take(5).map(|(target, count)| format!("{count}_{target}")).collect::<Vec<_>>().join(",")
}

fn kind_of(target: &str) -> String {
    let kind = match target.split_once(":[") {
        Some((kind @ ("socket" | "pipe"), _)) => kind,
        _ => target,
    };
    kind.replace([',', '\n'], "_").split_whitespace().collect::<Vec<_>>().join("_")
}

fn to_io(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        procfs::ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoll_info_is_read_by_inode() {
        let info = "pos:\t0\nflags:\t02\nmnt_id:\t16\nino:\t1057\n\
                    tfd:        8 events:       1b data:  55d0  pos:0 ino:1a2b sdev:9\n";
        for (inode, expected) in [(0x1a2b, true), (0x1a2, false), (0x1057, false)] {
            assert_eq!(epoll_info_names(info, inode), expected, "{inode:x}");
        }
    }

    #[test]
    fn a_blocked_call_has_a_number_and_arguments() {
        let table = [
            ("288 0x3 0x7ffe 0x0 0x80800 0x0 0x0 0x7ff0 0x7f00\n", Some((288, 0x3))),
            ("running\n", None),
            ("-1 0x7ff0 0x7f00\n", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(blocked_call(text).map(|(number, args)| (number, args[0])), expected, "{text:?}");
        }
    }

    #[test]
    fn descriptors_are_counted_by_kind() {
        let targets =
            ["socket:[12]", "socket:[13]", "/var/log/my app.log", "pipe:[9]", "socket:[14]", "anon_inode:[eventpoll]"];
        let targets: Vec<String> = targets.map(str::to_owned).to_vec();
        assert_eq!(top_targets(&targets), "3_socket,1_/var/log/my_app.log,1_anon_inode:[eventpoll],1_pipe");
    }

    #[test]
    fn later_managers_have_lower_marks() {
        let mark = |pid, start_time| ProcessId { pid, start_time }.mark();
        let centuries = 1 << 39;
        let marks = [mark(4_194_303, 0), mark(2, 1), mark(3, 1), mark(2, 2), mark(2, centuries)];
        assert!(marks.is_sorted_by(|earlier, later| earlier > later), "{marks:?}");
        assert!(marks.iter().all(|mark| MARKS.contains(mark)));
    }

    #[test]
    fn this_process_can_be_seen() {
        let me = std::process::id().cast_signed();
        let sample = sample(me).unwrap();
        assert!(sample.fd_count > 2 && sample.rss_kib > 100 && sample.fd_limit > 2, "{sample:?}");
        assert_eq!(identify(me), identify(me));
        assert!(family(me).contains(&me));
        let group = kin(me).unwrap().group;
        assert!(group_is_alive(group) && living_groups().contains(&group));
    }
}
