//! The measurements: each does one thing to one peer and returns figures.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, mkfifo};
use propane_load::{Load, Mode as LoadMode, Report, Target};

use crate::manager::Outcome;

use super::launch::{Delays, Tools, as_from_a_shell, environment, plain_worker};
use super::peers::{Peer, Session};
use super::results::{Figure, Settings};
use super::subject::{PATIENCE, Place, Subject, control_files};
use super::system::{self, Interrupt, Usage};

/// How often it is looked how many of a crowd run.
const CROWD_LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// After a start, before anything is looked at: interpreters and managers have something to do at first.
const SETTLING: Duration = Duration::from_secs(1);
/// Requests before and after a reload, so that it falls into a load that flows.
const WARM_UP_REQUESTS: u64 = 500;
/// How long the load lasts from the beginning of a reload, so that latencies are taken over the same time of all.
const LOAD_AFTER: Duration = Duration::from_secs(2);

/// No more kills of a peer's workers in a round once they have taken as long.
const KILLS_LIMIT: Duration = Duration::from_secs(4);

/// How long a crash loop is watched at the most.
const CRASHES_LIMIT: Duration = Duration::from_secs(10);

pub(super) type Figures = Vec<(Figure, f64)>;

/// What every measurement is given.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) tools: Tools,
    pub(super) settings: Settings,
    pub(super) interrupt: Interrupt,
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes far below 2^52")]
fn count(number: impl TryInto<u64>) -> f64 {
    number.try_into().unwrap_or(u64::MAX) as f64
}

impl Bench {
    /// Does what a session is about. Figures are reported as they come, because a peer may fail half way. What takes long
    /// and varies little is left to the rounds that `is_long`.
    pub(super) fn session(
        &self,
        session: Session,
        peer: &Peer,
        is_long: bool,
        report: &mut dyn FnMut(Figures),
    ) -> Outcome<()> {
        match session {
            Session::Steady => self.steady(peer, is_long, report),
            Session::Reload => self.reload(peer, report),
            Session::Many => self.many(peer, report),
            Session::CrashLoop => self.crash_loop(peer, report),
            Session::Config => Ok(()),
        }
    }

    fn steady(&self, peer: &Peer, is_long: bool, report: &mut dyn FnMut(Figures)) -> Outcome<()> {
        let place = Place::new(self.settings.workers, Delays::Zero)?;
        let (mut subject, start) = Subject::serving(peer, &place, &self.tools, &self.interrupt)?;
        report(vec![(Figure::ColdStartMs, millis(start))]);
        self.interrupt.let_pass(SETTLING)?;
        if is_long {
            report(self.idle(&subject, peer.watched_for)?);
        }
        let began = Instant::now();
        for nth in 0..self.settings.kills {
            let (replaced, answered) = subject.kill_worker(nth)?;
            report(vec![(Figure::ReplacementMs, millis(replaced)), (Figure::AnswerMs, millis(answered))]);
            if began.elapsed() > KILLS_LIMIT {
                break;
            }
        }
        if is_long {
            report(vec![(Figure::WorkersLeft, count(subject.kill_manager()?))]);
        }
        Ok(())
    }

    fn idle(&self, subject: &Subject, at_least: Duration) -> Outcome<Figures> {
        let duration = Duration::from_secs(self.settings.idle_seconds).max(at_least);
        let (before, after) = subject.idle(duration)?;
        let cpu = |usage: Usage| usage.cpu + usage.children_cpu;
        Ok(vec![
            (Figure::IdleSwitchesPerS, count(after.switches.saturating_sub(before.switches)) / duration.as_secs_f64()),
            (Figure::IdleCpuUsPerS, micros(cpu(after).saturating_sub(cpu(before))) / duration.as_secs_f64()),
            (Figure::RssKib, count(after.rss_kib)),
            (Figure::PssKib, count(after.pss_kib)),
            (Figure::AnonymousKib, count(after.anonymous_kib)),
        ])
    }

    fn reload(&self, peer: &Peer, report: &mut dyn FnMut(Figures)) -> Outcome<()> {
        let place = Place::new(self.settings.workers, Delays::Zero)?;
        let (mut subject, start) = Subject::serving(peer, &place, &self.tools, &self.interrupt)?;
        report(vec![(Figure::ColdStartMs, millis(start))]);
        self.interrupt.let_pass(SETTLING)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, place.scene(&self.tools).port));
        let load = Load::on(&Target::at(address).path("/healthz"), self.settings.clients, LoadMode::NewConnections);
        let reloaded = self.reload_under(&load, &mut subject);
        let seen = load.stop();
        report(reload_figures(reloaded?, &seen));
        let (took, left) = subject.stop()?;
        report(vec![
            (Figure::StopMs, millis(took)),
            (Figure::ProcessesLeft, count(left)),
            (Figure::FilesLeft, count(control_files(place.path()))),
        ]);
        Ok(())
    }

    fn reload_under(&self, load: &Load, subject: &mut Subject) -> Outcome<Duration> {
        load.wait_for_more(WARM_UP_REQUESTS, PATIENCE)?;
        let took = subject.reload()?;
        self.interrupt.let_pass(LOAD_AFTER.saturating_sub(took))?;
        load.wait_for_more(WARM_UP_REQUESTS, PATIENCE)?;
        Ok(took)
    }

    fn many(&self, peer: &Peer, report: &mut dyn FnMut(Figures)) -> Outcome<()> {
        for (workers, figures) in self.crowds() {
            if workers <= peer.many {
                report(self.crowd(peer, workers, figures)?);
            }
        }
        Ok(())
    }

    /// How many workers, and the figures of start, stop and size.
    fn crowds(&self) -> [(usize, [Figure; 3]); 2] {
        [
            (self.settings.few, [Figure::FewStartMs, Figure::FewStopMs, Figure::FewRssKib]),
            (self.settings.many, [Figure::ManyStartMs, Figure::ManyStopMs, Figure::ManyRssKib]),
        ]
    }

    fn crowd(&self, peer: &Peer, workers: usize, [start, stop, rss]: [Figure; 3]) -> Outcome<Figures> {
        let place = Place::new(workers, Delays::Zero)?;
        let mut fifo = Fifo::in_directory(place.path())?;
        let fifo_path = fifo.path.display().to_string();
        let scene = place.scene(&self.tools);
        let command = peer.run(&scene, &["wait", &fifo_path]).ok_or("it runs no commands")??;
        let began = Instant::now();
        let mut subject = Subject::start(peer, &place, &self.tools, &self.interrupt, command)?;
        fifo.wait_for(workers, &self.interrupt, || subject.is_running())
            .map_err(|error| format!("{error}; it said: {}", subject.last_words()))?;
        let started = began.elapsed();
        self.interrupt.let_pass(SETTLING)?;
        let is_worker =
            |pid: i32| system::command_line(pid).ends_with(&[b"wait\0", fifo_path.as_bytes(), b"\0"].concat());
        let size = Usage::of(&system::beside(is_worker)).rss_kib;
        let (stopped, left) = subject.stop()?;
        if left > 0 {
            return Err(format!("{left} of {workers} workers outlived it").into());
        }
        Ok(vec![(start, millis(started)), (stop, millis(stopped)), (rss, count(size))])
    }

    /// The same crowds, spawned and killed by a bare loop.
    pub(super) fn kernel(&self) -> Outcome<Figures> {
        let mut figures = Figures::new();
        for (workers, [start, stop, _]) in self.crowds() {
            let place = Place::new(workers, Delays::Zero)?;
            let (started, stopped) = self.bare_crowd(&place, workers).inspect_err(|_| system::sweep())?;
            figures.extend([(start, millis(started)), (stop, millis(stopped))]);
        }
        Ok(figures)
    }

    fn bare_crowd(&self, place: &Place, workers: usize) -> Outcome<(Duration, Duration)> {
        let mut fifo = Fifo::in_directory(place.path())?;
        let words = plain_worker(&place.scene(&self.tools), &["wait", &fifo.path.display().to_string()]);
        let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let program = CString::new(self.tools.worker.as_os_str().as_bytes())?;
        let (actions, attributes) = (PosixSpawnFileActions::init()?, PosixSpawnAttr::init()?);
        let environment = environment()
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<Vec<_>, _>>()?;
        let began = Instant::now();
        let spawn = |_| posix_spawn(program.as_c_str(), &actions, &attributes, &words, &environment);
        let pids = (0..workers).map(spawn).collect::<Result<Vec<Pid>, _>>()?;
        fifo.wait_for(workers, &self.interrupt, || Ok(()))?;
        let started = began.elapsed();
        let began = Instant::now();
        for pid in &pids {
            kill(*pid, Signal::SIGTERM)?;
        }
        for pid in pids {
            waitpid(pid, None)?;
        }
        Ok((started, began.elapsed()))
    }

    fn crash_loop(&self, peer: &Peer, report: &mut dyn FnMut(Figures)) -> Outcome<()> {
        let (spawns, cpu) = self.crashes(peer, Delays::Zero)?;
        report(vec![(Figure::SpawnsPerS, spawns)]);
        if spawns > 0.0 {
            report(vec![(Figure::CpuUsPerSpawn, micros(cpu) / spawns)]);
        }
        let (spawns, cpu) = self.crashes(peer, Delays::AsShipped)?;
        report(vec![(Figure::ShippedSpawnsPerS, spawns), (Figure::ShippedCpuMsPerS, millis(cpu))]);
        Ok(())
    }

    /// Workers that fail at once: starts a second, and the manager's processor time in a second.
    fn crashes(&self, peer: &Peer, delays: Delays) -> Outcome<(f64, Duration)> {
        let place = Place::new(self.settings.workers, delays)?;
        let mut fifo = Fifo::in_directory(place.path())?;
        let fifo_path = fifo.path.display().to_string();
        let command = peer.run(&place.scene(&self.tools), &["crash", &fifo_path]).ok_or("it runs no commands")??;
        let mut subject = Subject::start(peer, &place, &self.tools, &self.interrupt, command)?;
        fifo.wait_for(self.settings.workers, &self.interrupt, || subject.is_running())
            .map_err(|error| format!("{error}; it said: {}", subject.last_words()))?;
        let is_worker = |pid: i32| {
            let words = system::command_line(pid);
            words.ends_with(&[fifo_path.as_bytes(), b"\0"].concat()) || words.is_empty()
        };
        let managers = system::beside(is_worker);
        let before = Usage::of(&managers);
        fifo.drain()?;
        let began = Instant::now();
        let window = Duration::from_secs(self.settings.crash_seconds).max(peer.watched_for.min(CRASHES_LIMIT));
        let mut spawns = 0;
        while let Some(rest) = window.checked_sub(began.elapsed()) {
            self.interrupt.let_pass(rest.min(Duration::from_millis(100)))?;
            spawns += fifo.drain()?;
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu = Usage::of(&managers).cpu.saturating_sub(before.cpu);
        Ok((count(spawns) / seconds, cpu.div_f64(seconds)))
    }

    /// One `propane config print`, and one resolution in the way of the bash original.
    pub(super) fn config(&self) -> Outcome<(Duration, Duration)> {
        let place = Place::new(self.settings.workers, Delays::Zero)?;
        let dir = place.path();
        std::fs::create_dir_all(dir.join("config/environments"))?;
        std::fs::write(dir.join("config/app.plist"), APP_PLIST)?;
        std::fs::write(dir.join("config/environments/production.plist"), "{}\n")?;
        let mut print = Command::new(&self.tools.propane);
        print.args(["config", "print", "--env", "production", "--format", "json"]).current_dir(dir);
        as_from_a_shell(&mut print);
        let json = print.output()?.stdout;
        let config = dir.join("config.json");
        std::fs::write(&config, json)?;
        let mut script = Command::new(self.tools.apps.join("by-two-processes.sh"));
        script.arg(config).arg(python(&self.tools)?);
        as_from_a_shell(&mut script);
        Ok((whole(&mut print)?, whole(&mut script)?))
    }
}

const APP_PLIST: &str = "{ propaneAccessories = { workerCount = 4; gracefulShutdownSeconds = 10; }; }\n";

/// How long a command takes from its start to its end.
fn whole(command: &mut Command) -> Outcome<Duration> {
    let began = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status()?;
    if status.success() { Ok(began.elapsed()) } else { Err(format!("{command:?}: {status}").into()) }
}

/// The interpreter itself, and not one of the scripts that choose one.
fn python(tools: &Tools) -> Outcome<PathBuf> {
    let python = tools.found.get("python3").ok_or("python3 is not installed")?;
    let asked = Command::new(python).args(["-c", "import sys; print(sys.executable, end='')"]).output()?;
    Ok(PathBuf::from(String::from_utf8(asked.stdout)?))
}

fn reload_figures(took: Duration, seen: &Report) -> Figures {
    vec![
        (Figure::ReloadMs, millis(took)),
        (Figure::FailedRequests, count(seen.failures())),
        (Figure::Requests, count(seen.ok + seen.failures())),
        (Figure::P99Ms, millis(seen.latency(0.99))),
        (Figure::MaxMs, millis(seen.latency(1.0))),
    ]
}

/// Where plain workers say that they run, a byte each.
struct Fifo {
    path: PathBuf,
    file: File,
}

impl Fifo {
    fn in_directory(dir: &Path) -> Outcome<Self> {
        let path = dir.join("started");
        mkfifo(&path, Mode::from_bits_truncate(0o600))?;
        // For writing too, so that it never looks closed.
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, nix::fcntl::OFlag::O_NONBLOCK.bits());
        let file = options.read(true).write(true).open(&path)?;
        Ok(Self { path, file })
    }

    /// Takes what is there.
    fn drain(&mut self) -> Outcome<usize> {
        let mut bytes = [0; 4096];
        let mut taken = 0;
        loop {
            match self.file.read(&mut bytes) {
                Ok(read) => taken += read,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(taken),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits until so many have been started, as long as that may come. Looks now and then, because whoever is woken by
    /// each of them takes time from the rest.
    fn wait_for(
        &mut self,
        wanted: usize,
        interrupt: &Interrupt,
        mut is_hopeful: impl FnMut() -> Outcome<()>,
    ) -> Outcome<()> {
        let mut started = 0;
        let mut look = || {
            is_hopeful()?;
            started += self.drain()?;
            Ok((started >= wanted).then_some(()))
        };
        let what = format!("{wanted} workers to start");
        interrupt.wait_for(&what, PATIENCE, CROWD_LOOK_INTERVAL, || look().transpose())?
    }
}
