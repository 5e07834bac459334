//! One generation: what the supervisor's policy is, and what its workers are started from. Made from a resolved
//! configuration, and from then on a value that nothing changes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use propane_config::{PropaneAccessories, ResolvedConfig, RunOptions, Strategy, WorkerChoice, root_exports};
use propane_core::{FdLimits, Generation, Policy, RespawnMode, TurnAway};

use crate::spawn::{Identity, LISTEN_FD};
use crate::state::MANAGER_PID_VARIABLE;

/// What a manager may have been told by its own service manager, which is not its workers' business
/// (`sd_notify(3)`, `sd_listen_fds(3)`, `sd_watchdog_enabled(3)`).
const MANAGERS_OWN_VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "MAINPID",
];

/// What tells a worker of its socket; `LISTEN_PID` is added by the child itself, which alone knows its pid.
const SOCKET_VARIABLES: [&str; 2] = ["LISTEN_FDS", "LISTEN_FDNAMES"];

/// The embedded worker and the warden are this very program, also when its file has been replaced or removed meanwhile.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// What one generation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The numbers that decisions need.
    pub(crate) policy: Policy,
    /// The working directory of workers: the app root with its symlinks resolved.
    pub(crate) directory: PathBuf,
    /// As whom workers run.
    pub(crate) identity: Option<Identity>,
    /// The file mode mask of workers.
    pub(crate) umask: Option<u32>,
    /// How workers come by their connections.
    pub(crate) strategy: Strategy,
    /// The path that a ready worker answers with 200.
    pub(crate) readiness_path: Option<String>,
    choice: WorkerChoice,
    job_command: String,
    host: String,
    port: u16,
    environment: String,
    worker_args: Vec<OsString>,
    once: bool,
    print_routes: bool,
    /// The environment that all workers share.
    pub(crate) variables: BTreeMap<OsString, OsString>,
}

/// A process to be: the program's name, its words, and its variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invocation<'a> {
    /// A path, or a name to look for in `PATH`.
    pub(crate) program: OsString,
    /// `argv`, the name it is called by first.
    pub(crate) argv: Vec<OsString>,
    /// The whole environment.
    pub(crate) env: WorkerEnv<'a>,
}

/// The environment of a process: what it shares with all workers of its generation is not copied for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerEnv<'a> {
    shared: &'a BTreeMap<OsString, OsString>,
    own: BTreeMap<&'static OsStr, OsString>,
}

impl<'a> WorkerEnv<'a> {
    fn set(&mut self, name: &'static str, value: impl Into<OsString>) {
        self.own.insert(OsStr::new(name), value.into());
    }

    /// All variables, each once.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        let shared = self.shared.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()));
        let own = self.own.iter().map(|(name, value)| (*name, value.as_os_str()));
        shared.filter(|(name, _)| !self.own.contains_key(name)).chain(own)
    }

    /// Where programs are looked for.
    pub(crate) fn path(&self) -> Option<&'a OsStr> {
        self.shared.get(OsStr::new("PATH")).map(OsString::as_os_str)
    }

    /// The environment without the variables of `sd_listen_fds(3)`.
    pub(crate) fn without_socket(mut self) -> Self {
        self.own.retain(|name, _| !SOCKET_VARIABLES.iter().any(|socket| *name == *socket));
        self
    }
}

/// What a plan is made from.
pub(crate) struct Sources<'a> {
    pub(crate) config: &'a ResolvedConfig,
    pub(crate) run: &'a RunOptions,
    pub(crate) choice: &'a WorkerChoice,
    pub(crate) strategy: Strategy,
    /// The settings that workers find in their environment.
    pub(crate) exports: Vec<(String, String)>,
    /// The manager's environment.
    pub(crate) environment: &'a BTreeMap<OsString, OsString>,
    pub(crate) identity: Option<Identity>,
}

impl Plan {
    /// The plan for a configuration.
    pub(crate) fn new(sources: &Sources<'_>) -> Self {
        let Sources { config, run, .. } = sources;
        let accessories = &config.propane_accessories;
        Self {
            policy: policy(config, run, sources.strategy),
            directory: run.physical_app_root.clone(),
            identity: sources.identity.clone(),
            umask: u32::from_str_radix(&accessories.umask, 8).ok(),
            strategy: sources.strategy,
            readiness_path: Some(accessories.readiness_path.clone()).filter(|path| !path.is_empty()),
            choice: sources.choice.clone(),
            job_command: accessories.job_worker_command.clone(),
            host: config.host.clone(),
            port: config.port,
            environment: run.environment.clone(),
            worker_args: run.worker_args.clone(),
            once: run.once && !run.print_routes,
            print_routes: run.print_routes,
            variables: variables(sources),
        }
    }

    /// The HTTP worker of a slot.
    pub(crate) fn http_worker(&self, slot: u32, generation: Generation, notify: Option<&Path>) -> Invocation<'_> {
        let mut env = self.worker_env(slot, generation);
        if let Some(notify) = notify {
            env.set("NOTIFY_SOCKET", notify);
        }
        if let Some(timeout) = self.policy.heartbeat_timeout {
            env.set("WATCHDOG_USEC", timeout.as_micros().to_string());
        }
        if self.announces_socket() {
            for (name, value) in SOCKET_VARIABLES.into_iter().zip(["1", "http"]) {
                env.set(name, value);
            }
        }
        if let WorkerChoice::Command { .. } = self.choice {
            env.set("HOST", &self.host);
            env.set("PORT", self.port.to_string());
        }
        let (program, argv) = self.command_line(slot);
        Invocation { program, argv, env }
    }

    /// The job worker of a slot.
    pub(crate) fn job_worker(&self, slot: u32, generation: Generation) -> Invocation<'_> {
        let argv = ["/bin/sh", "-c", &self.job_command].map(OsString::from).to_vec();
        Invocation { program: "/bin/sh".into(), argv, env: self.worker_env(slot, generation) }
    }

    /// Whether the worker is told of its socket by the variables of `sd_listen_fds(3)`. One that is told by a word of the
    /// form `fd://3` is not: gunicorn would take the socket twice, and fail the second time.
    pub(crate) fn announces_socket(&self) -> bool {
        let by_url = match &self.choice {
            WorkerChoice::Command { words } => words.iter().any(|word| word.contains("fd://{fd}")),
            _ => false,
        };
        !self.strategy.binds_by_itself() && !by_url
    }

    fn worker_env(&self, slot: u32, generation: Generation) -> WorkerEnv<'_> {
        let mut env = WorkerEnv { shared: &self.variables, own: BTreeMap::new() };
        env.set("ARLEN_WORKER_ID", slot.to_string());
        env.set("ARLEN_WORKER_GENERATION", generation.to_string());
        env
    }

    fn command_line(&self, slot: u32) -> (OsString, Vec<OsString>) {
        match &self.choice {
            WorkerChoice::Command { words } => {
                let mut argv: Vec<OsString> = words.iter().map(|word| self.fill_in(word, slot).into()).collect();
                argv.extend(self.worker_args.iter().cloned());
                (argv.first().cloned().unwrap_or_default(), argv)
            }
            WorkerChoice::ArlenApp { binary, .. } | WorkerChoice::FrameworkServer { binary, .. } => {
                (binary.into(), self.arlen_argv(binary.as_os_str(), &[]))
            }
            WorkerChoice::Embedded => (OWN_PROGRAM.into(), self.arlen_argv(OsStr::new("propane"), &["worker"])),
        }
    }

    /// The command line that an Arlen server understands (ARLEN-CONTRACT A6).
    fn arlen_argv(&self, name: &OsStr, before: &[&str]) -> Vec<OsString> {
        let port = self.port.to_string();
        let options = ["--env", &self.environment, "--host", &self.host, "--port", &port];
        let once = self.once.then_some("--once");
        let routes = self.print_routes.then_some("--print-routes");
        let words = before.iter().copied().chain(options).chain(once).chain(routes).map(OsString::from);
        std::iter::once(name.to_owned()).chain(words).chain(self.worker_args.iter().cloned()).collect()
    }

    /// Replaces `{host}`, `{port}`, `{env}`, `{fd}` and `{slot}`; other braces are the command's own.
    fn fill_in(&self, word: &str, slot: u32) -> String {
        let mut filled = String::with_capacity(word.len());
        let mut rest = word;
        while let Some(brace) = rest.find('{') {
            filled.push_str(&rest[..brace]);
            rest = &rest[brace..];
            let name = rest.find('}').map_or("", |end| &rest[..=end]);
            let value = match name {
                "{host}" => Some(self.host.clone()),
                "{port}" => Some(self.port.to_string()),
                "{env}" => Some(self.environment.clone()),
                "{fd}" => Some(LISTEN_FD.to_string()),
                "{slot}" => Some(slot.to_string()),
                _ => None,
            };
            let (taken, text) = value.map_or((1, "{".to_owned()), |value| (name.len(), value));
            filled.push_str(&text);
            rest = &rest[taken..];
        }
        filled + rest
    }
}

/// The variables that all workers of a generation share.
fn variables(sources: &Sources<'_>) -> BTreeMap<OsString, OsString> {
    let mut variables = sources.environment.clone();
    for name in MANAGERS_OWN_VARIABLES {
        variables.remove(OsStr::new(name));
    }
    variables.extend(sources.exports.iter().map(|(name, value)| (name.into(), value.into())));
    variables.extend(root_exports(sources.run).into_iter().map(|(name, root)| (name.into(), root.into())));
    variables.insert(MANAGER_PID_VARIABLE.into(), std::process::id().to_string().into());
    variables
}

fn policy(config: &ResolvedConfig, run: &RunOptions, strategy: Strategy) -> Policy {
    let accessories = &config.propane_accessories;
    let seconds = |value: u32| Duration::from_secs(value.into());
    let millis = |value: u32| Duration::from_millis(value.into());
    let unless_zero = |value: u32| (value > 0).then(|| seconds(value));
    Policy {
        http_workers: if run.print_routes { 1 } else { accessories.worker_count },
        job_workers: accessories.job_worker_count,
        respawn_delay: millis(accessories.respawn_delay_ms),
        respawn_delay_max: millis(accessories.respawn_delay_max_ms),
        job_respawn_delay: millis(accessories.job_worker_respawn_delay_ms),
        graceful_timeout: seconds(accessories.graceful_shutdown_seconds),
        reload_overlap: seconds(accessories.reload_overlap_seconds),
        reload_max_surge: accessories.reload_max_surge,
        turn_away: match strategy {
            Strategy::Inherit => TurnAway::LeavingSlots,
            Strategy::Steer => TurnAway::Everybody,
            Strategy::Shared | Strategy::Reuseport => TurnAway::Nobody,
        },
        overlap_allowed: !strategy.binds_by_itself() || config.enable_reuse_port,
        boot_timeout: seconds(accessories.worker_boot_timeout_seconds),
        heartbeat_timeout: unless_zero(accessories.worker_timeout_seconds),
        max_lifetime: unless_zero(accessories.worker_max_lifetime_seconds),
        max_rss_kib: (accessories.worker_max_rss_mb > 0).then(|| u64::from(accessories.worker_max_rss_mb) * 1024),
        fd_limits: fd_limits(accessories),
        sample_interval: seconds(accessories.worker_fd_check_seconds),
        start_limit_burst: accessories.start_limit_burst,
        shutdown_drain: seconds(accessories.shutdown_drain_seconds),
        respawn: match (run.once, run.no_respawn) {
            (true, _) => RespawnMode::Once,
            (false, true) => RespawnMode::Never,
            (false, false) => RespawnMode::Always,
        },
    }
}

fn fd_limits(accessories: &PropaneAccessories) -> FdLimits {
    FdLimits {
        warn_percent: accessories.worker_fd_warn_percent,
        critical_percent: accessories.worker_fd_critical_percent,
        retire_percent: accessories.worker_fd_retire_percent,
        retire_count: accessories.worker_fd_retire_count,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_own_variables_replace_those_that_all_share() {
        let shared = [("PATH", "/bin"), ("PORT", "1"), ("LISTEN_FDS", "9")];
        let shared = shared.map(|(name, value)| (OsString::from(name), OsString::from(value))).into();
        let mut env = WorkerEnv { shared: &shared, own: BTreeMap::new() };
        for (name, value) in [("PORT", "2"), ("LISTEN_FDNAMES", "http"), ("HOST", "::1")] {
            env.set(name, value);
        }
        let text = |env: &WorkerEnv<'_>| -> Vec<String> {
            env.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect()
        };
        assert_eq!(text(&env), ["LISTEN_FDS=9", "PATH=/bin", "HOST=::1", "LISTEN_FDNAMES=http", "PORT=2"]);
        assert_eq!(env.path(), Some(OsStr::new("/bin")));
        assert_eq!(text(&env.without_socket()), ["LISTEN_FDS=9", "PATH=/bin", "HOST=::1", "PORT=2"]);
    }
}
