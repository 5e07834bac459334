//! What the world tells the supervisor. Past participles: these things have happened.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::Policy;

/// What a worker is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Serves HTTP from a slot's socket or port.
    Http,
    /// Runs the job command beside the HTTP workers.
    Job,
}

/// One started process, named once and never again, in the order in which their starts are asked for. Pids live in the
/// driver only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkerId(pub u64);

/// Which configuration a worker was started from: 0 at boot, one more at each reload, a failed one too.
pub type Generation = u32;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It called exit with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl ExitStatus {
    /// The status as a shell reports it: 128 + N for signal N.
    pub fn shell(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// The status as a manager's exit code.
    pub fn exit_code(self) -> u8 {
        u8::try_from(self.shell()).unwrap_or(1)
    }
}

/// `exit_N` or `signal_N`, as lifecycle events print it.
impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit_{code}"),
            Self::Signal(signal) => write!(f, "signal_{signal}"),
        }
    }
}

/// How it is known that a worker can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// It sent `READY=1`.
    Notified,
    /// Its process group owns a listening socket on the port.
    Listening,
    /// Its process group waits on the inherited socket.
    Accepting,
    /// Nothing can be seen of it; the settling time is over.
    Unproven,
    /// It is a job worker: running is all there is.
    Running,
}

/// The word by which lifecycle events name it.
impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notified => "notified",
            Self::Listening => "listening",
            Self::Accepting => "accepting",
            Self::Unproven => "unproven",
            Self::Running => "running",
        })
    }
}

/// Why a process could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnError {
    /// True when trying again cannot help: the file is missing or cannot be executed.
    pub permanent: bool,
    /// What failed, for people.
    pub message: String,
}

/// A look at a worker's resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Open descriptors.
    pub fd_count: u64,
    /// Soft limit on descriptors.
    pub fd_limit: u64,
    /// Resident size in KiB.
    pub rss_kib: u64,
    /// What most descriptors point to, as the lifecycle log prints it.
    pub top_fd_targets: String,
}

/// The signals that end the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// Graceful; a second one is immediate.
    Term,
    /// As TERM.
    Int,
    /// Immediate.
    Quit,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The driver is set up; start the workers.
    BootRequested,
    /// A worker's process exists.
    Spawned {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's process could not be started.
    SpawnFailed {
        /// The worker that was to be.
        worker: WorkerId,
        /// Why not.
        error: SpawnError,
    },
    /// A worker's process was never started, because that was called off before its turn came ([`crate::Action::CallOff`]).
    SpawnAbandoned {
        /// The worker that was to be.
        worker: WorkerId,
    },
    /// A worker can serve.
    BecameReady {
        /// The worker.
        worker: WorkerId,
        /// How that is known.
        proof: Proof,
    },
    /// A worker sent `WATCHDOG=1`.
    HeartbeatReceived {
        /// The worker.
        worker: WorkerId,
    },
    /// A worker's process ended and was reaped.
    Exited {
        /// The worker.
        worker: WorkerId,
        /// How it ended.
        status: ExitStatus,
        /// Whether other processes of its group are still alive.
        group_alive: bool,
    },
    /// The last process of an exited worker's group is gone.
    GroupEmptied {
        /// The worker.
        worker: WorkerId,
    },
    /// The answer to `TurnAway`: nothing more is lost when the worker is told to leave.
    Drained {
        /// The worker.
        worker: WorkerId,
        /// How many connections waited in its queue, or were in use, when it was first looked at.
        waited: u32,
    },
    /// Connections cannot be turned away from anybody here, for a reason that stays.
    TurningAwayRefused,
    /// The answer to `CountConnections`.
    ConnectionsCut {
        /// The worker.
        worker: WorkerId,
        /// How many were in use.
        count: u32,
    },
    /// The answer to `Sample`.
    Sampled {
        /// The worker.
        worker: WorkerId,
        /// What was seen.
        sample: Sample,
    },
    /// TERM, INT or QUIT arrived.
    StopRequested {
        /// Which.
        signal: StopSignal,
    },
    /// HUP arrived.
    ReloadRequested,
    /// A worker has ended the socket that all workers hold, and there is another one, which only new workers get.
    SocketRenewed,
    /// The configuration was read for a reload and is valid.
    ConfigurationLoaded {
        /// The new policy.
        policy: Box<Policy>,
    },
    /// The configuration was read for a reload and cannot be used.
    ConfigurationRefused,
    /// TTIN arrived.
    ScaleUpRequested,
    /// TTOU arrived.
    ScaleDownRequested,
    /// USR1 arrived.
    LogReopenRequested,
    /// The time that `poll_timeout` named has come, and everything that has happened until then was told before.
    TimePassed,
}
