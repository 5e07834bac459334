//! USR1: the log is opened again, at once, as often as that was asked for.

use propane_core::{Action, Event};

use super::{Rule, Violation, ensure};

/// The rule about the log.
#[derive(Debug, Default)]
pub(crate) struct Reopening {
    /// How often the log is still to be opened in this step.
    owed: i32,
}

impl Reopening {
    /// `is_over` once the manager has left.
    pub(crate) fn event(&mut self, event: &Event, is_over: bool) {
        self.owed = i32::from(*event == Event::LogReopenRequested && !is_over);
    }

    pub(crate) fn action(&mut self, action: &Action) {
        self.owed -= i32::from(*action == Action::ReopenLog);
    }

    /// After a step.
    pub(crate) fn finish(&self, event: &Event) -> Result<(), Violation> {
        ensure(self.owed == 0, Rule::LogReopened, || format!("{} are owed after {event:?}", self.owed))
    }
}
