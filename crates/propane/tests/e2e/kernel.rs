//! What the kernel may refuse, and what becomes of a manager whose world changes under it.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{App, Manager, children_of, eventually, field, get, pid_in, wait_gone};

/// A user that nothing else runs as, so that its processes can be counted.
const LONELY_UID: &str = "54321";

/// Whether the test can go on. Namespaces, mounts and other users need root.
fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

/// `propane` behind another program, which executes it in the end.
fn behind(app: &App, program: &str, words: &[&str]) -> Command {
    let propane = app.command(&[]);
    let mut command = Command::new(program);
    command.args(words).arg(propane.get_program()).args(propane.get_args());
    command.current_dir(app.root()).stdin(Stdio::null());
    command
}

/// `propane` with a file system of its own on `tmp`, made by `mount` with `options` and then filled by `fill`.
fn on_small_disk(app: &App, options: &str, fill: &str) -> Command {
    fs::create_dir_all(app.path("tmp")).unwrap();
    let script = format!("mount -t tmpfs -o {options} none tmp && {fill} && exec \"$@\"");
    behind(app, "unshare", &["--mount", "sh", "-c", &script, "sh"])
}

/// The words that make a command run as [`LONELY_UID`].
const AS_LONELY: [&str; 6] = ["setpriv", "--reuid", LONELY_UID, "--regid", LONELY_UID, "--clear-groups"];

/// Changes a soft limit of a process, as the user `prefix` makes: who may depends on whose the process is.
fn set_limit(prefix: &[&str], pid: i32, limit: &str) {
    let pid = pid.to_string();
    let words = [prefix, &["prlimit", "--pid", &pid, limit]].concat();
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}

fn kill_9(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

#[test]
fn a_pid_file_that_cannot_be_written_ends_the_start() {
    if !is_root() {
        return;
    }
    let table = [
        ("nr_inodes=1", "true", "cannot open pid file", "No space left on device"),
        ("size=4k", "head -c 4096 /dev/zero >tmp/fill", "cannot write pid file", "No space left on device"),
        ("ro", "true", "cannot open pid file", "Read-only file system"),
    ];
    for (options, fill, what, why) in table {
        let app = App::new("");
        let output = on_small_disk(&app, options, fill).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{options}: {told}");
        assert!(told.contains(what) && told.contains(why), "{options}: {told}");
        assert!(get(app.address, "/").is_err(), "{options}: nothing was started");
    }
}

#[test]
fn a_state_file_that_cannot_be_written_is_told_and_done_without() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let manager = Manager::spawn(on_small_disk(&app, "nr_inodes=2", "true"), app.address);
    manager.wait_for_diagnostic("propane.state.json: No space left on device");
    manager.wait_for("event=manager_ready");
    kill_9(manager.children()[0]);
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn no_free_descriptor_delays_a_spawn_and_no_more() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    let hard = getrlimit(Resource::RLIMIT_NOFILE).unwrap().1;
    // Fewer than are open: none is free, however few the test itself was started with.
    set_limit(&[], manager.pid(), "--nofile=12:");
    kill_9(manager.children()[0]);
    let failure = manager.wait_for("event=worker_spawn_failed");
    assert!(failure.contains("Too many open files"), "{failure}");
    set_limit(&[], manager.pid(), &format!("--nofile={hard}:"));
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn a_limit_on_processes_delays_a_spawn_and_no_more() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    for path in [app.root(), &app.path("config"), &app.path("public")] {
        std::os::unix::fs::chown(path, LONELY_UID.parse().ok(), None).unwrap();
    }
    let manager = Manager::spawn(behind(&app, AS_LONELY[0], &AS_LONELY[1..]), app.address);
    manager.wait_for("event=manager_ready");
    set_limit(&AS_LONELY, manager.pid(), "--nproc=1:");
    kill_9(manager.children()[0]);
    let failure = manager.wait_for("event=worker_spawn_failed");
    assert!(failure.contains("no process can be created"), "{failure}");
    set_limit(&AS_LONELY, manager.pid(), "--nproc=100:");
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn a_lifecycle_log_that_cannot_be_written_is_told_once_and_stalls_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "/dev/full");
    let manager = Manager::spawn(command, app.address);
    manager.wait_for_diagnostic("cannot write to lifecycle log /dev/full: No space left on device");
    manager.wait_for("event=manager_ready");
    kill_9(manager.children()[0]);
    manager.wait_for_nth("event=worker_ready", 2);
    assert_eq!(manager.diagnostics().matches("/dev/full").count(), 1, "{}", manager.diagnostics());
    manager.stop();
}

#[test]
fn a_lifecycle_log_whose_reader_goes_away_stalls_nothing() {
    let app = App::new("propaneAccessories = { workerCount = 1; respawnDelayMs = 0; };");
    nix::unistd::mkfifo(&app.path("log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reader = fs::OpenOptions::new().read(true).write(true).open(app.path("log")).unwrap();
    let mut command = app.command(&[]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "log");
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    drop(reader);
    kill_9(manager.children()[0]);
    manager.wait_for_diagnostic("log: Broken pipe");
    manager.wait_for_nth("event=worker_ready", 2);
    manager.stop();
}

#[test]
fn a_manager_without_standard_descriptors_works_and_gives_none_away() {
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let mut command = behind(&app, "sh", &["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]);
    command.env("ARLEN_PROPANE_LIFECYCLE_LOG", "log");
    let mut child = command.spawn().unwrap();
    let log = || fs::read_to_string(app.path("log")).unwrap_or_default();
    let ready = eventually("the boot", || log().lines().find(|line| line.contains("event=worker_ready")).map(pid_in));
    for fd in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{ready}/fd/{fd}")).unwrap(), Path::new("/dev/null"));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(eventually("the exit", || child.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn a_stopped_manager_catches_up_and_blames_nobody_for_the_pause() {
    let app = App::new(
        "propaneAccessories = { workerCount = 2; workerTimeoutSeconds = 1; respawnDelayMs = 0; gracefulShutdownSeconds = 5; };",
    );
    let manager = app.start_ready(&[]);
    let victim = manager.children()[0];
    manager.signal(Signal::SIGSTOP);
    // The pause is what this is about: longer than two watchdog times.
    let until = Instant::now() + Duration::from_millis(2500);
    eventually("the end of the pause", || (Instant::now() >= until).then_some(()));
    assert_eq!(get(app.address, "/").unwrap().0, 200, "workers serve without their manager");
    kill_9(victim);
    manager.signal(Signal::SIGCONT);
    manager.wait_for_nth("event=worker_ready", 3);
    assert!(!manager.log().contains("event=worker_watchdog_timeout"), "{}", manager.log());
    manager.stop();
}

#[test]
fn a_killed_manager_leaves_no_worker_whatever_the_worker_does() {
    let commands = ["sh -c 'trap \"\" TERM INT HUP; while :; do sleep 1000; done' {fd}", "sh -c 'kill -STOP $$' {fd}"];
    let users: &[&str] = if is_root() { &["", "runAsUser = nobody;"] } else { &[""] };
    for (command, user) in commands.iter().flat_map(|command| users.iter().map(move |user| (command, user))) {
        let app = App::new(&format!(
            "propaneAccessories = {{ workerCount = 3; workerCommand = \"{}\"; {user} }};",
            command.replace('"', "\\\"")
        ));
        fs::set_permissions(app.root(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let manager = app.start(&[]);
        manager.wait_for_nth("event=worker_started", 3);
        let workers = manager.children();
        let deep: Vec<i32> = workers.iter().flat_map(|pid| children_of(*pid)).collect();
        assert_eq!(workers.len(), 3);
        manager.signal(Signal::SIGKILL);
        workers.into_iter().chain(deep).for_each(wait_gone);
    }
}

#[test]
fn a_killed_manager_that_is_not_root_leaves_no_worker_that_has_become_root() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; workerCommand = \"./sleep 1000 {fd}\"; };");
    // A program that takes on another user loses its parent death signal, and nobody may look into it.
    let mut copy = Command::new("sh");
    copy.args(["-c", "cp \"$(command -v sleep)\" sleep && chmod 4755 sleep"]).current_dir(app.root());
    assert!(copy.status().unwrap().success());
    for path in [app.root(), &app.path("config"), &app.path("public")] {
        std::os::unix::fs::chown(path, LONELY_UID.parse().ok(), None).unwrap();
    }
    let manager = Manager::spawn(behind(&app, AS_LONELY[0], &AS_LONELY[1..]), app.address);
    let worker = pid_in(&manager.wait_for("event=worker_started"));
    eventually("its new user", || {
        let status = fs::read_to_string(format!("/proc/{worker}/status")).unwrap();
        status.contains(&format!("Uid:\t{LONELY_UID}\t0\t")).then_some(())
    });
    manager.signal(Signal::SIGKILL);
    wait_gone(worker);
    manager.wait_for_warden_to_tell_of(worker);
}

#[test]
fn a_killed_manager_without_room_for_its_state_leaves_nobody_either() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let mut command = on_small_disk(&app, "nr_inodes=2", "true");
    let job = "(setsid env -i sh -c 'echo $$ > own.new; mv own.new own; exec sleep 1006' &); exec sleep 1006";
    command.args(["--job-worker-count", "1", "--job-worker-cmd", job]);
    let manager = Manager::spawn(command, app.address);
    manager.wait_for_diagnostic("propane.state.json: No space left on device");
    let own = eventually("its pid", || fs::read_to_string(app.path("own")).ok()?.trim().parse().ok());
    manager.signal(Signal::SIGKILL);
    wait_gone(own);
}

#[test]
fn a_killed_manager_leaves_nobody_where_little_of_proc_is_to_be_seen() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    // As in a service with ProcSubset=pid and ProtectProc=invisible.
    let script = "mount -t proc -o subset=pid,hidepid=2 proc /proc && exec \"$@\"";
    let mut command = behind(&app, "unshare", &["--mount", "sh", "-c", script, "sh"]);
    let job = "(setsid env -i sh -c 'echo $$ > own.new; mv own.new own; exec sleep 1007' &); exec sleep 1007";
    command.args(["--job-worker-count", "1", "--job-worker-cmd", job]);
    let manager = Manager::spawn(command, app.address);
    let own = eventually("its pid", || fs::read_to_string(app.path("own")).ok()?.trim().parse().ok());
    manager.signal(Signal::SIGKILL);
    wait_gone(own);
    manager.wait_for_warden_to_tell_of(own);
}

#[test]
fn the_manager_of_a_pid_namespace_has_no_warden() {
    if !is_root() {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let manager = Manager::spawn(behind(&app, "unshare", &["--pid", "--fork", "--mount-proc"]), app.address);
    manager.wait_for("event=manager_ready");
    assert_eq!(field(&manager.wait_for("event=manager_started"), "manager_pid"), "1");
    let init = children_of(manager.pid())[0];
    let worker = children_of(init)[0];
    let in_there = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let everybody =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let there: Vec<i32> = everybody.filter(|pid| in_there(*pid) == in_there(init)).collect();
    assert_eq!(there.len(), 2, "the manager and its worker: {there:?}");
    kill_9(init);
    wait_gone(worker);
}

#[test]
fn an_app_root_that_is_gone_delays_spawns_until_it_is_back() {
    let app = App::new("propaneAccessories = { workerCount = 2; respawnDelayMs = 0; };");
    let manager = app.start_ready(&[]);
    let away = app.root().with_extension("away");
    fs::rename(app.root(), &away).unwrap();
    kill_9(manager.children()[0]);
    let failure = manager.wait_for("event=worker_spawn_failed");
    assert!(failure.contains("its directory cannot be entered"), "{failure}");
    assert_eq!(manager.get("/").0 / 100, 2, "the other worker serves");
    fs::rename(&away, app.root()).unwrap();
    manager.wait_for_nth("event=worker_ready", 3);
    assert!(manager.reload(1).contains("manager_reload_completed"));
    manager.stop();
    assert_eq!(app.control_files(), Vec::<String>::new());
}

#[test]
fn a_manager_whose_program_was_deleted_still_respawns_and_reloads() {
    let app = App::new("propaneAccessories = { workerCount = 2; respawnDelayMs = 0; reloadOverlapSeconds = 0; };");
    // Not by this process: a test beside this one could fork while the copy is open for writing, and then it is "busy".
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_propane")).arg(app.path("propane")).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new(app.path("propane"));
    command.args(app.command(&[]).get_args()).current_dir(app.root()).stdin(Stdio::null());
    let manager = Manager::spawn(command, app.address);
    manager.wait_for("event=manager_ready");
    fs::remove_file(app.path("propane")).unwrap();
    kill_9(manager.children()[0]);
    manager.wait_for_nth("event=worker_ready", 3);
    assert!(manager.reload(1).contains("manager_reload_completed"));
    assert_eq!(manager.get("/").0, 200);
    manager.stop();
}

#[test]
fn as_pid_1_it_reaps_strays_reloads_and_stops() {
    if !is_root() {
        return;
    }
    let app = App::new(
        "propaneAccessories = { workerCount = 2; reloadOverlapSeconds = 0; jobWorkerCount = 1; jobWorkerCommand = \"./job\"; };",
    );
    // Orphans of orphans, some of which leave the group, end at their own time.
    app.script("job", "#!/bin/sh\n(sh -c 'true &') ; (setsid sh -c 'sleep 0.05 &') ; echo > strays; exec sleep 1000\n");
    let manager = Manager::spawn(behind(&app, "unshare", &["--pid", "--fork", "--mount-proc"]), app.address);
    manager.wait_for("event=manager_ready");
    assert_eq!(field(&manager.wait_for("event=manager_started"), "manager_pid"), "1");
    let init = eventually("the init of the namespace", || children_of(manager.pid()).first().copied());
    eventually("the strays", || app.path("strays").exists().then_some(()));
    eventually("only its own children", || (children_of(init).len() == 3).then_some(()));
    kill(Pid::from_raw(init), Signal::SIGHUP).unwrap();
    manager.wait_for("event=manager_reload_completed");
    kill(Pid::from_raw(init), Signal::SIGTERM).unwrap();
    let mut manager = manager;
    assert_eq!(manager.wait_exit().code(), Some(0));
    manager.wait_for("event=manager_stopped");
}
