//! What tests with servers that others wrote need, and one of those servers.
//!
//! A peer that is not installed is skipped, and said so; with `PROPANE_REQUIRE_PEERS` set, as in CI, it is a failure.

use std::path::{Path, PathBuf};

use propane_load::Mode;

use crate::lossless::{reload_under_load, reloads};
use crate::support::App;

/// Where the fixtures are.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/workers").join(name).canonicalize().unwrap()
}

/// Whether a program can be had. One that must be there and is not fails the test.
pub(crate) fn has(program: &str) -> bool {
    let found =
        std::process::Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(found || !is_required(), "{program} is required and not installed");
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether a peer that is not installed fails the test.
pub(crate) fn is_required() -> bool {
    std::env::var_os("PROPANE_REQUIRE_PEERS").is_some()
}

#[test]
fn a_worker_that_binds_by_itself_and_drains_loses_nothing() {
    if has("python3") {
        let app = App::new(&format!(
            "propaneAccessories = {{ workerCount = 2; reloadOverlapSeconds = 0; workerCommand = \"python3 {}\"; }};",
            fixture("selfbind/server.py").display()
        ));
        let manager = app.start_ready(&[]);
        let report = reload_under_load(&manager, app.address, Mode::NewConnections, reloads());
        let log = manager.stop();
        assert_eq!(report.failures(), 0, "{report}\n{log}");
    }
}
