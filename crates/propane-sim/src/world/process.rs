//! A worker as it really is, whatever the supervisor knows of it.

use propane_core::{ExitStatus, Role, Time};

use crate::fate::{Fate, Members};

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
    /// When it sent its last heartbeat.
    pub(crate) beat_at: Option<Time>,
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
            beat_at: None,
            samples: 0,
            status: ExitStatus::Code(0),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.leader == Leader::Alive
    }

    /// Whether any process of it can still do something: what must not run twice.
    pub(crate) fn can_act(&self) -> bool {
        let born = !matches!(self.leader, Leader::Awaited | Leader::Unborn);
        !self.killed && (self.is_alive() || born && self.has_members)
    }
}
