//! What is known of every worker, from the events that went in and the actions that came out, and nothing else.

use std::time::Duration;

use propane_core::{Event, ExitStatus, FdSeverity, Generation, Report, Role, StartReason, StopReason, Time, WorkerId};

use super::{PUNCTUAL, Rule, Violation, ensure, require};

/// Where a worker is, as far as the supervisor has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Its start was asked for.
    Asked,
    /// It runs.
    Alive,
    /// Its leader has ended, others of its group have not, and it was told to leave before.
    Lingering,
    /// It is over.
    Gone,
}

/// That a worker was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) reason: StopReason,
    pub(crate) kill_by: Time,
    /// TERM is still to come: when at the latest, and whether it may come now.
    pub(crate) drain: Option<Drain>,
    /// Whether it was turned away from before TERM.
    pub(crate) turned_away: bool,
}

/// That new connections are turned away from a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Drain {
    pub(crate) term_by: Time,
    pub(crate) is_over: bool,
}

/// One worker.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(crate) struct Entry {
    pub(crate) id: WorkerId,
    pub(crate) role: Role,
    pub(crate) slot: u32,
    pub(crate) generation: Generation,
    pub(crate) asked_at: Time,
    pub(crate) presence: Presence,
    pub(crate) spawned_at: Option<Time>,
    pub(crate) reason: Option<StartReason>,
    pub(crate) ready_at: Option<Time>,
    pub(crate) told: Option<Told>,
    pub(crate) aborted_at: Option<Time>,
    /// It was sent KILL, for this reason.
    pub(crate) killed: Option<StopReason>,
    /// It is to leave as soon as it exists, for this reason.
    pub(crate) doomed: Option<StopReason>,
    /// Its start was called off.
    pub(crate) called_off: bool,
    pub(crate) boot_timed_out: bool,
    /// The end of it was reported.
    pub(crate) ended: bool,
    pub(crate) status: Option<ExitStatus>,
    /// How long it may be silent, and when it has been for that long.
    pub(crate) heartbeat: Option<Duration>,
    pub(crate) beat_by: Option<Time>,
    /// It was given more time since its last heartbeat.
    pub(crate) reprieved: bool,
    pub(crate) ready_by: Option<Time>,
    pub(crate) rss_strikes: u32,
    /// How near it is to its limit on descriptors.
    pub(crate) severity: FdSeverity,
    /// How long it may live, as the policy had it when it became ready.
    pub(crate) lifetime: Option<Duration>,
    /// When it was put on the list of those to be recycled.
    pub(crate) recycled_at: Option<Time>,
}

impl Entry {
    pub(crate) fn is_present(&self) -> bool {
        self.presence != Presence::Gone
    }

    /// Whether nobody has told it to leave, as far as anybody can see.
    pub(crate) fn is_wanted(&self) -> bool {
        let runs = matches!(self.presence, Presence::Asked | Presence::Alive);
        let ousted = self.told.is_some() || self.aborted_at.is_some() || self.killed.is_some();
        runs && !ousted && self.doomed.is_none()
    }

    /// Whether it serves.
    pub(crate) fn serves(&self) -> bool {
        self.is_wanted() && self.ready_at.is_some()
    }

    /// Why it leaves, or will as soon as it exists.
    pub(crate) fn leaves_for(&self) -> Option<StopReason> {
        self.told.map(|told| told.reason).or(self.killed).or(self.doomed)
    }

    /// Whether its end is what somebody asked for, and not its own failure.
    fn was_told_to_leave(&self) -> bool {
        self.told.is_some() || self.killed.is_some_and(|reason| !is_failure(reason))
    }
}

/// All workers that there ever were.
#[derive(Debug, Default)]
pub(crate) struct Books {
    entries: Vec<Entry>,
    /// The places of those who are present, in order of their age.
    present: Vec<usize>,
}

impl Books {
    pub(crate) fn present(&self) -> impl Iterator<Item = &Entry> {
        self.present.iter().map(|index| &self.entries[*index])
    }

    pub(crate) fn present_mut(&mut self, mut change: impl FnMut(&mut Entry)) {
        for index in &self.present {
            change(&mut self.entries[*index]);
        }
    }

    /// Those who have ever been ready among the HTTP workers of a generation.
    pub(crate) fn ready_in(&self, generation: Generation) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .rev()
            .filter(move |entry| entry.role == Role::Http && entry.generation == generation && entry.ready_at.is_some())
    }

    /// Whether a slot has ever had a ready worker of a generation.
    pub(crate) fn was_ready(&self, generation: Generation, slot: u32) -> bool {
        self.ready_in(generation).any(|entry| entry.slot == slot)
    }

    pub(crate) fn get(&self, worker: WorkerId) -> Option<&Entry> {
        self.entries.get(usize::try_from(worker.0).ok()?)
    }

    pub(crate) fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(worker.0).ok()?)
    }

    /// The worker, which has to be known.
    pub(crate) fn known(&mut self, worker: WorkerId) -> Result<&mut Entry, Violation> {
        require(self.get_mut(worker), Rule::KnownWorkers, || format!("{worker:?}"))
    }

    /// A worker is asked for.
    pub(crate) fn ask(
        &mut self,
        now: Time,
        id: WorkerId,
        role: Role,
        slot: u32,
        generation: Generation,
        heartbeat: Option<Duration>,
    ) -> Result<(), Violation> {
        let fresh = usize::try_from(id.0) == Ok(self.entries.len());
        ensure(fresh, Rule::FreshNames, || format!("{id:?} is not the next name"))?;
        self.present.push(self.entries.len());
        self.entries.push(Entry {
            id,
            role,
            slot,
            generation,
            asked_at: now,
            presence: Presence::Asked,
            spawned_at: None,
            reason: None,
            ready_at: None,
            told: None,
            aborted_at: None,
            killed: None,
            doomed: None,
            called_off: false,
            boot_timed_out: false,
            ended: false,
            status: None,
            heartbeat,
            beat_by: None,
            reprieved: false,
            ready_by: None,
            rss_strikes: 0,
            severity: FdSeverity::Fine,
            lifetime: None,
            recycled_at: None,
        });
        Ok(())
    }

    /// What an event says of a worker, before the supervisor hears it.
    pub(crate) fn event(&mut self, now: Time, event: &Event, boot_timeout: Duration) {
        match event {
            Event::Spawned { worker } => self.update(*worker, |entry| {
                entry.presence = Presence::Alive;
                entry.spawned_at = Some(now);
                entry.ready_by = (entry.role == Role::Http).then(|| now + boot_timeout);
            }),
            Event::SpawnFailed { worker, .. } => self.update(*worker, |entry| entry.presence = Presence::Gone),
            Event::SpawnAbandoned { worker } => self.update(*worker, |entry| {
                entry.presence = Presence::Gone;
                entry.ended = true; // without a word, as it came
            }),
            Event::HeartbeatReceived { worker } => self.update(*worker, |entry| {
                if entry.is_wanted() {
                    entry.beat_by = entry.heartbeat.map(|timeout| now + timeout);
                    entry.reprieved = false;
                }
            }),
            Event::Exited { worker, status, group_alive } => self.update(*worker, |entry| {
                if entry.is_present() {
                    entry.status = Some(*status);
                    entry.presence =
                        if *group_alive && entry.was_told_to_leave() { Presence::Lingering } else { Presence::Gone };
                }
            }),
            Event::Drained { worker, .. } => self.update(*worker, |entry| {
                if let Some(drain) = entry.told.as_mut().and_then(|told| told.drain.as_mut()) {
                    drain.is_over = true;
                }
            }),
            Event::GroupEmptied { worker } => self.update(*worker, |entry| {
                if entry.presence == Presence::Lingering {
                    entry.presence = Presence::Gone;
                }
            }),
            _ => {}
        }
        let entries = &self.entries;
        self.present.retain(|index| entries[*index].is_present());
    }

    fn update(&mut self, worker: WorkerId, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.get_mut(worker) {
            change(entry);
        }
    }

    /// A start is called off: once, and before it is answered.
    pub(crate) fn call_off(&mut self, worker: WorkerId) -> Result<(), Violation> {
        let entry = self.known(worker)?;
        let may_be = entry.presence == Presence::Asked && !std::mem::replace(&mut entry.called_off, true);
        ensure(may_be, Rule::CalledOff, || format!("{entry:?}"))
    }

    /// Who was thought doomed, and was not told to leave when it came to be, was not doomed. Who was told for that very
    /// reason had been called off, and nobody had who stays.
    pub(crate) fn pardon(&mut self, event: &Event) -> Result<(), Violation> {
        let Event::Spawned { worker } = event else { return Ok(()) };
        let entry = self.known(*worker)?;
        let leaves = entry.told.is_some() || entry.killed.is_some();
        if !leaves {
            entry.doomed = None;
        }
        let as_thought = entry.doomed.is_some() && entry.leaves_for() == entry.doomed;
        let lawful = if entry.called_off { leaves } else { !as_thought };
        ensure(lawful, Rule::CalledOff, || format!("{entry:?}"))
    }

    /// A driver that slept over a deadline is forgiven: everybody is waited for anew.
    pub(crate) fn forgive(&mut self, now: Time, boot_timeout: Duration) {
        self.present_mut(|entry| {
            entry.ready_by = entry.ready_by.map(|_| now + boot_timeout);
            entry.beat_by = entry.beat_by.and(entry.heartbeat).map(|timeout| now + timeout);
        });
    }

    /// A driver that comes a little late for a heartbeat may have been paused together with the worker: that has a second
    /// more, once.
    pub(crate) fn reprieve(&mut self, now: Time) {
        self.present_mut(|entry| {
            let late = entry.beat_by.is_some_and(|by| now.since(by) > PUNCTUAL);
            if late && entry.is_wanted() && !std::mem::replace(&mut entry.reprieved, true) {
                entry.beat_by = Some(now + Duration::from_secs(1));
            }
        });
    }

    /// Reports about workers are well-formed: started first, and nothing after the end.
    pub(crate) fn report(&mut self, now: Time, event: &Event, report: &Report) -> Result<(), Violation> {
        match report {
            Report::WorkerSpawnFailed { role, slot, generation, message, .. } => {
                let Event::SpawnFailed { worker, error } = event else { return Err(malformed(report)) };
                let entry = self.known(*worker)?;
                let same =
                    (entry.role, entry.slot, entry.generation, &error.message) == (*role, *slot, *generation, message);
                ensure(same && !entry.ended, Rule::ReportsWellFormed, || format!("{report:?} of {entry:?}"))?;
                entry.ended = true;
            }
            Report::WorkerStarted { worker, reason } => {
                let entry = self.known(*worker)?;
                ensure(entry.reason.is_none() && entry.spawned_at == Some(now), Rule::ReportsWellFormed, || {
                    format!("{report:?}")
                })?;
                entry.reason = Some(*reason);
            }
            Report::WorkerReady { worker, .. } => {
                let entry = self.running(*worker, report)?;
                let fit = entry.role == Role::Http && entry.ready_at.is_none() && entry.is_wanted();
                ensure(fit, Rule::ReportsWellFormed, || format!("{report:?} of {entry:?}"))?;
                entry.ready_at = Some(now);
                entry.ready_by = None;
            }
            Report::WorkerExited { worker, status, .. } => self.ended(*worker, *status, report, false)?,
            Report::WorkerStopped { worker, status, .. } => self.ended(*worker, *status, report, true)?,
            Report::WorkerStopRequested { worker, .. }
            | Report::WorkerTurnedAway { worker, .. }
            | Report::WorkerDrained { worker, .. }
            | Report::WorkerDrainTimedOut { worker, .. }
            | Report::WorkerConnectionsCut { worker, .. }
            | Report::WorkerBootTimedOut { worker, .. }
            | Report::WorkerHeartbeatTimedOut { worker, .. }
            | Report::WorkerFdPressure { worker, .. }
            | Report::WorkerRecycleRequested { worker, .. } => {
                self.running(*worker, report)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// A worker that reports may be about.
    fn running(&mut self, worker: WorkerId, report: &Report) -> Result<&mut Entry, Violation> {
        let entry = self.known(worker)?;
        let runs = entry.is_present() && entry.reason.is_some() && !entry.ended;
        ensure(runs, Rule::ReportsWellFormed, || format!("{report:?} of {entry:?}"))?;
        Ok(entry)
    }

    fn ended(
        &mut self,
        worker: WorkerId,
        status: ExitStatus,
        report: &Report,
        was_told: bool,
    ) -> Result<(), Violation> {
        let entry = self.known(worker)?;
        let over = entry.presence == Presence::Gone && entry.reason.is_some() && !entry.ended;
        // A worker that was killed for its own failure counts as dead or as stopped, depending on who has its slot.
        let failed = entry.told.is_none() && entry.killed.is_some_and(is_failure);
        let fits = failed || entry.was_told_to_leave() == was_told;
        ensure(over && entry.status == Some(status) && fits, Rule::ReportsWellFormed, || {
            format!("{report:?} of {entry:?}")
        })?;
        entry.ended = true;
        Ok(())
    }

    /// Everybody whose end the supervisor was told has been reported on.
    pub(crate) fn all_ends_are_told(&self, event: &Event) -> Result<(), Violation> {
        let (Event::Exited { worker, .. } | Event::GroupEmptied { worker } | Event::SpawnFailed { worker, .. }) = event
        else {
            return Ok(());
        };
        let Some(entry) = self.get(*worker) else { return Ok(()) };
        ensure(entry.is_present() || entry.ended, Rule::EndsReported, || format!("{entry:?}"))
    }
}

fn malformed(report: &Report) -> Violation {
    Violation::new(Rule::ReportsWellFormed, format!("{report:?}"))
}

/// Whether a stop is the worker's own failure.
fn is_failure(reason: StopReason) -> bool {
    matches!(reason, StopReason::BootTimeout | StopReason::HeartbeatTimeout)
}
