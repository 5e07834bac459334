//! HUP: a transaction.

use std::fs;

use nix::sys::signal::Signal;
use propane_load::{Load, Mode};

use crate::support::{App, Manager, PATIENCE, field};

/// A worker command that serves with the embedded worker unless `broken` says otherwise.
fn app_with_switchable_worker(settings: &str) -> App {
    let program = env!("CARGO_BIN_EXE_propane");
    let app = App::new(&format!("propaneAccessories = {{ workerCommand = \"./worker {{fd}}\"; {settings} }};"));
    app.script(
        "worker",
        &format!("#!/bin/sh\ncase $(cat broken 2>/dev/null) in exit) exit 3;; hang) exec sleep 1000;; esac\nexec {program} worker\n"),
    );
    app
}

fn under_load(manager: &Manager, address: std::net::SocketAddr, act: impl FnOnce(&Manager)) {
    let load = Load::start(address, 8, Mode::NewConnections);
    load.wait_for_more(50, PATIENCE).unwrap();
    act(manager);
    load.wait_for_more(50, PATIENCE).unwrap();
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}\n{}", manager.log());
}

#[test]
fn a_reload_replaces_everybody_and_loses_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 3; reloadOverlapSeconds = 0; };");
    let manager = app.start_ready(&[]);
    let before = manager.children();
    under_load(&manager, app.address, |manager| {
        for generation in 1..=5 {
            let end = manager.reload(generation);
            let prefix = format!(
                "propane:lifecycle event=manager_reload_completed manager_pid={} generation={generation} \
                 active_workers=3 active_async_workers=0",
                manager.pid()
            );
            assert!(end.starts_with(&prefix), "{end}");
        }
    });
    assert!(manager.children().iter().all(|pid| !before.contains(pid)));
    let log = manager.stop();
    let canary = log.find("reason=reload_generation_1 slot=0").unwrap();
    let rest = log.find("reason=reload_generation_1 slot=1").unwrap();
    let ready = log[canary..].find("event=worker_ready").unwrap() + canary;
    assert!(ready < rest, "the rest starts when the canary is ready");
}

#[test]
fn recycling_replaces_one_at_a_time_and_loses_nothing() {
    // Every worker is too big from its first moment on, so that recycling never ends.
    let app = App::new(
        "propaneAccessories = { workerCount = 3; workerMaxRSSMB = 1; workerFDCheckSeconds = 1; reloadOverlapSeconds = 0; };",
    );
    let manager = app.start_ready(&[]);
    let load = Load::start(app.address, 16, Mode::NewConnections);
    manager.wait_for_nth("reason=respawn_after_max_rss", 6);
    manager.wait_for_nth("reason=max_rss_retire", 6);
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    let alive = manager.log().lines().fold((0i32, 0i32), |(now, most), line| {
        let change =
            i32::from(line.contains("event=worker_started")) - i32::from(line.contains("event=http_worker_stopped"));
        (now + change, most.max(now + change))
    });
    assert!(alive.1 <= 4, "never more than one beyond the three: {alive:?}");
    manager.stop();
}

#[test]
fn a_broken_configuration_changes_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 2; };");
    let manager = app.start_ready(&[]);
    let before = manager.children();
    app.configure("propaneAccessories = { workerCount = 0; };");
    let end = manager.reload(1);
    assert!(end.contains("event=manager_reload_failed"), "{end}");
    assert_eq!((field(&end, "reason"), field(&end, "replaced")), ("configuration", "0"));
    manager.wait_for_diagnostic(
        "error[propane::config::range]: propaneAccessories.workerCount must be a whole number from 1 to 1024",
    );
    manager.wait_for_diagnostic("--> config/app.plist:2:38");
    manager.wait_for_diagnostic("2 | propaneAccessories = { workerCount = 0; };");
    manager.wait_for_diagnostic("reload refused: the configuration has an error");
    assert_eq!(manager.children(), before);
    app.configure("propaneAccessories = { workerCount = 3; reloadOverlapSeconds = 0; };");
    let end = manager.reload(2);
    assert!(end.contains("event=manager_reload_completed") && end.contains("active_workers=3"), "{end}");
    manager.stop();
}

#[test]
fn a_canary_that_dies_or_hangs_leaves_the_old_generation_alone() {
    for (fault, reason) in [("exit", "worker_exited"), ("hang", "boot_timeout")] {
        let app =
            app_with_switchable_worker("workerCount = 2; workerBootTimeoutSeconds = 1; reloadOverlapSeconds = 0;");
        let manager = app.start_ready(&[]);
        let before = manager.children();
        fs::write(app.path("broken"), fault).unwrap();
        under_load(&manager, app.address, |manager| {
            let end = manager.reload(1);
            assert!(end.contains("event=manager_reload_failed"), "{end}");
            assert_eq!(field(&end, "reason"), reason, "{end}");
        });
        assert_eq!(manager.log().matches("reason=reload_generation_1").count(), 1, "one canary, no more");
        let workers: Vec<_> = manager.children().into_iter().filter(|pid| before.contains(pid)).collect();
        assert_eq!(workers, before);
        fs::remove_file(app.path("broken")).unwrap();
        assert!(manager.reload(2).contains("manager_reload_completed"));
        manager.stop();
    }
}

#[test]
fn the_surge_bounds_the_number_of_extra_workers() {
    let app = App::new("propaneAccessories = { workerCount = 3; reloadMaxSurge = 1; reloadOverlapSeconds = 0; };");
    let manager = app.start_ready(&[]);
    under_load(&manager, app.address, |manager| {
        assert!(manager.reload(1).contains("manager_reload_completed"));
    });
    let log = manager.stop();
    let mut alive = 0;
    for line in log.lines() {
        alive += i32::from(line.contains("event=worker_started"));
        alive -= i32::from(line.contains("event=http_worker_stopped"));
        assert!(alive <= 4, "three and one more at the most: {line}");
    }
}

#[test]
fn a_hup_during_a_reload_causes_exactly_one_more() {
    let app = App::new("propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 1; };");
    let manager = app.start_ready(&[]);
    manager.signal(Signal::SIGHUP);
    manager.wait_for("event=manager_reload_started");
    for count in 2..=4 {
        manager.signal(Signal::SIGHUP);
        manager.wait_for_nth("event=manager_reload_requested", count);
    }
    manager.wait_for_nth("event=manager_reload_completed", 2);
    let log = manager.stop();
    assert_eq!(log.matches("event=manager_reload_started").count(), 2, "{log}");
}

#[test]
fn what_needs_a_restart_is_named_and_kept() {
    let app = App::new("listenBacklog = 64; propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 0; };");
    let manager = app.start_ready(&[]);
    app.configure("listenBacklog = 65; connectionTimeoutSeconds = 7; propaneAccessories = { workerCount = 1; };");
    assert!(manager.reload(1).contains("manager_reload_completed"));
    let line = manager.wait_for("event=manager_reload_needs_restart");
    assert_eq!(field(&line, "keys"), "listenBacklog");
    assert!(line.ends_with(" changes=\"listenBacklog 64 -> 65\""), "{line}");
    manager.wait_for_diagnostic(
        "warning: changed, but only a restart applies it: listenBacklog stays 64 (config/app.plist:2:17 says 65)",
    );
    let environment = fs::read_to_string(format!("/proc/{}/environ", manager.children()[0])).unwrap();
    assert!(environment.contains("ARLEN_LISTEN_BACKLOG=64\0"), "the running value");
    assert!(environment.contains("ARLEN_CONNECTION_TIMEOUT_SECONDS=7\0"), "the new value");
    manager.stop();
}

#[test]
fn a_switched_release_symlink_is_followed_by_the_reload_and_not_before() {
    let app = App::new("");
    for release in ["1", "2"] {
        app.write(
            &format!("releases/{release}/config/app.plist"),
            "{ propaneAccessories = { workerCount = 1; reloadOverlapSeconds = 0; }; }\n",
        );
        app.write(&format!("releases/{release}/public/index.html"), release);
    }
    let link = |release: &str| {
        let fresh = app.path("fresh");
        std::os::unix::fs::symlink(app.path("releases").join(release), &fresh).unwrap();
        fs::rename(fresh, app.path("current")).unwrap();
    };
    link("1");
    let current = app.path("current");
    let manager = app.start_ready(&["--app-root", current.to_str().unwrap()]);
    link("2");
    assert_eq!(manager.get("/").1, "1");
    assert!(manager.reload(1).contains("manager_reload_completed"));
    assert_eq!(manager.get("/").1, "2");
    manager.stop();
    for release in ["1", "2"] {
        let left = fs::read_dir(app.path(&format!("releases/{release}/tmp"))).into_iter().flatten().count();
        assert_eq!(left, 0, "of release {release}");
    }
}

#[test]
fn a_worker_command_that_needs_other_sockets_needs_a_restart() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = app.start_ready(&[]);
    app.configure("propaneAccessories = { workerCount = 1; workerCommand = \"./serve\"; };");
    let end = manager.reload(1);
    assert!(end.contains("event=manager_reload_failed"), "{end}");
    manager.wait_for_diagnostic("restart it");
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}
