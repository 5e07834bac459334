//! HTTP worker runtime and the embedded worker.
