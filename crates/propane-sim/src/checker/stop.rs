//! How the manager ends: once, for a reason, with the right code, in time, and with nobody left.

use std::time::Duration;

use propane_core::{Action, Event, ExitStatus, Report, RespawnMode, Role, ShutdownCause, StopSignal, Time};

use crate::coverage::Step;

use super::books::Books;
use super::{Context, Rule, Violation, ensure};

/// The rules about stops.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(crate) struct Stop {
    slack: Duration,
    booted: bool,
    /// Why, since the first request.
    cause: Option<ShutdownCause>,
    /// When it has to be over.
    over_by: Option<Time>,
    /// When the workers have to be told.
    drain_until: Option<Time>,
    stopping: Option<(ShutdownCause, u8)>,
    exited: bool,
    /// Operators' signals so far.
    signals: u32,
    pub(crate) hurry: bool,
    ever_ready: bool,
    failed_boots: u32,
    /// The limit was reached in this step.
    has_reached: bool,
    last_status: ExitStatus,
}

impl Stop {
    pub(crate) fn new(slack: Duration) -> Self {
        Self {
            slack,
            booted: false,
            cause: None,
            over_by: None,
            drain_until: None,
            stopping: None,
            exited: false,
            signals: 0,
            hurry: false,
            ever_ready: false,
            failed_boots: 0,
            has_reached: false,
            last_status: ExitStatus::Code(0),
        }
    }

    /// How far the manager is, unless it simply runs.
    pub(crate) fn step(&self) -> Option<Step> {
        match () {
            () if !self.booted => Some(Step::Unbooted),
            () if self.exited => Some(Step::Exited),
            () if self.stopping.is_some() => Some(Step::Stopping),
            () if self.cause.is_some() => Some(Step::Lasting),
            () => None,
        }
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.exited
    }

    /// Whether workers are kept alive.
    pub(crate) fn is_serving(&self) -> bool {
        self.booted && self.stopping.is_none()
    }

    /// Whether the workers were told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.booted && self.cause.is_none()
    }

    /// The driver sleeps in the middle of a stop: that time does not count.
    pub(crate) fn allow(&mut self, time: Duration) {
        self.over_by = self.over_by.map(|by| by + time);
    }

    pub(crate) fn event(&mut self, now: Time, event: &Event) {
        match event {
            Event::BootRequested => self.booted = true,
            Event::StopRequested { signal } => {
                self.signals += 1;
                let again = self.signals > 1 || self.cause.is_some();
                if again || *signal == StopSignal::Quit {
                    self.hurry = true;
                    self.over_by = Some(self.over_by.unwrap_or(now + self.slack).min(now + self.slack));
                }
            }
            _ => {}
        }
    }

    pub(crate) fn action(&mut self, context: &Context, books: &Books, action: &Action) -> Result<(), Violation> {
        ensure(!self.exited, Rule::NothingAfterExit, || format!("{action:?}"))?;
        match action {
            Action::Report(Report::ShutdownRequested { cause, exit_status }) => {
                self.requested(context, books, *cause, *exit_status)
            }
            Action::Report(Report::ManagerStopping { cause, exit_code }) => {
                self.stop(context, books, *cause, *exit_code)
            }
            Action::Report(Report::WorkerReady { .. }) => {
                self.ever_ready = true;
                Ok(())
            }
            Action::Report(Report::WorkerStopped { status, .. }) => {
                self.last_status = *status;
                Ok(())
            }
            Action::Report(Report::WorkerExited { worker, status, .. }) => {
                self.last_status = *status;
                let failed =
                    books.get(*worker).is_some_and(|entry| entry.role == Role::Http && entry.ready_at.is_none());
                self.count(context, failed);
                Ok(())
            }
            Action::Report(Report::WorkerSpawnFailed { role, .. }) => {
                self.last_status = ExitStatus::Code(1);
                self.count(context, *role == Role::Http);
                Ok(())
            }
            Action::Exit { code, cause } => self.exit(books, *code, *cause),
            _ => Ok(()),
        }
    }

    fn requested(
        &mut self,
        context: &Context,
        books: &Books,
        cause: ShutdownCause,
        exit_status: Option<u8>,
    ) -> Result<(), Violation> {
        let status = self.last_status.exit_code();
        let (holds, expected) = match cause {
            ShutdownCause::Signal(signal) => (*context.event == Event::StopRequested { signal }, None),
            ShutdownCause::OnceWorkerExit => (context.policy.respawn == RespawnMode::Once, Some(status)),
            ShutdownCause::WorkersExhausted => {
                let exhausted = books.present().next().is_none() && !context.reloading;
                (context.policy.respawn == RespawnMode::Never && exhausted, Some(status))
            }
            ShutdownCause::BootFailed => (is_hopeless(context.event), Some(1)),
            ShutdownCause::StartLimit => (self.is_over_limit(context), Some(1)),
        };
        ensure(holds && exit_status == expected, Rule::StopHasReason, || {
            format!("{cause:?} {exit_status:?} after {:?}", context.event)
        })?;
        self.cause = self.cause.or(Some(cause));
        Ok(())
    }

    /// The bounds of a stop, once it is known which policy it leaves in force.
    fn begin(&mut self, context: &Context) {
        let Some(cause) = self.cause.filter(|_| self.drain_until.is_none()) else { return };
        let by_operator = matches!(cause, ShutdownCause::Signal(_));
        let drain = if by_operator && !self.hurry { context.policy.shutdown_drain } else { Duration::ZERO };
        self.drain_until = Some(context.now + drain);
        if self.over_by.is_none() {
            self.over_by = Some(context.now + drain + context.policy.graceful_timeout + self.slack);
        }
    }

    /// A failed boot. A reload that fails in the same step may change the limit, so it has to be reached under both.
    fn count(&mut self, context: &Context, failed: bool) {
        let counts = failed && !self.ever_ready;
        self.failed_boots += u32::from(counts);
        self.has_reached = counts && self.is_over_limit(context);
    }

    fn is_over_limit(&self, context: &Context) -> bool {
        let burst = context.policy.start_limit_burst;
        burst > 0 && !self.ever_ready && self.failed_boots >= burst
    }

    fn stop(&mut self, context: &Context, books: &Books, cause: ShutdownCause, code: u8) -> Result<(), Violation> {
        ensure(self.stopping.is_none(), Rule::ToldToStopOnce, || format!("{cause:?}"))?;
        let by_operator = matches!(cause, ShutdownCause::Signal(_));
        let known = self.cause.is_some_and(|first| by_operator || first == cause);
        ensure(known, Rule::StopHasReason, || format!("{cause:?}, but first {:?}", self.cause))?;
        let expected = match cause {
            ShutdownCause::Signal(_) => 0,
            ShutdownCause::BootFailed | ShutdownCause::StartLimit => 1,
            ShutdownCause::OnceWorkerExit | ShutdownCause::WorkersExhausted => self.last_status.exit_code(),
        };
        ensure(code == expected, Rule::ExitCode, || format!("{code} for {cause:?}, not {expected}"))?;
        let drain = if by_operator { context.policy.shutdown_drain } else { Duration::ZERO };
        let until = self.drain_until.unwrap_or(context.now + drain);
        // The step of the request has an end of its own, and after it the drain ends when time passes.
        let unheard = self.drain_until.is_some() && !context.is_time();
        let early = (context.now < until || unheard) && !self.hurry;
        // Where nobody is left and nobody comes back there is nothing to wait with.
        let pointless = if matches!(context.event, Event::StopRequested { .. }) {
            !self.booted || context.policy.respawn == RespawnMode::Never && books.present().next().is_none()
        } else {
            self.has_reached || is_hopeless(context.event) || context.policy.respawn != RespawnMode::Always
        };
        ensure(!early || pointless, Rule::ShutdownDrainLasts, || format!("{} of {until}", context.now))?;
        self.stopping = Some((cause, code));
        Ok(())
    }

    fn exit(&mut self, books: &Books, code: u8, cause: ShutdownCause) -> Result<(), Violation> {
        ensure(self.stopping == Some((cause, code)), Rule::ExitCode, || {
            format!("{code} {cause:?}, not {:?}", self.stopping)
        })?;
        let left = books.present().next();
        ensure(left.is_none(), Rule::NobodyLeft, || format!("{left:?}"))?;
        self.exited = true;
        Ok(())
    }

    /// After a step: what has to happen has happened.
    pub(crate) fn finish(&mut self, context: &Context, books: &Books) -> Result<(), Violation> {
        if self.exited {
            return Ok(());
        }
        self.begin(context);
        let late = self.over_by.is_some_and(|by| context.now > by);
        ensure(!late, Rule::StopInTime, || format!("{} is after {:?}", context.now, self.over_by))?;
        let is_over = context.is_time() && self.drain_until.is_some_and(|until| context.now >= until);
        let waits = is_over && self.stopping.is_none();
        ensure(!waits, Rule::StopInTime, || format!("the drain is over since {:?}", self.drain_until))?;
        let gone = self.stopping.is_some() && books.present().next().is_none();
        ensure(!gone, Rule::Exits, || format!("{}", context.now))?;
        if self.is_running() { self.must_not_run_on(context, books) } else { Ok(()) }
    }

    /// The reasons of the manager's own are not overlooked.
    fn must_not_run_on(&mut self, context: &Context, books: &Books) -> Result<(), Violation> {
        let failed = std::mem::take(&mut self.has_reached);
        let exhausted =
            context.policy.respawn == RespawnMode::Never && books.present().next().is_none() && !context.reloading;
        let once = context.policy.respawn == RespawnMode::Once && has_ended_by_itself(context.event, books);
        let why = [
            (exhausted, "nobody is left"),
            (once, "a worker has ended"),
            (failed && self.is_over_limit(context), "no boot works"),
        ];
        let found = why.iter().find(|(holds, _)| *holds);
        ensure(found.is_none(), Rule::StopsWhenItHasTo, || format!("{found:?}"))
    }
}

fn is_hopeless(event: &Event) -> bool {
    matches!(event, Event::SpawnFailed { error, .. } if error.permanent)
}

/// Whether an HTTP worker has just ended, or failed to begin, that nobody had told to.
fn has_ended_by_itself(event: &Event, books: &Books) -> bool {
    let (Event::Exited { worker, .. } | Event::SpawnFailed { worker, .. }) = event else { return false };
    books.get(*worker).is_some_and(|entry| {
        let told = entry.told.is_some() || entry.killed.is_some() || entry.aborted_at.is_some();
        entry.role == Role::Http && !told && !entry.is_present()
    })
}
