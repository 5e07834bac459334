//! `cargo xtask throughput`: what the worker library costs beside bare hyper, and what idle connections cost it.
//!
//! Both answer the same bytes, one after the other in the same run, so that what else the machine does hits both.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::manager::{Outcome, release, spin_until};
use crate::words::{misused, number_flags};

pub(crate) const USAGE: &str = "\
Usage: cargo xtask throughput [--rounds N] [--seconds N] [--clients N] [--idle N]

  --rounds N   how often each of the two is measured (5)
  --seconds N  how long each time (4)
  --clients N  connections of wrk at once (64)
  --idle N     kept connections whose memory is measured (10000)

Needs wrk, and descriptors for all idle connections twice.
";

/// `USER_HZ`, which is the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Descriptors that are none of the idle connections.
const OTHER_DESCRIPTORS: u64 = 100;

/// The worker's limit: more than any machine's descriptors, because a large one is to cost nothing.
const SESSIONS: &str = "100000";

/// Runs the task.
pub(crate) fn run(words: impl Iterator<Item = String>) -> ExitCode {
    let flags = [("--rounds", 5), ("--seconds", 4), ("--clients", 64), ("--idle", 10_000)];
    let numbers = match number_flags(words, flags) {
        Ok(numbers) => numbers,
        Err(problem) => return misused("throughput", &problem, USAGE),
    };
    let [rounds, seconds, clients, idle] = numbers;
    match build().and_then(|programs| {
        compare(&programs, rounds, seconds, clients)?;
        hold("bare hyper", &programs.bare, idle)?;
        hold("propane-worker", &programs.library, idle)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Programs {
    bare: PathBuf,
    library: PathBuf,
}

fn build() -> Outcome<Programs> {
    let wanted = ["--package", "propane-worker", "--example", "bare_hyper", "--bin", "worker-fixture"];
    Ok(Programs { bare: release(&wanted, "examples/bare_hyper")?, library: release(&wanted, "worker-fixture")? })
}

/// A server of one process; ended with the value.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    fn start(program: &Path) -> Outcome<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, propane_load::free_port()));
        let mut command = Command::new(program);
        command.arg("app").env("ARLEN_PORT", address.port().to_string()).stdin(Stdio::null());
        command.env("ARLEN_MAX_HTTP_SESSIONS", SESSIONS).env("ARLEN_CONNECTION_TIMEOUT_SECONDS", "600");
        let running = Self { child: command.spawn()?, address };
        spin_until("the server", || TcpStream::connect(address).is_ok())?;
        Ok(running)
    }

    /// User and system time so far, in seconds: what other processes do to this one shows less in it than in a rate.
    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        // The name before it may hold anything; of what follows it, `utime` and `stime` are the 12th and 13th.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
    }

    /// Puts a load on it.
    fn load(&self, seconds: usize, clients: usize) -> Outcome<Round> {
        let before = self.cpu_seconds();
        let (requests, rate) = wrk(self.address, seconds, clients)?;
        Ok(Round { rate, micros: (self.cpu_seconds() - before) * 1e6 / requests })
    }

    fn memory_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is this process's child and not reaped yet, so the pid is its own.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What one of the two made of one load.
struct Round {
    /// Requests a second.
    rate: f64,
    /// Processor time of a request, in microseconds.
    micros: f64,
}

fn compare(programs: &Programs, rounds: usize, seconds: usize, clients: usize) -> Outcome<()> {
    let (bare, library) = (Running::start(&programs.bare)?, Running::start(&programs.library)?);
    let (expected, answered) = (answer(bare.address)?, answer(library.address)?);
    if shape(&expected) != shape(&answered) {
        return Err(format!("they answer differently:\n{expected}\n{answered}").into());
    }
    println!("both answer {} bytes, with the same headers in the same order", answered.len());
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let bare = bare.load(seconds, clients)?;
        let library = library.load(seconds, clients)?;
        println!(
            "round {round}: bare hyper {:.0}/s at {:.1} us each, propane-worker {:.0}/s at {:.1} us each",
            bare.rate, bare.micros, library.rate, library.micros
        );
        rates.push(library.rate / bare.rate * 100.0);
        costs.push(bare.micros / library.micros * 100.0);
    }
    println!(
        "propane-worker at {:.1} % of bare hyper by requests a second, at {:.1} % by processor time (medians of {rounds})",
        median(rates),
        median(costs)
    );
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// An answer but for the times and numbers in its headers, which are of the same length everywhere.
fn shape(answer: &str) -> Vec<(&str, String)> {
    let masked = |value: &str| value.replace(|char: char| char.is_ascii_alphanumeric(), "0");
    let lines = answer.split("\r\n").map(|line| line.split_once(": ").unwrap_or((line, "")));
    lines.map(|(name, value)| (name, masked(value))).collect()
}

/// The whole answer to the request that is measured.
fn answer(address: SocketAddr) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: throughput\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Requests in all, and a second.
fn wrk(address: SocketAddr, seconds: usize, clients: usize) -> Outcome<(f64, f64)> {
    let (time, clients) = (format!("-d{seconds}s"), format!("-c{clients}"));
    let output = Command::new("wrk").args(["-t1", &clients, &time, &format!("http://{address}/")]).output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(format!("requests failed:\n{text}").into());
    }
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).ok_or("wrk tells no rate")?;
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in")).ok_or("wrk tells no number")?;
    Ok((requests.0.parse()?, rate.trim().parse()?))
}

/// Holds many idle connections, each of which has had an answer, and asks all of them again.
fn hold(name: &str, program: &Path, count: usize) -> Outcome<()> {
    raise_descriptors(count as u64 + OTHER_DESCRIPTORS)?;
    let server = Running::start(program)?;
    let before = server.memory_kib();
    let mut kept = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(server.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        ask(&mut stream)?;
        kept.push(stream);
    }
    let held = server.memory_kib();
    kept.iter_mut().try_for_each(ask)?;
    println!(
        "{name} with {count} idle connections: {before} KiB before, {held} KiB with them, {} bytes for each; all answered again",
        held.saturating_sub(before) * 1024 / count as u64
    );
    Ok(())
}

fn ask(stream: &mut TcpStream) -> Outcome<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: throughput\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 2048];
    while !answer.ends_with(b"hello\n") {
        match stream.read(&mut piece)? {
            0 => return Err(format!("the connection ended after {:?}", String::from_utf8_lossy(&answer)).into()),
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    Ok(())
}

/// For this process, and for the server that it starts.
fn raise_descriptors(wanted: u64) -> Outcome<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted {
        return Err(format!("{wanted} descriptors are needed, and at most {hard} are allowed").into());
    }
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard)?)
}
