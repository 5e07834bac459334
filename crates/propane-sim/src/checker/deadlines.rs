//! Who is signalled, and when: nobody without a reason, nobody before the time, nobody too late.

use std::time::Duration;

use propane_core::{Action, Event, Report, Role, Signal, StopReason, TurnAway, WorkerId};

use super::books::{Books, Drain, Entry, Presence, Told};
use super::{Context, Rule, Violation, ensure};

/// How long a hung worker has between ABRT and KILL.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The rules about signals.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// A signal whose report has to come next.
    unreported: Option<(WorkerId, Signal)>,
    /// A worker that was just turned away from, whose report has to come next.
    unreported_drain: Option<WorkerId>,
    /// A worker whose connections are counted, because the signal that cuts them comes next.
    counted: Option<WorkerId>,
    /// The worker that was just reported silent.
    silent: Option<WorkerId>,
    /// Whether an operator has lost patience.
    pub(crate) hurry: bool,
    stopping: bool,
    /// Whether the driver cannot turn connections away.
    pub(crate) refused: bool,
}

impl Deadlines {
    pub(crate) fn action(&mut self, context: &Context, books: &mut Books, action: &Action) -> Result<(), Violation> {
        if let Some((worker, signal)) = self.unreported.take() {
            let Action::Report(Report::WorkerStopRequested { worker: reported, kill, .. }) = action else {
                return Err(Violation::new(Rule::SignalsReported, format!("{signal:?} to {worker:?}")));
            };
            let same = *reported == worker && *kill == (signal == Signal::Kill);
            ensure(same, Rule::SignalsReported, || format!("{action:?} after {signal:?} to {worker:?}"))?;
            return self.told(context, books.known(worker)?, action);
        }
        if let Some(worker) = self.unreported_drain.take() {
            let Action::Report(Report::WorkerTurnedAway { worker: reported, reason }) = action else {
                return Err(Violation::new(Rule::TurningAwayReported, format!("{worker:?}")));
            };
            ensure(*reported == worker, Rule::TurningAwayReported, || format!("{action:?} after {worker:?}"))?;
            let (kill_by, term_by) =
                (context.now + context.policy.graceful_timeout, context.now + context.policy.drain_timeout());
            let drain = Some(Drain { term_by, is_over: false });
            books.known(worker)?.told = Some(Told { reason: *reason, kill_by, drain, turned_away: true });
            return Ok(());
        }
        if let Some(worker) = self.counted.take() {
            let follows = matches!(action, Action::Signal { worker: signalled, .. } if *signalled == worker);
            ensure(follows, Rule::CountedBeforeCut, || format!("{worker:?}: {action:?}"))?;
        }
        let silent = self.silent.take();
        match action {
            Action::TurnAway { worker } => self.turn_away(context, books.known(*worker)?),
            Action::CountConnections { worker } => {
                self.counted = Some(*worker);
                Ok(())
            }
            Action::Signal { worker, signal: Signal::Term } => self.term(context, books.known(*worker)?),
            Action::Signal { worker, signal: Signal::Kill } => self.kill(context, books.known(*worker)?),
            Action::Signal { worker, signal: Signal::Abort } => abort(context, books.known(*worker)?, silent),
            Action::Report(report) => self.report(context, books, report),
            _ => Ok(()),
        }
    }

    fn turn_away(&mut self, context: &Context, entry: &mut Entry) -> Result<(), Violation> {
        let concerned = entry.role == Role::Http && context.policy.turn_away != TurnAway::Nobody;
        let fit = entry.presence == Presence::Alive && entry.told.is_none() && entry.killed.is_none();
        ensure(concerned && fit && !self.stopping && !self.refused, Rule::TurnedAwayOnce, || format!("{entry:?}"))?;
        self.unreported_drain = Some(entry.id);
        Ok(())
    }

    /// TERM to a worker that is turned away from: when it has finished, or its time is over, or everybody has to go.
    fn term_drained(&mut self, context: &Context, entry: &mut Entry, drain: Drain) -> Result<(), Violation> {
        let late = context.is_time() && context.now >= drain.term_by;
        ensure(drain.is_over || late || self.stopping || self.refused, Rule::TermWaits, || {
            format!("{entry:?} at {}", context.now)
        })?;
        self.unreported = Some((entry.id, Signal::Term));
        Ok(())
    }

    fn term(&mut self, context: &Context, entry: &mut Entry) -> Result<(), Violation> {
        if let Some(drain) = entry.told.and_then(|told| told.drain)
            && entry.presence == Presence::Alive
            && entry.killed.is_none()
        {
            return self.term_drained(context, entry, drain);
        }
        let first = entry.told.is_none() && entry.killed.is_none() && entry.aborted_at.is_none();
        if entry.presence == Presence::Alive && first {
            self.unreported = Some((entry.id, Signal::Term));
            return Ok(());
        }
        // The rest of a group is told once its leader is gone, where only the leader was.
        let rest = entry.presence == Presence::Lingering && entry.role == Role::Http && entry.told.is_some();
        ensure(rest, Rule::OnlyAliveSignalled, || format!("TERM to {entry:?}"))
    }

    fn kill(&mut self, context: &Context, entry: &mut Entry) -> Result<(), Violation> {
        let crashed = matches!(context.event, Event::Exited { worker, group_alive: true, .. } if *worker == entry.id);
        if crashed && !entry.is_present() && !entry.ended {
            return Ok(());
        }
        let alive = matches!(entry.presence, Presence::Alive | Presence::Lingering) && entry.killed.is_none();
        ensure(alive, Rule::OnlyAliveSignalled, || format!("KILL to {entry:?}"))?;
        self.unreported = Some((entry.id, Signal::Kill));
        Ok(())
    }

    /// A worker was told to leave, or killed.
    fn told(&mut self, context: &Context, entry: &mut Entry, action: &Action) -> Result<(), Violation> {
        let Action::Report(Report::WorkerStopRequested { kill, reason, grace_over, .. }) = action else {
            return Ok(());
        };
        if *kill {
            let over = entry.told.is_some_and(|told| context.now >= told.kill_by)
                || entry.aborted_at.is_some_and(|at| context.now >= at + ABORT_TIMEOUT);
            let late = over && context.is_time();
            let lawful = late || self.hurry || entry.boot_timed_out || came_too_late(context, entry, *reason);
            ensure(lawful && (late || !*grace_over), Rule::KillLawful, || {
                format!("{action:?} of {entry:?} at {}", context.now)
            })?;
            entry.killed = Some(entry.told.map_or(*reason, |told| told.reason));
        } else {
            let kill_by = context.now + context.policy.graceful_timeout;
            // What a drain took is taken from the grace time, all but what TERM itself takes.
            let least = context.now + context.policy.term_reserve();
            let kill_by = entry.told.map_or(kill_by, |told| told.kill_by.max(least));
            let turned_away = entry.told.is_some();
            entry.told = Some(Told { reason: *reason, kill_by, drain: None, turned_away });
        }
        Ok(())
    }

    fn report(&mut self, context: &Context, books: &mut Books, report: &Report) -> Result<(), Violation> {
        match report {
            Report::WorkerBootTimedOut { worker, .. } => {
                let entry = books.known(*worker)?;
                let due = entry.ready_at.is_none() && entry.ready_by.is_some_and(|by| by <= context.now);
                let fair = due && context.is_time() && !context.overslept;
                ensure(fair, Rule::Patience, || format!("{report:?} of {entry:?} at {}", context.now))?;
                entry.boot_timed_out = true;
            }
            Report::WorkerHeartbeatTimedOut { worker, timeout } => {
                let entry = books.known(*worker)?;
                let due = entry.heartbeat == Some(*timeout) && entry.beat_by.is_some_and(|by| by <= context.now);
                let fair = due && context.is_time() && !context.overslept;
                ensure(fair, Rule::Patience, || format!("{report:?} of {entry:?} at {}", context.now))?;
                self.silent = Some(*worker);
            }
            Report::WorkerStopRequested { .. } => {
                return Err(Violation::new(Rule::SignalsReported, format!("{report:?} without a signal")));
            }
            Report::ManagerStopping { .. } => {
                self.stopping = true;
                let kill_by = context.now + context.policy.graceful_timeout;
                books.present_mut(|entry| {
                    if let Some(told) = &mut entry.told {
                        told.kill_by = told.kill_by.min(kill_by);
                    }
                });
            }
            _ => {}
        }
        Ok(())
    }

    /// Nobody has more time than is due to them.
    pub(crate) fn finish(&self, context: &Context, books: &Books) -> Result<(), Violation> {
        ensure(self.unreported_drain.is_none(), Rule::TurningAwayReported, || format!("{:?}", self.unreported_drain))?;
        ensure(self.unreported.is_none(), Rule::SignalsReported, || format!("{:?}", self.unreported))?;
        let now = context.now;
        books.present().filter(|entry| entry.killed.is_none() && context.is_time()).try_for_each(|entry| {
            let grace = entry.told.is_some_and(|told| told.kill_by <= now);
            let drain = entry.told.and_then(|told| told.drain);
            let drained = entry.presence == Presence::Alive
                && drain.is_some_and(|drain| drain.term_by <= now || drain.is_over || self.stopping || self.refused);
            let core = entry.aborted_at.is_some_and(|at| at + ABORT_TIMEOUT <= now);
            let wanted = entry.is_wanted() && entry.presence == Presence::Alive;
            let boot = wanted && entry.ready_by.is_some_and(|by| by <= now);
            let silence = wanted && entry.beat_by.is_some_and(|by| by <= now);
            ensure(!(grace || drained || core || boot || silence), Rule::DeadlinesKept, || {
                format!("{entry:?} at {now}")
            })
        })
    }
}

/// ABRT, to a worker that runs, that has said nothing for as long as it may, and of which that was reported.
fn abort(context: &Context, entry: &mut Entry, reported: Option<WorkerId>) -> Result<(), Violation> {
    let is_silent = context.is_time() && entry.is_wanted() && entry.beat_by.is_some_and(|by| by <= context.now);
    ensure(is_silent, Rule::AbortDeserved, || format!("{entry:?} at {}", context.now))?;
    ensure(entry.presence == Presence::Alive, Rule::OnlyAliveSignalled, || format!("ABRT to {entry:?}"))?;
    ensure(reported == Some(entry.id), Rule::KillLawful, || format!("ABRT without a word: {entry:?}"))?;
    entry.aborted_at = Some(context.now);
    Ok(())
}

/// Whether a worker is one of a rollout that had failed before it came to be: nobody can have connected to it yet.
fn came_too_late(context: &Context, entry: &Entry, reason: StopReason) -> bool {
    let is_new = entry.called_off && entry.spawned_at == Some(context.now);
    is_new && matches!(reason, StopReason::ReloadAbort(_) | StopReason::RecycleAbort)
}
