//! What workers do, and what is done to them.

use std::time::Duration;

use propane_core::{Event, ExitStatus, Proof, Role, Sample, SpawnError, WorkerId};

use crate::checker::{Checker, PUNCTUAL, Rule, Violation, ensure};
use crate::coverage::{Fault, strike};
use crate::fate::{Appetite, Birth, Drain, Fate, Members, OnTerm};
use crate::plan::SAMPLE;
use crate::rng::Rng;

use super::World;
use super::agenda::Happening;
use super::process::{Leader, Process};

/// A start that takes this long is late: others come between.
const SLOW_SPAWN: Duration = Duration::from_millis(10);

/// A report of an exit that takes this long is late.
const LATE_REPORT: Duration = Duration::from_millis(5);

impl World<'_> {
    pub(super) fn process(&mut self, worker: WorkerId) -> &mut Process {
        // The supervisor names workers 0, 1, 2 …, which the checker has made sure of before anything happens to one.
        let index = usize::try_from(worker.0).unwrap_or(usize::MAX);
        &mut self.processes[index]
    }

    pub(super) fn bear(&mut self, worker: WorkerId) -> Result<(), Violation> {
        let now = self.now;
        let process = self.process(worker);
        if process.fate.birth_delay >= SLOW_SPAWN {
            strike(Fault::SpawnSlow);
        }
        if let Birth::Fails { permanent } = process.fate.birth {
            process.leader = Leader::Unborn;
            let (fault, message) = match (permanent, worker.0 % 2) {
                (true, _) => (Fault::SpawnForGood, "no such file"),
                (false, 0) => (Fault::SpawnAgain, "resource temporarily unavailable"),
                (false, _) => (Fault::SpawnNoMemory, "cannot allocate memory"),
            };
            strike(fault);
            let message = message.to_owned();
            return self.deliver(Event::SpawnFailed { worker, error: SpawnError { permanent, message } });
        }
        let process = self.process(worker);
        process.be_born(now);
        let (role, fate, generation) = (process.role, process.fate.clone(), process.generation);
        if let Some((after, status)) = fate.dies {
            self.agenda.add(now + after, Happening::Doom(worker, status));
        }
        if let Some(after) = fate.ready_after.filter(|_| role == Role::Http) {
            self.agenda.add(now + after, Happening::Readiness(worker));
        }
        let watched = self.heartbeats.get(&generation).copied().flatten().is_some();
        match fate.beat {
            Some(_) if watched => self.agenda.add(now + Duration::from_millis(10), Happening::Beat(worker, 0)),
            None if watched && role == Role::Http => strike(Fault::NeverBeats),
            _ => {}
        }
        self.deliver(Event::Spawned { worker })
    }

    /// A start is called off. The driver may have begun before it could know; then its answer is on the way.
    pub(super) fn call_off(&mut self, worker: WorkerId) {
        let has_begun = Rng::of(self.plan.seed, SAMPLE, worker.0 | 1 << 49).chance(50);
        if has_begun || !self.process(worker).is_awaited() {
            return strike(Fault::CalledOffTooLate);
        }
        strike(Fault::SpawnAbandoned);
        self.process(worker).leader = Leader::Unborn;
        self.agenda.add(self.now, Happening::Delivery(Event::SpawnAbandoned { worker }));
    }

    pub(super) fn beat(&mut self, worker: WorkerId, count: u64) -> Result<(), Violation> {
        let process = self.process(worker);
        let (generation, beat) = (process.generation, process.fate.beat);
        let silent = beat.and_then(|beat| beat.count).is_some_and(|last| count >= last);
        self.process(worker).beat_due = None;
        if silent {
            strike(Fault::Silence);
            return Ok(());
        }
        self.process(worker).beat_at = Some(self.now);
        if let Some(timeout) = self.heartbeats.get(&generation).copied().flatten() {
            let due = self.now + timeout / 2;
            self.agenda.add(due, Happening::Beat(worker, count + 1));
            let goes_on = beat.and_then(|beat| beat.count).is_none_or(|last| count + 1 < last);
            self.process(worker).beat_due = goes_on.then_some(due);
        }
        self.deliver(Event::HeartbeatReceived { worker })
    }

    /// The driver hears a heartbeat. A stray one may name anybody.
    pub(super) fn heard(&mut self, worker: WorkerId) {
        let now = self.now;
        self.process(worker).heard_at = Some(now);
    }

    pub(super) fn die(&mut self, worker: WorkerId, status: ExitStatus) {
        let now = self.now;
        let process = self.process(worker);
        if !process.is_alive() {
            return;
        }
        process.leader = Leader::Dead;
        process.died_at = now;
        let after_term = process.is_told && status == ExitStatus::Signal(11);
        process.status = status;
        let (report_delay, members) = (process.fate.report_delay, process.fate.members);
        if after_term {
            strike(Fault::DiesAfterTerm);
        }
        if report_delay >= LATE_REPORT {
            strike(Fault::LateReport);
        }
        self.agenda.add(now + report_delay, Happening::Obituary(worker));
        if let Members::Leave(after) = members {
            self.agenda.add(now + after, Happening::LastMember(worker));
        }
    }

    pub(super) fn bury(&mut self, worker: WorkerId) -> Result<(), Violation> {
        let process = self.process(worker);
        process.leader = Leader::Reaped;
        let (died_at, outlived) = (process.died_at, process.has_members.then_some(process.fate.members));
        match outlived {
            Some(Members::Stay) => strike(Fault::GroupStays),
            Some(_) => strike(Fault::GroupOutlives),
            None => {}
        }
        if self.processes.iter().any(|other| other.leader == Leader::Dead && other.died_at < died_at) {
            strike(Fault::OutOfOrder);
        }
        let process = self.process(worker);
        let event = Event::Exited { worker, status: process.status, group_alive: process.has_members };
        self.feed(&event)?;
        self.stray(worker);
        Ok(())
    }

    /// Something that a worker sent arrives when the worker is long forgotten.
    pub(super) fn stray(&mut self, worker: WorkerId) {
        let mut rng = Rng::of(self.plan.seed, SAMPLE, worker.0 | 1 << 50);
        if rng.chance(self.plan.mix.stray_events) {
            strike(Fault::StrayEvent);
            let event = match rng.below(4) {
                0 => Event::BecameReady { worker, proof: Proof::Listening },
                1 => Event::HeartbeatReceived { worker },
                2 => Event::Sampled { worker, sample: sample(&mut rng, Appetite::Leaks, 9, 1_000) },
                _ => Event::GroupEmptied { worker: WorkerId(worker.0 + 1_000_000) },
            };
            self.agenda.add(self.now + rng.ms(0, 500), Happening::Delivery(event));
        }
    }

    pub(super) fn end_group(&mut self, worker: WorkerId) {
        let now = self.now;
        let process = self.process(worker);
        if !std::mem::take(&mut process.has_members) {
            return;
        }
        if process.leader == Leader::Reaped {
            let after = process.fate.report_delay;
            self.agenda.add(now + after, Happening::Emptiness(worker));
        }
    }

    pub(super) fn spawn(&mut self, worker: WorkerId, role: Role, slot: u32, generation: u32) -> Result<(), Violation> {
        if role == Role::Job {
            let rival = (0..)
                .map(WorkerId)
                .zip(&self.processes)
                .find(|(_, other)| other.role == Role::Job && other.slot == slot && other.can_act());
            Checker::begin_job(rival.map(|(id, _)| id))?;
        }
        let fate =
            if self.calm { Fate::healthy(self.plan, worker) } else { Fate::of(self.plan, worker, role, generation) };
        self.agenda.add(self.now + fate.birth_delay, Happening::Birth(worker));
        self.processes.push(Process::new(role, slot, generation, fate));
        Ok(())
    }

    pub(super) fn turn_away(&mut self, worker: WorkerId) {
        let now = self.now;
        let process = self.process(worker);
        process.drains = true;
        // A calm world has no faults, also none that were drawn before.
        let drain = if process.spared { Drain::Ends(Duration::from_millis(1)) } else { process.fate.drain };
        match drain {
            Drain::Ends(after) => self.agenda.add(now + after, Happening::Drain(worker)),
            Drain::Dies(after) => self.agenda.add(now + after, Happening::Doom(worker, ExitStatus::Signal(11))),
            Drain::Never => strike(Fault::NeverDrains),
        }
    }

    pub(super) fn count(&mut self, worker: WorkerId) {
        let process = self.process(worker);
        let (alive, count) = (process.is_alive(), process.fate.connections);
        if alive {
            if count > 0 {
                strike(Fault::ConnectionsCut);
            }
            self.agenda.add(self.now, Happening::Delivery(Event::ConnectionsCut { worker, count }));
        }
    }

    pub(super) fn term(&mut self, worker: WorkerId) {
        let now = self.now;
        let process = self.process(worker);
        let (alive, role) = (process.is_alive(), process.role);
        process.is_told |= alive;
        match process.fate.on_term {
            OnTerm::Leaves { after, status } if alive => self.agenda.add(now + after, Happening::Death(worker, status)),
            OnTerm::Ignores if alive => strike(Fault::IgnoresTerm),
            _ => {}
        }
        let process = self.process(worker);
        if let Members::Leave(after) = process.fate.members
            && (role == Role::Job || !alive)
        {
            self.agenda.add(now + after, Happening::LastMember(worker));
        }
    }

    /// Nobody dumps core for a silence that was only the driver's, who has not passed on yet what was said in time, or for
    /// one in which the worker could not run.
    pub(super) fn is_deserved(&mut self, worker: WorkerId) -> Result<(), Violation> {
        let (now, generation, thawed_at) = (self.now, self.process(worker).generation, self.thawed_at);
        let timeout = self.heartbeats.get(&generation).copied().flatten().unwrap_or_default();
        let process = self.process(worker);
        let (beat_at, heard_at) = (process.beat_at, process.heard_at);
        let held_up = process.is_alive() && process.beat_due.is_some_and(|due| due <= now);
        let silent = beat_at.is_some_and(|at| at + timeout <= now) && !held_up;
        // A pause that ends just after the deadline cannot be told from none.
        let excused = heard_at.is_some_and(|at| at < thawed_at && now.since(at + timeout) <= PUNCTUAL);
        ensure(silent || excused, Rule::AbortDeserved, || format!("{worker:?} at {now}, last heard at {beat_at:?}"))
    }

    pub(super) fn abort(&mut self, worker: WorkerId) {
        let now = self.now;
        if self.process(worker).fate.heeds_abort {
            self.agenda.add(now + Duration::from_millis(150), Happening::Death(worker, ExitStatus::Signal(6)));
        } else {
            strike(Fault::IgnoresAbort);
        }
    }

    pub(super) fn kill(&mut self, worker: WorkerId) {
        let now = self.now;
        let process = self.process(worker);
        process.killed = true;
        let after = process.fate.kill_delay;
        self.agenda.add(now + after, Happening::Death(worker, ExitStatus::Signal(9)));
        self.agenda.add(now + after * 2, Happening::LastMember(worker));
    }

    pub(super) fn look_at(&mut self, worker: WorkerId) {
        let process = self.process(worker);
        if !process.is_alive() {
            return;
        }
        process.samples += 1;
        let count = process.samples;
        let appetite = if process.spared { Appetite::Modest } else { process.fate.appetite };
        let fd_limit = process.fate.fd_limit;
        let mut rng = Rng::of(self.plan.seed, SAMPLE, worker.0 << 12 | count);
        if rng.chance(self.plan.mix.sample_lost) {
            return strike(Fault::SampleLost);
        }
        let sample = sample(&mut rng, appetite, count, fd_limit);
        self.process(worker).show(&sample);
        self.agenda.add(self.now + Duration::from_millis(1), Happening::Delivery(Event::Sampled { worker, sample }));
    }
}

/// What the `count`-th look at a worker finds. Limits lie at 1000 KiB, at 900 descriptors and from 50 to 95 percent.
fn sample(rng: &mut Rng, appetite: Appetite, count: u64, fd_limit: u64) -> Sample {
    let (fds, rss_kib) = match appetite {
        Appetite::Modest => (rng.below(500), rng.below(900)),
        Appetite::Leaks => (300 + 200 * count, 300 + 200 * count + rng.below(300)),
        // Memory is over its limit in four of six looks: three in a row are common, and so are two and a pause.
        Appetite::Swings => {
            (rng.pick(&[100, 300, 550, 700, 850, 920, 960]), rng.pick(&[500, 1_000, 1_001, 1_200, 1_300, 2_000]))
        }
    };
    let fd_count = if fd_limit < 1_000 { fds * fd_limit / 1_000 } else { fds };
    Sample { fd_count: fd_count.min(fd_limit), fd_limit, rss_kib, top_fd_targets: String::new() }
}
