//! A manager under test: started as an operator would, watched through what it prints, and gone with its test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Far more than anything here takes; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A scratch app root with a port.
pub(crate) struct App {
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
}

impl App {
    /// An app with a page, whose `config/app.plist` is `{ … }` around `settings`.
    pub(crate) fn new(settings: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, propane_load::free_port()));
        let app = Self { directory: tempfile::tempdir().unwrap(), address };
        app.write("public/index.html", "<h1>hello</h1>\n");
        app.configure(settings);
        app.write("config/environments/production.plist", "{}\n");
        app
    }

    pub(crate) fn configure(&self, settings: &str) {
        self.write("config/app.plist", &format!("{{\n{settings}\n}}\n"));
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn script(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What `propane` is started with, all but the flags of the test.
    pub(crate) fn command(&self, flags: &[&str]) -> Command {
        let port = self.address.port().to_string();
        self.bare(&[&["--env", "production", "--port", &port], flags].concat())
    }

    /// The program in the app root, with these words and no variable of its own.
    pub(crate) fn bare(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_propane"));
        command.args(words);
        command.current_dir(self.root()).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ARLEN_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Starts a manager.
    pub(crate) fn start(&self, flags: &[&str]) -> Manager {
        Manager::spawn(self.command(flags), self.address)
    }

    /// Starts a manager and waits until all its workers are ready.
    pub(crate) fn start_ready(&self, flags: &[&str]) -> Manager {
        let manager = self.start(flags);
        manager.wait_for("event=manager_ready");
        manager
    }

    /// Runs `propane` to its end. Returns the exit code, stdout and stderr.
    pub(crate) fn run(&self, flags: &[&str]) -> (i32, String, String) {
        let output = self.command(flags).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
    }

    /// Everything that a manager leaves in its app root while it runs.
    pub(crate) fn control_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("tmp")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// The lines of a stream, as they come.
#[derive(Default)]
struct Lines {
    heard: Mutex<Vec<String>>,
    grown: Condvar,
    is_over: Mutex<bool>,
    ended: Condvar,
}

impl Lines {
    fn collect(stream: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                writer.heard.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
                writer.grown.notify_all();
            }
            *writer.is_over.lock().unwrap() = true;
            writer.ended.notify_all();
        });
        lines
    }

    /// Waits for the end of the stream: everything that was written is there then. Somebody who was left behind on purpose
    /// may hold it open; then what is missing is told by whoever looks for it.
    fn wait_for_end(&self) {
        let is_over = self.is_over.lock().unwrap();
        drop(self.ended.wait_timeout_while(is_over, Duration::from_secs(2), |is_over| !*is_over).unwrap());
    }

    fn wait<T>(&self, what: &str, find: impl Fn(&[String]) -> Option<T>) -> T {
        let found = self.wait_within(PATIENCE, find);
        found.unwrap_or_else(|| panic!("waited in vain for {what} in:\n{}", self.all()))
    }

    fn wait_within<T>(&self, limit: Duration, find: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut lines: MutexGuard<'_, Vec<String>> = self.heard.lock().unwrap();
        loop {
            let (found, left) = (find(&lines), deadline.saturating_duration_since(Instant::now()));
            if found.is_some() || left.is_zero() {
                return found;
            }
            lines = self.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    fn all(&self) -> String {
        self.heard.lock().unwrap().join("\n")
    }
}

/// A running manager. Killed, with everything it started, when the test ends.
pub(crate) struct Manager {
    child: Child,
    address: SocketAddr,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

impl Manager {
    pub(crate) fn spawn(mut command: Command, address: SocketAddr) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("propane starts");
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        Self { child, address, stdout, stderr }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// All of stdout so far.
    pub(crate) fn log(&self) -> String {
        self.stdout.all()
    }

    /// All of stderr so far.
    pub(crate) fn diagnostics(&self) -> String {
        self.stderr.all()
    }

    /// Waits for a line of stdout that contains `text`, and returns the first.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_for_nth(text, 1)
    }

    /// A line of stdout that contains `text`, if there is one within this time.
    pub(crate) fn found_within(&self, limit: Duration, text: &str) -> Option<String> {
        self.stdout.wait_within(limit, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// Waits for the `nth` line (from 1) of stdout that contains `text`.
    pub(crate) fn wait_for_nth(&self, text: &str, nth: usize) -> String {
        let find = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).nth(nth - 1).cloned();
        self.stdout.wait(&format!("{text} (#{nth})"), find)
    }

    /// Waits for a line of stderr that contains `text`.
    pub(crate) fn wait_for_diagnostic(&self, text: &str) -> String {
        self.stderr.wait(text, |lines| lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// Sends HUP and waits for the end of the reload of `generation`, whichever it is.
    pub(crate) fn reload(&self, generation: u32) -> String {
        self.signal(Signal::SIGHUP);
        let ends = ["manager_reload_completed", "manager_reload_failed"];
        let suffix = format!("manager_pid={} generation={generation} ", self.pid());
        let is_end = |line: &&String| line.contains(&suffix) && ends.iter().any(|end| line.contains(end));
        self.stdout.wait(&format!("the end of reload {generation}"), |lines| lines.iter().find(is_end).cloned())
    }

    /// The pids of all children.
    pub(crate) fn children(&self) -> Vec<i32> {
        children_of(self.pid())
    }

    /// Waits until its warden says that it has killed a process, among others that the kernel may have been at.
    pub(crate) fn wait_for_warden_to_tell_of(&self, pid: i32) {
        let told = self.wait_for_diagnostic("its warden has killed what was left: ");
        let pids = told.rsplit_once(": ").unwrap().1.split(", ");
        assert!(pids.clone().any(|told| told == pid.to_string()), "{pid}: {told}");
    }

    /// Its warden, which is still being executed for a moment when the manager goes on.
    pub(crate) fn warden(&self) -> i32 {
        eventually("a warden", || warden_of(self.pid()))
    }

    /// Asks for a path, and returns the status and the body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).expect("an answer")
    }

    /// Stops with TERM, and asserts that the end is orderly.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(0), "log:\n{}\ndiagnostics:\n{}", self.log(), self.diagnostics());
        self.wait_for("event=manager_stopped");
        self.log()
    }

    /// The exit code, if the manager has ended.
    pub(crate) fn try_exit(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    /// Waits for the manager's own end.
    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        let status = eventually("the manager's exit", || self.child.try_wait().unwrap());
        self.stdout.wait_for_end();
        status
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // In order where that is possible, so that nothing is left in the temporary directory.
        let groups = self.children();
        let _ = kill(Pid::from_raw(self.pid()), Signal::SIGQUIT);
        if !self.ends_within(Duration::from_secs(5)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for group in groups {
            let _ = nix::sys::signal::killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Manager {
    fn ends_within(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        eventually("an end or the limit", || match self.child.try_wait() {
            Ok(None) if Instant::now() < deadline => None,
            ended => Some(matches!(ended, Ok(Some(_)))),
        })
    }
}

/// Polls until `look` finds something. The only place here that waits for a time, because some things in the world tell
/// nobody when they change.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        #[expect(clippy::disallowed_methods, reason = "between two looks at a condition, not instead of one")]
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process is gone, or a zombie that somebody else has to reap.
pub(crate) fn wait_gone(pid: i32) {
    eventually(&format!("the end of pid {pid}"), || (!is_alive(pid)).then_some(()));
}

pub(crate) fn is_alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub(crate) fn children_of(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The living warden of a manager.
pub(crate) fn warden_of(manager: i32) -> Option<i32> {
    let words = format!("propane\0warden\0{manager}\0");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == words.as_bytes()))
}

/// The value of `key` in a lifecycle line.
pub(crate) fn field<'a>(line: &'a str, key: &str) -> &'a str {
    let prefix = format!("{key}=");
    line.split(' ').find_map(|word| word.strip_prefix(&prefix)).unwrap_or_else(|| panic!("no {key} in {line}"))
}

/// The notify socket that a worker was told of.
pub(crate) fn notify_socket(pid: i32) -> PathBuf {
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    environment.split('\0').find_map(|variable| variable.strip_prefix("NOTIFY_SOCKET=")).unwrap().into()
}

/// The pid in a lifecycle line.
pub(crate) fn pid_in(line: &str) -> i32 {
    field(line, "pid").parse().unwrap()
}

/// One request on a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
}
