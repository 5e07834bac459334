//! The table of requests and answers, put to the embedded worker and to an app on the library.

#![allow(clippy::unwrap_used, reason = "a failure of the helpers is a failure of the test")]

mod support;

use propane_conformance::{Limits, check, check_session_limit, rows};
use support::{Launch, local};

/// Puts every row to the worker that `launch` starts.
fn conforms(launch: Launch, limits: Limits) {
    let port = propane_load::free_port();
    let _worker = launch.port(port).ready();
    let differences: Vec<String> =
        rows(limits).iter().filter_map(|row| check(local(port), row).err()).map(|d| d.to_string()).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_embedded_worker_answers_as_it_must() {
    let root = tempfile::tempdir().unwrap();
    conforms(Launch::embedded(root.path()), Limits::default());
}

#[test]
fn an_app_on_the_library_answers_as_it_must() {
    conforms(Launch::app(), Limits::default());
}

#[test]
fn limits_come_from_the_environment() {
    let limits = Limits { line_bytes: 100, head_bytes: 400, body_bytes: 10 };
    let launch = Launch::app()
        .set("ARLEN_MAX_REQUEST_LINE_BYTES", "100")
        .set("ARLEN_MAX_HEADER_BYTES", "400")
        .set("ARLEN_MAX_BODY_BYTES", "10");
    conforms(launch, limits);
    let limits = Limits { line_bytes: 60_000, head_bytes: 2_000_000, body_bytes: 5_000_000 };
    let launch = Launch::app()
        .set("ARLEN_MAX_REQUEST_LINE_BYTES", "60000")
        .set("ARLEN_MAX_HEADER_BYTES", "2000000")
        .set("ARLEN_MAX_BODY_BYTES", "5000000");
    conforms(launch, limits);
}

#[test]
fn the_session_limit_is_arlens_to_the_byte() {
    for sessions in [1, 300] {
        let port = propane_load::free_port();
        let _worker = Launch::app().port(port).set("ARLEN_MAX_HTTP_SESSIONS", sessions.to_string()).ready();
        check_session_limit(local(port), sessions).map_err(|difference| difference.to_string()).unwrap();
    }
}
