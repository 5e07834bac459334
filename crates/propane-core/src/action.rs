//! What the supervisor asks the driver to do. Imperatives: do this now.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::event::{Generation, Role, WorkerId};
use crate::report::{Report, ShutdownCause};

/// A signal for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// Finish and leave. The driver sends CONT as well, so that a stopped process gets it.
    Term,
    /// Dump core.
    Abort,
    /// End at once; always to the whole process group.
    Kill,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Start a process; answer with `Spawned`, `SpawnFailed` or, for one that was called off before, `SpawnAbandoned`. The
    /// answer may take its time: other events may come before it.
    Spawn {
        /// The name it gets.
        worker: WorkerId,
        /// What it is for.
        role: Role,
        /// Its slot, 0..N-1.
        slot: u32,
        /// The configuration it is started from.
        generation: Generation,
    },
    /// Do not start this worker, if that has not begun; answer with `SpawnAbandoned`, or, where it has, with nothing.
    CallOff {
        /// The worker that was to be.
        worker: WorkerId,
    },
    /// Send a signal: KILL to the process group, others to the leader of an HTTP worker while there is one, and to the
    /// group of a job worker.
    Signal {
        /// To whom.
        worker: WorkerId,
        /// What.
        signal: Signal,
    },
    /// Give new connections to others from now on, and answer with `Drained` when nobody waits in its queue any more and
    /// what it has to finish before it can be told is finished; at once where there is nothing to wait for.
    TurnAway {
        /// The worker that leaves.
        worker: WorkerId,
    },
    /// Look how many connections of a worker are in use; answer with `ConnectionsCut`, or not at all. The signal that
    /// cuts them is the next action.
    CountConnections {
        /// The worker.
        worker: WorkerId,
    },
    /// Read the configuration again, for this generation; answer with `ConfigurationLoaded` or `ConfigurationRefused`.
    LoadConfiguration {
        /// The generation that it would become.
        generation: Generation,
    },
    /// Look at a worker's resources; answer with `Sampled`, or not at all.
    Sample {
        /// The worker.
        worker: WorkerId,
    },
    /// No worker will use this HTTP slot any more.
    CloseSlot {
        /// The slot.
        slot: u32,
    },
    /// Only these generations can still be spawned from.
    KeepGenerations {
        /// The generations.
        generations: BTreeSet<Generation>,
    },
    /// Open the lifecycle log again.
    ReopenLog,
    /// Tell the operator.
    Report(Report),
    /// Everything has ended: leave.
    Exit {
        /// The exit code.
        code: u8,
        /// Why.
        cause: ShutdownCause,
    },
}
