//! From a resolved configuration to a running manager, in this order: lock, prepare, bind, say hello, run.
//! Whatever fails here, nothing has been started and nothing is left behind.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use propane_config::{Inputs, Resolution, SocketStrategy, Strategy, WorkerChoice, unix_path};
use propane_core::ShutdownCause;

use crate::adopted::{self, Adopted};
use crate::driver::{Driver, Setup};
use crate::greeting::Greeting;
use crate::identity::{self, IdentityError};
use crate::journal::Journal;
use crate::notify::NotifyDirectory;
use crate::pidfile::{PidFile, PidFileError};
use crate::plan::Plan;
use crate::prepare::{self, Outcome};
use crate::private_file::PrivateFile;
use crate::reload::Loader;
use crate::running;
use crate::signals::Signals;
use crate::sockets::{Address, Received, SocketError, Sockets};
use crate::spawn::{Identity, Spawner};
use crate::state::{self, Before, StateFile};
use crate::warden::{WITHOUT_WARDEN, Warden};

/// Why the manager does not run.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("cannot use app root {path}: {error}")]
    AppRoot { path: String, error: io::Error },
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    #[error("already running with pid {pid} (pid file: {path}, which is gone)")]
    Running { pid: i32, path: String },
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("{message}")]
    Prepare { message: String, status: u8 },
    #[error("expected compiled server binary at {0}")]
    NoBinary(String),
    #[error("cannot open lifecycle log {path}: {error}")]
    LifecycleLog { path: String, error: io::Error },
    #[error("cannot execute {program}: {error}")]
    Exec { program: String, error: io::Error },
    #[error("{what}: {error}")]
    System { what: &'static str, error: io::Error },
}

impl StartError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Prepare { status, .. } => *status,
            _ => 1,
        }
    }
}

/// Runs the manager until it has stopped, and returns its exit code.
///
/// `resolution` has no errors. `inputs` are what it was resolved from; every reload resolves from them again.
pub fn run(inputs: Inputs, resolution: &Resolution) -> u8 {
    match start(inputs, resolution) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}

fn start(inputs: Inputs, resolution: &Resolution) -> Result<u8, StartError> {
    let run = &resolution.run;
    let adopted = Adopted::expected();
    std::fs::read_dir(&run.physical_app_root)
        .map_err(|error| StartError::AppRoot { path: run.app_root.display().to_string(), error })?;
    let received = Received::take(&inputs.env)?;
    let spawner = Spawner::new().map_err(system("cannot get ready to start workers"))?;
    let signals = Signals::catch().map_err(system("cannot catch signals"))?;
    let mut pid_file = lock(&run.pid_file)?;
    let end = Locked { resolution, received, adopted, spawner, signals, pid_file: &mut pid_file }.run(inputs);
    // The log's last line is about a manager that has left nothing behind, and a process that prints is no manager.
    pid_file.remove();
    match end? {
        End::ToldToStop => Ok(0),
        End::Prints(inputs, strategy, identity) => Err(print_routes(inputs, resolution, strategy, identity)),
        End::Served(code, cause, mut journal) => {
            let line = journal.event("manager_stopped").field("reason", cause).field("exit_code", code);
            journal.write(line);
            Ok(code)
        }
    }
}

fn lock(path: &Path) -> Result<PidFile, PidFileError> {
    if let Some(parent) = path.parent() {
        // Where it cannot be made, locking the file says why.
        let _ = std::fs::create_dir_all(parent);
    }
    PidFile::lock(&running::settled(path))
}

/// How it ended, for a manager that held its pid file.
enum End {
    /// It was told to stop before there was anything to bind.
    ToldToStop,
    /// It is to become a worker that prints its routes.
    Prints(Inputs, Strategy, Option<Identity>),
    /// It has managed, and left with this code.
    Served(u8, ShutdownCause, Journal),
}

/// A manager that holds its pid file.
struct Locked<'a> {
    resolution: &'a Resolution,
    received: Option<Received>,
    adopted: Adopted,
    spawner: Spawner,
    signals: Signals,
    pid_file: &'a mut PidFile,
}

impl Locked<'_> {
    fn run(mut self, inputs: Inputs) -> Result<End, StartError> {
        // Before anything is started. What it needs for its own start runs beside what follows.
        let (warden, record) = start_warden(&mut self.spawner).unzip();
        let resolution = self.resolution;
        let Some((strategy, identity)) = (Prelude { resolution, signals: &mut self.signals }.run())? else {
            return Ok(End::ToldToStop);
        };
        if resolution.run.print_routes {
            return Ok(End::Prints(inputs, strategy, identity));
        }
        let (received, adopted) = (self.received, self.adopted);
        let start = Start { resolution, strategy, identity: identity.as_ref(), received, warden, record, adopted };
        start.serve(inputs, self.signals, self.spawner, self.pid_file)
    }
}

/// What must be settled before there is anything to bind.
struct Prelude<'a> {
    resolution: &'a Resolution,
    signals: &'a mut Signals,
}

impl Prelude<'_> {
    /// `None` if the manager was told to stop meanwhile.
    fn run(&mut self) -> Result<Option<(Strategy, Option<Identity>)>, StartError> {
        let accessories = &self.resolution.config.propane_accessories;
        let identity = identity::find(&accessories.run_as_user, &accessories.run_as_group)?;
        let strategy = self.resolution.strategy;
        if let (Some(identity), Strategy::Steer | Strategy::Reuseport) = (&identity, strategy) {
            identity::check_port(identity, self.resolution.config.port)?;
        }
        Ok(self.prepare()?.then_some((strategy, identity)))
    }

    fn prepare(&mut self) -> Result<bool, StartError> {
        if let Some(step) = self.resolution.worker.choice.prepare_step() {
            let program = step.program.display().to_string();
            let outcome = prepare::run(step, self.signals).map_err(|error| StartError::Exec { program, error })?;
            match outcome {
                Outcome::Done => {}
                Outcome::Stopped => return Ok(false),
                Outcome::Failed(status) => {
                    return Err(StartError::Prepare { message: step.failure.clone(), status });
                }
            }
        }
        match &self.resolution.worker.choice {
            WorkerChoice::ArlenApp { binary, .. } | WorkerChoice::FrameworkServer { binary, .. } => {
                let is_there = crate::program::find(binary.as_os_str(), &self.resolution.run.physical_app_root, None);
                is_there.map(|_| true).map_err(|_| StartError::NoBinary(binary.display().to_string()))
            }
            WorkerChoice::Command { .. } | WorkerChoice::Embedded => Ok(true),
        }
    }
}

/// What is settled when there is something to bind.
struct Start<'a> {
    resolution: &'a Resolution,
    strategy: Strategy,
    identity: Option<&'a Identity>,
    received: Option<Received>,
    warden: Option<Warden>,
    /// What the warden reads.
    record: Option<PrivateFile>,
    adopted: Adopted,
}

impl Start<'_> {
    fn serve(
        mut self,
        inputs: Inputs,
        signals: Signals,
        spawner: Spawner,
        pid_file: &mut PidFile,
    ) -> Result<End, StartError> {
        let resolution = self.resolution;
        let (state_file, running_file) = (state::path_for(pid_file.path()), running::path_for(pid_file.path()));
        self.clear_leftovers(&state_file)?;
        let address = self.address()?;
        let mut loader = self.loader(inputs, address.as_ref());
        let plan = loader.plan(resolution);
        let mut journal = open_journal(resolution)?;
        let greeting = Greeting::new(resolution, self.strategy, address.as_ref());
        greeting.greet(&mut journal);
        raise_fd_limit();
        let sockets = self.open_sockets(address)?;
        pid_file.write()?;
        greeting.say_started(&mut journal);
        adopted::begin().map_err(system("cannot become a subreaper"))?;
        loader.save_to(&running_file, resolution);
        let notify = notify_directory(self.identity);
        let state = StateFile::create(&state_file, self.record.take());
        let warden_end = self.warden.as_ref().map(Warden::as_fd);
        let setup = Setup { plan, loader, sockets, signals, notify, journal, state_file: state, spawner, warden_end };
        let driver = Driver::new(setup).map_err(system("cannot set up the event loop"))?;
        let (code, cause, journal) = driver.run().map_err(system("cannot wait for events"))?;
        self.leave(&[&state_file, &running_file]);
        Ok(End::Served(code, cause, journal))
    }

    fn clear_leftovers(&self, state_file: &Path) -> Result<(), StartError> {
        match state::clear_leftovers(state_file) {
            Before::Running(pid) => {
                Err(StartError::Running { pid, path: self.resolution.run.pid_file.display().to_string() })
            }
            Before::Cleared(pids) => {
                for pid in pids {
                    tracing::warn!("killed pid {pid}, left behind by a manager that was killed");
                }
                Ok(())
            }
        }
    }

    fn loader(&self, inputs: Inputs, address: Option<&Address>) -> Loader {
        let mut loader = Loader::new(inputs, self.resolution, self.strategy, self.identity.cloned());
        if let Some(address) = address {
            loader.listens_on(address.clone());
        }
        loader
    }

    /// Leaves nothing behind. `files` are what the next manager would need if this one had not stopped in order.
    fn leave(self, files: &[&Path]) {
        self.adopted.end();
        if let Some(warden) = &self.warden {
            // There is nothing left that it could end. It is waited for when it is dropped, after the files.
            warden.dismiss();
        }
        for file in files {
            let _ = std::fs::remove_file(file);
        }
    }

    /// Where the manager listens, where that is not simply what the configuration says: at what was handed over to it, or
    /// at a path that is whole. What was handed over may settle the strategy as well.
    fn address(&mut self) -> Result<Option<Address>, StartError> {
        let (config, run) = (&self.resolution.config, &self.resolution.run);
        let Some(received) = &self.received else {
            let is_file = unix_path(&config.host).is_some();
            let address = is_file.then(|| Address::resolve(&config.host, config.port, &run.physical_app_root));
            return Ok(address.transpose()?);
        };
        let choice = &self.resolution.worker.choice;
        let is_supposed = config.propane_accessories.socket_strategy == SocketStrategy::Auto;
        let strategy = received.strategy(self.strategy, is_supposed && choice.may_take_descriptor())?;
        tell_of_received(received, strategy, self.resolution);
        self.strategy = strategy;
        Ok(Some(received.address().clone()))
    }

    fn open_sockets(&mut self, address: Option<Address>) -> Result<Sockets, SocketError> {
        let config = &self.resolution.config;
        let (backlog, workers) = (config.listen_backlog, config.propane_accessories.worker_count);
        if let Some(received) = self.received.take() {
            return Sockets::take_over(received, backlog, workers);
        }
        match address.map_or_else(|| Address::resolve(&config.host, config.port, Path::new("/")), Ok)? {
            Address::Unix(path) => {
                Sockets::open_file(&path, backlog, u32::from_str_radix(&config.propane_accessories.umask, 8).ok())
            }
            Address::Tcp(address) => {
                Sockets::open(address, backlog, self.strategy, config.enable_reuse_port, workers, self.identity)
            }
        }
    }
}

/// Whether somebody has set a setting.
fn is_explicit(resolution: &Resolution, key: &str) -> bool {
    resolution.setting(key).is_some_and(|setting| setting.origin.is_explicit())
}

/// Says what was handed over, and what the configuration has to say to it.
fn tell_of_received(received: &Received, strategy: Strategy, resolution: &Resolution) {
    let (address, count) = (received.address(), received.count());
    let sockets = if count == 1 { "a socket".to_owned() } else { format!("{count} sockets") };
    tracing::info!("{sockets} on {address} handed over (LISTEN_FDS); socketStrategy={}", strategy.as_str());
    let (config, workers) = (&resolution.config, resolution.config.propane_accessories.worker_count);
    let differs = match Address::resolve(&config.host, config.port, &resolution.run.physical_app_root) {
        Ok(configured) => {
            let is_other_host = is_explicit(resolution, "host") && configured.host() != address.host();
            is_other_host || is_explicit(resolution, "port") && configured.port() != address.port()
        }
        Err(_) => is_explicit(resolution, "host"),
    };
    if differs {
        tracing::warn!(
            "host = {} and port = {} are not used: {address} was handed over by the service manager",
            config.host,
            config.port
        );
    }
    if usize::try_from(workers).unwrap_or(usize::MAX) < count {
        tracing::warn!(
            "{count} sockets were handed over for {workers} workers: nobody is sent to those that are left over"
        );
    }
}

/// The manager of a pid namespace needs none: the kernel ends all that is in it with the manager.
fn start_warden(spawner: &mut Spawner) -> Option<(Warden, PrivateFile)> {
    if rustix::process::getpid().is_init() {
        return None;
    }
    let warden = Warden::start(spawner);
    if let Err(error) = &warden {
        tracing::warn!("no warden, {WITHOUT_WARDEN}: {error}");
    }
    warden.ok()
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::System { what, error }
}

fn open_journal(resolution: &Resolution) -> Result<Journal, StartError> {
    let path = resolution.run.lifecycle_log.as_deref();
    let shown = path.map(|path| path.display().to_string()).unwrap_or_default();
    Journal::open(path).map_err(|error| StartError::LifecycleLog { path: shown, error })
}

/// Workers that cannot say that they are ready are seen to be, so a machine without room for sockets still serves.
fn notify_directory(identity: Option<&Identity>) -> Option<NotifyDirectory> {
    let directory = NotifyDirectory::create(identity);
    if let Err(error) = &directory {
        tracing::warn!("no notify sockets for the workers: {error}");
    }
    directory.ok()
}

/// `--print-routes`: this process becomes the worker, so that the answer and the status are the worker's own.
fn print_routes(inputs: Inputs, resolution: &Resolution, strategy: Strategy, identity: Option<Identity>) -> StartError {
    let mut journal = match open_journal(resolution) {
        Ok(journal) => journal,
        Err(error) => return error,
    };
    let greeting = Greeting::new(resolution, strategy, None);
    greeting.greet(&mut journal);
    greeting.say_started(&mut journal);
    become_worker(&Loader::new(inputs, resolution, strategy, identity).plan(resolution))
}

fn become_worker(plan: &Plan) -> StartError {
    let invocation = plan.http_worker(0, 0, None);
    // No socket is handed down: the worker prints and ends.
    let env = invocation.env.without_socket();
    let program = invocation.program.display().to_string();
    if let Err(error) = plan.identity.as_ref().map_or(Ok(()), identity::take) {
        return StartError::Exec { program, error };
    }
    let argv0 = invocation.argv.first().cloned().unwrap_or_default();
    let error = Command::new(&invocation.program)
        .arg0(argv0)
        .args(invocation.argv.iter().skip(1))
        .env_clear()
        .envs(env.iter())
        .current_dir(&plan.directory)
        .exec();
    StartError::Exec { program, error }
}

/// Lets the manager have as many descriptors as it may. One that may not raise it has fewer slots to offer, and no other
/// trouble.
fn raise_fd_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
