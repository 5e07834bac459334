//! Rules that must hold after every step, whatever happens. They see what the driver sees: events that go in, actions
//! that come out, and the time; they keep their own books and know nothing of the supervisor's.

mod books;
mod crowd;
mod deadlines;
mod openings;
mod reloads;
mod reopening;
mod resizes;
mod resources;
mod respawns;
mod rule;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use propane_core::{
    Action, Event, Generation, Policy, Report, RespawnMode, Role, StartReason, StopReason, Time, WorkerId,
};

use books::{Books, Entry, Told};
use crowd::Crowd;
use deadlines::Deadlines;
use openings::Openings;
use reloads::Reloads;
use reopening::Reopening;
use resizes::Resizes;
use resources::Resources;
use respawns::Respawns;
pub use rule::Rule;
use stop::Stop;

use crate::coverage::{self, Mark, Step};

/// A manager that is later than this for a deadline was asleep.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A driver that is later than this for a deadline may have been paused.
pub(crate) const PUNCTUAL: Duration = Duration::from_millis(20);

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// How.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: Rule, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken rule: {}\n{}", self.rule, self.detail)
    }
}

pub(crate) fn ensure(holds: bool, rule: Rule, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    coverage::see(Mark::Rule(rule));
    if holds { Ok(()) } else { Err(Violation::new(rule, detail())) }
}

/// What has to be there.
pub(crate) fn require<T>(found: Option<T>, rule: Rule, detail: impl FnOnce() -> String) -> Result<T, Violation> {
    coverage::see(Mark::Rule(rule));
    found.ok_or_else(|| Violation::new(rule, detail()))
}

/// One step as all rules see it.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) event: &'a Event,
    /// Whether the driver comes too late for a deadline to blame anybody for it.
    pub(crate) overslept: bool,
    /// The policy in force.
    pub(crate) policy: &'a Policy,
    /// Whether a reload is wanted or under way.
    pub(crate) reloading: bool,
}

impl Context<'_> {
    /// Whether deadlines are judged in this step: only when time passes, because everything else may stand before what
    /// would have met a deadline.
    pub(crate) fn is_time(&self) -> bool {
        *self.event == Event::TimePassed
    }
}

/// All rules, and what they have in common.
pub(crate) struct Checker {
    books: Books,
    crowd: Crowd,
    deadlines: Deadlines,
    openings: Openings,
    reloads: Reloads,
    reopening: Reopening,
    resizes: Resizes,
    resources: Resources,
    respawns: Respawns,
    stop: Stop,
    policy: Policy,
    /// The policy before the reload under way.
    previous_policy: Option<Policy>,
    /// What each generation's workers are told about heartbeats.
    heartbeats: BTreeMap<Generation, Option<Duration>>,
    due: Option<Time>,
    overslept: bool,
    calm_at: Time,
}

impl Checker {
    /// `slack` is the longest that the world takes to do what it is asked.
    pub(crate) fn new(policy: &Policy, slack: Duration) -> Self {
        Self {
            books: Books::default(),
            crowd: Crowd::new(policy),
            deadlines: Deadlines::default(),
            openings: Openings::default(),
            reloads: Reloads::new(),
            reopening: Reopening::default(),
            resizes: Resizes::default(),
            resources: Resources::default(),
            respawns: Respawns::default(),
            stop: Stop::new(slack),
            policy: policy.clone(),
            previous_policy: None,
            heartbeats: BTreeMap::from([(0, policy.heartbeat_timeout)]),
            due: None,
            overslept: false,
            calm_at: Time::default(),
        }
    }

    /// The policy in force.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.stop.has_exited()
    }

    /// The driver sleeps: what it does meanwhile is not the supervisor's fault.
    pub(crate) fn allow(&mut self, time: Duration) {
        self.stop.allow(time);
    }

    /// Nothing goes wrong from now on.
    pub(crate) fn calm_down(&mut self, now: Time) {
        self.calm_at = now;
    }

    /// Whether everything that was asked for has come about: what was asked for while nothing goes wrong may take its time.
    pub(crate) fn is_settled(&self) -> bool {
        let respawns = self.policy.respawn == RespawnMode::Always;
        let recycled = self.books.present().all(|entry| entry.recycled_at.is_none_or(|at| at >= self.calm_at));
        let complete = !respawns || self.crowd.is_complete(&self.books) && recycled;
        self.reloads.is_idle() && self.resizes.is_done() && complete
    }

    /// What the manager is doing.
    pub(crate) fn step(&self) -> Step {
        let own = self.stop.step().or_else(|| self.reloads.step(&self.books)).or_else(|| recycling_step(&self.books));
        own.unwrap_or(match (self.crowd.is_ready(), self.respawns.is_waiting()) {
            (false, _) => Step::Booting,
            (true, true) => Step::Respawning,
            (true, false) => Step::Serving,
        })
    }

    /// Whether the slots that serve, if any do, are the ones that new connections may go to.
    pub(crate) fn agrees(&self, reachable: &BTreeSet<u32>) -> Result<(), Violation> {
        let serving = self.books.present().filter(|entry| entry.role == Role::Http && entry.serves());
        let slots: BTreeSet<_> = serving.map(|entry| entry.slot).collect();
        let agrees = slots.is_empty() || *reachable == slots;
        ensure(agrees, Rule::KnownServers, || format!("{reachable:?} is said, {slots:?} is so"))
    }

    /// The last reload was a success, unless the manager was told to stop.
    pub(crate) fn has_reloaded(&self) -> Result<(), Violation> {
        let over = !self.stop.is_running();
        ensure(over || self.reloads.last_succeeded(), Rule::ReloadSucceeds, || format!("{:?}", self.reloads))
    }

    /// Before the supervisor hears of an event.
    pub(crate) fn begin(&mut self, now: Time, event: &Event) {
        self.overslept = self.due.is_some_and(|due| now.since(due) > OVERSLEPT);
        if self.overslept {
            self.books.forgive(now, self.policy.boot_timeout);
        }
        if *event == Event::TimePassed {
            self.books.reprieve(now);
        }
        let running = self.stop.is_running();
        self.stop.event(now, event);
        self.deadlines.hurry = self.stop.hurry;
        if *event == Event::TurningAwayRefused {
            self.deadlines.refused = true;
            self.reloads.turning_away_refused();
        }
        self.reopening.event(event, self.stop.has_exited());
        self.reloads.event(event, running);
        self.resizes.event(event, running);
        self.books.event(now, event, self.policy.boot_timeout);
        self.resources.event(&self.policy, &mut self.books, event);
    }

    /// For each action of the step, in their order.
    pub(crate) fn action(&mut self, now: Time, event: &Event, action: &Action) -> Result<(), Violation> {
        let reloading = !self.reloads.is_idle();
        let context = Context { now, event, overslept: self.overslept, policy: &self.policy, reloading };
        self.stop.action(&context, &self.books, action)?;
        self.deadlines.action(&context, &mut self.books, action)?;
        if let Action::Report(report) = action {
            self.books.report(now, event, report)?;
        }
        self.openings.action(&self.books, self.crowd.least(), action)?;
        self.crowd.action(&context, &mut self.books, action)?;
        self.reopening.action(action);
        self.resizes.action(&context, action)?;
        self.reloads.action(&context, &self.books, action)?;
        self.resources.action(&context, &mut self.books, action)?;
        self.respawns.action(&context, &self.books, action)?;
        match action {
            Action::Spawn { worker, role, slot, generation } => {
                let heartbeat = self.heartbeats.get(generation).copied().flatten();
                self.books.ask(now, *worker, *role, *slot, *generation, heartbeat)
            }
            Action::CallOff { worker } => self.books.call_off(*worker),
            Action::Report(report) => {
                self.follow_policy(event, report);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A reload brings a new policy; one that replaced nobody takes it back.
    fn follow_policy(&mut self, event: &Event, report: &Report) {
        match (report, event) {
            (Report::ReloadStarted { generation, .. }, Event::ConfigurationLoaded { policy }) => {
                self.heartbeats.insert(*generation, policy.heartbeat_timeout);
                self.previous_policy = Some(std::mem::replace(&mut self.policy, (**policy).clone()));
            }
            (Report::ReloadCompleted { .. }, _) => self.previous_policy = None,
            (Report::ReloadFailed { replaced, .. }, _) => {
                if let Some(previous) = self.previous_policy.take().filter(|_| *replaced == 0) {
                    self.policy = previous;
                }
            }
            _ => {}
        }
    }

    /// After all actions of the step. `due` is when the supervisor wants to be woken, `slots` how many it has, for HTTP
    /// and for jobs.
    pub(crate) fn finish(
        &mut self,
        now: Time,
        event: &Event,
        due: Option<Time>,
        slots: impl FnOnce() -> (usize, usize),
    ) -> Result<(), Violation> {
        let reloading = !self.reloads.is_idle();
        let context = Context { now, event, overslept: self.overslept, policy: &self.policy, reloading };
        self.books.all_ends_are_told(event)?;
        self.deadlines.finish(&context, &self.books)?;
        self.crowd.finish(&self.books, slots)?;
        self.stop.finish(&context, &self.books)?;
        self.reopening.finish(event)?;
        self.reloads.finish()?;
        self.resources.finish(&context, &self.books, self.stop.is_serving())?;
        if self.reloads.is_idle() && self.stop.is_running() {
            self.openings.finish(&self.books, self.crowd.least())?;
        }
        let quiet = self.reloads.is_idle() && !self.stop.is_stopping();
        self.respawns.finish(&context, &self.books, |role| self.crowd.count(role), quiet)?;
        self.books.pardon(event)?;
        self.due = due;
        let later = due.is_none_or(|due| due > now) || !context.is_time();
        ensure(later, Rule::FutureWakeUp, || format!("{due:?} at {now}"))?;
        let idle = due.is_none() || !self.stop.has_exited();
        ensure(idle, Rule::NothingAfterExit, || format!("a wake-up at {due:?}"))
    }

    /// Before a process is really started: no other one may be able to do the same job.
    pub(crate) fn begin_job(rival: Option<WorkerId>) -> Result<(), Violation> {
        ensure(rival.is_none(), Rule::JobOnce, || format!("{rival:?} still runs"))
    }
}

/// How far a recycling is, if there is one.
fn recycling_step(books: &Books) -> Option<Step> {
    let of_recycling = |entry: &&Entry| matches!(entry.reason, Some(StartReason::Recycle(_))) && entry.is_wanted();
    let leaves = |entry: &Entry| matches!(entry.told, Some(Told { reason: StopReason::Recycle(_), .. }));
    let old = |new: &Entry| {
        let mut others = books.present().filter(|other| other.slot == new.slot && other.id != new.id);
        others.any(|other| other.recycled_at.is_some() && other.serves())
    };
    if books.present().any(leaves) {
        return Some(Step::RecycleLeaves);
    }
    let new = books.present().filter(of_recycling).find(|new| old(new))?;
    Some(if new.ready_at.is_some() { Step::RecycleSettles } else { Step::RecycleBoots })
}
