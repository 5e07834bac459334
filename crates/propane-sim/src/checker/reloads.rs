//! Reloads: numbered without a gap, one at a time, each with one beginning and one end, and make before break.

use std::collections::BTreeSet;

use propane_core::{Action, Event, Generation, ReloadCause, ReloadFailure, Report, Role, StopReason, Time, TurnAway};

use crate::coverage::Step;

use super::books::{Books, Entry};
use super::{Context, Rule, Violation, ensure};

/// A reload under way.
#[derive(Clone, Copy, Debug)]
struct Reload {
    generation: Generation,
    target: u32,
    /// Whether all slots are handed over together.
    at_once: bool,
    /// Whether old and new may run side by side.
    overlaps: bool,
    /// Old workers that had to be killed.
    killed: u32,
    /// Connections that were cut.
    cut: u32,
}

/// The rules about reloads.
#[derive(Debug)]
pub(crate) struct Reloads {
    last: Generation,
    requested: bool,
    /// Who has asked for a reload, which has to be reported in this step.
    unreported: Option<ReloadCause>,
    loading: Option<Generation>,
    reload: Option<Reload>,
    /// The last one that was completed.
    completed: Generation,
    /// What can be spawned from.
    kept: BTreeSet<Generation>,
    stopping: bool,
    /// Whether the driver cannot turn connections away.
    refused: bool,
}

impl Reloads {
    pub(crate) fn new() -> Self {
        Self {
            last: 0,
            requested: false,
            unreported: None,
            loading: None,
            reload: None,
            completed: 0,
            kept: BTreeSet::from([0]),
            stopping: false,
            refused: false,
        }
    }

    /// Whether no reload is wanted or under way.
    pub(crate) fn is_idle(&self) -> bool {
        !self.requested && self.loading.is_none() && self.reload.is_none()
    }

    /// After a step.
    pub(crate) fn finish(&self) -> Result<(), Violation> {
        ensure(self.unreported.is_none(), Rule::ReloadRequestReported, || "nobody was told".to_owned())
    }

    /// How far the reload under way is, if there is one.
    pub(crate) fn step(&self, books: &Books) -> Option<Step> {
        if self.loading.is_some() {
            return Some(Step::Loading);
        }
        let reload = self.reload?;
        let is_new = |entry: &&Entry| entry.role == Role::Http && entry.generation == reload.generation;
        let (old_leave, has_new) = (books.present().any(is_retired), books.present().any(|entry| is_new(&entry)));
        let mut booting = books.present().filter(is_new).filter(|entry| entry.is_wanted() && entry.ready_at.is_none());
        Some(match () {
            () if old_leave && !reload.overlaps && !has_new => Step::Vacating,
            () if old_leave => Step::OldLeave,
            () if booting.next().is_none() => Step::Settling,
            () if books.ready_in(reload.generation).next().is_none() => Step::CanaryBoots,
            () => Step::BatchBoots,
        })
    }

    /// Whether the last reload that was asked for was completed.
    pub(crate) fn last_succeeded(&self) -> bool {
        self.completed == self.last
    }

    pub(crate) fn event(&mut self, event: &Event, booted: bool) {
        match event {
            Event::ReloadRequested if !self.stopping && booted => self.ask(ReloadCause::Hup),
            Event::SocketRenewed if !self.stopping && booted => self.ask(ReloadCause::SocketRenewed),
            Event::StopRequested { .. } => self.stop(),
            _ => {}
        }
    }

    fn ask(&mut self, cause: ReloadCause) {
        (self.requested, self.unreported) = (true, Some(cause));
    }

    pub(crate) fn turning_away_refused(&mut self) {
        self.refused = true;
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.requested = false;
        self.loading = None;
    }

    pub(crate) fn action(&mut self, context: &Context, books: &Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::LoadConfiguration { generation } => self.load(*generation),
            Action::KeepGenerations { generations } => {
                let known = generations.is_subset(&self.kept);
                ensure(known, Rule::KnownGenerationsKept, || format!("{action:?} of {:?}", self.kept))?;
                self.kept.clone_from(generations);
                Ok(())
            }
            Action::Spawn { role, slot, generation, .. } => {
                let known = self.kept.contains(generation);
                ensure(known, Rule::StartedFromKept, || format!("{action:?}"))?;
                self.canary_is_first(books, *role, *slot, *generation)
            }
            Action::Report(report) => self.report(context, books, report),
            _ => Ok(()),
        }
    }

    fn load(&mut self, generation: Generation) -> Result<(), Violation> {
        let free = self.requested && self.loading.is_none() && self.reload.is_none() && !self.stopping;
        ensure(free, Rule::OneReloadPerHup, || format!("generation {generation}: {self:?}"))?;
        ensure(generation == self.last + 1, Rule::ReloadsNumbered, || format!("{generation} after {}", self.last))?;
        self.last = generation;
        self.requested = false;
        self.loading = Some(generation);
        Ok(())
    }

    fn report(&mut self, context: &Context, books: &Books, report: &Report) -> Result<(), Violation> {
        match report {
            Report::ReloadRequested { cause } => {
                let asked = self.unreported.take() == Some(*cause);
                ensure(asked, Rule::ReloadRequestReported, || format!("{cause:?} at {:?}", context.event))
            }
            Report::ReloadStarted { generation, workers, .. } => self.start(context, *generation, *workers),
            Report::ReloadCompleted { generation, killed, cut, .. } => self.complete(books, *generation, *killed, *cut),
            Report::WorkerConnectionsCut { worker, count } => {
                let entry = books.get(*worker);
                if let Some(reload) = self.reload.as_mut().filter(|_| entry.is_some_and(is_retired)) {
                    reload.cut += count;
                }
                Ok(())
            }
            Report::WorkerTurnedAway { worker, reason } => {
                let entry = books.get(*worker);
                entry.map_or(Ok(()), |entry| self.told(context, books, entry, false, *reason, false))
            }
            Report::ReloadFailed { generation, failure, replaced, of } => {
                ensure(replaced <= of, Rule::ReloadsPaired, || format!("{report:?}"))?;
                self.fail(context, *generation, *failure)
            }
            Report::ShutdownRequested { .. } => {
                self.stop();
                Ok(())
            }
            Report::WorkerStopRequested { worker, kill, reason, grace_over } => {
                // One that was turned away from was judged then.
                let judged = |entry: &&Entry| *kill || entry.told.is_none_or(|told| !told.turned_away);
                let entry = books.get(*worker).filter(judged);
                entry.map_or(Ok(()), |entry| self.told(context, books, entry, *kill, *reason, *grace_over))
            }
            _ => Ok(()),
        }
    }

    fn start(&mut self, context: &Context, generation: Generation, target: u32) -> Result<(), Violation> {
        let Event::ConfigurationLoaded { policy } = context.event else {
            return Err(Violation::new(
                Rule::ReloadsPaired,
                format!("generation {generation} begins with {:?}", context.event),
            ));
        };
        let expected = self.loading.take() == Some(generation) && self.reload.is_none();
        ensure(expected && target == policy.http_workers, Rule::ReloadsPaired, || {
            format!("generation {generation}: {self:?}")
        })?;
        self.kept.insert(generation);
        self.reload = Some(Reload {
            generation,
            target,
            at_once: policy.reload_max_surge == 0,
            overlaps: policy.overlap_allowed && context.policy.overlap_allowed,
            killed: 0,
            cut: 0,
        });
        Ok(())
    }

    fn complete(&mut self, books: &Books, generation: Generation, killed: u32, cut: u32) -> Result<(), Violation> {
        let reload = self.reload.take().filter(|reload| reload.generation == generation);
        let Some(reload) = reload else {
            return Err(Violation::new(
                Rule::ReloadsPaired,
                format!("generation {generation} is completed, but was not begun"),
            ));
        };
        ensure(reload.killed == killed, Rule::KilledCounted, || {
            format!("{killed} reported, {} killed", reload.killed)
        })?;
        ensure(reload.cut == cut, Rule::CutCounted, || format!("{cut} reported, {} cut", reload.cut))?;
        self.completed = generation;
        let left = books.present().find(|entry| is_left_behind(entry, generation));
        ensure(left.is_none(), Rule::NobodyLeftBehind, || format!("{left:?}"))
    }

    fn fail(&mut self, context: &Context, generation: Generation, failure: ReloadFailure) -> Result<(), Violation> {
        if failure == ReloadFailure::Configuration {
            let refused = *context.event == Event::ConfigurationRefused && self.loading.take() == Some(generation);
            return ensure(refused, Rule::ReloadsPaired, || format!("generation {generation} is refused"));
        }
        let reload = self.reload.take().filter(|reload| reload.generation == generation);
        ensure(reload.is_some(), Rule::ReloadsPaired, || {
            format!("generation {generation} has failed, but was not begun")
        })
    }

    /// One canary first: nobody else is started from a new generation before somebody of it has been ready.
    fn canary_is_first(&self, books: &Books, role: Role, slot: u32, generation: Generation) -> Result<(), Violation> {
        let Some(reload) = self.reload.filter(|reload| reload.generation == generation) else { return Ok(()) };
        let proven = books.ready_in(generation).count();
        let first = books.present().all(|entry| entry.generation != generation);
        let canary = role == Role::Http && slot == 0 && first;
        ensure(canary || proven > 0, Rule::CanaryFirst, || format!("{role:?} slot {slot}"))?;
        let switched = role == Role::Http || (0..reload.target).all(|slot| books.was_ready(generation, slot));
        ensure(switched, Rule::JobsLast, || format!("slot {slot}"))
    }

    fn told(
        &mut self,
        context: &Context,
        books: &Books,
        entry: &Entry,
        kill: bool,
        reason: StopReason,
        grace_over: bool,
    ) -> Result<(), Violation> {
        let overlaps = self.reload.is_none_or(|reload| reload.overlaps) && context.policy.overlap_allowed;
        let turned_away = entry.told.is_some_and(|told| told.turned_away);
        let needed = overlaps && !self.refused && must_drain(context, entry, reason);
        ensure(kill || turned_away || !needed, Rule::DrainsFirst, || format!("{entry:?}"))?;
        match (reason, &mut self.reload) {
            (StopReason::ReloadRetire(_), Some(reload)) if kill => {
                reload.killed += u32::from(grace_over);
                Ok(())
            }
            (StopReason::ReloadRetire(generation), Some(reload)) if !kill => {
                let reload = *reload;
                ensure(reload.generation == generation, Rule::ReloadsPaired, || format!("{entry:?}"))?;
                handed_over(context, books, entry, reload)
            }
            (StopReason::Recycle(_), _) if !kill && context.policy.overlap_allowed => {
                let settled = is_settled(context, books, entry.slot, |other| other.id != entry.id);
                ensure(settled && is_heard(context) || was_late(context, entry), Rule::Handover, || {
                    format!("{entry:?}")
                })
            }
            _ => Ok(()),
        }
    }
}

fn is_retired(entry: &Entry) -> bool {
    matches!(entry.leaves_for(), Some(StopReason::ReloadRetire(_)))
}

/// Whether everything that a worker's retirement needs is there. Where old and new cannot be side by side, nothing is;
/// a worker that was told before it existed goes whatever has become of its successor meanwhile. Everybody else is told when
/// whatever has become of the successor was heard.
fn handed_over(context: &Context, books: &Books, entry: &Entry, reload: Reload) -> Result<(), Violation> {
    if !reload.overlaps || was_late(context, entry) {
        return Ok(());
    }
    let ready = |slot| is_settled(context, books, slot, |other| other.generation == reload.generation);
    let own = entry.role == Role::Http && entry.slot < reload.target;
    let held = match (own, reload.at_once) {
        (true, false) => ready(entry.slot),
        (true, true) => (0..reload.target).all(ready),
        (false, _) => (0..reload.target).all(|slot| books.was_ready(reload.generation, slot)),
    };
    ensure(held && is_heard(context), Rule::Handover, || format!("{entry:?} at {}", context.now))
}

/// Whether a worker is one that leaves for others and could lose what waits for it, ready or not.
fn must_drain(context: &Context, entry: &Entry, reason: StopReason) -> bool {
    let with_others =
        !matches!(reason, StopReason::Shutdown(_) | StopReason::BootTimeout | StopReason::HeartbeatTimeout);
    let concerned = match context.policy.turn_away {
        TurnAway::Nobody => false,
        TurnAway::LeavingSlots => reason == StopReason::ScaleDown,
        TurnAway::Everybody => true,
    };
    entry.role == Role::Http && concerned && with_others && !was_late(context, entry)
}

/// Whether everything was heard that has happened while new workers had to settle, where they had to.
fn is_heard(context: &Context) -> bool {
    context.is_time() || context.policy.reload_overlap.is_zero()
}

fn was_late(context: &Context, entry: &Entry) -> bool {
    entry.spawned_at == Some(context.now)
}

/// Whether a slot has a worker of this kind that has been ready for the settling time.
fn is_settled(context: &Context, books: &Books, slot: u32, kind: impl Fn(&Entry) -> bool) -> bool {
    let settled = |at: Time| at + context.policy.reload_overlap <= context.now;
    books.present().any(|entry| {
        entry.role == Role::Http
            && entry.slot == slot
            && entry.serves()
            && kind(entry)
            && entry.ready_at.is_some_and(settled)
    })
}

/// Whether a worker of an older generation is still about that should not be.
fn is_left_behind(entry: &Entry, generation: Generation) -> bool {
    let excused = entry.killed.is_some() || entry.leaves_for() == Some(StopReason::ScaleDown);
    entry.generation != generation && !excused
}
