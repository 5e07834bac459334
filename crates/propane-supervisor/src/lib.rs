//! The Linux driver of `propane-core`: processes, signals, sockets, readiness.
//!
//! It makes no decisions. [`run`] takes a resolved configuration, turns it into the core's policy and the workers'
//! command lines, and then only carries events to the core and performs its actions.

mod adopted;
mod children;
mod clock;
mod collision;
mod diagnostics;
mod drain;
mod driver;
mod greeting;
mod group;
mod http_probe;
mod identity;
mod journal;
mod lifecycle;
mod memory;
mod neglect;
mod notify;
mod output;
mod pidfile;
mod plan;
mod poller;
mod prepare;
mod private_file;
mod procinfo;
mod program;
mod readiness;
mod reaper;
mod reload;
mod retire;
mod running;
mod search;
mod service_manager;
mod serving;
mod signals;
mod sockdiag;
mod sockets;
mod spawn;
mod startup;
mod state;
mod steering;
mod warden;

pub use diagnostics::install as install_diagnostics;
pub use running::{LastReload, NotRunning, RunningManager, running};
pub use startup::run;
pub use warden::{WARDEN, main as warden_main};
