//! The Linux driver of `propane-core`: processes, signals, sockets, readiness.
