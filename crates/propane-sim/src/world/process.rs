//! A worker as it really is, whatever the supervisor knows of it.

use std::time::Duration;

use propane_core::{ExitStatus, Role, Sample, Time};

use crate::coverage::{Fault, strike};
use crate::fate::{Appetite, Fate, Members};
use crate::plan::RSS_LIMIT_KIB;

/// A boot that takes longer than this is slow.
const SLOW_BOOT: Duration = Duration::from_millis(300);

/// A worker that dies within this time had no chance to do anything.
const AT_ONCE: Duration = Duration::from_millis(2);

/// Whether a worker's use of something went over a limit, under it, and over it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swings {
    was_over: bool,
    was_under_since: bool,
}

impl Swings {
    /// Takes in one more look; true when the use is back over the limit.
    pub(crate) fn look(&mut self, is_over: bool) -> bool {
        let is_back = is_over && self.was_under_since;
        self.was_under_since = !is_over && self.was_over;
        self.was_over |= is_over;
        is_back
    }
}

/// How far the leader of a worker's process group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// The driver was asked to start it.
    Awaited,
    /// It could not be started.
    Unborn,
    /// It runs.
    Alive,
    /// It has ended, and the driver does not know yet.
    Dead,
    /// It has ended, and the driver knows.
    Reaped,
}

/// One worker's processes.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "facts that can each be true beside any other")]
pub(crate) struct Process {
    pub(crate) role: Role,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) fate: Fate,
    pub(crate) leader: Leader,
    /// Whether other processes of the group live, or would outlive the leader.
    pub(crate) has_members: bool,
    /// Whether the whole group was sent KILL.
    pub(crate) killed: bool,
    /// Whether what would befall it by itself does not happen any more.
    pub(crate) spared: bool,
    /// When it came to be.
    pub(crate) born_at: Time,
    /// When it ended.
    pub(crate) died_at: Time,
    /// Whether it was found ready.
    pub(crate) is_ready: bool,
    /// Whether it was sent TERM.
    pub(crate) is_told: bool,
    /// Whether connections are turned away from it.
    pub(crate) drains: bool,
    /// What the looks at it have found.
    pub(crate) fds: Swings,
    pub(crate) memory: Swings,
    /// When it sent its last heartbeat.
    pub(crate) beat_at: Option<Time>,
    /// When it sends the next one, if it can.
    pub(crate) beat_due: Option<Time>,
    /// When the driver last heard one.
    pub(crate) heard_at: Option<Time>,
    /// How often it was looked at.
    pub(crate) samples: u64,
    /// How the leader has ended.
    pub(crate) status: ExitStatus,
}

impl Process {
    pub(crate) fn new(role: Role, slot: u32, generation: u32, fate: Fate) -> Self {
        let has_members = fate.members != Members::None;
        Self {
            role,
            slot,
            generation,
            fate,
            leader: Leader::Awaited,
            has_members,
            killed: false,
            spared: false,
            born_at: Time::default(),
            died_at: Time::default(),
            is_ready: false,
            is_told: false,
            drains: false,
            fds: Swings::default(),
            memory: Swings::default(),
            beat_at: None,
            beat_due: None,
            heard_at: None,
            samples: 0,
            status: ExitStatus::Code(0),
        }
    }

    /// Whether nothing has come yet of the request to start it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.leader == Leader::Awaited
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.leader == Leader::Alive
    }

    /// Nothing is left of it that the driver does not know.
    pub(crate) fn is_over(&self) -> bool {
        match self.leader {
            Leader::Unborn => true,
            Leader::Reaped => self.killed || !self.has_members,
            Leader::Awaited | Leader::Alive | Leader::Dead => false,
        }
    }

    /// It comes to be, as its fate has it.
    pub(crate) fn be_born(&mut self, now: Time) {
        self.leader = Leader::Alive;
        self.born_at = now;
        match self.fate.ready_after {
            None if self.role == Role::Http => strike(Fault::NeverReady),
            Some(after) if self.role == Role::Http && after > SLOW_BOOT => strike(Fault::SlowBoot),
            _ => {}
        }
    }

    /// What a look at it found.
    pub(crate) fn show(&mut self, sample: &Sample) {
        if self.fate.appetite == Appetite::Leaks && !self.spared {
            strike(Fault::Leak);
        }
        if self.fds.look(sample.fd_count.saturating_mul(2) >= sample.fd_limit) {
            strike(Fault::FdsSwing);
        }
        if self.memory.look(sample.rss_kib > RSS_LIMIT_KIB) {
            strike(Fault::MemorySwings);
        }
    }

    /// It is about to end by itself.
    pub(crate) fn strike_down(&self, now: Time) {
        if !self.is_alive() {
            return;
        }
        if now.since(self.born_at) <= AT_ONCE {
            strike(Fault::InstantDeath);
        }
        strike(match () {
            () if self.drains => Fault::DiesDraining,
            () if self.is_ready || self.role == Role::Job => Fault::DiesServing,
            () => Fault::DiesStarting,
        });
    }

    /// Whether any process of it can still do something: what must not run twice.
    pub(crate) fn can_act(&self) -> bool {
        let born = !matches!(self.leader, Leader::Awaited | Leader::Unborn);
        !self.killed && (self.is_alive() || born && self.has_members)
    }
}
