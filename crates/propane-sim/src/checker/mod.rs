//! Rules that must hold after every step, whatever happens. They see what the driver sees: events that go in, actions
//! that come out, and the time; they keep their own books and know nothing of the supervisor's.

mod books;
mod crowd;
mod deadlines;
mod openings;
mod reloads;
mod resizes;
mod resources;
mod respawns;
mod stop;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use propane_core::{Action, Event, Generation, Policy, Report, RespawnMode, Role, Time, WorkerId};

use books::Books;
use crowd::Crowd;
use deadlines::Deadlines;
use openings::Openings;
use reloads::Reloads;
use resizes::Resizes;
use resources::Resources;
use respawns::Respawns;
use stop::Stop;

/// A manager that is later than this for a deadline was asleep.
const OVERSLEPT: Duration = Duration::from_secs(1);

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// How.
    pub detail: String,
}

impl Violation {
    pub(crate) fn new(rule: &'static str, detail: impl Into<String>) -> Self {
        Self { rule, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken rule: {}\n{}", self.rule, self.detail)
    }
}

pub(crate) fn ensure(holds: bool, rule: &'static str, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation::new(rule, detail())) }
}

/// One step as all rules see it.
pub(crate) struct Context<'a> {
    pub(crate) now: Time,
    pub(crate) event: &'a Event,
    /// Whether the driver comes too late for a deadline to blame anybody for it.
    pub(crate) overslept: bool,
    /// The policy in force.
    pub(crate) policy: &'a Policy,
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
            resizes: Resizes::default(),
            resources: Resources::default(),
            respawns: Respawns::default(),
            stop: Stop::new(slack),
            policy: policy.clone(),
            previous_policy: None,
            heartbeats: BTreeMap::from([(0, policy.heartbeat_timeout)]),
            due: None,
            overslept: false,
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

    /// Whether everything that was asked for has come about.
    pub(crate) fn is_settled(&self) -> bool {
        let respawns = self.policy.respawn == RespawnMode::Always;
        self.reloads.is_idle() && self.resizes.is_done() && (!respawns || self.crowd.is_complete(&self.books))
    }

    /// Whether the slots that serve are the ones that are said to.
    pub(crate) fn agrees(&self, served: &BTreeSet<u32>) -> Result<(), Violation> {
        let serving = self.books.present().filter(|entry| entry.role == Role::Http && entry.serves());
        let slots: BTreeSet<_> = serving.map(|entry| entry.slot).collect();
        ensure(*served == slots, "it is known who serves", || format!("{served:?} is said, {slots:?} is so"))
    }

    /// The last reload was a success, unless the manager was told to stop.
    pub(crate) fn has_reloaded(&self) -> Result<(), Violation> {
        let over = !self.stop.is_running();
        ensure(over || self.reloads.last_succeeded(), "a reload succeeds when nothing goes wrong", || {
            format!("{:?}", self.reloads)
        })
    }

    /// Before the supervisor hears of an event.
    pub(crate) fn begin(&mut self, now: Time, event: &Event) {
        self.overslept = self.due.is_some_and(|due| now.since(due) > OVERSLEPT);
        if self.overslept {
            self.books.forgive(now, self.policy.boot_timeout);
        }
        let running = self.stop.is_running();
        self.stop.event(now, event);
        self.deadlines.hurry = self.stop.hurry;
        if *event == Event::TurningAwayRefused {
            self.deadlines.refused = true;
            self.reloads.turning_away_refused();
        }
        self.reloads.event(event, running);
        self.resizes.event(event, running);
        self.books.event(now, event, self.policy.boot_timeout);
        self.resources.event(&self.policy, &mut self.books, event);
    }

    /// For each action of the step, in their order.
    pub(crate) fn action(&mut self, now: Time, event: &Event, action: &Action) -> Result<(), Violation> {
        let context = Context { now, event, overslept: self.overslept, policy: &self.policy };
        self.stop.action(&context, &self.books, action)?;
        self.deadlines.action(&context, &mut self.books, action)?;
        if let Action::Report(report) = action {
            self.books.report(now, event, report)?;
        }
        self.openings.action(&self.books, self.crowd.least(), action)?;
        self.crowd.action(&context, &mut self.books, action)?;
        self.resizes.action(&context, action)?;
        self.reloads.action(&context, &self.books, action)?;
        self.resources.action(&context, &mut self.books, action)?;
        self.respawns.action(&context, &self.books, action)?;
        match action {
            Action::Spawn { worker, role, slot, generation } => {
                let heartbeat = self.heartbeats.get(generation).copied().flatten();
                self.books.ask(now, *worker, *role, *slot, *generation, heartbeat)
            }
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
        let context = Context { now, event, overslept: self.overslept, policy: &self.policy };
        self.books.all_ends_are_told(event)?;
        self.deadlines.finish(&context, &self.books)?;
        self.crowd.finish(&self.books, slots)?;
        self.stop.finish(&context, &self.books, !self.reloads.is_idle())?;
        self.resources.finish(&context, &self.books, self.stop.is_serving())?;
        if self.reloads.is_idle() && self.stop.is_running() {
            self.openings.finish(&self.books, self.crowd.least())?;
        }
        let quiet = self.reloads.is_idle() && !self.stop.is_stopping();
        self.respawns.finish(&context, &self.books, |role| self.crowd.count(role), quiet)?;
        self.books.pardon(event);
        self.due = due;
        let later = due.is_none_or(|due| due > now) || !context.is_time();
        ensure(later, "the next wake-up lies in the future", || format!("{due:?} at {now}"))?;
        let idle = due.is_none() || !self.stop.has_exited();
        ensure(idle, "nothing follows the exit", || format!("a wake-up at {due:?}"))
    }

    /// Before a process is really started: no other one may be able to do the same job.
    pub(crate) fn begin_job(rival: Option<WorkerId>) -> Result<(), Violation> {
        ensure(rival.is_none(), "no job runs twice", || format!("{rival:?} still runs"))
    }
}
