//! The processes that the manager has started and not forgotten: the only place that knows pids.

use std::cell::{LazyCell, OnceCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sys::signal::{Signal as UnixSignal, killpg};
use nix::unistd::Pid;
use propane_core::{ExitStatus, Generation, Role, Signal, SpawnError, WorkerId};
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::adopted;
use crate::lifecycle::WorkerFacts;
use crate::notify::NotifySocket;
use crate::plan::{Invocation, Plan};
use crate::procinfo::{self, ProcessId};
use crate::program;
use crate::reaper;
use crate::spawn::{self, CStrings, Spawner, c_string};

/// How many dead workers' sockets wait to be closed. Where many die at once they are closed on the way: each takes as long
/// as a system call or two, and a thousand would hold up a signal.
const ESTATE_MAX: usize = 4;

/// A process.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    /// Looked for when it is asked for: not while somebody waits for the process to run.
    id: OnceCell<ProcessId>,
    pidfd: OwnedFd,
    role: Role,
    slot: u32,
    generation: Generation,
    notify: Option<NotifySocket>,
    reaped: bool,
}

impl Child {
    /// Its pid, which is also its process group's number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// What becomes readable when it ends.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Where it says that it is ready.
    pub(crate) fn notify(&self) -> Option<&NotifySocket> {
        self.notify.as_ref()
    }

    /// Whether it has not been reaped.
    pub(crate) fn is_alive(&self) -> bool {
        !self.reaped
    }

    /// Who it is, as far as that is known: once it was reaped its pid may be another's.
    fn id(&self) -> Option<ProcessId> {
        if self.id.get().is_none() && !self.reaped {
            procinfo::identify(self.pid).map(|id| self.id.get_or_init(|| id));
        }
        self.id.get().copied()
    }

    /// Whether it is an HTTP worker.
    pub(crate) fn serves_http(&self) -> bool {
        self.role == Role::Http
    }

    /// Whether a living process of its group is left. The kernel counts zombies too, and one whose parent has left the
    /// group would count for ever, so where it says yes, `/proc` is asked.
    fn group_alive(&self) -> bool {
        self.group_exists() && procinfo::group_is_alive(self.pid)
    }

    fn group_exists(&self) -> bool {
        killpg(Pid::from_raw(self.pid), None) != Err(Errno::ESRCH)
    }

    /// A process that is gone cannot be signalled, and that is what was wanted: errors mean nothing here.
    fn to_leader(&self, signal: UnixSignal) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            let _ = pidfd_send_signal(&self.pidfd, signal);
        }
    }

    fn to_group(&self, signal: UnixSignal) {
        // Never below 2: 0 and 1 would be this manager's own group and init.
        if self.pid > 1 {
            let _ = killpg(Pid::from_raw(self.pid), signal);
        }
    }
}

/// What a new process needs besides its plan.
pub(crate) struct Birth<'a> {
    pub(crate) worker: WorkerId,
    pub(crate) role: Role,
    pub(crate) slot: u32,
    pub(crate) generation: Generation,
    pub(crate) listener: Option<BorrowedFd<'a>>,
    pub(crate) notify: Option<NotifySocket>,
}

/// All children.
#[derive(Debug, Default)]
pub(crate) struct Children {
    by_id: BTreeMap<WorkerId, Child>,
    by_pid: HashMap<i32, WorkerId>,
    /// The dead ones that are not forgotten.
    reaped: BTreeSet<WorkerId>,
    /// Those of them that have left processes in their groups.
    lingering: BTreeSet<WorkerId>,
    /// What the dead have left to be closed.
    estate: Vec<NotifySocket>,
}

impl Children {
    /// Starts a process.
    pub(crate) fn start(&mut self, spawner: &mut Spawner, plan: &Plan, birth: Birth<'_>) -> Result<&Child, SpawnError> {
        let Birth { worker, role, slot, generation, .. } = birth;
        let invocation = match role {
            Role::Http => plan.http_worker(slot, generation, birth.notify.as_ref().map(NotifySocket::path)),
            Role::Job => plan.job_worker(slot, generation),
        };
        let pid = start_process(spawner, plan, &invocation, &birth)?;
        let pidfd = match rustix::process::Pid::from_raw(pid.as_raw()).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => pidfd,
            other => return Err(give_up(pid, other.and_then(Result::err))),
        };
        let (pid, notify) = (pid.as_raw(), birth.notify);
        let child = Child { pid, id: OnceCell::new(), pidfd, role, slot, generation, notify, reaped: false };
        self.by_pid.insert(pid, worker);
        Ok(self.by_id.entry(worker).insert_entry(child).into_mut())
    }

    /// A child by name.
    pub(crate) fn get(&self, worker: WorkerId) -> Option<&Child> {
        self.by_id.get(&worker)
    }

    /// All children.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Child)> {
        self.by_id.iter().map(|(worker, child)| (*worker, child))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Who they are, for the state file.
    pub(crate) fn process_ids(&self) -> Vec<ProcessId> {
        self.by_id.values().filter_map(Child::id).collect()
    }

    /// What a report says of a worker.
    pub(crate) fn facts(&self, worker: WorkerId) -> WorkerFacts {
        let unknown = WorkerFacts { pid: 0, role: Role::Http, slot: 0, generation: 0 };
        self.by_id.get(&worker).map_or(unknown, |child| WorkerFacts {
            pid: child.pid,
            role: child.role,
            slot: child.slot,
            generation: child.generation,
        })
    }

    /// Sends a signal (see [`propane_core::Action::Signal`]). CONT follows TERM, so that a stopped process gets it.
    pub(crate) fn signal(&self, worker: WorkerId, signal: Signal) {
        let Some(child) = self.by_id.get(&worker) else { return };
        match (signal, child.role) {
            (Signal::Kill, _) => {
                child.to_leader(UnixSignal::SIGKILL);
                child.to_group(UnixSignal::SIGKILL);
            }
            (Signal::Abort, _) => child.to_leader(UnixSignal::SIGABRT),
            (Signal::Term, Role::Http) if !child.reaped => {
                child.to_leader(UnixSignal::SIGTERM);
                child.to_leader(UnixSignal::SIGCONT);
            }
            (Signal::Term, _) => {
                child.to_group(UnixSignal::SIGTERM);
                child.to_group(UnixSignal::SIGCONT);
            }
        }
    }

    /// Takes a dead child's status, if it is dead. Returns it with whether others of its group are alive.
    pub(crate) fn reap(&mut self, worker: WorkerId) -> Option<(ExitStatus, bool)> {
        let child = self.by_id.get_mut(&worker).filter(|child| !child.reaped)?;
        let status = reaper::reap(child.pidfd.as_fd())?;
        child.reaped = true;
        if self.estate.len() >= ESTATE_MAX {
            self.estate.clear();
        }
        self.estate.extend(child.notify.take());
        self.by_pid.remove(&child.pid);
        self.reaped.insert(worker);
        let group_alive = child.group_alive();
        if group_alive {
            self.lingering.insert(worker);
        }
        Some((status, group_alive))
    }

    /// Who lives on, was started after a dead child was, and is this manager's child now without being a worker: what it has
    /// left behind.
    pub(crate) fn left_behind_by(&self, worker: WorkerId) -> Vec<i32> {
        let Some(dead) = self.by_id.get(&worker).and_then(Child::id) else { return Vec::new() };
        let strays = adopted::children().into_iter().filter(|pid| !self.by_pid.contains_key(pid));
        let younger = strays.filter_map(procinfo::identify).filter(|stray| stray.start_time >= dead.start_time);
        younger.filter(|stray| procinfo::is_alive(*stray)).map(|stray| stray.pid).collect()
    }

    /// Closes what the dead have left open: not while somebody waits for their successors.
    pub(crate) fn settle_estate(&mut self) {
        self.estate.clear();
    }

    /// Looks for dead children in the order in which the kernel names them. Orphans that this manager has inherited, as
    /// a subreaper or as PID 1, are reaped on the way; a dead worker is left to be reaped by name, and returned.
    pub(crate) fn sweep(&self) -> Option<WorkerId> {
        loop {
            let pid = reaper::peek()?;
            match self.by_pid.get(&pid) {
                Some(worker) => return Some(*worker),
                None => reaper::discard(pid),
            }
        }
    }

    /// Whether a child is known to be dead.
    pub(crate) fn is_dead(&self, worker: WorkerId) -> bool {
        self.reaped.contains(&worker)
    }

    /// Whether a dead child has left living group members.
    pub(crate) fn lingers(&self, worker: WorkerId) -> bool {
        self.lingering.contains(&worker)
    }

    /// Whether dead children have left living group members.
    pub(crate) fn any_lingers(&self) -> bool {
        !self.lingering.is_empty()
    }

    /// Dead children of whose groups the rest is gone. `/proc` is read once for all of them.
    pub(crate) fn emptied(&self) -> Vec<WorkerId> {
        let living = LazyCell::new(procinfo::living_groups);
        let is_empty = |child: &Child| !child.group_exists() || !living.contains(&child.pid);
        let lingering = self.lingering.iter().copied();
        lingering.filter(|worker| self.by_id.get(worker).is_some_and(is_empty)).collect()
    }

    /// Forgets dead children that nobody asks for any more. Returns them, with whether they had left living group members.
    pub(crate) fn forget_reaped(&mut self, is_known: impl Fn(WorkerId) -> bool) -> Vec<(WorkerId, bool)> {
        let mut forgotten = Vec::new();
        self.reaped.retain(|worker| {
            let stays = is_known(*worker);
            if !stays {
                self.by_id.remove(worker);
                forgotten.push((*worker, self.lingering.remove(worker)));
            }
            stays
        });
        forgotten
    }
}

fn start_process(
    spawner: &mut Spawner,
    plan: &Plan,
    invocation: &Invocation<'_>,
    birth: &Birth<'_>,
) -> Result<Pid, SpawnError> {
    let program = program::find(&invocation.program, &plan.directory, invocation.env.path())
        .map_err(|error| SpawnError { permanent: true, message: error.to_string() })?;
    let shown = program.display().to_string();
    let mut env = CStrings::default();
    for (name, value) in invocation.env.iter() {
        env.push(&[name.as_bytes(), b"=", value.as_bytes()]);
    }
    let mut argv = CStrings::default();
    for word in &invocation.argv {
        argv.push(&[word.as_bytes()]);
    }
    let child = spawn::Child {
        program: c_string(program.into_os_string().as_bytes()),
        argv,
        env,
        wants_listen_pid: birth.listener.is_some() && plan.announces_socket(),
        directory: c_string(plan.directory.as_os_str().as_bytes()),
        listener: birth.listener,
        umask: plan.umask,
        identity: plan.identity.clone(),
    };
    spawner.spawn(child).map_err(|failure| SpawnError {
        permanent: failure.is_permanent(),
        message: format!("{shown} in {}: {failure}", plan.directory.display()),
    })
}

/// A process that cannot be watched cannot be kept.
fn give_up(pid: Pid, errno: Option<rustix::io::Errno>) -> SpawnError {
    // The child is there for certain, because nobody else reaps.
    let _ = killpg(pid, UnixSignal::SIGKILL);
    reaper::discard(pid.as_raw());
    let error = errno.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from);
    SpawnError { permanent: false, message: format!("cannot watch process {pid}: {error}") }
}
