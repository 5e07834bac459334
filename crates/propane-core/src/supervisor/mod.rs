//! The one door through which events come in, and what everybody needs.
//!
//! The workers stand in [`books`]; the other files of this module hold the rules of one concern each: [`deaths`], [`drain`], [`rollout`] (reload and recycling,
//! which are one thing), [`resize`], [`stop`] and [`timers`].

mod books;
mod deaths;
mod drain;
mod reach;
mod resize;
mod rollout;
mod stop;
mod timers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::action::{Action, Signal};
use crate::event::{Event, ExitStatus, Generation, Proof, Role, WorkerId};
use crate::policy::Policy;
use crate::report::{RecycleReason, ReloadCause, Report, StartReason, StopReason};
use crate::restart;
use crate::rng::Rng;
use crate::time::Time;
use crate::worker::{Doom, State, Worker};

use books::Books;
use resize::Resize;
use rollout::Rollout;
pub use stop::Phase;

/// How much the lifetime of a worker varies, in percent, so that workers of one age do not leave together.
const LIFETIME_JITTER_PERCENT: u32 = 10;

/// A place for one worker at a time.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Who serves it.
    current: Option<WorkerId>,
    /// Who is to serve it when the rollout under way succeeds.
    next: Option<WorkerId>,
    /// The configuration that a respawn uses.
    generation: Generation,
    /// Early deaths in a row.
    early_deaths: u32,
    /// When the slot is filled again.
    respawn_at: Option<Time>,
    /// Whether the new process waits for the old one's end (job workers in a reload).
    replacing: bool,
}

impl Slot {
    fn of(generation: Generation) -> Self {
        Self { generation, ..Self::default() }
    }
}

/// What a worker that left was to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Current,
    Next,
    Nowhere,
}

/// A read-only view of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Who serves it.
    pub current: Option<WorkerId>,
    /// Who is to take over.
    pub next: Option<WorkerId>,
    /// The configuration that a respawn uses.
    pub generation: Generation,
}

/// A read-only view of the supervisor, for reports, the state file and checkers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What the manager as a whole is doing.
    pub phase: Phase,
    /// The last generation that was tried.
    pub generation: Generation,
    /// Whether a reload or a recycling is under way.
    pub rolling: bool,
    /// Whether a reload is wanted after it.
    pub reload_pending: bool,
    /// The HTTP slots.
    pub http: Vec<SlotStatus>,
    /// The job slots.
    pub jobs: Vec<SlotStatus>,
    /// Every worker in the books.
    pub workers: BTreeMap<WorkerId, Worker>,
}

/// The state machine. See the crate's documentation for how to drive it.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub struct Supervisor {
    policy: Policy,
    phase: Phase,
    http: Vec<Slot>,
    jobs: Vec<Slot>,
    workers: Books,
    next_worker: u64,
    rng: Rng,
    actions: VecDeque<Action>,
    /// The last generation that was tried.
    generation: Generation,
    /// The generation that new slots are filled from: the last one that rolled out whole.
    settled_generation: Generation,
    /// A reload waits for the configuration to be read.
    loading: bool,
    rollout: Option<Rollout>,
    /// The old workers left for a rollout that failed, and come back as soon as the port is free.
    returning: bool,
    /// The driver cannot turn connections away, whatever the policy says.
    cannot_turn_away: bool,
    reload_pending: bool,
    resize_pending: Option<Resize>,
    /// What each generation's workers were told about heartbeats, which may differ from the policy in force.
    heartbeat_timeouts: BTreeMap<Generation, Option<Duration>>,
    recycle_queue: VecDeque<(WorkerId, RecycleReason)>,
    recycle_retry_at: Option<Time>,
    sample_at: Option<Time>,
    booted_at: Time,
    ready_announced: bool,
    ever_ready: bool,
    failed_boots: u32,
    /// How the last worker that is gone ended.
    last_status: ExitStatus,
}

impl Supervisor {
    /// A supervisor that has not booted. `seed` determines every jitter.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let heartbeat_timeouts = BTreeMap::from([(0, policy.heartbeat_timeout)]);
        Self {
            policy,
            phase: Phase::Idle,
            http: Vec::new(),
            jobs: Vec::new(),
            workers: Books::default(),
            next_worker: 0,
            rng: Rng::new(seed),
            actions: VecDeque::new(),
            generation: 0,
            settled_generation: 0,
            loading: false,
            rollout: None,
            returning: false,
            cannot_turn_away: false,
            reload_pending: false,
            resize_pending: None,
            heartbeat_timeouts,
            recycle_queue: VecDeque::new(),
            recycle_retry_at: None,
            sample_at: None,
            booted_at: Time::default(),
            ready_announced: false,
            ever_ready: false,
            failed_boots: 0,
            last_status: ExitStatus::Code(0),
        }
    }

    /// Takes in one event at the time `now`, which never runs backwards.
    pub fn handle_event(&mut self, now: Time, event: Event) {
        if self.phase == Phase::Stopped {
            return; // `Exit` was the last action, whatever comes in while the driver leaves
        }
        self.forgive_oversleeping(now);
        self.dispatch(now, event);
        self.workers.count();
        self.advance(now);
        self.workers.count();
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the supervisor knows.
    pub fn status(&self) -> Status {
        let view = |slots: &[Slot]| {
            slots.iter().map(|s| SlotStatus { current: s.current, next: s.next, generation: s.generation }).collect()
        };
        Status {
            phase: self.phase,
            generation: self.generation,
            rolling: self.rollout.is_some() || self.loading,
            reload_pending: self.reload_pending,
            http: view(&self.http),
            jobs: view(&self.jobs),
            workers: self.workers.all().clone(),
        }
    }

    /// A worker in the books.
    pub fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// The HTTP workers that take connections, with their slots.
    pub fn serving_workers(&self) -> &BTreeMap<WorkerId, u32> {
        self.workers.serving()
    }

    fn dispatch(&mut self, now: Time, event: Event) {
        match event {
            Event::BootRequested => self.boot(now),
            Event::Spawned { worker } => self.spawned(now, worker),
            Event::SpawnAbandoned { worker } => self.spawn_abandoned(now, worker),
            Event::SpawnFailed { worker, error } => self.spawn_failed(now, worker, error),
            Event::BecameReady { worker, proof } => self.became_ready(now, worker, proof),
            Event::HeartbeatReceived { worker } => self.heartbeat_received(now, worker),
            Event::Exited { worker, status, group_alive } => self.exited(now, worker, status, group_alive),
            Event::GroupEmptied { worker } => self.group_emptied(now, worker),
            Event::Drained { worker, waited } => self.drained(now, worker, waited),
            Event::TurningAwayRefused => self.turning_away_refused(now),
            Event::ConnectionsCut { worker, count } => self.connections_cut(worker, count),
            Event::Sampled { worker, sample } => self.sampled(worker, sample),
            Event::StopRequested { signal } => self.stop_requested(now, signal),
            Event::ReloadRequested => self.reload_requested(now, ReloadCause::Hup),
            // Workers that hold a socket to which nobody can connect are replaced.
            Event::SocketRenewed => self.reload_requested(now, ReloadCause::SocketRenewed),
            Event::ConfigurationLoaded { policy } => self.configuration_loaded(now, *policy),
            Event::ConfigurationRefused => self.configuration_refused(),
            Event::ScaleUpRequested => self.resize_requested(Resize::up),
            Event::ScaleDownRequested => self.resize_requested(Resize::down),
            Event::LogReopenRequested => self.actions.push_back(Action::ReopenLog),
            Event::TimePassed => self.fire_due(now),
        }
    }

    /// Does what has become possible: events only change what is known, here is what follows from it.
    fn advance(&mut self, now: Time) {
        self.advance_rollout(now);
        self.return_the_old(now);
        self.start_what_waits(now);
        self.announce_ready(now);
        self.end_if_none_is_left(now);
        self.advance_stop();
    }

    fn boot(&mut self, now: Time) {
        if self.phase != Phase::Idle {
            return;
        }
        self.phase = Phase::Running;
        self.booted_at = now;
        self.sample_at = self.policy.samples().then_some(now);
        self.http = vec![Slot::of(0); self.policy.http_workers as usize];
        self.jobs = vec![Slot::of(0); self.policy.job_workers as usize];
        for slot in 0..self.policy.http_workers {
            self.fill(now, Role::Http, slot, StartReason::Boot);
        }
        for slot in 0..self.policy.job_workers {
            self.fill(now, Role::Job, slot, StartReason::Boot);
        }
    }

    fn slots(&mut self, role: Role) -> &mut Vec<Slot> {
        match role {
            Role::Http => &mut self.http,
            Role::Job => &mut self.jobs,
        }
    }

    fn slot(&mut self, role: Role, slot: u32) -> Option<&mut Slot> {
        self.slots(role).get_mut(slot as usize)
    }

    /// Starts a worker as the one that serves its slot.
    fn fill(&mut self, now: Time, role: Role, index: u32, reason: StartReason) {
        let Some(slot) = self.slot(role, index) else { return };
        slot.respawn_at = None;
        slot.replacing = false;
        let generation = slot.generation;
        let worker = self.spawn(now, role, index, generation, reason);
        if let Some(slot) = self.slot(role, index) {
            slot.current = Some(worker);
        }
    }

    fn spawn(&mut self, now: Time, role: Role, slot: u32, generation: Generation, reason: StartReason) -> WorkerId {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let heartbeat_timeout = self.heartbeat_timeouts.get(&generation).copied().flatten();
        self.workers.insert(worker, Worker { heartbeat_timeout, ..Worker::new(role, slot, generation, reason, now) });
        self.actions.push_back(Action::Spawn { worker, role, slot, generation });
        worker
    }

    fn spawned(&mut self, now: Time, id: WorkerId) {
        let ready_by = now + self.policy.boot_timeout;
        let Some(worker) = self.workers.get_mut(id) else { return };
        let State::Spawning { doomed } = worker.state else { return };
        worker.started_at = now;
        worker.state = State::Starting { ready_by };
        let (role, reason) = (worker.role, worker.reason);
        self.report(Report::WorkerStarted { worker: id, reason });
        if role == Role::Job {
            self.became_ready(now, id, Proof::Running);
        }
        match doomed {
            Some(Doom { reason, kill: true }) => self.kill(now, id, reason, false),
            Some(Doom { reason, kill: false }) => self.retire(now, id, reason),
            None => {}
        }
    }

    fn became_ready(&mut self, now: Time, id: WorkerId, proof: Proof) {
        let jitter = self.rng.percent(LIFETIME_JITTER_PERCENT);
        let lifetime = self.policy.max_lifetime.map(|lifetime| restart::with_percent(lifetime, jitter));
        let Some(worker) = self.workers.get_mut(id) else { return };
        if !matches!(worker.state, State::Starting { .. }) {
            return;
        }
        worker.state = State::Ready;
        worker.proof = Some(proof);
        if worker.role == Role::Job {
            return;
        }
        worker.expires_at = lifetime.map(|lifetime| now + lifetime);
        let after = now.since(worker.started_at);
        self.ever_ready = true;
        self.failed_boots = 0;
        self.report(Report::WorkerReady { worker: id, after, proof });
    }

    fn announce_ready(&mut self, now: Time) {
        if self.ready_announced || !self.phase.is_serving() || self.workers.serving().len() < self.http.len() {
            return;
        }
        if !self.http.iter().all(|slot| self.is_ready(slot.current)) {
            return;
        }
        self.ready_announced = true;
        let (workers, after) = (self.http_count(), now.since(self.booted_at));
        self.report(Report::ManagerReady { workers, after });
    }

    fn heartbeat_received(&mut self, now: Time, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.is_wanted()) {
            worker.heartbeat_by = worker.heartbeat_timeout.map(|timeout| now + timeout);
            worker.reprieved = false;
        }
    }

    /// Asks a worker to finish and leave.
    fn retire(&mut self, now: Time, id: WorkerId, reason: StopReason) {
        let deadline = now + self.policy.graceful_timeout;
        let leaves_for_others = self.leaves_for_others(id);
        let Some(worker) = self.workers.get_mut(id) else { return };
        match &mut worker.state {
            State::Spawning { .. } => self.doom(id, Doom { reason, kill: false }),
            State::Starting { .. } | State::Ready if leaves_for_others => self.turn_away(now, id, reason),
            State::Starting { .. } | State::Ready => self.tell(id, reason, now, deadline),
            State::TurnedAway { kill_at, reason: told, since, .. } => {
                let (told, since, kill_at) = (*told, *since, deadline.min(*kill_at));
                // In a stop there is nobody left for whom it could make room.
                if matches!(reason, StopReason::Shutdown(_)) {
                    self.tell_drained(now, id, told, since, kill_at);
                }
            }
            State::Draining { kill_at, .. } | State::Lingering { kill_at: Some(kill_at), .. } => {
                *kill_at = deadline.min(*kill_at);
            }
            State::Aborting { .. } | State::Killed { .. } | State::Lingering { kill_at: None, .. } => {}
        }
    }

    /// Calls the start of a worker off. Where that comes too late, it leaves as soon as it is there.
    fn doom(&mut self, id: WorkerId, doom: Doom) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let State::Spawning { doomed } = &mut worker.state else { return };
        let is_first = doomed.is_none();
        if is_first || doom.kill {
            *doomed = Some(doom);
        }
        if is_first {
            self.actions.push_back(Action::CallOff { worker: id });
        }
    }

    /// Sends TERM to a worker that leaves since `since`.
    fn tell(&mut self, id: WorkerId, reason: StopReason, since: Time, kill_at: Time) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.state = State::Draining { reason, since, kill_at };
        self.actions.push_back(Action::Signal { worker: id, signal: Signal::Term });
        self.report(Report::WorkerStopRequested { worker: id, kill: false, reason, grace_over: false });
    }

    /// Ends a worker and its process group at once. `reason` counts where it was not told to leave before.
    fn kill(&mut self, now: Time, id: WorkerId, reason: StopReason, grace_over: bool) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (reason, since) = match &mut worker.state {
            State::Spawning { .. } => return self.doom(id, Doom { reason, kill: true }),
            State::Killed { .. } | State::Lingering { kill_at: None, .. } => return,
            State::Lingering { kill_at, reason, since, .. } => {
                *kill_at = None;
                (*reason, *since)
            }
            State::TurnedAway { reason, since, .. } | State::Draining { reason, since, .. } => {
                let told = (*reason, *since);
                worker.state = State::Killed { reason: told.0, since: told.1 };
                told
            }
            State::Starting { .. } | State::Ready | State::Aborting { .. } => {
                worker.state = State::Killed { reason, since: now };
                (reason, now)
            }
        };
        self.count_killed(reason, since, grace_over);
        if grace_over {
            self.count_connections(id);
        }
        self.actions.push_back(Action::Signal { worker: id, signal: Signal::Kill });
        self.report(Report::WorkerStopRequested { worker: id, kill: true, reason, grace_over });
    }

    fn report(&mut self, report: Report) {
        self.actions.push_back(Action::Report(report));
    }

    fn is_ready(&self, id: Option<WorkerId>) -> bool {
        id.and_then(|id| self.workers.get(id)).is_some_and(Worker::is_ready)
    }

    /// The number of HTTP workers wanted now.
    fn http_count(&self) -> u32 {
        u32::try_from(self.http.len()).unwrap_or(u32::MAX)
    }

    /// Tells the driver which generations can still be spawned from.
    fn forget_generations(&mut self) {
        let mut generations: BTreeSet<_> = self.http.iter().chain(&self.jobs).map(|slot| slot.generation).collect();
        generations.insert(self.settled_generation);
        self.heartbeat_timeouts.retain(|generation, _| generations.contains(generation));
        self.actions.push_back(Action::KeepGenerations { generations });
    }
}
