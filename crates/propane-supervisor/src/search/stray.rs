//! A connection of which it is not known whose it is, and what becomes of it.

use std::time::Duration;

use propane_core::Time;

use crate::http_probe::{Answer, HttpProbe, Progress};

/// When one that nobody has accepted may wait for something to come over it.
pub(super) const NUDGE_AFTER: Duration = Duration::from_millis(20);

/// How long one may wait to be accepted at least: it stays in a queue after it is closed.
const ACCEPT_PATIENCE: Duration = Duration::from_millis(250);

/// How long one may wait at least for an answer that alone can tell whose it is.
pub(crate) const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody has accepted it.
    Waiting,
    /// The server's end has this inode; `None` where the kernel does not tell.
    Accepted(Option<u64>),
    /// It does not show who has it, and so whoever has it was asked.
    Asked,
    /// Whoever has it has answered, and may have said who it is.
    Answered(Answer),
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    /// Begin a request that says nothing.
    Nudge,
    /// Ask whoever has it.
    Ask,
    Close,
}

impl Stage {
    /// Whether it tells whose the connection is, to whoever looks at workers.
    pub(super) fn tells(self) -> bool {
        matches!(self, Self::Accepted(_) | Self::Answered(_))
    }

    /// What to do at this age, when for so long nobody new was found.
    fn aged(self, age: Duration, calm: Duration) -> Fate {
        match self {
            Self::Waiting if age < NUDGE_AFTER => Fate::Keep,
            Self::Waiting if age < ACCEPT_PATIENCE.max(calm / 4) => Fate::Nudge,
            Self::Asked if age < ANSWER_PATIENCE.max(calm / 4) => Fate::Keep,
            Self::Waiting | Self::Asked | Self::Answered(Answer { worker_pid: None, .. }) => Fate::Close,
            Self::Accepted(_) | Self::Answered(_) => Fate::Keep,
        }
    }

    /// What to do when none of those who are sought has it, as far as that shows. Then it is another's; unless it does not
    /// show, in which case his answer has to say whose it is.
    fn unclaimed(self, shows: bool) -> Fate {
        match self {
            Self::Accepted(inode) if inode.is_none() || !shows => Fate::Ask,
            Self::Accepted(_) | Self::Answered(_) => Fate::Close,
            Self::Waiting | Self::Asked => Fate::Keep,
        }
    }
}

/// A connection of which it is not known whose it is.
#[derive(Debug)]
pub(super) struct Stray {
    pub(super) probe: HttpProbe,
    pub(super) stage: Stage,
    since: Time,
}

impl Stray {
    pub(super) fn new(probe: HttpProbe, since: Time) -> Self {
        Self { probe, stage: Stage::Waiting, since }
    }

    /// Takes in what has become of it; `shows` is whether the kernel tells of connections to its address. Returns whether
    /// it is still of use.
    pub(super) fn take_in(&mut self, now: Time, calm: Duration, shows: impl FnOnce() -> bool) -> bool {
        let age = now.since(self.since);
        let is_up = match self.stage {
            Stage::Waiting => {
                self.stage = self.look(age, shows);
                true
            }
            Stage::Asked => {
                let progress = self.probe.step();
                self.hear(progress)
            }
            Stage::Accepted(_) | Stage::Answered(_) => true,
        };
        is_up
            && match self.stage.aged(age, calm) {
                Fate::Nudge => self.probe.nudge() == Progress::Pending,
                fate => fate == Fate::Keep,
            }
    }

    /// None of those who are sought has it. Returns whether it may still tell whose it is.
    pub(super) fn let_go(&mut self, shows: bool, path: &str) -> bool {
        match self.stage.unclaimed(shows) {
            Fate::Ask => {
                self.stage = Stage::Asked;
                let progress = self.probe.ask(path);
                self.hear(progress)
            }
            fate => fate == Fate::Keep,
        }
    }

    /// Whether somebody has accepted it.
    fn look(&self, age: Duration, shows: impl FnOnce() -> bool) -> Stage {
        match self.probe.server_end() {
            Ok(Some(inode)) => Stage::Accepted(Some(inode)),
            Ok(None) if age < NUDGE_AFTER || shows() => Stage::Waiting,
            Ok(None) | Err(_) => Stage::Accepted(None),
        }
    }

    /// Returns whether there may be an answer, or is one.
    fn hear(&mut self, progress: Progress) -> bool {
        if let Progress::Answered(answer) = progress {
            self.stage = Stage::Answered(answer);
        }
        progress != Progress::Failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn answered(worker_pid: Option<i32>) -> Stage {
        Stage::Answered(Answer { status: 503, worker_pid })
    }

    #[test]
    fn one_is_kept_while_it_may_tell_whose_it_is() {
        use Fate::{Close, Keep, Nudge};
        // Its age and the calm, in ms.
        let table = [
            (Stage::Waiting, 19, 0, Keep),
            (Stage::Waiting, 20, 0, Nudge),
            (Stage::Waiting, 249, 0, Nudge),
            (Stage::Waiting, 250, 1_000, Close),
            (Stage::Waiting, 250, 1_004, Nudge),
            (Stage::Asked, 4_999, 0, Keep),
            (Stage::Asked, 5_000, 20_000, Close),
            (Stage::Asked, 5_000, 20_004, Keep),
            (Stage::Accepted(Some(7)), 9_999, 0, Keep),
            (Stage::Accepted(None), 9_999, 0, Keep),
            (answered(Some(7)), 9_999, 0, Keep),
            (answered(None), 0, 0, Close),
        ];
        for (stage, age, calm, expected) in table {
            let found = stage.aged(Duration::from_millis(age), Duration::from_millis(calm));
            assert_eq!(found, expected, "{stage:?} {age} {calm}");
        }
    }

    #[test]
    fn what_nobody_has_is_anothers_unless_it_does_not_show() {
        use Fate::{Ask, Close, Keep};
        let table = [
            (Stage::Waiting, Keep, Keep),
            (Stage::Asked, Keep, Keep),
            (Stage::Accepted(Some(7)), Close, Ask),
            (Stage::Accepted(None), Ask, Ask),
            (answered(Some(7)), Close, Close),
        ];
        for (stage, shown, hidden) in table {
            assert_eq!((stage.unclaimed(true), stage.unclaimed(false)), (shown, hidden), "{stage:?}");
        }
    }
}
