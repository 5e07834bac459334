//! An axum app on the worker library: `propane-worker`'s example, under the manager.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use propane_load::{Load, Mode};

use crate::peers::{fixture, is_required};
use crate::support::{App, Manager, PATIENCE};

/// The example, built if need be: cargo builds examples of the package under test only.
fn example() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_propane")).ancestors().nth(2).unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["build", "--quiet", "--package", "propane-worker", "--example", "axum", "--target-dir"])
            .arg(target);
        let built = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("debug/examples/axum")
    })
}

fn app(settings: &str) -> App {
    App::new(&format!(
        "propaneAccessories = {{ workerCount = 2; reloadOverlapSeconds = 0; socketStrategy = inherit; \
         workerCommand = \"{}\"; }}; {settings}",
        example().display()
    ))
}

/// Ten reloads under a load that must not notice.
fn reload_under_load(manager: &Manager, load: Load, reloads: std::ops::RangeInclusive<u32>) {
    for generation in reloads {
        load.wait_for_more(50, PATIENCE).unwrap();
        assert!(manager.reload(generation).contains("manager_reload_completed"), "{}", manager.diagnostics());
    }
    load.wait_for_more(50, PATIENCE).unwrap();
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}\n{}", manager.log());
}

#[test]
fn an_axum_app_reloads_under_load_without_a_failure() {
    let app = app("");
    let manager = app.start_ready(&[]);
    assert_eq!(manager.get("/"), (200, "hello from axum\n".to_owned()));
    reload_under_load(&manager, Load::start(app.address, 16, Mode::NewConnections), 1..=10);
    reload_under_load(&manager, Load::start(app.address, 16, Mode::KeepAlive), 11..=20);
    manager.stop();
}

#[test]
fn a_stream_of_events_ends_in_an_orderly_way_with_its_worker() {
    let app = app("");
    let manager = app.start_ready(&[]);
    let mut stream = TcpStream::connect(app.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut events = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("data: 1") {
        line.clear();
        assert_ne!(events.read_line(&mut line).unwrap(), 0, "the stream goes on");
    }
    assert!(manager.reload(1).contains("manager_reload_completed"), "{}", manager.diagnostics());
    let mut rest = String::new();
    events.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "the last chunk, not a cut: {rest:?}");
    manager.stop();
}

/// A client that others wrote, and what it says.
struct WebSocketClient {
    child: Child,
    said: BufReader<ChildStdout>,
}

impl WebSocketClient {
    /// None where Python's `websockets` is not installed and need not be.
    fn start(app: &App) -> Option<Self> {
        let has = Command::new("python3").args(["-c", "import websockets.sync.client"]).output();
        if !has.is_ok_and(|output| output.status.success()) {
            assert!(!is_required(), "Python's websockets is required and not installed");
            eprintln!("skipped: Python's websockets is not installed");
            return None;
        }
        let mut python = Command::new("python3");
        python.arg(fixture("websocket/client.py")).arg(format!("ws://{}/echo", app.address));
        let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, said })
    }

    /// The next line.
    fn says(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for WebSocketClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const REFUSED: &str = "refused 503 websocket_session_limit 1 server busy";

#[test]
fn websockets_are_limited_and_closed_with_1001_when_their_worker_goes() {
    // One worker, so that it is known whose limit is reached.
    let app = app("runtimeLimits = { maxConcurrentWebSocketSessions = 1; };");
    let manager = app.start_ready(&["--workers", "1"]);
    let Some(mut client) = WebSocketClient::start(&app) else { return };
    assert_eq!(client.says(), REFUSED);
    assert_eq!(client.says(), "open");
    assert!(manager.reload(1).contains("manager_reload_completed"), "{}", manager.diagnostics());
    assert_eq!(client.says(), "closed 1001 going away");
    assert_eq!(client.says(), "second second", "the successor has room");
    assert!(client.child.wait().unwrap().success());
    manager.stop();
}

#[test]
fn websockets_are_closed_with_1001_at_the_stop() {
    let app = app("");
    let manager = app.start_ready(&["--workers", "1"]);
    let Some(mut client) = WebSocketClient::start(&app) else { return };
    assert_eq!((client.says(), client.says()), ("second second".to_owned(), "open".to_owned()));
    manager.stop();
    assert_eq!(client.says(), "closed 1001 going away");
}
