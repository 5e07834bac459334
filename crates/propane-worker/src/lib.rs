//! The worker's side of `propane`: an HTTP server for any tower service that starts, reports and ends the way the
//! manager expects, and the embedded worker built on it.
//!
//! ```no_run
//! # async fn run<S>(app: S) -> Result<(), Box<dyn std::error::Error>>
//! # where
//! #     S: tower::Service<
//! #             hyper::Request<propane_worker::Body>,
//! #             Response = hyper::Response<String>,
//! #             Error = std::convert::Infallible,
//! #         > + Clone + Send + 'static,
//! #     S::Future: Send + 'static,
//! # {
//! propane_worker::Server::from_env()?.serve(app).await?;
//! # Ok(())
//! # }
//! ```
//!
//! It knows nothing of the manager's code. They share the environment and socket protocols only: `ARLEN_*` settings,
//! `LISTEN_FDS` for an inherited socket, `NOTIFY_SOCKET` for `READY=1` and `WATCHDOG=1`, SIGTERM for the drain.

mod access_log;
mod activity;
#[cfg(feature = "axum")]
pub mod axum;
mod body;
mod cluster;
mod connection;
mod drive;
pub mod embedded;
mod endpoints;
mod guard;
mod identity;
mod inherited;
mod lazily;
mod life;
mod listener;
mod metrics;
mod notify;
mod own_headers;
mod refusal;
mod request;
mod server;
mod settings;
mod shutdown;
mod stderr;
mod turns;
mod upgrade;
mod variables;
mod worker;

pub use body::{Body, BodyError};
pub use listener::{ListenError, Peer};
pub use server::{Listening, ServeError, Server};
pub use settings::{Cluster, Limits, LogFormat, Observability, RequestLimits, Settings, Socket, Turns};
pub use shutdown::Shutdown;
pub use variables::{BadVariables, Problem};
