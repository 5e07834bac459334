//! TTIN and TTOU: one worker more or less.

use crate::event::Role;
use crate::report::{Report, StartReason, StopReason};
use crate::time::Time;

use super::{Slot, Supervisor};

/// The most workers there can be, as `workerCount` has it.
const HTTP_WORKERS_MAX: u32 = 1024;

/// TTINs and TTOUs one after the other, as a function of the count they begin with: `max(count + shift, least)`.
/// A TTOU that has no effect, because one worker is the least, is not owed to a later TTIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resize {
    shift: i32,
    least: u32,
}

impl Resize {
    const NONE: Self = Self { shift: 0, least: 1 };

    pub(super) fn up(self) -> Self {
        Self { shift: self.shift.saturating_add(1), least: self.least.saturating_add(1) }
    }

    pub(super) fn down(self) -> Self {
        Self { shift: self.shift.saturating_sub(1), least: self.least.saturating_sub(1).max(1) }
    }

    fn of(self, count: u32) -> u32 {
        count.saturating_add_signed(self.shift).max(self.least)
    }
}

impl Supervisor {
    pub(super) fn resize_requested(&mut self, change: impl Fn(Resize) -> Resize) {
        if self.phase.is_running() {
            self.resize_pending = Some(change(self.resize_pending.unwrap_or(Resize::NONE)));
        }
    }

    /// Carries out what was asked for. Not during a rollout, which has a count of its own.
    pub(super) fn resize(&mut self, now: Time) {
        let Some(resize) = self.resize_pending.take() else { return };
        let from = self.http_count();
        // A worker that needs the port alone cannot have a second one beside it.
        let most = if self.policy.overlap_allowed { HTTP_WORKERS_MAX.max(from) } else { from };
        let to = resize.of(from).min(most);
        self.report(Report::Resized { from, to });
        for slot in from..to {
            self.http.push(Slot::of(self.settled_generation));
            self.fill(now, Role::Http, slot, StartReason::ScaleUp);
        }
        self.truncate(now, Role::Http, to, StopReason::ScaleDown);
    }

    /// Gives up the slots from `count` on.
    pub(super) fn truncate(&mut self, now: Time, role: Role, count: u32, reason: StopReason) {
        let slots = self.slots(role);
        let gone = slots.split_off((count as usize).min(slots.len()));
        for (index, slot) in (count..).zip(gone) {
            match slot.current {
                Some(worker) => self.retire(now, worker, reason),
                None if role == Role::Http => self.close_slot_if_unused(index),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizes_add_up_as_if_each_had_been_carried_out_alone() {
        for (count, signals, expected) in
            [(2, "+", 3), (2, "-", 1), (1, "-", 1), (2, "---+", 2), (2, "+---", 1), (3, "--++", 3), (1, "-+-+", 2)]
        {
            let step = |resize: Resize, signal| if signal == '+' { resize.up() } else { resize.down() };
            assert_eq!(signals.chars().fold(Resize::NONE, step).of(count), expected, "{count} {signals}");
        }
    }
}
