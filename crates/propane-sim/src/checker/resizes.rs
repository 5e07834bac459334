//! TTIN and TTOU: one worker more, one less, one after the other, and none of them lost.

use propane_core::{Action, Event, Report};

use super::{Context, Rule, Violation, ensure};

/// The most HTTP workers there can be.
const MOST: u32 = 1024;

/// The rules about resizing.
#[derive(Debug, Default)]
pub(crate) struct Resizes {
    /// What was asked for and not yet done: true for one more.
    asked: Vec<bool>,
}

impl Resizes {
    pub(crate) fn event(&mut self, event: &Event, running: bool) {
        match event {
            Event::ScaleUpRequested if running => self.asked.push(true),
            Event::ScaleDownRequested if running => self.asked.push(false),
            // A reload goes back to the configured count.
            Event::ReloadRequested | Event::SocketRenewed if running => self.asked.clear(),
            _ => {}
        }
    }

    pub(crate) fn action(&mut self, context: &Context, action: &Action) -> Result<(), Violation> {
        let Action::Report(Report::Resized { from, to }) = action else { return Ok(()) };
        let most = if context.policy.overlap_allowed { MOST.max(*from) } else { *from };
        let step = |count: u32, more: &bool| if *more { count + 1 } else { count.saturating_sub(1).max(1) };
        let expected = self.asked.iter().fold(*from, step).min(most);
        let asked = std::mem::take(&mut self.asked);
        ensure(!asked.is_empty() && *to == expected, Rule::ResizesAddUp, || format!("{action:?} for {asked:?}"))
    }

    /// Whether nothing is left to do. A rollout may be in the way for a while.
    pub(crate) fn is_done(&self) -> bool {
        self.asked.is_empty()
    }
}
