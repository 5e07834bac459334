//! What a running manager saves of its configuration, and what it is compared with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use propane_config::{Args, Flag, Inputs, OnDisk, Running, Salt, diff, load};

const SECRET_COMMAND: &str = "exec worker --cache redis://me:hunter2@cache/0";

fn app(plist: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("config")).unwrap();
    write(root.path(), plist);
    root
}

fn write(root: &Path, plist: &str) {
    std::fs::write(root.join("config/app.plist"), plist).unwrap();
}

fn inputs(root: &Path) -> Inputs {
    let flag = |name: &str, value: &str, index| Flag { name: name.into(), value: value.into(), index };
    Inputs {
        args: Args {
            flags: vec![flag("port", "4000", 1), flag("job-worker-cmd", SECRET_COMMAND, 3)],
            worker_args: vec!["--db".into(), "postgres://me:hunter2@db/".into(), OsString::from_vec(vec![0xff])],
            separator: 5,
        },
        env: [("ARLEN_PROPANE_WORKERS", "7"), ("HOME", "/root"), ("ARLEN_PROPANE_JOB_WORKER_COUNT", "1")]
            .map(|(name, value)| (name.into(), value.into()))
            .into(),
        cwd: root.to_owned(),
        exe: None,
        hostname: Some("node-1".into()),
    }
}

fn saved(root: &Path) -> (String, Running) {
    let inputs = inputs(root);
    let text = serde_json::to_string(&Running::new(3, &inputs, &load(&inputs), Salt::new([5; 32]))).unwrap();
    let running = serde_json::from_str(&text).unwrap();
    (text, running)
}

fn differing(running: &Running, inputs: &Inputs) -> (Vec<String>, OnDisk) {
    let on_disk = running.on_disk(inputs);
    let keys = diff(&running.entries(), &on_disk.entries).iter().map(|found| found.key().to_owned()).collect();
    (keys, on_disk)
}

#[test]
fn it_reads_back_to_what_the_manager_was_started_with_but_for_secrets() {
    let root = app("{ database = { password = hunter2; }; }");
    let (text, running) = saved(root.path());
    assert!(!text.contains("hunter2") && !text.contains("HOME"), "{text}");
    let (restored, original) = (running.inputs(), inputs(root.path()));
    assert_eq!(restored.args.flags[0], original.args.flags[0]);
    assert_eq!(restored.args.flags[1].value, "exec worker --cache redis://***@cache/0");
    assert_eq!(restored.args.worker_args[1], "postgres://***@db/");
    assert_eq!(restored.args.worker_args[2], original.args.worker_args[2], "words need not be text");
    assert_eq!((restored.cwd, restored.hostname), (original.cwd, original.hostname));
    assert_eq!(differing(&running, &running.inputs()).0, [""; 0]);
}

#[test]
fn a_secret_is_compared_wherever_it_moves() {
    let root = app("{ database = { password = hunter2; }; }");
    let (_, running) = saved(root.path());
    let mut inputs = running.inputs();
    let with_command = |command: &str, inputs: &mut Inputs| inputs.args.flags[1].value = command.into();
    with_command(SECRET_COMMAND, &mut inputs);
    assert_eq!(differing(&running, &inputs).0, [""; 0], "the same, said again");
    with_command(&SECRET_COMMAND.replace("hunter2", "hunter3"), &mut inputs);
    assert_eq!(differing(&running, &inputs).0, ["propaneAccessories.jobWorkerCommand"]);
    write(root.path(), "{ database = { password = hunter3; }; }");
    assert_eq!(differing(&running, &running.inputs()).0, ["database.password"]);
    write(root.path(), "{ }");
    assert_eq!(differing(&running, &running.inputs()).0, ["database.password"]);
}

/// The derived value follows the strategy that runs until the restart that the strategy waits for.
#[test]
fn what_follows_from_a_waiting_value_waits_with_it() {
    let root = app("{ }");
    let inputs = Inputs { cwd: root.path().to_owned(), ..Inputs::default() };
    write(root.path(), "{ propaneAccessories = { workerCount = 1; }; }");
    let running = Running::new(0, &inputs, &load(&inputs), Salt::new([5; 32]));
    write(root.path(), "{ propaneAccessories = { workerCount = 1; socketStrategy = reuseport; umask = 027; }; }");
    let on_disk = running.on_disk(&running.inputs());
    let (a, b) = (running.entries(), on_disk.entries.clone());
    let effects: Vec<_> =
        diff(&a, &b).iter().map(|found| format!("{} {:?}", found.key(), on_disk.effect(found))).collect();
    let expected =
        ["enableReusePort Restart", "propaneAccessories.socketStrategy Restart", "propaneAccessories.umask Generation"];
    assert_eq!(effects, expected);
}

#[test]
fn a_release_link_that_leads_elsewhere_is_a_difference() {
    let scratch = tempfile::tempdir().unwrap();
    for release in ["1", "2"] {
        std::fs::create_dir_all(scratch.path().join(release).join("config")).unwrap();
        write(&scratch.path().join(release), "{ }");
    }
    let current = scratch.path().join("current");
    std::os::unix::fs::symlink("1", &current).unwrap();
    let inputs = Inputs { cwd: current.clone(), ..Inputs::default() };
    let running = Running::new(0, &inputs, &load(&inputs), Salt::new([5; 32]));
    assert_eq!(differing(&running, &running.inputs()).0, [""; 0]);
    std::fs::remove_file(&current).unwrap();
    std::os::unix::fs::symlink("2", &current).unwrap();
    assert_eq!(differing(&running, &running.inputs()).0, ["appRoot, links resolved"]);
}
