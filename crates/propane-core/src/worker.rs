//! One worker's life.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{ExitStatus, Generation, Proof, Role, Sample};
use crate::policy::FdLimits;
use crate::report::{FdSeverity, RecycleReason, StartReason, StopReason};
use crate::time::Time;

/// Where a worker is in its life. A deadline lives in the state that waits for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// The driver was asked to start it. `doomed` if it must leave as soon as it exists.
    Spawning {
        /// Why it must leave.
        doomed: Option<Doom>,
    },
    /// It runs, and is not known to serve yet.
    Starting {
        /// When it is killed for not being ready.
        ready_by: Time,
    },
    /// It serves.
    Ready,
    /// New connections go to others; TERM follows when it has finished.
    TurnedAway {
        /// Why.
        reason: StopReason,
        /// When.
        since: Time,
        /// When TERM follows whatever it has left.
        term_by: Time,
        /// When KILL follows.
        kill_at: Time,
    },
    /// It was sent TERM.
    Draining {
        /// Why.
        reason: StopReason,
        /// When.
        since: Time,
        /// When KILL follows.
        kill_at: Time,
    },
    /// It went silent and was sent ABRT.
    Aborting {
        /// When KILL follows.
        kill_at: Time,
    },
    /// It was sent KILL.
    Killed {
        /// Why.
        reason: StopReason,
        /// When it was first told to leave.
        since: Time,
    },
    /// Its leader is gone, other processes of its group are not.
    Lingering {
        /// Why it was told to leave.
        reason: StopReason,
        /// When.
        since: Time,
        /// How the leader ended.
        status: ExitStatus,
        /// When the group is killed; `None` once it was.
        kill_at: Option<Time>,
    },
}

/// A stop that waits for the process to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// Why.
    pub reason: StopReason,
    /// Whether it is to be killed rather than asked.
    pub kill: bool,
}

/// A worker in the books: from the request to start it until the last of its group is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// What it is for.
    pub role: Role,
    /// Its slot.
    pub slot: u32,
    /// The configuration it was started from.
    pub generation: Generation,
    /// Why it was started.
    pub reason: StartReason,
    /// Where it is in its life.
    pub state: State,
    /// When it was started.
    pub started_at: Time,
    /// How it was found ready, if it was.
    pub proof: Option<Proof>,
    /// How long it may be silent once it has sent a heartbeat, as it was told when it was started.
    pub heartbeat_timeout: Option<Duration>,
    /// When it counts as hung, once it has sent a heartbeat.
    pub heartbeat_by: Option<Time>,
    /// Whether it was given more time since its last heartbeat, because the manager came late.
    pub reprieved: bool,
    /// When it has lived long enough.
    pub expires_at: Option<Time>,
    /// What its last sample said of its descriptors.
    pub fd_severity: FdSeverity,
    /// Samples in a row with too much memory.
    pub rss_strikes: u8,
    /// Whether its replacement is asked for already.
    pub recycling: bool,
    /// Whether its connections were counted when they were cut.
    pub counted: bool,
}

impl Worker {
    /// A worker that is about to be started.
    pub fn new(role: Role, slot: u32, generation: Generation, reason: StartReason, now: Time) -> Self {
        Self {
            role,
            slot,
            generation,
            reason,
            state: State::Spawning { doomed: None },
            started_at: now,
            proof: None,
            heartbeat_timeout: None,
            heartbeat_by: None,
            reprieved: false,
            expires_at: None,
            fd_severity: FdSeverity::Fine,
            rss_strikes: 0,
            recycling: false,
            counted: false,
        }
    }

    /// Whether it has ever been able to serve.
    pub fn was_ready(&self) -> bool {
        self.proof.is_some()
    }

    /// Whether it serves now.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether it is meant to stay: nobody has told it to leave.
    pub fn is_wanted(&self) -> bool {
        matches!(self.state, State::Spawning { doomed: None } | State::Starting { .. } | State::Ready)
    }

    /// Whether it is not started yet, and must leave as soon as it is: then its start is called off.
    pub(crate) fn is_doomed(&self) -> bool {
        matches!(self.state, State::Spawning { doomed: Some(_) })
    }

    /// The earliest moment at which something is due for it.
    pub fn deadline(&self) -> Option<Time> {
        match &self.state {
            State::Spawning { .. } | State::Killed { .. } => None,
            State::Starting { ready_by } => min(Some(*ready_by), self.heartbeat_by),
            State::Ready => min(self.heartbeat_by, self.expires_at.filter(|_| !self.recycling)),
            State::TurnedAway { term_by, .. } => Some(*term_by),
            State::Draining { kill_at, .. } | State::Aborting { kill_at } => Some(*kill_at),
            State::Lingering { kill_at, .. } => *kill_at,
        }
    }

    /// Waits for it anew, because the manager was asleep and may not have heard what it said meanwhile. Shifting its
    /// deadlines by that time would not do: the one that was to wake the manager up would be due at this very moment.
    pub fn forgive(&mut self, now: Time, boot_timeout: Duration) {
        if let State::Starting { ready_by } = &mut self.state {
            *ready_by = now + boot_timeout;
        }
        if self.heartbeat_by.is_some() {
            self.heartbeat_by = self.heartbeat_timeout.map(|timeout| now + timeout);
        }
    }

    /// Waits a little longer for a heartbeat, once, when its deadline was passed by more than a punctual manager would: then
    /// the worker may not have run either, and has a heartbeat to send that it was kept from. True if so.
    pub fn reprieve(&mut self, now: Time) -> bool {
        let late = self.heartbeat_by.is_some_and(|by| now.since(by) > PUNCTUAL);
        let granted = late && !self.reprieved;
        if granted {
            self.reprieved = true;
            self.heartbeat_by = Some(now + REPRIEVE);
        }
        granted
    }

    /// Takes in a sample: the severity if it got worse, and why the worker should be replaced if it should.
    pub fn judge(
        &mut self,
        sample: &Sample,
        fd_limits: &FdLimits,
        max_rss_kib: Option<u64>,
    ) -> (Option<FdSeverity>, Option<RecycleReason>) {
        let severity = fd_severity(sample, fd_limits);
        let worse = (severity > self.fd_severity).then_some(severity);
        self.fd_severity = severity;
        let over = max_rss_kib.is_some_and(|max| sample.rss_kib > max);
        self.rss_strikes = if over { self.rss_strikes.saturating_add(1) } else { 0 };
        let heavy = (self.rss_strikes >= RSS_STRIKES).then_some(RecycleReason::MaxRss);
        (worse, fd_recycle_reason(sample, fd_limits).or(heavy))
    }
}

/// How late a manager may be that was free to run all the time.
const PUNCTUAL: Duration = Duration::from_millis(20);

/// How long a worker that may have been paused as well has for the heartbeat that it could not send.
const REPRIEVE: Duration = Duration::from_secs(1);

/// How many samples in a row must be over `workerMaxRSSMB`: one is a spike, three are a leak.
const RSS_STRIKES: u8 = 3;

/// The percentage of its descriptor limit that a worker uses.
pub fn fd_usage_percent(sample: &Sample) -> u64 {
    sample.fd_count.saturating_mul(100).checked_div(sample.fd_limit).unwrap_or(0)
}

fn fd_severity(sample: &Sample, limits: &FdLimits) -> FdSeverity {
    let used = fd_usage_percent(sample);
    let reached = |percent: u32| percent > 0 && used >= u64::from(percent);
    if reached(limits.critical_percent) {
        FdSeverity::Critical
    } else if reached(limits.warn_percent) {
        FdSeverity::Warning
    } else {
        FdSeverity::Fine
    }
}

fn fd_recycle_reason(sample: &Sample, limits: &FdLimits) -> Option<RecycleReason> {
    if limits.retire_count > 0 && sample.fd_count >= u64::from(limits.retire_count) {
        Some(RecycleReason::FdCount)
    } else if limits.retire_percent > 0 && fd_usage_percent(sample) >= u64::from(limits.retire_percent) {
        Some(RecycleReason::FdPercent)
    } else {
        None
    }
}

/// The earlier of two deadlines, where there are any.
fn min(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> Worker {
        Worker::new(Role::Http, 0, 0, StartReason::Boot, Time::default())
    }

    fn sample(fd_count: u64, rss_kib: u64) -> Sample {
        Sample { fd_count, fd_limit: 100, rss_kib, top_fd_targets: String::new() }
    }

    #[test]
    fn descriptor_thresholds_follow_the_table() {
        let limits = |warn_percent, critical_percent, retire_percent, retire_count| FdLimits {
            warn_percent,
            critical_percent,
            retire_percent,
            retire_count,
        };
        let table = [
            (79, limits(80, 90, 0, 0), None, None),
            (80, limits(80, 90, 0, 0), Some(FdSeverity::Warning), None),
            (90, limits(80, 90, 0, 0), Some(FdSeverity::Critical), None),
            (100, limits(0, 0, 0, 0), None, None),
            (50, limits(0, 0, 50, 0), None, Some(RecycleReason::FdPercent)),
            (50, limits(0, 0, 50, 50), None, Some(RecycleReason::FdCount)),
            (49, limits(0, 0, 50, 50), None, None),
        ];
        for (count, limits, severity, reason) in table {
            assert_eq!(worker().judge(&sample(count, 0), &limits, None), (severity, reason), "{count} {limits:?}");
        }
    }

    #[test]
    fn severity_is_told_when_it_gets_worse_only() {
        let limits = FdLimits { warn_percent: 80, critical_percent: 90, retire_percent: 0, retire_count: 0 };
        let mut worker = worker();
        let told: Vec<_> =
            [85, 86, 95, 85, 95, 10, 85].map(|count| worker.judge(&sample(count, 0), &limits, None).0).to_vec();
        let (warning, critical) = (Some(FdSeverity::Warning), Some(FdSeverity::Critical));
        assert_eq!(told, [warning, None, critical, None, critical, None, warning]);
    }

    #[test]
    fn memory_must_be_over_in_three_samples_in_a_row() {
        let mut worker = worker();
        let limits = FdLimits { warn_percent: 0, critical_percent: 0, retire_percent: 0, retire_count: 0 };
        let told: Vec<_> =
            [11, 11, 10, 11, 11, 11].map(|rss| worker.judge(&sample(0, rss), &limits, Some(10)).1).to_vec();
        assert_eq!(told, [None, None, None, None, None, Some(RecycleReason::MaxRss)]);
    }
}
