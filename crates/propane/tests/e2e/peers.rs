//! Servers that others wrote, under `workerCommand`, through ten reloads with a load of new connections.
//!
//! A peer that is not installed is skipped, and said so; with `PROPANE_REQUIRE_PEERS` set, as in CI, it is a failure.

use std::path::{Path, PathBuf};

use propane_load::{Load, Mode};

use crate::support::{App, PATIENCE};

/// Where the fixtures are.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/workers").join(name).canonicalize().unwrap()
}

/// Whether a program can be had. One that must be there and is not fails the test.
pub(crate) fn has(program: &str) -> bool {
    let found =
        std::process::Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("PROPANE_REQUIRE_PEERS").is_none(), "{program} is required and not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Ten reloads under load. Returns the number of failed requests, and what to show if they are too many.
fn failures_over_ten_reloads(command: &str) -> (u64, String) {
    let app = App::new(&format!(
        "propaneAccessories = {{ workerCount = 2; reloadOverlapSeconds = 0; workerCommand = \"{command}\"; }};"
    ));
    let manager = app.start_ready(&[]);
    let load = Load::start(app.address, 16, Mode::NewConnections);
    for generation in 1..=10 {
        load.wait_for_more(20, PATIENCE).unwrap();
        assert!(manager.reload(generation).contains("manager_reload_completed"), "{}", manager.diagnostics());
    }
    load.wait_for_more(20, PATIENCE).unwrap();
    let report = load.stop();
    assert!(report.ok > 200, "{report}");
    let shown = format!("{report}\n{}", manager.stop());
    (report.failures(), shown)
}

#[test]
fn gunicorn_inherits_its_socket_and_loses_nothing() {
    if has("gunicorn") {
        let app = fixture("gunicorn");
        let command = format!("gunicorn --bind fd://{{fd}} --workers 1 --chdir {} app:app", app.display());
        let (failures, shown) = failures_over_ten_reloads(&command);
        assert_eq!(failures, 0, "{shown}");
    }
}

#[test]
fn node_inherits_its_socket_and_loses_nothing() {
    if has("node") {
        let (failures, shown) =
            failures_over_ten_reloads(&format!("node {} {{fd}}", fixture("node/server.js").display()));
        assert_eq!(failures, 0, "{shown}");
    }
}

#[test]
fn a_worker_that_binds_by_itself_reloads() {
    if has("python3") {
        let (failures, shown) =
            failures_over_ten_reloads(&format!("python3 {}", fixture("selfbind/server.py").display()));
        // Without steering, what waits in a leaving worker's queue is lost; the reload itself must not add to it.
        assert!(failures < 200, "{shown}");
    }
}
