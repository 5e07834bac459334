//! What the supervisor is asked to do: the part of the configuration that decisions need, in plain numbers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What to do when a worker ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RespawnMode {
    /// Replace it, for ever.
    Always,
    /// Leave the slot empty; end when no worker is left (`--no-respawn`).
    Never,
    /// End with the first HTTP worker that ends (`--once`).
    Once,
}

/// From which of the workers that leave for others new connections are turned away before TERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnAway {
    /// From nobody: the queue stays whoever leaves, or nothing can be done about it.
    Nobody,
    /// From those whose slot is given up, because its queue goes with it.
    LeavingSlots,
    /// From everybody: the queue is the worker's own.
    Everybody,
}

/// Thresholds on a worker's open file descriptors; 0 switches one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdLimits {
    /// Percent of the soft limit from which a warning is reported.
    pub warn_percent: u32,
    /// Percent of the soft limit from which the report says critical.
    pub critical_percent: u32,
    /// Percent of the soft limit from which the worker is replaced.
    pub retire_percent: u32,
    /// Number of descriptors from which the worker is replaced.
    pub retire_count: u32,
}

impl FdLimits {
    /// Whether any threshold is on.
    pub fn any(&self) -> bool {
        self.warn_percent > 0 || self.critical_percent > 0 || self.retire_percent > 0 || self.retire_count > 0
    }
}

/// Everything that the supervisor's decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// HTTP workers wanted (1 or more).
    pub http_workers: u32,
    /// Job workers wanted.
    pub job_workers: u32,
    /// Delay before an HTTP worker is replaced.
    pub respawn_delay: Duration,
    /// Where the growing delay of a crash loop ends; no growth when not above `respawn_delay`.
    pub respawn_delay_max: Duration,
    /// Delay before a job worker is replaced.
    pub job_respawn_delay: Duration,
    /// How long a worker may take to finish, from when it is turned away from or told, before KILL.
    pub graceful_timeout: Duration,
    /// How long a new generation must have been ready before the old one is retired.
    pub reload_overlap: Duration,
    /// How many extra workers a reload may run at once; 0 means a whole second set.
    pub reload_max_surge: u32,
    /// Whether a replacement may start while its predecessor still runs. False where both would need the port alone, and
    /// then there is one HTTP worker.
    pub overlap_allowed: bool,
    /// Who is turned away from before TERM.
    pub turn_away: TurnAway,
    /// How long a worker may take to become ready.
    pub boot_timeout: Duration,
    /// How long a worker that sends heartbeats may be silent.
    pub heartbeat_timeout: Option<Duration>,
    /// After what time a worker is replaced (±10 %).
    pub max_lifetime: Option<Duration>,
    /// Above which resident size, in KiB, a worker is replaced.
    pub max_rss_kib: Option<u64>,
    /// Thresholds on open descriptors.
    pub fd_limits: FdLimits,
    /// How often descriptors and memory are looked at.
    pub sample_interval: Duration,
    /// After how many failed boots in a row, when no worker was ever ready, the manager gives up; 0 means never.
    pub start_limit_burst: u32,
    /// How long to go on serving after the first TERM or INT.
    pub shutdown_drain: Duration,
    /// What to do when a worker ends by itself.
    pub respawn: RespawnMode,
}

/// The longest that TERM takes an orderly worker that has nothing left to finish.
const TERM_RESERVE_MAX: Duration = Duration::from_millis(500);

impl Policy {
    /// How long a worker that is turned away from may finish what it has before TERM. What is left of the grace time is
    /// for what TERM itself takes: a tenth of it, half a second at the most.
    pub fn drain_timeout(&self) -> Duration {
        self.graceful_timeout.saturating_sub(self.term_reserve())
    }

    /// What is kept of the grace time for what comes after TERM.
    pub fn term_reserve(&self) -> Duration {
        (self.graceful_timeout / 10).min(TERM_RESERVE_MAX)
    }

    /// Whether workers are looked at periodically at all.
    pub fn samples(&self) -> bool {
        self.respawn != RespawnMode::Once && (self.fd_limits.any() || self.max_rss_kib.is_some())
    }
}

/// The documented defaults (docs/settings.md), for tests and the simulator.
impl Default for Policy {
    fn default() -> Self {
        Self {
            http_workers: 4,
            job_workers: 0,
            respawn_delay: Duration::from_millis(250),
            respawn_delay_max: Duration::from_secs(30),
            job_respawn_delay: Duration::from_millis(250),
            graceful_timeout: Duration::from_secs(10),
            reload_overlap: Duration::from_secs(1),
            reload_max_surge: 0,
            overlap_allowed: true,
            turn_away: TurnAway::Nobody,
            boot_timeout: Duration::from_mins(1),
            heartbeat_timeout: None,
            max_lifetime: None,
            max_rss_kib: None,
            fd_limits: FdLimits { warn_percent: 80, critical_percent: 90, retire_percent: 0, retire_count: 0 },
            sample_interval: Duration::from_secs(15),
            start_limit_burst: 0,
            shutdown_drain: Duration::ZERO,
            respawn: RespawnMode::Always,
        }
    }
}
