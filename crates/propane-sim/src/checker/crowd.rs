//! How many workers there are: never more than the policy allows, never two of which one must be alone.

use std::collections::BTreeMap;

use propane_core::{Action, Event, Generation, Policy, ReloadFailure, Report, Role, StopReason};

use super::books::{Books, Entry, Presence};
use super::{Context, Rule, Violation, ensure};

/// A reload's part in the bound.
#[derive(Clone, Copy, Debug)]
struct Extra {
    /// The larger of the counts before and after it.
    wanted: u32,
    /// How many more it may run.
    surge: u32,
    target: u32,
}

/// The rules about numbers.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(crate) struct Crowd {
    /// HTTP workers wanted.
    pub(crate) wanted: u32,
    /// Job workers wanted.
    pub(crate) jobs: u32,
    reload: Option<Extra>,
    /// Whether the workers of a generation can share the port.
    shares: BTreeMap<Generation, bool>,
    is_ready: bool,
    stopping: bool,
    /// The count is to be read from the supervisor: a reload that failed half-way leaves any in between.
    unsure: bool,
    unsure_of_jobs: bool,
    /// Somebody was started, or the count has changed, in this step.
    changed: bool,
}

impl Crowd {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self {
            wanted: policy.http_workers,
            jobs: policy.job_workers,
            reload: None,
            shares: BTreeMap::from([(0, policy.overlap_allowed)]),
            is_ready: false,
            stopping: false,
            unsure: false,
            unsure_of_jobs: false,
            changed: false,
        }
    }

    pub(crate) fn action(&mut self, context: &Context, books: &mut Books, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Spawn { role, slot, generation, .. } => {
                self.changed = true;
                ensure(!self.stopping, Rule::NobodyStartedInStop, || format!("{action:?}"))?;
                match role {
                    Role::Http => self.is_bearable(books, *generation, action),
                    Role::Job => is_alone(books, *slot, action),
                }
            }
            Action::Report(report) => self.report(context, books, report),
            _ => Ok(()),
        }
    }

    /// Whoever needs the port alone is alone.
    fn is_bearable(&self, books: &Books, generation: Generation, action: &Action) -> Result<(), Violation> {
        let shares = |generation| self.shares.get(&generation).copied().unwrap_or(true);
        let rival =
            books.present().find(|entry| entry.role == Role::Http && !(shares(generation) && shares(entry.generation)));
        ensure(rival.is_none(), Rule::PortAlone, || format!("{action:?} beside {rival:?}"))
    }

    fn report(&mut self, context: &Context, books: &mut Books, report: &Report) -> Result<(), Violation> {
        match report {
            Report::ReloadStarted { generation, workers, job_workers } => {
                if let Event::ConfigurationLoaded { policy } = context.event {
                    self.begin_reload(*generation, *workers, policy);
                }
                self.jobs = *job_workers;
            }
            Report::ReloadCompleted { .. } => self.complete(),
            Report::ReloadFailed { generation, failure, .. } => {
                self.unsure = true;
                self.unsure_of_jobs = true;
                let all = *failure == ReloadFailure::Shutdown;
                books.present_mut(|entry| doom_new(entry, *generation, all));
            }
            Report::Resized { from, to } => {
                self.end_failed_reload(|| *from)?;
                ensure(*from == self.wanted && *to >= 1, Rule::ResizeBegins, || {
                    format!("{report:?}, but {} are wanted", self.wanted)
                })?;
                self.wanted = *to;
                self.changed = true;
                books.present_mut(|entry| doom_scaled_down(entry, *to));
            }
            Report::ManagerReady { .. } => {
                ensure(!self.is_ready, Rule::ReadyOnce, || format!("{report:?}"))?;
                self.is_ready = true;
                let serve = |slot| books.present().any(|entry| is_server_of(entry, slot));
                let gap = (0..self.least()).find(|slot| !serve(*slot));
                ensure(gap.is_none(), Rule::ReadyWithAll, || format!("nobody serves slot {gap:?}"))?;
            }
            Report::ManagerStopping { .. } => self.stopping = true,
            _ => {}
        }
        Ok(())
    }

    fn begin_reload(&mut self, generation: Generation, target: u32, policy: &Policy) {
        let surge = if policy.reload_max_surge == 0 { target } else { policy.reload_max_surge };
        self.reload = Some(Extra { wanted: self.wanted.max(target), surge, target });
        self.shares.insert(generation, policy.overlap_allowed);
    }

    /// A reload that failed after replacing some slots leaves a count in between.
    fn end_failed_reload(&mut self, count: impl FnOnce() -> u32) -> Result<(), Violation> {
        if !std::mem::take(&mut self.unsure) {
            return Ok(());
        }
        let most = self.reload.take().map_or(self.wanted, |reload| reload.wanted);
        let before = std::mem::replace(&mut self.wanted, count());
        let count = self.wanted;
        ensure((1..=most).contains(&count), Rule::FailedReloadCount, || {
            format!("{count} HTTP slots, {before} before, {most} at most")
        })
    }

    fn complete(&mut self) {
        if let Some(reload) = self.reload.take() {
            self.wanted = reload.target;
        }
    }

    /// After a step. `http_slots` and `job_slots` ask the supervisor, and are used only where the actions do not tell.
    pub(crate) fn finish(&mut self, books: &Books, slots: impl FnOnce() -> (usize, usize)) -> Result<(), Violation> {
        if self.unsure || self.unsure_of_jobs {
            let (http, jobs) = slots();
            self.end_failed_reload(|| u32::try_from(http).unwrap_or(u32::MAX))?;
            self.jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
            self.unsure_of_jobs = false;
        }
        if self.stopping || !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let (count, most) = match self.reload {
            Some(reload) => (count(books, counts_in_reload), reload.wanted + reload.surge),
            None => (count(books, counts), self.wanted + 1),
        };
        ensure(count <= most, Rule::Bound, || format!("{count} instead of at most {most}"))?;
        no_slot_has_too_many(books)
    }

    /// Whether the boot is over.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// How many workers of a role are wanted.
    pub(crate) fn count(&self, role: Role) -> u32 {
        match role {
            Role::Http => self.wanted,
            Role::Job => self.jobs,
        }
    }

    /// How many HTTP slots stay, at least.
    pub(crate) fn least(&self) -> u32 {
        self.reload.map_or(self.wanted, |reload| self.wanted.min(reload.target))
    }

    /// Whether every wanted worker serves, and nobody else does.
    pub(crate) fn is_complete(&self, books: &Books) -> bool {
        self.is_ready
            && (0..self.wanted).all(|slot| books.present().any(|entry| is_server_of(entry, slot)))
            && (0..self.jobs).all(|slot| books.present().any(|entry| is_job_of(entry, slot)))
            && books.present().all(|entry| !entry.is_wanted() || entry.slot < self.count(entry.role))
    }
}

/// At most one who serves a slot, and one who is to take over.
fn no_slot_has_too_many(books: &Books) -> Result<(), Violation> {
    books.present().filter(|entry| entry.is_wanted()).try_for_each(|entry| {
        let others = books.present().filter(|other| {
            other.is_wanted() && (other.role, other.slot) == (entry.role, entry.slot) && other.id != entry.id
        });
        let most = usize::from(entry.role == Role::Http);
        ensure(others.count() <= most, Rule::OneSuccessor, || format!("{entry:?}"))
    })
}

fn count(books: &Books, counts: impl Fn(&Entry) -> bool) -> u32 {
    let count = books.present().filter(|entry| entry.role == Role::Http && counts(entry)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn runs(entry: &Entry) -> bool {
    matches!(entry.presence, Presence::Asked | Presence::Alive) && entry.killed.is_none()
}

/// During a reload everybody counts but those who were scaled away.
fn counts_in_reload(entry: &Entry) -> bool {
    runs(entry) && entry.leaves_for() != Some(StopReason::ScaleDown)
}

/// Else those who are to stay, and those whom a recycling replaces.
fn counts(entry: &Entry) -> bool {
    runs(entry)
        && entry.aborted_at.is_none()
        && entry.leaves_for().is_none_or(|reason| matches!(reason, StopReason::Recycle(_)))
}

/// The new workers of a reload that failed go as soon as they exist. One that a stop has ended may have told the old ones
/// to go already.
fn doom_new(entry: &mut Entry, generation: Generation, all: bool) {
    let meant = all || entry.generation == generation;
    if entry.role == Role::Http && entry.presence == Presence::Asked && meant {
        entry.doomed = Some(StopReason::ReloadAbort(generation));
    }
}

fn doom_scaled_down(entry: &mut Entry, count: u32) {
    if entry.role == Role::Http && entry.presence == Presence::Asked && entry.slot >= count {
        entry.doomed = Some(StopReason::ScaleDown);
    }
}

fn is_alone(books: &Books, slot: u32, action: &Action) -> Result<(), Violation> {
    let rival = books.present().find(|entry| entry.role == Role::Job && entry.slot == slot);
    ensure(rival.is_none(), Rule::JobOnce, || format!("{action:?} beside {rival:?}"))
}

fn is_server_of(entry: &Entry, slot: u32) -> bool {
    entry.role == Role::Http && entry.slot == slot && entry.serves()
}

fn is_job_of(entry: &Entry, slot: u32) -> bool {
    entry.role == Role::Job && entry.slot == slot && entry.is_wanted() && entry.presence == Presence::Alive
}
