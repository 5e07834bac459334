//! The manager as its operators meet it: real processes, real signals, real sockets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod axum;
mod drop_in;
mod faults;
mod hygiene;
mod jobs;
mod kernel;
mod lifecycle;
mod listening;
mod lossless;
mod peers;
mod ready;
mod reload;
mod running;
mod start;
mod steer;
mod stop;
mod support;
