//! The world around a supervisor: a driver that keeps its contract, workers that do what their fates say, an operator.
//!
//! The driver hands over one event, performs all actions, and then waits for the next event or for the time that the
//! supervisor has named. Time is a number that jumps from one happening to the next.

mod agenda;
mod process;
mod workers;

use std::collections::{BTreeMap, VecDeque};
use std::iter::{Copied, Peekable};
use std::slice;
use std::time::Duration;

use propane_core::{Action, Event, ExitStatus, Policy, Proof, Signal, StopSignal, Supervisor, Time, WorkerId};

use crate::checker::{Checker, Rule, Violation, ensure};
use crate::coverage::{Fault, Mark, Sent, Step, see, strike};
use crate::fate;
use crate::plan::{Deed, LAG_MS_MAX, Plan, SAMPLE};
use crate::recorder::Recorder;
use crate::rng::Rng;

use agenda::{Agenda, Happening};
use process::Process;

/// How many steps a schedule may take: far more than any needs, so that only one that runs in circles reaches it.
const STEPS_MAX: u32 = 60_000;

/// How long a stop may take beyond the drain and the grace time: an answer that is still out, the slowest driver there
/// is, a core dump, and the time until the last report.
const SLACK: Duration = Duration::from_millis(
    fate::SPAWN_MS_MAX + fate::KILL_MS_MAX * 2 + fate::REPORT_MS_MAX * 2 + ABORT_MS + LAG_MS_MAX * 2,
);

/// How long a hung worker has to dump core.
const ABORT_MS: u64 = 2_000;

/// What came of a schedule.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) steps: u32,
    pub(crate) workers: u64,
    pub(crate) generations: u32,
    /// The schedule as a story, if it was recorded.
    pub(crate) story: String,
}

/// Runs a schedule from the boot to the exit.
pub(crate) fn run(plan: &Plan, record: bool) -> Outcome {
    let mut world = World::new(plan, record);
    let violation = world.live().err();
    Outcome {
        violation,
        steps: world.steps,
        workers: u64::try_from(world.processes.len()).unwrap_or(u64::MAX),
        generations: world.generations,
        story: world.recorder.into_story(),
    }
}

struct World<'a> {
    plan: &'a Plan,
    supervisor: Supervisor,
    checker: Checker,
    agenda: Agenda,
    /// What the driver has not looked at yet, because it sleeps.
    inbox: VecDeque<Happening>,
    processes: Vec<Process>,
    /// What the last usable configuration said.
    configured: Policy,
    /// What each generation's workers are told about heartbeats.
    heartbeats: BTreeMap<u32, Option<Duration>>,
    generations: u32,
    /// What the operator does right after which step.
    ambushes: Peekable<Copied<slice::Iter<'a, (u32, Deed)>>>,
    /// What the operator does as soon as the manager does something.
    lurking: Vec<(Step, Deed)>,
    /// When the operator sent the last signal.
    sent_at: Option<Time>,
    now: Time,
    /// The driver does nothing before this time.
    awake_at: Time,
    /// When the last pause of everybody was over.
    thawed_at: Time,
    /// Nothing goes wrong any more.
    calm: bool,
    steps: u32,
    recorder: Recorder,
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, record: bool) -> Self {
        Self {
            plan,
            supervisor: Supervisor::new(plan.policy.clone(), plan.seed),
            checker: Checker::new(&plan.policy, SLACK),
            agenda: Agenda::default(),
            inbox: VecDeque::new(),
            processes: Vec::new(),
            configured: plan.policy.clone(),
            heartbeats: BTreeMap::from([(0, plan.policy.heartbeat_timeout)]),
            generations: 0,
            ambushes: plan.ambushes.iter().copied().peekable(),
            lurking: plan.lurking.clone(),
            sent_at: None,
            now: Time::default(),
            awake_at: Time::default(),
            thawed_at: Time::default(),
            calm: false,
            steps: 0,
            recorder: Recorder::new(record, plan),
        }
    }

    /// Safety first: anything may go wrong, and no rule may be broken. Then liveness: nothing goes wrong any more, and
    /// everything has to come right. And then the end.
    fn live(&mut self) -> Result<(), Violation> {
        for (at, deed) in &self.plan.script {
            self.agenda.add(*at, Happening::Deed(*deed));
        }
        self.plan.early.map_or(Ok(()), |deed| self.act(deed))?;
        self.feed(&Event::BootRequested)?;
        self.run_until(self.plan.calm_at)?;
        self.calm_down();
        self.settle()?;
        self.reload_at_last()?;
        self.stop()?;
        self.haunt()
    }

    fn run_until(&mut self, end: Time) -> Result<(), Violation> {
        while !self.checker.has_exited() && self.step(end)? {
            // Now and then is often enough for what only follows from the rest.
            if self.steps.is_multiple_of(8) {
                self.checker.agrees(&self.supervisor.reachable_slots([], |_| false))?;
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    fn calm_down(&mut self) {
        self.calm = true;
        self.checker.calm_down(self.now);
        self.processes.iter_mut().for_each(|process| process.spared = true);
    }

    /// Once nothing goes wrong any more, the wanted workers have to be there and no reload may be left, within a bound.
    fn settle(&mut self) -> Result<(), Violation> {
        let end = self.now.max(self.awake_at) + self.settling_bound();
        see(Mark::Rule(Rule::Liveness));
        while !self.checker.has_exited() && !self.checker.is_settled() {
            if !self.step(end)? {
                let status = self.supervisor.status();
                return Err(Violation::new(Rule::Liveness, format!("{status:#?}")));
            }
        }
        Ok(())
    }

    /// Until the driver does something again. The workers go on meanwhile.
    fn wake(&mut self) -> Result<(), Violation> {
        self.run_until(self.awake_at)
    }

    /// A reload in which nothing goes wrong succeeds.
    fn reload_at_last(&mut self) -> Result<(), Violation> {
        if !self.plan.last_reload {
            return Ok(());
        }
        self.wake()?;
        if self.checker.has_exited() {
            return Ok(());
        }
        self.feed(&Event::ReloadRequested)?;
        self.settle()?;
        self.checker.has_reloaded()
    }

    /// Enough for the longest backoff, a boot that fails, and two reloads slot by slot with a recycling before each.
    fn settling_bound(&self) -> Duration {
        let wait = |policy: &Policy| {
            let silence = policy.heartbeat_timeout.unwrap_or_default();
            policy.respawn_delay_max + policy.respawn_delay + policy.boot_timeout + silence
        };
        let batch = |policy: &Policy| {
            policy.reload_overlap + policy.graceful_timeout + Duration::from_millis(fate::BOOT_MS_MAX) + SLACK
        };
        let policies = [self.checker.policy(), &self.configured];
        let waits: Duration = policies.iter().map(|policy| wait(policy)).sum();
        let batches: Duration = policies.iter().map(|policy| batch(policy) * (policy.http_workers + 4)).sum();
        waits * 2 + batches * 2 + SLACK
    }

    fn stop(&mut self) -> Result<(), Violation> {
        self.wake()?;
        if self.checker.has_exited() {
            return Ok(());
        }
        self.feed(&Event::StopRequested { signal: StopSignal::Term })?;
        if let Some((after, signal)) = self.plan.hurry {
            self.agenda.add(self.now + after, Happening::Deed(Deed::Stop(signal)));
        }
        while !self.checker.has_exited() {
            if !self.step(Time::from_micros(u64::MAX))? {
                let status = self.supervisor.status();
                return Err(Violation::new(Rule::StopInTime, format!("nothing is left to wait for: {status:#?}")));
            }
        }
        Ok(())
    }

    /// Whatever still comes in after the exit, nothing follows from it.
    fn haunt(&mut self) -> Result<(), Violation> {
        let signals = [
            Event::ReloadRequested,
            Event::ScaleUpRequested,
            Event::ScaleDownRequested,
            Event::LogReopenRequested,
            Event::StopRequested { signal: StopSignal::Term },
            Event::StopRequested { signal: StopSignal::Int },
            Event::StopRequested { signal: StopSignal::Quit },
            Event::Exited { worker: WorkerId(0), status: ExitStatus::Code(0), group_alive: true },
            Event::TimePassed,
        ];
        signals.iter().try_for_each(|event| self.feed(event))
    }

    /// What the operator does right after the last step.
    fn ambush(&mut self) -> Option<Deed> {
        let (steps, calm) = (self.steps, self.calm);
        self.ambushes.next_if(|(step, _)| *step <= steps && !calm).map(|(_, deed)| deed).or_else(|| self.lurk())
    }

    /// What the operator has waited for until now. In a calm world only a stop is worth waiting for.
    fn lurk(&mut self) -> Option<Deed> {
        if self.lurking.is_empty() {
            return None;
        }
        let step = self.checker.step();
        let is_fair = !self.calm || matches!(step, Step::Lasting | Step::Stopping);
        let place = self.lurking.iter().position(|(awaited, _)| *awaited == step && is_fair)?;
        Some(self.lurking.remove(place).1)
    }

    /// The next thing that happens before `end`, if there is one.
    fn step(&mut self, end: Time) -> Result<bool, Violation> {
        if let Some(deed) = self.ambush() {
            return self.act(deed).map(|()| true);
        }
        let due = self.supervisor.poll_timeout().map(|due| (due + self.plan.lag).max(self.awake_at).max(self.now));
        let inbox = (!self.inbox.is_empty()).then_some(self.awake_at);
        let next = inbox.into_iter().chain(self.agenda.next_at()).min().map(|at| at.max(self.now));
        let timer = match (due, next) {
            // Whatever the driver has not passed on yet comes before the time does.
            (Some(due), Some(next)) => due < next || due == next && self.plan.timers_first && inbox.is_none(),
            (due, _) => due.is_some(),
        };
        let Some(at) = (if timer { due } else { next }).filter(|at| *at < end) else { return Ok(false) };
        self.now = at;
        if due == next {
            strike(if timer { Fault::TimersFirst } else { Fault::EventsFirst });
        }
        if timer && !self.plan.lag.is_zero() {
            strike(Fault::Lag);
        }
        if timer {
            self.feed(&Event::TimePassed)?;
        } else if inbox.is_some_and(|inbox| inbox <= at) {
            self.inbox.pop_front().map_or(Ok(()), |happening| self.happen_to_driver(happening))?;
        } else if let Some((_, happening)) = self.agenda.take() {
            self.happen(happening)?;
        }
        Ok(true)
    }

    /// The driver's contract: one event, then all actions, and only then anything else.
    fn feed(&mut self, event: &Event) -> Result<(), Violation> {
        self.steps += 1;
        ensure(self.steps <= STEPS_MAX, Rule::ScheduleEnds, || format!("{STEPS_MAX} steps at {}", self.now))?;
        if let Some(sent) = Sent::of(event) {
            see(Mark::Signal(sent, self.checker.step()));
        }
        self.recorder.event(self.now, event);
        self.checker.begin(self.now, event);
        self.supervisor.handle_event(self.now, event.clone());
        while let Some(action) = self.supervisor.poll_action() {
            self.recorder.action(self.now, &action);
            self.checker.action(self.now, event, &action)?;
            self.perform(&action)?;
        }
        let supervisor = &self.supervisor;
        let slots = || {
            let status = supervisor.status();
            (status.http.len(), status.jobs.len())
        };
        self.checker.finish(self.now, event, supervisor.poll_timeout(), slots)
    }

    /// The driver hears of something.
    fn deliver(&mut self, event: Event) -> Result<(), Violation> {
        self.tell(Happening::Delivery(event))
    }

    /// Something happens to the driver: at once, or when it is awake again and has heard of everything before it.
    fn tell(&mut self, happening: Happening) -> Result<(), Violation> {
        if self.now < self.awake_at || !self.inbox.is_empty() {
            self.inbox.push_back(happening);
            return Ok(());
        }
        self.happen_to_driver(happening)
    }

    fn happen_to_driver(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Delivery(event) => {
                if let Event::HeartbeatReceived { worker } = event {
                    self.heard(worker);
                }
                self.feed(&event)
            }
            Happening::Obituary(worker) => self.bury(worker),
            other => self.happen(other), // nothing else waits for the driver
        }
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        let now = self.now;
        match happening {
            Happening::Birth(worker) if self.process(worker).is_awaited() => self.bear(worker),
            Happening::Readiness(worker) if self.process(worker).is_alive() => {
                self.process(worker).is_ready = true;
                self.deliver(Event::BecameReady { worker, proof: Proof::Notified })
            }
            Happening::Beat(worker, count) if self.process(worker).is_alive() => self.beat(worker, count),
            Happening::Drain(worker) if self.process(worker).is_alive() => {
                self.deliver(Event::Drained { worker, waited: 1 })
            }
            Happening::Birth(_) | Happening::Readiness(_) | Happening::Beat(..) | Happening::Drain(_) => Ok(()),
            Happening::Doom(worker, status) => {
                if !self.process(worker).spared {
                    self.process(worker).strike_down(now);
                    self.die(worker, status);
                }
                Ok(())
            }
            Happening::Death(worker, status) => {
                self.die(worker, status);
                Ok(())
            }
            Happening::Obituary(_) | Happening::Delivery(_) => self.tell(happening),
            Happening::LastMember(worker) => {
                self.end_group(worker);
                Ok(())
            }
            Happening::Emptiness(worker) => self.deliver(Event::GroupEmptied { worker }),
            Happening::Configuration(generation) => self.configure(generation),
            Happening::Deed(deed) => self.act(deed),
        }
    }

    fn configure(&mut self, generation: u32) -> Result<(), Violation> {
        let policy = if self.calm {
            Some(self.configured.clone())
        } else {
            self.plan.configuration(generation, &self.configured)
        };
        let Some(policy) = policy else {
            strike(Fault::ConfigurationRefused);
            return self.deliver(Event::ConfigurationRefused);
        };
        if policy != self.configured {
            strike(Fault::ConfigurationChanged);
        }
        if self.plan.is_sick(generation) && !self.calm {
            strike(Fault::SickGeneration);
        }
        self.heartbeats.insert(generation, policy.heartbeat_timeout);
        self.configured = policy.clone();
        self.deliver(Event::ConfigurationLoaded { policy: Box::new(policy) })
    }

    fn act(&mut self, deed: Deed) -> Result<(), Violation> {
        let is_signal = !matches!(deed, Deed::Refusal | Deed::Renewal | Deed::Nap(_) | Deed::Freeze(_));
        if is_signal && self.sent_at.replace(self.now) == Some(self.now) {
            strike(Fault::Storm);
        }
        match deed {
            Deed::Hup => self.deliver(Event::ReloadRequested),
            Deed::Ttin => self.deliver(Event::ScaleUpRequested),
            Deed::Ttou => self.deliver(Event::ScaleDownRequested),
            Deed::Refusal => {
                strike(Fault::TurningAwayRefused);
                self.deliver(Event::TurningAwayRefused)
            }
            Deed::Renewal => {
                strike(Fault::SocketRenewed);
                self.deliver(Event::SocketRenewed)
            }
            Deed::Usr1 => self.deliver(Event::LogReopenRequested),
            Deed::Stop(signal) => self.deliver(Event::StopRequested { signal }),
            Deed::Freeze(time) => {
                strike(Fault::Freeze);
                self.freeze(time);
                Ok(())
            }
            Deed::Nap(time) => {
                strike(Fault::Nap);
                self.awake_at = self.awake_at.max(self.now + time);
                self.checker.allow(time);
                Ok(())
            }
        }
    }

    /// Nobody runs. Clocks go on, so what the workers were about to do meanwhile they do at the end.
    fn freeze(&mut self, time: Duration) {
        self.thawed_at = self.now + time;
        self.awake_at = self.awake_at.max(self.thawed_at);
        self.agenda.postpone(self.thawed_at);
        self.checker.allow(time);
    }

    /// Whatever was started has ended, and the driver knows.
    fn all_are_reaped(&self) -> Result<(), Violation> {
        let left = self.processes.iter().find(|process| !process.is_over());
        ensure(left.is_none(), Rule::EverySpawnReaped, || format!("{left:?}"))
    }

    fn perform(&mut self, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Spawn { worker, role, slot, generation } => self.spawn(*worker, *role, *slot, *generation),
            Action::Signal { worker, signal: Signal::Abort } => {
                self.is_deserved(*worker)?;
                self.abort(*worker);
                Ok(())
            }
            Action::Signal { worker, signal: Signal::Term } => {
                self.term(*worker);
                Ok(())
            }
            Action::Signal { worker, signal: Signal::Kill } => {
                self.kill(*worker);
                Ok(())
            }
            Action::CallOff { worker } => {
                self.call_off(*worker);
                Ok(())
            }
            Action::TurnAway { worker } => {
                self.turn_away(*worker);
                Ok(())
            }
            Action::CountConnections { worker } => {
                self.count(*worker);
                Ok(())
            }
            Action::LoadConfiguration { generation } => {
                self.generations = *generation;
                let mut rng = Rng::of(self.plan.seed, SAMPLE, u64::from(*generation) | 1 << 51);
                self.agenda.add(self.now + rng.ms(0, 1_000), Happening::Configuration(*generation));
                Ok(())
            }
            Action::Sample { worker } => {
                self.look_at(*worker);
                Ok(())
            }
            Action::CloseSlot { .. } | Action::KeepGenerations { .. } | Action::ReopenLog | Action::Report(_) => Ok(()),
            Action::Exit { .. } => self.all_are_reaped(),
        }
    }
}
