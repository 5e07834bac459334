//! What is worth telling the operator: the lifecycle events of ARLEN-CONTRACT A8 and propane's own, as values.
//! The driver adds pids and prints them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::{ExitStatus, Generation, Proof, Role, Sample, StopSignal, WorkerId};

/// Who asks for a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReloadCause {
    /// HUP.
    Hup,
    /// Nobody: a worker has ended the socket that all workers hold, and only new ones get the one in its place.
    SocketRenewed,
}

/// Why a worker was replaced while it was well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecycleReason {
    /// `workerMaxLifetimeSeconds`.
    MaxLifetime,
    /// `workerMaxRSSMB`, in three samples in a row.
    MaxRss,
    /// `workerFDRetireCount`.
    FdCount,
    /// `workerFDRetirePercent`.
    FdPercent,
}

impl RecycleReason {
    /// The part that start and stop reasons share.
    fn stem(self) -> &'static str {
        match self {
            Self::MaxLifetime => "max_lifetime",
            Self::MaxRss => "max_rss",
            Self::FdCount | Self::FdPercent => "fd_pressure",
        }
    }

    /// The threshold, as `worker_fd_pressure_retire_requested` names it.
    pub fn threshold(self) -> &'static str {
        match self {
            Self::MaxLifetime => "max_lifetime",
            Self::MaxRss => "max_rss",
            Self::FdCount => "fd_count_threshold",
            Self::FdPercent => "fd_percent_threshold",
        }
    }
}

/// Why a worker was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartReason {
    /// The manager started.
    Boot,
    /// Its predecessor ended by itself.
    RespawnAfterExit,
    /// Its predecessor is being recycled.
    Recycle(RecycleReason),
    /// A reload.
    Reload(Generation),
    /// TTIN.
    ScaleUp,
}

impl fmt::Display for StartReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("boot"),
            Self::RespawnAfterExit => f.write_str("respawn_after_exit"),
            Self::Recycle(reason) => write!(f, "respawn_after_{}", reason.stem()),
            Self::Reload(generation) => write!(f, "reload_generation_{generation}"),
            Self::ScaleUp => f.write_str("scale_up"),
        }
    }
}

/// Why a worker was told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopReason {
    /// The manager stops.
    Shutdown(ShutdownCause),
    /// A newer generation took its slot.
    ReloadRetire(Generation),
    /// It belongs to a generation that failed.
    ReloadAbort(Generation),
    /// It is being recycled.
    Recycle(RecycleReason),
    /// It was to replace a recycled worker, and that was given up.
    RecycleAbort,
    /// TTOU.
    ScaleDown,
    /// It did not become ready in time.
    BootTimeout,
    /// It went silent.
    HeartbeatTimeout,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shutdown(cause) => cause.fmt(f),
            Self::ReloadRetire(generation) => write!(f, "reload_retire_generation_{generation}"),
            Self::ReloadAbort(generation) => write!(f, "reload_abort_generation_{generation}"),
            Self::Recycle(reason) => write!(f, "{}_retire", reason.stem()),
            Self::RecycleAbort => f.write_str("recycle_abort"),
            Self::ScaleDown => f.write_str("scale_down"),
            Self::BootTimeout => f.write_str("boot_timeout"),
            Self::HeartbeatTimeout => f.write_str("watchdog_timeout"),
        }
    }
}

/// Why the manager stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShutdownCause {
    /// An operator's signal.
    Signal(StopSignal),
    /// `--once`, and a worker ended.
    OnceWorkerExit,
    /// `--no-respawn`, and no worker is left.
    WorkersExhausted,
    /// A worker cannot be executed at all.
    BootFailed,
    /// `startLimitBurst` failed boots in a row.
    StartLimit,
}

impl fmt::Display for ShutdownCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal(StopSignal::Term) => "signal_term",
            Self::Signal(StopSignal::Int) => "signal_int",
            Self::Signal(StopSignal::Quit) => "signal_quit",
            Self::OnceWorkerExit => "once_mode_worker_exit",
            Self::WorkersExhausted => "workers_exhausted_no_respawn",
            Self::BootFailed => "boot_failed",
            Self::StartLimit => "start_limit",
        })
    }
}

/// Why a reload left the old generation in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReloadFailure {
    /// The configuration cannot be used.
    Configuration,
    /// A new worker could not be started.
    SpawnFailed,
    /// A new worker ended before the switch.
    WorkerExited(ExitStatus),
    /// A new worker was not ready in time.
    BootTimeout,
    /// A new worker went silent before the switch.
    HeartbeatTimeout,
    /// The manager was told to stop.
    Shutdown,
}

impl ReloadFailure {
    /// The reason as lifecycle events print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::SpawnFailed => "spawn_failed",
            Self::WorkerExited(_) => "worker_exited",
            Self::BootTimeout => "boot_timeout",
            Self::HeartbeatTimeout => "watchdog_timeout",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How near a worker is to its descriptor limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FdSeverity {
    /// Below every threshold.
    #[default]
    Fine,
    /// `workerFDWarnPercent` reached.
    Warning,
    /// `workerFDCriticalPercent` reached.
    Critical,
}

/// One thing worth telling.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A worker's process exists.
    WorkerStarted {
        /// The worker.
        worker: WorkerId,
        /// Why it was started.
        reason: StartReason,
    },
    /// A worker could not be started.
    WorkerSpawnFailed {
        /// What it would have been for.
        role: Role,
        /// Its slot.
        slot: u32,
        /// Its generation.
        generation: Generation,
        /// Why not.
        message: String,
        /// When it is tried again, if it is.
        retry_in: Option<Duration>,
    },
    /// A worker can serve.
    WorkerReady {
        /// The worker.
        worker: WorkerId,
        /// Time since its start.
        after: Duration,
        /// How that is known.
        proof: Proof,
    },
    /// Every worker of the boot is ready for the first time.
    ManagerReady {
        /// How many HTTP workers.
        workers: u32,
        /// Time since the boot.
        after: Duration,
    },
    /// A worker ended by itself.
    WorkerExited {
        /// The worker.
        worker: WorkerId,
        /// How.
        status: ExitStatus,
        /// In what time it is replaced, if it is.
        respawn_in: Option<Duration>,
    },
    /// A worker leaves: new connections go to others.
    WorkerTurnedAway {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: StopReason,
    },
    /// A worker that is turned away from has finished.
    WorkerDrained {
        /// The worker.
        worker: WorkerId,
        /// Time since it was turned away from.
        after: Duration,
        /// How many connections it had to finish.
        waited: u32,
    },
    /// A worker that is turned away from is told although it has not finished.
    WorkerDrainTimedOut {
        /// The worker.
        worker: WorkerId,
        /// The limit.
        timeout: Duration,
    },
    /// A signal has cut connections of a worker that was given no more time.
    WorkerConnectionsCut {
        /// The worker.
        worker: WorkerId,
        /// How many.
        count: u32,
    },
    /// A worker was told to leave.
    WorkerStopRequested {
        /// The worker.
        worker: WorkerId,
        /// True for KILL, false for TERM.
        kill: bool,
        /// Why.
        reason: StopReason,
        /// Whether this is what the end of its grace time brought.
        grace_over: bool,
    },
    /// A worker that was told to leave is gone.
    WorkerStopped {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        status: ExitStatus,
        /// Why it was told to.
        reason: StopReason,
        /// Time since it was told.
        after: Duration,
    },
    /// A worker was not ready in time and is killed.
    WorkerBootTimedOut {
        /// The worker.
        worker: WorkerId,
        /// The limit.
        timeout: Duration,
    },
    /// A worker went silent and is aborted.
    WorkerHeartbeatTimedOut {
        /// The worker.
        worker: WorkerId,
        /// The limit.
        timeout: Duration,
    },
    /// A worker's descriptors have reached a threshold.
    WorkerFdPressure {
        /// The worker.
        worker: WorkerId,
        /// Which threshold.
        severity: FdSeverity,
        /// What was seen.
        sample: Sample,
    },
    /// A worker will be replaced.
    WorkerRecycleRequested {
        /// The worker.
        worker: WorkerId,
        /// Why.
        reason: RecycleReason,
        /// What was seen, where a sample was the reason.
        sample: Option<Sample>,
    },
    /// The replacement of a worker to recycle failed; the worker stays.
    WorkerRecycleFailed {
        /// Its slot.
        slot: u32,
        /// What went wrong.
        failure: ReloadFailure,
    },
    /// A reload is wanted.
    ReloadRequested {
        /// Who wants it.
        cause: ReloadCause,
    },
    /// A reload begins.
    ReloadStarted {
        /// Its generation.
        generation: Generation,
        /// HTTP workers wanted.
        workers: u32,
        /// Job workers wanted.
        job_workers: u32,
    },
    /// A reload is done.
    ReloadCompleted {
        /// Its generation.
        generation: Generation,
        /// HTTP workers that run.
        workers: u32,
        /// Job workers that run.
        job_workers: u32,
        /// Time since it began.
        after: Duration,
        /// Old workers that were killed because their grace time was over.
        killed: u32,
        /// Connections of old workers that were cut because their time was over.
        cut: u32,
    },
    /// A reload failed.
    ReloadFailed {
        /// Its generation.
        generation: Generation,
        /// Why.
        failure: ReloadFailure,
        /// Slots that run the new generation all the same.
        replaced: u32,
        /// Slots that should.
        of: u32,
    },
    /// TTIN or TTOU changed the number of workers.
    Resized {
        /// HTTP workers wanted before.
        from: u32,
        /// HTTP workers wanted now.
        to: u32,
    },
    /// The manager was told to stop, or has a reason of its own.
    ShutdownRequested {
        /// Why.
        cause: ShutdownCause,
        /// The exit code, where the reason is its own.
        exit_status: Option<u8>,
    },
    /// The workers are being stopped.
    ManagerStopping {
        /// Why.
        cause: ShutdownCause,
        /// What the manager will exit with.
        exit_code: u8,
    },
}
