//! The loop: wait, turn what happened into events, let the core decide, perform its actions (DESIGN §3).
//!
//! There is no decision here. What an event means is the core's to say; what the world looks like is said by the
//! modules that this one calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use propane_config::Strategy;
use propane_core::{
    Action, Event, Generation, Proof, Report, Role, ShutdownCause, SpawnError, StopSignal, Supervisor, Time, WorkerId,
};

use crate::children::{Birth, Child, Children};
use crate::collision;
use crate::drain::LeavingSlots;
use crate::journal::Journal;
use crate::lifecycle::WorkerFacts;
use crate::memory;
use crate::neglect::{self, Finding, Neglect};
use crate::notify::{NotifyDirectory, NotifySocket};
use crate::plan::Plan;
use crate::poller::{BATCH, Poller, Token};
use crate::procinfo;
use crate::readiness::{Expectation, Readiness};
use crate::reload::Loader;
use crate::retire::{self, Member, Retirement, Verdict};
use crate::signals::{Caught, Signals};
use crate::sockets::{Revival, Sockets};
use crate::spawn::{Identity, Spawner};
use crate::state::{State, StateFile};

/// How often a group whose leader is gone is looked at: its last process may not be a child of this manager, and then
/// nothing tells of its end.
const LINGER_INTERVAL: Duration = Duration::from_millis(50);

/// How long spawns may go on before the world is looked at again: a signal waits no longer than this and one spawn, however
/// many workers are to be started.
const SPAWN_TURN: Duration = Duration::from_millis(3);

/// How old the state file may be while a crowd of workers is being started: all of them are in it each time.
const SAVE_INTERVAL: Duration = Duration::from_millis(50);

/// A process that is to be started.
#[derive(Clone, Copy)]
struct Spawn {
    worker: WorkerId,
    role: Role,
    slot: u32,
    generation: Generation,
}

/// How often it is looked who has begun to listen while workers that bind by themselves boot: those who join apart are
/// known apart.
const JOIN_INTERVAL: Duration = Duration::from_millis(5);

/// How many times as long as a look at those who leave the manager does something else.
const LOOK_SHARE: u32 = 4;

/// What the driver is set up with.
pub(crate) struct Setup {
    pub(crate) plan: Plan,
    pub(crate) loader: Loader,
    pub(crate) sockets: Sockets,
    pub(crate) signals: Signals,
    pub(crate) notify: Option<NotifyDirectory>,
    pub(crate) journal: Journal,
    pub(crate) state_file: StateFile,
    pub(crate) spawner: Spawner,
}

/// The manager at work.
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(crate) struct Driver {
    core: Supervisor,
    plans: BTreeMap<Generation, Rc<Plan>>,
    loader: Loader,
    sockets: Sockets,
    children: Children,
    readiness: Readiness,
    notify: Option<NotifyDirectory>,
    signals: Signals,
    poller: Poller,
    journal: Journal,
    inbox: VecDeque<Event>,
    spawns: VecDeque<Spawn>,
    /// Whether there may be dead children that nobody has looked for.
    must_sweep: bool,
    /// Whether others may have to get the new connections.
    must_steer: bool,
    saved_at: Time,
    epoch: Instant,
    state_file: StateFile,
    spawner: Spawner,
    collision_told: bool,
    neglect: Neglect,
    leaving_slots: LeavingSlots,
    retirement: Retirement,
    /// Whether workers bind by themselves, and are steered around when they leave.
    steers: bool,
    observed_at: Time,
    /// Whether a start or a reload has left code in memory that nobody needs now.
    has_grown: bool,
    exit: Option<(u8, ShutdownCause)>,
}

impl Driver {
    pub(crate) fn new(setup: Setup) -> io::Result<Self> {
        let poller = Poller::new()?;
        for signal in setup.signals.descriptors() {
            poller.add(signal, Token::Signal)?;
        }
        let port = setup.sockets.address().port();
        Ok(Self {
            steers: setup.plan.strategy == Strategy::Steer,
            core: Supervisor::new(setup.plan.policy.clone(), seed()),
            plans: BTreeMap::from([(0, Rc::new(setup.plan))]),
            loader: setup.loader,
            sockets: setup.sockets,
            children: Children::default(),
            readiness: Readiness::default(),
            notify: setup.notify,
            signals: setup.signals,
            poller,
            journal: setup.journal,
            inbox: VecDeque::from([Event::BootRequested]),
            spawns: VecDeque::new(),
            must_sweep: false,
            must_steer: false,
            saved_at: Time::default(),
            epoch: Instant::now(),
            state_file: setup.state_file,
            spawner: setup.spawner,
            collision_told: false,
            neglect: Neglect::default(),
            observed_at: Time::default(),
            leaving_slots: LeavingSlots::new(port),
            retirement: Retirement::new(port),
            has_grown: false,
            exit: None,
        })
    }

    /// Runs until the core says `Exit`. Returns the exit code, the reason, and the journal for the last words.
    pub(crate) fn run(mut self) -> io::Result<(u8, ShutdownCause, Journal)> {
        loop {
            self.settle();
            if let Some((code, cause)) = self.exit {
                return Ok((code, cause, self.journal));
            }
            self.steer();
            self.probe_steering();
            self.save_state();
            if std::mem::take(&mut self.has_grown) {
                memory::give_back_code();
            }
            self.wait()?;
        }
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Does what there is to do, until nothing is left or spawns have had their turn.
    fn settle(&mut self) {
        let began = Instant::now();
        self.digest();
        while began.elapsed() < SPAWN_TURN
            && let Some(spawn) = self.spawns.pop_front()
        {
            self.spawn(spawn);
            self.digest();
        }
    }

    /// Hands every event to the core and performs what it asks for; spawns are put in a queue.
    fn digest(&mut self) {
        while let Some(event) = self.inbox.pop_front() {
            self.must_steer = true;
            self.core.handle_event(self.now(), event);
            while let Some(action) = self.core.poll_action() {
                self.perform(action);
            }
            let core = &self.core;
            if self.children.forget_reaped(|worker| core.worker(worker).is_some()) {
                self.state_file.touch();
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, role, slot, generation } => {
                self.spawns.push_back(Spawn { worker, role, slot, generation });
            }
            Action::Signal { worker, signal } => {
                self.children.signal(worker, signal);
                self.leaving_slots.forget(worker);
                self.retirement.told(self.now(), worker);
            }
            Action::TurnAway { worker } => self.turn_away(worker),
            Action::CountConnections { worker } => self.count_connections(worker),
            Action::LoadConfiguration { generation } => self.load(generation),
            Action::Sample { worker } => self.sample(worker),
            Action::CloseSlot { slot } => self.close_slot(slot),
            Action::KeepGenerations { generations } => self.plans.retain(|plan, _| generations.contains(plan)),
            Action::ReopenLog => self.journal.reopen(),
            Action::Report(report) => self.report(&report),
            Action::Exit { code, cause } => self.exit = Some((code, cause)),
        }
    }

    fn spawn(&mut self, spawn: Spawn) {
        let worker = spawn.worker;
        let event = if self.core.worker(worker).is_some_and(propane_core::Worker::is_doomed) {
            Event::SpawnAbandoned { worker }
        } else {
            match self.try_spawn(spawn) {
                Ok(()) => Event::Spawned { worker },
                Err(error) => Event::SpawnFailed { worker, error },
            }
        };
        self.inbox.push_back(event);
    }

    fn try_spawn(&mut self, spawn: Spawn) -> Result<(), SpawnError> {
        let Spawn { worker, role, slot, generation } = spawn;
        let passing =
            |what: &str, error: &io::Error| SpawnError { permanent: false, message: format!("{what}: {error}") };
        let gone = || SpawnError { permanent: true, message: format!("generation {generation} is gone") };
        let plan = Rc::clone(self.plans.get(&generation).ok_or_else(gone)?);
        if role == Role::Http && self.steers {
            self.retirement.observe(); // whoever joins is to be seen apart from who is there
        }
        let notify = (role == Role::Http).then(|| self.notify_socket(worker, plan.identity.as_ref())).flatten();
        let listener = match role {
            Role::Http => self.sockets.for_slot(slot).map_err(|error| passing("cannot listen", &error))?,
            Role::Job => None,
        };
        if let Some(listener) = listener {
            self.poller.add_listener(listener);
        }
        let birth = Birth { worker, role, slot, generation, listener, notify };
        let child = self.children.start(&mut self.spawner, &plan, birth)?;
        self.state_file.touch();
        let watched = self.poller.add(child.pidfd(), Token::Exit(worker)).and_then(|()| match child.notify() {
            Some(socket) => self.poller.add(socket, Token::Notify(worker)),
            None => Ok(()),
        });
        // A child that cannot be watched here is found by the sweep after SIGCHLD all the same.
        if let Err(error) = watched {
            tracing::warn!("cannot watch pid {}: {error}", child.pid());
        }
        let pid = child.pid();
        if role == Role::Http {
            let expectation = Expectation {
                listener: self.sockets.inode(slot),
                address: self.sockets.address().clone(),
                path: plan.readiness_path.clone(),
                settle: plan.policy.reload_overlap,
            };
            self.readiness.expect(self.now(), worker, pid, expectation);
        }
        Ok(())
    }

    /// A worker's way to say that it is ready. A directory that was cleaned away is made anew; where there can be none,
    /// the worker is seen to be ready.
    fn notify_socket(&mut self, worker: WorkerId, identity: Option<&Identity>) -> Option<NotifySocket> {
        let made = self.notify.as_ref()?.socket(worker, identity);
        let made = made.or_else(|error| {
            if self.notify.as_ref().is_some_and(|directory| directory.path().exists()) {
                return Err(error);
            }
            self.notify = Some(NotifyDirectory::create(identity)?);
            self.notify.as_ref().map_or(Err(error), |directory| directory.socket(worker, identity))
        });
        if let Err(error) = &made {
            tracing::warn!("no notify socket for a worker: {error}");
        }
        made.ok()
    }

    fn load(&mut self, generation: Generation) {
        let event = match self.loader.load(generation, &mut self.journal) {
            Some(plan) => {
                let policy = Box::new(plan.policy.clone());
                self.plans.insert(generation, Rc::new(plan));
                Event::ConfigurationLoaded { policy }
            }
            None => Event::ConfigurationRefused,
        };
        self.inbox.push_back(event);
    }

    fn sample(&mut self, worker: WorkerId) {
        let seen = self.children.get(worker).and_then(|child| procinfo::sample(child.pid()));
        self.inbox.extend(seen.map(|sample| Event::Sampled { worker, sample }));
    }

    /// Has new connections go to others than a worker that leaves.
    fn turn_away(&mut self, worker: WorkerId) {
        let now = self.now();
        match self.sockets.inode(self.children.facts(worker).slot) {
            // What is not served is not given any, from the end of this round on.
            Some(inode) => self.leaving_slots.add(now, worker, inode),
            None => self.retirement.turn_away(now, worker),
        }
    }

    fn count_connections(&mut self, worker: WorkerId) {
        let Some(child) = self.children.get(worker).filter(|child| child.is_alive()) else { return };
        let count = retire::connections_in_use(self.sockets.address(), child.pid());
        self.inbox.push_back(Event::ConnectionsCut { worker, count });
    }

    fn report(&mut self, report: &Report) {
        self.has_grown |= matches!(
            report,
            Report::ManagerReady { .. } | Report::ReloadCompleted { .. } | Report::ReloadFailed { .. }
        );
        self.loader.hear(report);
        self.journal.report(report, |worker| self.children.facts(worker));
        match report {
            Report::WorkerReady { worker, proof: Proof::Notified | Proof::Unproven, .. } => {
                let WorkerFacts { pid, slot, .. } = self.children.facts(*worker);
                if let Some(inode) = self.sockets.inode(slot) {
                    self.neglect.watch(self.now(), *worker, pid, inode);
                }
            }
            Report::WorkerBootTimedOut { worker, .. } => self.tell_of_place(*worker),
            Report::WorkerStopRequested { worker, .. } => self.neglect.forget(*worker),
            _ => {}
        }
    }

    /// Says where a worker listens that was not ready in time.
    fn tell_of_place(&mut self, worker: WorkerId) {
        let facts = self.children.facts(worker);
        let given = self.sockets.inode(facts.slot);
        let Some(elsewhere) = neglect::elsewhere(facts.pid, given) else { return };
        if given.is_some() {
            self.journal.ignored_socket(facts, Finding { queued: 0, elsewhere: Some(elsewhere) });
        } else {
            self.journal.listens_elsewhere(facts, elsewhere, self.sockets.address());
        }
    }

    /// Nothing hurries here, and who has just died must not be taken for one who neglects.
    fn look_for_neglect(&mut self) {
        if self.is_busy() {
            return;
        }
        let now = self.now();
        for (worker, finding) in self.neglect.look(now, self.sockets.address()) {
            self.journal.ignored_socket(self.children.facts(worker), finding);
        }
    }

    /// Waits until something happens, and puts it into the inbox.
    fn wait(&mut self) -> io::Result<()> {
        let tokens = self.poller.wait(self.timeout())?;
        let took_all = tokens.len() < BATCH;
        for token in tokens {
            match token {
                Token::Signal => self.take_signals(),
                Token::Exit(worker) => self.reap(worker),
                Token::Notify(worker) => self.hear(worker),
                Token::Timer => {}
                Token::HangUp => self.revive(),
            }
        }
        if !took_all {
            // They may stand behind many others in the kernel's queue.
            self.take_signals();
        }
        if self.must_sweep {
            self.sweep();
        }
        // Before anything is said of who has ended: whoever comes from here on shall find a worker.
        self.steer();
        self.look_for_ready();
        self.look_for_empty_groups();
        self.look_for_drained();
        self.look_for_neglect();
        // Last, and only when nothing waits to be heard: a deadline must not be judged before a word that met it.
        let heard_all = took_all && !self.must_sweep;
        if heard_all && self.core.poll_timeout().is_some_and(|at| at <= self.now()) {
            self.inbox.push_back(Event::TimePassed);
        }
        Ok(())
    }

    /// Whether there is more to do before anything else happens.
    fn is_busy(&self) -> bool {
        !self.spawns.is_empty() || self.must_sweep
    }

    fn timeout(&self) -> Option<Duration> {
        let now = self.now();
        let boot = (self.steers && !self.readiness.is_idle()).then(|| self.observed_at + JOIN_INTERVAL);
        let linger = self.children.lingering().next().map(|_| now + LINGER_INTERVAL);
        let turn = self.is_busy().then_some(now);
        let due = [
            self.core.poll_timeout(),
            self.readiness.next_look(),
            self.neglect.next_look(),
            self.leaving_slots.next_look(),
            self.retirement.next_look(),
            boot,
            linger,
            turn,
        ]
        .into_iter()
        .flatten()
        .min();
        due.map(|due| due.since(now))
    }

    fn take_signals(&mut self) {
        for caught in self.signals.take() {
            match caught {
                Caught::Hup => self.inbox.push_back(Event::ReloadRequested),
                Caught::Term => self.inbox.push_back(Event::StopRequested { signal: StopSignal::Term }),
                Caught::Int => self.inbox.push_back(Event::StopRequested { signal: StopSignal::Int }),
                Caught::Quit => self.inbox.push_back(Event::StopRequested { signal: StopSignal::Quit }),
                Caught::Ttin => self.inbox.push_back(Event::ScaleUpRequested),
                Caught::Ttou => self.inbox.push_back(Event::ScaleDownRequested),
                Caught::Usr1 => self.inbox.push_back(Event::LogReopenRequested),
                Caught::Usr2 => tracing::warn!("USR2 (self-upgrade) is not supported; nothing was done"),
                Caught::Chld => self.must_sweep = true,
            }
        }
    }

    /// Looks for dead children, a batch at a time, so that a signal does not wait for a thousand of them.
    fn sweep(&mut self) {
        for _ in 0..BATCH {
            let Some(worker) = self.children.sweep() else {
                self.must_sweep = false;
                return;
            };
            self.reap(worker);
        }
    }

    fn reap(&mut self, worker: WorkerId) {
        // Words that came before the end count: READY=1 of a worker that crashes at once, say.
        self.hear(worker);
        if let Some(child) = self.children.get(worker) {
            self.poller.remove(child.pidfd());
            if let Some(socket) = child.notify() {
                self.poller.remove(socket);
            }
        }
        if let Some((status, group_alive)) = self.children.reap(worker) {
            self.must_steer = true;
            self.readiness.forget(worker);
            self.neglect.forget(worker);
            self.leaving_slots.forget(worker);
            if self.steers && self.children.get(worker).is_some_and(Child::serves_http) {
                self.retirement.gone(self.now(), worker, &self.members());
            }
            if self.sockets.is_shut(self.children.facts(worker).slot) {
                self.revive();
            }
            self.tell_of_missed_file();
            self.tell_of_collision(worker);
            self.inbox.push_back(Event::Exited { worker, status, group_alive });
        }
    }

    /// A worker may take the file of a UNIX socket for its own and remove it when it leaves; then nobody can connect.
    fn tell_of_missed_file(&mut self) {
        if let Some(path) = self.sockets.newly_missed_file() {
            tracing::error!(
                "{} is gone, and nobody can connect any more: a worker that leaves must not remove it (gunicorn: leave \
                 --bind out of workerCommand, it takes the socket by LISTEN_FDS); restart propane to make it anew",
                path.display()
            );
        }
    }

    fn hear(&mut self, worker: WorkerId) {
        let Some(child) = self.children.get(worker) else { return };
        let Some(socket) = child.notify() else { return };
        while let Some((message, sender)) = socket.receive() {
            if !sender.is_some_and(|sender| is_of_family(sender, child.pid())) {
                continue;
            }
            if message.ready {
                self.inbox.extend(self.readiness.notified(worker).map(|proof| Event::BecameReady { worker, proof }));
            }
            if message.heartbeat {
                self.inbox.push_back(Event::HeartbeatReceived { worker });
            }
        }
    }

    fn look_for_ready(&mut self) {
        let now = self.now();
        if self.steers && !self.readiness.is_idle() && self.observed_at + JOIN_INTERVAL <= now {
            self.retirement.observe();
            self.observed_at = now;
        }
        for (worker, proof) in self.readiness.look(now) {
            if proof == Proof::Unproven {
                let pid = self.children.facts(worker).pid;
                tracing::warn!("pid {pid}: nothing shows whether it is ready; taken for ready after the settling time");
            }
            self.inbox.push_back(Event::BecameReady { worker, proof });
        }
    }

    /// The HTTP workers that run, and whether new connections may go to them.
    fn members(&self) -> Vec<Member> {
        let serving = self.core.serving_workers();
        let alive = self.children.iter().filter(|(_, child)| child.serves_http() && child.is_alive());
        alive
            .map(|(worker, child)| Member { worker, pid: child.pid(), serves: serving.contains_key(&worker) })
            .collect()
    }

    fn look_for_drained(&mut self) {
        let now = self.now();
        let empty = self.leaving_slots.look(now);
        self.inbox.extend(empty.into_iter().map(|(worker, waited)| Event::Drained { worker, waited }));
        if self.retirement.next_look().is_none_or(|at| at > now) {
            return;
        }
        let verdicts = self.retirement.look(now, &self.members());
        let end = self.now();
        self.retirement.rest(end + end.since(now) * LOOK_SHARE);
        for verdict in verdicts {
            match verdict {
                Verdict::Drained { worker, waited } => self.inbox.push_back(Event::Drained { worker, waited }),
                Verdict::Refused(reason) => self.stop_steering(&reason),
            }
        }
    }

    /// Once a worker is ready it shows whether its sockets can be steered at all.
    fn probe_steering(&mut self) {
        if !self.steers || self.retirement.has_probed() {
            return;
        }
        let first = self.members().into_iter().find(|member| member.serves);
        if let Some(refusal) = first.and_then(|member| self.retirement.probe(member)) {
            self.stop_steering(&refusal);
        }
    }

    /// Goes on as `reuseport` does.
    fn stop_steering(&mut self, reason: &str) {
        self.steers = false;
        self.retirement.give_up(&self.members());
        self.inbox.push_back(Event::TurningAwayRefused);
        self.journal.strategy_changed(reason);
    }

    fn look_for_empty_groups(&mut self) {
        let empty = self.children.lingering().filter(|worker| self.children.group_is_empty(*worker));
        self.inbox.extend(empty.map(|worker| Event::GroupEmptied { worker }));
    }

    /// Tells once when copies of a worker that binds by itself keep each other off the port.
    fn tell_of_collision(&mut self, dead: WorkerId) {
        let binds_by_itself = !self.sockets.are_inherited();
        let was_ready = self.core.worker(dead).is_none_or(propane_core::Worker::was_ready);
        let is_http = self.children.get(dead).is_some_and(Child::serves_http);
        if self.collision_told || !binds_by_itself || was_ready || !is_http || self.sockets.can_be_shared() {
            return;
        }
        let others = self.children.iter().filter(|(worker, child)| *worker != dead && child.serves_http());
        let others = others.map(|(_, child)| child.pid()).collect::<Vec<_>>();
        if let Some(owner) = collision::owner(self.sockets.address().port(), &others) {
            self.collision_told = true;
            let pid = self.children.facts(dead).pid;
            self.journal.collision(self.sockets.address(), owner, pid);
        }
    }

    fn close_slot(&mut self, slot: u32) {
        // The listener is told to end, and nobody is to take that for a mistake.
        if let Some(listener) = self.sockets.of_slot(slot) {
            self.poller.remove(listener);
        }
        self.sockets.close_slot(slot);
    }

    /// Lets listeners listen again that a worker has shut down.
    fn revive(&mut self) {
        match self.sockets.revive() {
            Ok(Revival::Nothing) => return,
            Ok(Revival::Again) => tracing::warn!(
                "a worker has shut its listener down, and what waited there was lost; it listens again \
                 (a worker that leaves should close it instead)"
            ),
            Ok(Revival::Anew) => {
                tracing::error!(
                    "a worker has shut the UNIX socket down, which ends it for all workers; it is made anew, and the \
                     workers are replaced (a worker that leaves should close it instead)"
                );
                self.inbox.push_back(Event::ReloadRequested);
            }
            Err(error) => {
                tracing::error!("a worker has shut its listener down, and it cannot listen again: {error}");
                return;
            }
        }
        for listener in self.sockets.listeners() {
            self.poller.remove(listener);
            self.poller.add_listener(listener);
        }
        self.must_steer = true;
        self.steer();
    }

    /// Keeps new connections away from slots that nobody serves. Without it they wait there, and that is all.
    fn steer(&mut self) {
        if !std::mem::take(&mut self.must_steer) && self.readiness.asked().next().is_none() {
            return;
        }
        if let Err(error) = self.sockets.steer(self.reachable_slots()) {
            tracing::warn!("connections may wait for a worker that is not there: cannot steer them: {error}");
        }
    }

    /// Slots with a worker that takes connections and is not known to be dead, and those whose workers are asked for their
    /// readiness path: else nobody could answer there.
    fn reachable_slots(&self) -> BTreeSet<u32> {
        let alive = |worker: &WorkerId| !self.children.is_dead(*worker);
        let served = self.core.serving_workers().iter().filter(|(worker, _)| alive(worker)).map(|(_, slot)| *slot);
        served.chain(self.readiness.asked().map(|worker| self.children.facts(worker).slot)).collect()
    }

    /// Before it waits; and where there is no end of what there is to do, often enough.
    fn save_state(&mut self) {
        let now = self.now();
        if self.is_busy() && now.since(self.saved_at) < SAVE_INTERVAL {
            return;
        }
        self.saved_at = now;
        let directory = self.notify.as_ref().map(NotifyDirectory::path);
        self.state_file.save_if_stale(|| State::new(directory.map(ToOwned::to_owned), self.children.process_ids()));
    }
}

/// A process of the worker, or one that is gone already: then its socket's name, which only the worker was told, speaks
/// for it.
fn is_of_family(sender: i32, worker: i32) -> bool {
    sender == worker || procinfo::stat(sender).is_none_or(|stat| stat.pgrp == worker || stat.ppid == worker)
}

/// Jitter needs no secrecy: time and pid differ between managers, and that is all it is for.
fn seed() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos() % u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id())
}
