//! TTIN and TTOU: one worker more or less.

use crate::event::Role;
use crate::report::{Report, StartReason, StopReason};
use crate::time::Time;

use super::{Slot, Supervisor};

/// The most workers there can be, as `workerCount` has it.
const HTTP_WORKERS_MAX: u32 = 1024;

impl Supervisor {
    pub(super) fn resize_requested(&mut self, delta: i32) {
        if self.phase.is_running() {
            self.resize_pending += delta;
        }
    }

    /// Carries out what was asked for. Not during a rollout, which has a count of its own.
    pub(super) fn resize(&mut self, now: Time) {
        let delta = std::mem::take(&mut self.resize_pending);
        let from = self.http_count();
        let to = from.saturating_add_signed(delta).clamp(1, HTTP_WORKERS_MAX.max(from));
        if delta == 0 {
            return;
        }
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
                None => self.close_slot_if_unused(role, index),
            }
        }
    }
}
