//! The supervisor's decisions: state, event and time in, actions out.
//!
//! Nothing here knows a pid, a clock, a random number generator or an operating system: a driver feeds [`Event`]s and the
//! time into a [`Supervisor`] and performs the [`Action`]s that come out. The contract for drivers:
//!
//! 1. one [`Supervisor::handle_event`],
//! 2. then [`Supervisor::poll_action`] until it returns `None`, feeding back what the actions cause,
//! 3. only then wait, until the next event or until [`Supervisor::poll_timeout`], whichever comes first; when its time has
//!    come, [`Event::TimePassed`] follows all events that are there already.
//!
//! Every [`Action::Spawn`] is answered, once, and that answer comes before anything else about that worker; every end of
//! a process is told, once, and [`Event::GroupEmptied`] follows where others of its group were alive. In return the
//! supervisor names only workers that it knows of, signals only those that it was told are alive, and after
//! [`Action::Exit`] has nothing to say and nothing to wait for. `propane-sim` checks both halves.
//!
//! ```
//! use propane_core::{Action, Event, Policy, Supervisor, Time};
//!
//! let mut supervisor = Supervisor::new(Policy::default(), 7);
//! supervisor.handle_event(Time::from_micros(0), Event::BootRequested);
//! assert!(matches!(supervisor.poll_action(), Some(Action::Spawn { slot: 0, .. })));
//! ```

mod action;
mod event;
mod policy;
mod report;
mod restart;
mod rng;
mod supervisor;
mod time;
mod worker;

pub use action::{Action, Signal};
pub use event::{Event, ExitStatus, Generation, Proof, Role, Sample, SpawnError, StopSignal, WorkerId};
pub use policy::{FdLimits, Policy, RespawnMode, TurnAway};
pub use report::{
    FdSeverity, RecycleReason, ReloadCause, ReloadFailure, Report, ShutdownCause, StartReason, StopReason,
};
pub use supervisor::{Phase, SlotStatus, Status, Supervisor};
pub use time::Time;
pub use worker::{Doom, State, Worker, fd_usage_percent};
