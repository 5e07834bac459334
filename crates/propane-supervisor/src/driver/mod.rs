//! The loop: wait, turn what happened into events, let the core decide, perform its actions (ARCHITECTURE.md).
//!
//! There is no decision here. What an event means is the core's to say; what the world looks like is said by the
//! modules that this one calls; how the loop shares its time out stands in [`turn`].

mod hearing;
mod leaving;
mod patience;
mod reports;
mod spawning;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use propane_config::Strategy;
use propane_core::{Action, Event, Generation, ShutdownCause, Supervisor, Time, WorkerId};

use crate::children::Children;
use crate::clock::Clock;
use crate::drain::LeavingSlots;
use crate::journal::Journal;
use crate::memory;
use crate::neglect::Neglect;
use crate::notify::NotifyDirectory;
use crate::plan::Plan;
use crate::poller::{BATCH, Poller, Token};
use crate::procinfo;
use crate::readiness::Readiness;
use crate::reload::Loader;
use crate::retire::Retirement;
use crate::signals::Signals;
use crate::sockets::Sockets;
use crate::spawn::Spawner;
use crate::state::{State, StateFile};

use patience::Patience;
use spawning::Spawn;
use turn::{Backlog, House, Judge};

/// What the driver is set up with.
pub(crate) struct Setup<'a> {
    pub(crate) plan: Plan,
    pub(crate) loader: Loader,
    pub(crate) sockets: Sockets,
    pub(crate) signals: Signals,
    pub(crate) notify: Option<NotifyDirectory>,
    pub(crate) journal: Journal,
    pub(crate) state_file: StateFile,
    pub(crate) spawner: Spawner,
    /// What becomes readable if the warden ends before this manager does.
    pub(crate) warden_end: Option<BorrowedFd<'a>>,
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
    /// Those whose start was asked for, in that order, which is that of their names.
    spawns: BTreeMap<WorkerId, Spawn>,
    /// Whether there may be dead children that nobody has looked for.
    must_sweep: bool,
    /// Whether others may have to get the new connections.
    must_steer: bool,
    house: House,
    judge: Judge,
    clock: Clock,
    state_file: StateFile,
    spawner: Spawner,
    collision_told: bool,
    background_told: bool,
    neglect: Neglect,
    leaving_slots: LeavingSlots,
    retirement: Retirement,
    patience: Patience,
    /// Whether workers bind by themselves, and are steered around when they leave.
    steers: bool,
    /// Whether a start or a reload has left code and room in memory that nobody needs now.
    has_grown: bool,
    exit: Option<(u8, ShutdownCause)>,
}

impl Driver {
    pub(crate) fn new(setup: Setup<'_>) -> io::Result<Self> {
        let poller = Poller::new()?;
        for signal in setup.signals.descriptors() {
            poller.add(signal, Token::Signal)?;
        }
        if let Some(end) = setup.warden_end {
            poller.add_once(end, Token::Warden)?;
        }
        let (port, clock) = (setup.sockets.address().port(), Clock::start());
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
            spawns: BTreeMap::new(),
            must_sweep: false,
            must_steer: false,
            house: House::default(),
            judge: Judge::default(),
            clock,
            state_file: setup.state_file,
            spawner: setup.spawner,
            collision_told: false,
            background_told: false,
            neglect: Neglect::default(),
            leaving_slots: LeavingSlots::new(port),
            retirement: Retirement::new(port, clock),
            patience: Patience::default(),
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
            self.keep_house();
            if !self.inbox.is_empty() {
                continue; // what steering has shown is news
            }
            if std::mem::take(&mut self.has_grown) {
                memory::give_back_heap();
                memory::give_back_code();
            }
            self.wait()?;
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
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
            for (worker, lingered) in self.children.forget_reaped(|worker| core.worker(worker).is_some()) {
                self.state_file.touch();
                if lingered {
                    self.let_listeners_go(worker);
                }
            }
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, role, slot, generation } => {
                self.spawns.insert(worker, Spawn { role, slot, generation });
            }
            Action::CallOff { worker } => self.call_off(worker),
            Action::Signal { worker, signal } => {
                self.children.signal(worker, signal);
                self.readiness.forget(worker);
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

    fn sample(&mut self, worker: WorkerId) {
        let seen = self.children.get(worker).and_then(|child| procinfo::sample(child.pid()));
        self.inbox.extend(seen.map(|sample| Event::Sampled { worker, sample }));
    }

    /// Waits until something happens, and puts it into the inbox.
    fn wait(&mut self) -> io::Result<()> {
        let tokens = self.poller.wait(self.timeout())?;
        let took_all = tokens.len() < BATCH;
        for token in tokens {
            self.take_in(token);
        }
        if !took_all {
            // They may stand behind many others in the kernel's queue.
            self.take_signals();
        }
        if self.must_sweep {
            self.sweep();
        }
        self.go_on_reviving();
        // Before anything is said of who has ended: whoever comes from here on shall find a worker.
        self.steer();
        self.look_for_ready();
        self.look_for_empty_groups();
        self.look_for_drained();
        self.look_for_neglect();
        // Last, after every word that may have met a deadline.
        let (now, backlog) = (self.now(), self.backlog());
        if self.judge.may_judge(now, self.core.poll_timeout(), took_all, backlog) {
            self.inbox.push_back(Event::TimePassed);
        }
        Ok(())
    }

    fn backlog(&self) -> Backlog {
        let deadlines = self.core.poll_timeout().is_some_and(|at| at <= self.now());
        Backlog { spawns: !self.spawns.is_empty(), deaths: self.must_sweep, deadlines }
    }

    fn timeout(&self) -> Option<Duration> {
        let boots = self.steers && !self.readiness.is_idle();
        let lingers = self.children.any_lingers();
        let due = [
            self.core.poll_timeout(),
            self.readiness.next_look(),
            self.neglect.next_look(),
            self.leaving_slots.next_look(),
            self.retirement.next_look(),
            self.patience.next_try(),
            boots.then(|| self.retirement.next_observation()),
        ];
        turn::timeout(self.now(), self.backlog(), lingers, due)
    }

    /// Does what must be done and nobody waits for.
    fn keep_house(&mut self) {
        if self.house.is_due(self.now(), self.backlog()) {
            self.children.settle_estate();
            if self.sockets.verify() {
                self.must_steer = true;
                self.steer();
            }
            let directory = self.notify.as_ref().map(NotifyDirectory::path);
            let state = || State::new(directory.map(ToOwned::to_owned), self.children.process_ids());
            self.state_file.save_if_stale(state);
        }
    }
}

/// Jitter needs no secrecy: time and pid differ between managers, and that is all it is for.
fn seed() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos() % u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id())
}
