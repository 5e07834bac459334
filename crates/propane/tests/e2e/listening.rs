//! Where connections come from: UNIX sockets, sockets that a service manager hands over, IPv6.

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use propane_load::{Load, Mode, Target};
use socket2::{Domain, Socket, Type};

use crate::lossless::alone;
use crate::peers::{fixture, has};
use crate::support::{App, Manager, PATIENCE, eventually, field, get, pid_in};

/// One request on a connection of its own.
fn get_unix(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
}

/// An app that listens on `tmp/app.sock`, with its socket.
fn unix_app(settings: &str) -> (App, PathBuf) {
    let app = App::new(&format!("host = \"unix:tmp/app.sock\";\n{settings}"));
    fs::create_dir_all(app.path("tmp")).unwrap();
    let socket = app.root().canonicalize().unwrap().join("tmp/app.sock");
    (app, socket)
}

fn start(app: &App, flags: &[&str]) -> Manager {
    let manager = Manager::spawn(app.bare(flags), app.address);
    manager.wait_for("event=manager_ready");
    manager
}

fn environment(pid: i32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// Reloads under load with new connections and with kept ones.
fn loses_nothing_on_unix(settings: &str) {
    for mode in [Mode::NewConnections, Mode::KeepAlive] {
        let (app, socket) = unix_app(settings);
        let manager = start(&app, &[]);
        let report = {
            let _alone = alone();
            let load = Load::on(&Target::on_file(socket.clone()), 8, mode);
            for generation in 1..=5 {
                if let Err(slow) = load.wait_for_more(30, PATIENCE) {
                    panic!("{slow}\n{}\n{}\n{}", load.stop(), manager.log(), manager.diagnostics());
                }
                assert!(manager.reload(generation).contains("manager_reload_completed"), "{}", manager.diagnostics());
            }
            load.wait_for_more(30, PATIENCE).unwrap();
            load.stop()
        };
        let log = manager.stop();
        assert_eq!(report.failures(), 0, "{mode:?}\n{report}\n{log}");
        assert!(!socket.exists(), "an orderly end takes its file along");
    }
}

#[test]
fn a_unix_socket_serves_through_reloads_and_loses_nothing() {
    loses_nothing_on_unix(
        "propaneAccessories = { workerCount = 2; reloadOverlapSeconds = 0; readinessPath = \"/readyz\"; };",
    );
}

#[test]
fn gunicorn_on_a_unix_socket_loses_nothing() {
    if has("gunicorn") {
        let app = fixture("gunicorn");
        loses_nothing_on_unix(&format!(
            "propaneAccessories = {{ workerCount = 2; reloadOverlapSeconds = 0; \
             workerCommand = \"gunicorn --workers 1 --chdir {} app:app\"; }};",
            app.display()
        ));
    }
}

#[test]
fn a_file_that_a_worker_removes_is_told_of_once() {
    let (app, socket) = unix_app("propaneAccessories = { workerCount = 2; respawnDelayMs = 0; };");
    let manager = start(&app, &[]);
    fs::remove_file(&socket).unwrap();
    for nth in [3, 4] {
        kill(Pid::from_raw(manager.children()[0]), Signal::SIGKILL).unwrap();
        manager.wait_for_nth("event=worker_ready", nth);
    }
    let told = manager.wait_for_diagnostic("is gone, and nobody can connect any more");
    assert!(told.contains("LISTEN_FDS"), "{told}");
    assert_eq!(manager.diagnostics().matches("is gone, and nobody").count(), 1, "{}", manager.diagnostics());
    manager.stop();
}

#[test]
fn a_unix_socket_that_a_worker_shuts_down_is_made_anew_as_soon_as_its_directory_is_free() {
    if !has("python3") {
        return;
    }
    let settings = "workerCount = 1; reloadOverlapSeconds = 0; workerCommand = \"python3 -u serve.py {fd}\";";
    let (app, socket) = unix_app(&format!("propaneAccessories = {{ {settings} }};"));
    app.write(
        "serve.py",
        "import signal, socket, sys\ns = socket.socket(fileno=int(sys.argv[1]))\n\
         while True:\n    try: c, _ = s.accept()\n    except OSError: signal.pause()\n    \
         d = b''\n    while b'\\r\\n\\r\\n' not in d: d += c.recv(4096)\n    \
         if b' /shut ' in d: s.shutdown(socket.SHUT_RDWR)\n    \
         c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n')\n    c.close()\n",
    );
    let manager = start(&app, &[]);
    let directory = fs::File::open(socket.parent().unwrap()).unwrap();
    let lock = Flock::lock(directory, FlockArg::LockExclusive).unwrap();
    assert_eq!(get_unix(&socket, "/shut").unwrap().0, 200);
    // Meanwhile the manager hears what it is told.
    manager.signal(Signal::SIGUSR2);
    manager.wait_for_diagnostic("USR2");
    drop(lock);
    manager.wait_for_diagnostic("it is made anew");
    manager.wait_for("event=manager_reload_completed");
    assert_eq!(get_unix(&socket, "/").unwrap().0, 200);
    manager.stop();
}

#[test]
fn a_unix_socket_is_told_to_the_log_and_to_workers() {
    let (app, socket) = unix_app("port = 4000;\npropaneAccessories = { workerCount = 1; socketStrategy = inherit; };");
    let manager = start(&app, &[]);
    let started = manager.wait_for("event=manager_started");
    let host = format!("unix:{}", socket.display());
    assert_eq!((field(&started, "host"), field(&started, "port")), (host.as_str(), "0"), "{started}");
    assert_eq!(field(&started, "strategy"), "shared");
    for text in ["port = 4000 means nothing", "socketStrategy = shared is used instead of inherit"] {
        manager.wait_for_diagnostic(text);
    }
    let worker = pid_in(&manager.wait_for("event=worker_ready"));
    let environment = environment(worker);
    for variable in [format!("ARLEN_HOST={host}"), format!("LISTEN_PID={worker}"), "LISTEN_FDS=1".to_owned()] {
        assert!(environment.contains(&variable), "{variable} in {environment:?}");
    }
    let (status, body) = get_unix(&socket, "/").unwrap();
    assert_eq!((status, body.as_str()), (200, "<h1>hello</h1>\n"));
    manager.stop();
}

#[test]
fn what_lies_at_the_path_is_looked_at_before_it_is_replaced() {
    let (app, socket) = unix_app("propaneAccessories = { workerCount = 1; };");
    let refused = |text: &str| {
        let output = app.bare(&[]).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(text), "{text:?} in {told}");
        assert_eq!(app.control_files(), ["app.sock"]);
    };
    fs::write(&socket, "not a socket").unwrap();
    refused("a file lies there, which propane does not remove");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "not a socket");
    fs::remove_file(&socket).unwrap();

    let living = UnixListener::bind(&socket).unwrap();
    refused(&format!("unix:{} is already in use by pid {}", socket.display(), std::process::id()));
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());

    drop(living); // the file stays, as that of a server that was killed does
    let manager = start(&app, &[]);
    manager.wait_for_diagnostic("which nobody listens on any more");
    assert_eq!(get_unix(&socket, "/").unwrap().0, 200);

    // A second app on the same path: its manager is told whose it is.
    let other = App::new(&format!("host = \"unix:{}\";", socket.display()));
    let output = other.bare(&[]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains(&format!("already in use by pid {} (propane)", manager.pid())), "{told}");
    assert_eq!(get_unix(&socket, "/").unwrap().0, 200);

    // What somebody else has put there since is not ours to remove.
    fs::remove_file(&socket).unwrap();
    let _theirs = UnixListener::bind(&socket).unwrap();
    manager.stop();
    assert!(socket.exists());
}

#[test]
fn a_host_that_cannot_be_one_says_why() {
    let app = App::new("");
    let long = format!("unix:/{}", "x".repeat(107));
    for (words, code, text) in [
        (&["--host", long.as_str()][..], 1, "the path has 108 bytes, and UNIX sockets have room for 107"),
        (&["--host", "unix:"], 2, "names no file"),
        (&["--host", "unix:no/such/directory/x"], 1, "its directory does not exist"),
        (&["--host", "unix:x", "--socket-strategy", "steer"], 2, "workers cannot bind a UNIX socket each"),
        (&["--host", "unix:x", "--socket-strategy", "reuseport"], 2, "workers cannot bind a UNIX socket each"),
    ] {
        let output = app.bare(words).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert!(told.contains(text), "{text:?} in {told}");
        assert_eq!(app.control_files(), Vec::<String>::new());
    }
}

/// Starts a manager with sockets handed over, which this process keeps, as a service manager does.
fn activate(app: &App, sockets: &[RawFd], variables: &[(&str, &str)], words: &[&str]) -> Manager {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let messages = [ControlMessage::ScmRights(sockets)];
    sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"x")], &messages, MsgFlags::empty(), None).unwrap();
    let bare = app.bare(words);
    let mut command = Command::new("python3");
    let launcher = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/launchers/activate.py");
    command.arg(launcher.canonicalize().unwrap()).arg(bare.get_program()).args(bare.get_args());
    command.current_dir(app.root()).stdin(Stdio::from(OwnedFd::from(theirs))).envs(variables.iter().copied());
    for (name, value) in bare.get_envs().filter(|(_, value)| value.is_none()) {
        assert!(value.is_none());
        command.env_remove(name);
    }
    Manager::spawn(command, app.address)
}

/// A listener that shares its port.
fn sharing(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(128).unwrap();
    socket
}

fn inode_of_fd(pid: i32, fd: RawFd) -> String {
    fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap().display().to_string()
}

fn descriptors(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.map(|fd| fd.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn a_socket_that_was_handed_over_is_shared_and_stays() {
    if !has("python3") {
        return;
    }
    let app =
        App::new("port = 4001;\npropaneAccessories = { workerCount = 2; workerCommand = \"./propane worker\"; };");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_propane"), app.path("propane")).unwrap();
    let listener = TcpListener::bind(app.address).unwrap();
    let names = [("LISTEN_FDNAMES", "app.socket")];
    let mut manager = activate(&app, &[listener.as_raw_fd()], &names, &[]);
    manager.wait_for("event=manager_ready");
    let started = manager.wait_for("event=manager_started");
    let port = app.address.port().to_string();
    assert_eq!(
        (field(&started, "host"), field(&started, "port"), field(&started, "strategy")),
        ("127.0.0.1", port.as_str(), "shared")
    );
    manager.wait_for_diagnostic("port = 4001 are not used");
    let told = manager.diagnostics();
    assert_eq!(told.matches("port = 4001 are not used").count(), 1, "{told}");
    assert_eq!(manager.get("/").0, 200);
    let ours = inode_of_fd(std::process::id().cast_signed(), listener.as_raw_fd());
    for worker in manager.children() {
        assert_eq!(inode_of_fd(worker, 3), ours);
        let sockets = descriptors(worker).into_iter().filter(|fd| inode_of_fd(worker, *fd) == ours).count();
        assert_eq!(sockets, 1, "one descriptor of it, and no more");
        let environment = environment(worker);
        for variable in [format!("LISTEN_PID={worker}"), "LISTEN_FDNAMES=http".to_owned(), format!("PORT={port}")] {
            assert!(environment.contains(&variable), "{variable} in {environment:?}");
        }
    }
    manager.reload(1);
    assert_eq!(manager.get("/").0, 200);
    manager.signal(Signal::SIGTERM);
    manager.wait_exit();
    // It is not the manager's to end: a client is let in and waits for the next one.
    std::net::TcpStream::connect(app.address).unwrap();
}

#[test]
fn several_sockets_that_were_handed_over_are_the_slots() {
    if !has("python3") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 2; reloadOverlapSeconds = 0; };");
    let sockets = [sharing(app.address), sharing(app.address)];
    let numbers = sockets.each_ref().map(AsRawFd::as_raw_fd);
    let manager = activate(&app, &numbers, &[], &[]);
    manager.wait_for("event=manager_ready");
    assert_eq!(field(&manager.wait_for("event=manager_started"), "strategy"), "inherit");
    let me = std::process::id().cast_signed();
    let of_slot = |line: &str| inode_of_fd(pid_in(line), 3);
    for (slot, socket) in sockets.iter().enumerate() {
        let line = manager.wait_for(&format!("slot={slot} generation=0"));
        assert_eq!(of_slot(&line), inode_of_fd(me, socket.as_raw_fd()), "{line}");
    }
    let report = {
        let _alone = alone();
        let load = Load::start(app.address, 8, Mode::NewConnections);
        load.wait_for_more(30, PATIENCE).unwrap();
        // One more is made beside them, and goes again; one of them is left over, and nobody is sent there.
        manager.signal(Signal::SIGTTIN);
        let third = manager.wait_for("reason=scale_up slot=2");
        let inode = of_slot(&third);
        assert!(sockets.iter().all(|socket| inode_of_fd(me, socket.as_raw_fd()) != inode));
        eventually("three that are ready", || (manager.log().matches("event=worker_ready").count() == 3).then_some(()));
        for nth in [1, 2] {
            load.wait_for_more(30, PATIENCE).unwrap();
            manager.signal(Signal::SIGTTOU);
            manager.wait_for_nth("event=http_worker_stopped", nth);
        }
        load.wait_for_more(100, PATIENCE).unwrap();
        assert!(manager.reload(1).contains("manager_reload_completed"), "{}", manager.diagnostics());
        load.wait_for_more(100, PATIENCE).unwrap();
        load.stop()
    };
    let log = manager.stop();
    assert_eq!(report.failures(), 0, "{report}\n{log}");
    std::net::TcpStream::connect(app.address).unwrap();
}

#[test]
fn a_unix_socket_that_was_handed_over_is_not_removed() {
    if !has("python3") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let path = app.path("given.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let manager = activate(&app, &[listener.as_raw_fd()], &[], &[]);
    manager.wait_for("event=manager_ready");
    let started = manager.wait_for("event=manager_started");
    assert_eq!(field(&started, "host"), format!("unix:{}", path.display()));
    assert_eq!(get_unix(&path, "/").unwrap().0, 200);
    manager.stop();
    UnixStream::connect(&path).unwrap();
}

/// Sockets, variables and words, and what is said of them.
type Refusal<'a> = (&'a [RawFd], &'a [(&'a str, &'a str)], &'a [&'a str], &'a str);

#[test]
fn what_is_handed_over_and_cannot_be_served_is_refused() {
    if !has("python3") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let datagram = UnixDatagram::unbound().unwrap();
    let listener = TcpListener::bind(app.address).unwrap();
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let other = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let table: [Refusal<'_>; 6] = [
        (&[datagram.as_raw_fd()], &[("LISTEN_FDNAMES", "log")], &[], "descriptor 3 (log) was handed over"),
        (&[bound.as_raw_fd()], &[], &[], "does not listen"),
        (&[listener.as_raw_fd()], &[("LISTEN_FDS", "2")], &[], "descriptor 4 was handed over"),
        (&[listener.as_raw_fd()], &[("LISTEN_FDS", "many")], &[], "expected a number of sockets"),
        (&[listener.as_raw_fd(), other.as_raw_fd()], &[], &[], "propane serves one address"),
        (&[listener.as_raw_fd()], &[], &["--socket-strategy", "steer"], "workers bind by themselves"),
    ];
    for (sockets, variables, words, text) in table {
        let mut manager = activate(&app, sockets, variables, words);
        assert_eq!(manager.wait_exit().code(), Some(1), "{text}");
        manager.wait_for_diagnostic(text);
        assert_eq!(app.control_files(), Vec::<String>::new());
    }
}

#[test]
fn sockets_of_another_process_are_ignored() {
    if !has("python3") {
        return;
    }
    let app = App::new("propaneAccessories = { workerCount = 1; };");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = app.address.port().to_string();
    let manager = activate(&app, &[other.as_raw_fd()], &[("LISTEN_PID", "1")], &["--port", &port]);
    manager.wait_for("event=manager_ready");
    assert_eq!(manager.get("/").0, 200);
    let worker = pid_in(&manager.wait_for("event=worker_ready"));
    assert!(environment(worker).contains(&format!("LISTEN_PID={worker}")));
    manager.stop();
}

#[test]
fn ipv6_is_served_by_whoever_binds() {
    let mut app = App::new("host = \"::1\";");
    let free = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    if free.is_err() {
        eprintln!("skipped: there is no IPv6 here");
        return;
    }
    app.address = SocketAddr::from((Ipv6Addr::LOCALHOST, app.address.port()));
    for host in ["::1", "[::1]", "[::]"] {
        let manager = app.start_ready(&["--host", host, "--workers", "2"]);
        assert_eq!(manager.get("/").0, 200, "{host}");
        if host == "[::]" && fs::read_to_string("/proc/sys/net/ipv6/bindv6only").unwrap().trim() == "0" {
            let ipv4 = SocketAddr::from(([127, 0, 0, 1], app.address.port()));
            assert_eq!(get(ipv4, "/").unwrap().0, 200, "both families");
        }
        assert!(manager.reload(1).contains("manager_reload_completed"));
        manager.stop();
    }
}

#[test]
fn a_listener_of_the_other_family_that_is_in_the_way_is_named() {
    let app = App::new("");
    let Ok(foreign) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, app.address.port())) else { return };
    let (code, _, told) = app.run(&["--host", "0.0.0.0"]);
    assert_eq!(code, 1, "{told}");
    assert!(told.contains(&format!("already in use by pid {}", std::process::id())), "{told}");
    drop(foreign);
}

/// An app with one worker that is deaf to its socket.
fn deaf(settings: &str, words: &str) -> App {
    let server = fixture("deaf/server.py");
    App::new(&format!(
        "propaneAccessories = {{ workerCount = 1; {settings} workerCommand = \"python3 {} {words}\"; }};",
        server.display()
    ))
}

#[test]
fn a_worker_that_lets_its_queue_grow_is_told_of() {
    if !has("python3") {
        return;
    }
    for host in ["127.0.0.1", "unix:app.sock"] {
        let app = deaf("socketStrategy = shared;", "ready");
        let manager = app.start_ready(&["--host", host]);
        let (_tcp, _unix): (Vec<_>, Vec<_>) = if host == "127.0.0.1" {
            ((0..3).map(|_| std::net::TcpStream::connect(app.address).unwrap()).collect(), Vec::new())
        } else {
            (Vec::new(), (0..3).map(|_| UnixStream::connect(app.path("app.sock")).unwrap()).collect())
        };
        let line = manager.wait_for("event=worker_ignores_socket");
        assert_eq!((field(&line, "queued_connections"), field(&line, "slot")), ("3", "0"), "{line}");
        manager.wait_for_diagnostic("does not accept from the socket that it was given as fd 3: 3 connections wait");
        assert_eq!(manager.log().matches("event=worker_ignores_socket").count(), 1, "once");
        manager.stop();
    }
}

#[test]
fn a_worker_that_listens_elsewhere_than_on_its_socket_is_told_of() {
    if !has("python3") {
        return;
    }
    let elsewhere = format!("127.0.0.1:{}", propane_load::free_port());
    let words = elsewhere.replace(':', " ");
    // It says that it is ready; or it does not, and is killed.
    for (settings, readiness) in [("", "ready"), ("workerBootTimeoutSeconds = 2;", "silent")] {
        let app = deaf(&format!("socketStrategy = inherit; {settings}"), &format!("{readiness} {words}"));
        let manager = app.start(&[]);
        let line = manager.wait_for("event=worker_ignores_socket");
        assert_eq!(field(&line, "listens_on"), elsewhere, "{line}");
        manager.wait_for_diagnostic(&format!("it listens on {elsewhere} by itself"));
        manager.stop();
    }
    // On the very port, beside its slot, in which others would wait for ever.
    let app = deaf("socketStrategy = inherit; workerBootTimeoutSeconds = 2;", "silent {host} {port}");
    let manager = app.start(&[]);
    let line = manager.wait_for("event=worker_ignores_socket");
    assert_eq!(field(&line, "listens_on"), app.address.to_string(), "{line}");
    assert!(!manager.log().contains("event=worker_ready"), "{}", manager.log());
    manager.stop();
}

#[test]
fn a_worker_that_binds_another_address_is_told_of() {
    if !has("python3") {
        return;
    }
    let elsewhere = format!("127.0.0.1:{}", propane_load::free_port());
    let words = format!("silent {}", elsewhere.replace(':', " "));
    for strategy in ["steer", "reuseport"] {
        let app = deaf(&format!("socketStrategy = {strategy}; workerBootTimeoutSeconds = 2;"), &words);
        let manager = app.start(&[]);
        let line = manager.wait_for("event=worker_listens_elsewhere");
        let told = (field(&line, "listens_on"), field(&line, "address"));
        assert_eq!(told, (elsewhere.as_str(), app.address.to_string().as_str()), "{line}");
        manager.wait_for_diagnostic(&format!("listens on {elsewhere} instead of {}", app.address));
        manager.stop();
    }
}
