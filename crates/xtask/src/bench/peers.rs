//! Who is measured: what each serves, how it is started, reloaded and stopped, and what it cannot do.

use std::process::Command;
use std::time::Duration;

use crate::manager::Outcome;
use nix::sys::signal::Signal;

use super::launch::{self, BASH_ORIGINAL, Scene, Tools, plain_worker};

/// What answers the requests. Times that include a worker's own speed are compared within one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worker {
    /// The peer itself, a compiled program.
    BuiltIn,
    /// A WSGI app in gunicorn's worker …
    Gunicorn,
    /// … and in uWSGI's.
    Uwsgi,
    Node,
    Rack,
    Mojolicious,
    /// `crates/xtask/examples/bench_worker.rs`.
    Plain,
}

impl Worker {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::BuiltIn => "compiled",
            Self::Gunicorn => "gunicorn's",
            Self::Uwsgi => "uWSGI's",
            Self::Node => "node",
            Self::Rack => "puma's",
            Self::Mojolicious => "hypnotoad's",
            Self::Plain => "plain",
        }
    }
}

pub(super) enum Launch {
    /// Serves an app of its own kind.
    Server(fn(&Scene) -> Outcome<Command>),
    /// Runs as many copies as wanted of any command.
    Supervisor {
        /// With plain workers that serve the scene's port.
        serve: fn(&Scene) -> Outcome<Command>,
        run: fn(&Scene, &[String]) -> Outcome<Command>,
    },
}

pub(super) enum Reload {
    Signal(Signal),
    /// A word into a control file.
    Write {
        file: &'static str,
        word: &'static str,
    },
    /// Commands, one after the other.
    Commands(fn(&Scene) -> Vec<Command>),
}

impl Reload {
    pub(super) fn label(&self) -> String {
        match self {
            Self::Signal(signal) => format!("`{}`", signal.as_str().trim_start_matches("SIG")),
            Self::Write { word, .. } => format!("`{word}` into its FIFO"),
            Self::Commands(_) => "its command".to_owned(),
        }
    }
}

pub(super) struct Peer {
    pub(super) name: &'static str,
    pub(super) worker: Worker,
    /// Programs that must be there.
    pub(super) needs: &'static [&'static str],
    /// A command that prints the version; nothing for propane itself.
    pub(super) version: &'static [&'static str],
    pub(super) launch: Launch,
    pub(super) reload: Reload,
    pub(super) stop: Signal,
    /// What the command line of a worker contains once it is executed; None where workers are forked and not executed.
    pub(super) executed: Option<&'static [u8]>,
    /// How long it is watched at the least while it idles or crashes: long enough for what it does every few seconds.
    pub(super) watched_for: Duration,
    /// How long a worker must have lived to be replaced at once.
    pub(super) settles: Duration,
    /// The most copies of a command that it is asked for.
    pub(super) many: usize,
    pub(super) sessions: &'static [Session],
    /// What it cannot do, or how it is set up, for those who read the tables.
    pub(super) notes: &'static [&'static str],
}

/// What is done with a peer in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// Start, idle, kills of workers, and the kill of the manager.
    Steady,
    /// Start, a reload under load, and a stop.
    Reload,
    Many,
    CrashLoop,
    Config,
}

impl Session {
    pub(super) const ALL: [(&'static str, Self); 5] = [
        ("steady", Self::Steady),
        ("reload", Self::Reload),
        ("many", Self::Many),
        ("crash-loop", Self::CrashLoop),
        ("config", Self::Config),
    ];
}

const SERVER: &[Session] = &[Session::Steady, Session::Reload];
const SUPERVISOR: &[Session] = &[Session::Steady, Session::Reload, Session::Many, Session::CrashLoop];

/// The name of the plain worker's program.
const PLAIN: Option<&[u8]> = Some(b"bench_worker");

/// All programs that peers need.
pub(super) fn programs() -> impl Iterator<Item = &'static str> {
    PEERS.iter().flat_map(|peer| peer.needs).copied()
}

impl Peer {
    /// Many workers and crash loops are for the long rounds.
    pub(super) fn takes_part(&self, session: Session, is_long: bool) -> bool {
        let is_for_long_rounds = matches!(session, Session::Many | Session::CrashLoop);
        self.sessions.contains(&session) && (is_long || !is_for_long_rounds)
    }

    /// What it needs and is not there.
    pub(super) fn missing(&self, tools: &Tools) -> Vec<&'static str> {
        self.needs.iter().filter(|name| !tools.found.contains_key(*name)).copied().collect()
    }

    /// The command that starts it with workers that serve the scene's port.
    pub(super) fn serve(&self, scene: &Scene) -> Outcome<Command> {
        match self.launch {
            Launch::Server(serve) | Launch::Supervisor { serve, .. } => serve(scene),
        }
    }

    /// The command that starts it with copies of the plain worker in this mode; None if it runs no commands.
    pub(super) fn run(&self, scene: &Scene, mode: &[&str]) -> Option<Outcome<Command>> {
        match self.launch {
            Launch::Server(_) => None,
            Launch::Supervisor { run, .. } => Some(run(scene, &plain_worker(scene, mode))),
        }
    }
}

const BASE: Peer = Peer {
    name: "",
    worker: Worker::Plain,
    needs: &[],
    version: &[],
    launch: Launch::Server(launch::propane),
    reload: Reload::Signal(Signal::SIGHUP),
    stop: Signal::SIGTERM,
    executed: None,
    watched_for: Duration::ZERO,
    settles: Duration::from_millis(50),
    many: 1000,
    sessions: SERVER,
    notes: &[],
};

pub(super) const PEERS: &[Peer] = &[
    Peer {
        name: "propane",
        worker: Worker::BuiltIn,
        executed: Some(b"propane\0worker\0"),
        notes: &["its embedded worker; checks of the workers' descriptors, which no other peer has, are off"],
        ..BASE
    },
    Peer {
        name: "propane, checks on",
        worker: Worker::BuiltIn,
        launch: Launch::Server(launch::propane_as_shipped),
        executed: Some(b"propane\0worker\0"),
        watched_for: Duration::from_secs(15),
        sessions: &[Session::Steady],
        notes: &["as shipped: it looks at the workers' descriptors every 15 s"],
        ..BASE
    },
    Peer {
        name: "propane + gunicorn",
        worker: Worker::Gunicorn,
        needs: &["gunicorn"],
        launch: Launch::Server(launch::propane_gunicorn),
        sessions: &[Session::Reload],
        notes: &["`workerCommand = \"gunicorn --bind fd://{fd} --workers 1 …\"`"],
        ..BASE
    },
    Peer {
        name: "propane + node",
        worker: Worker::Node,
        needs: &["node"],
        launch: Launch::Server(launch::propane_node),
        executed: Some(b"server.js"),
        notes: &["`workerCommand = \"node server.js {fd}\"`"],
        ..BASE
    },
    Peer {
        name: "propane + worker",
        launch: Launch::Supervisor { serve: launch::propane_serve, run: launch::propane_worker },
        executed: PLAIN,
        sessions: SUPERVISOR,
        notes: &[
            "`workerCommand = \"bench_worker serve {host} {port}\"`: the worker binds for itself, as under every supervisor here",
        ],
        ..BASE
    },
    Peer {
        name: "bash original",
        needs: &[BASH_ORIGINAL, "python3"],
        version: &["bash", "--version"],
        launch: Launch::Supervisor { serve: launch::bash_serve, run: launch::bash },
        executed: PLAIN,
        many: 100,
        sessions: SUPERVISOR,
        watched_for: Duration::from_secs(15),
        notes: &[
            "the script that propane takes the place of, without its framework (the version is bash's); looks every 0.2 s; no readiness: old workers go 1 s after new ones were started",
        ],
        ..BASE
    },
    Peer {
        name: "nginx",
        worker: Worker::BuiltIn,
        needs: &["nginx"],
        version: &["nginx", "-v"],
        launch: Launch::Server(launch::nginx),
        stop: Signal::SIGQUIT,
        notes: &["serves nothing but itself; workers outlive a killed master"],
        ..BASE
    },
    Peer {
        name: "gunicorn",
        worker: Worker::Gunicorn,
        needs: &["gunicorn"],
        version: &["gunicorn", "--version"],
        launch: Launch::Server(launch::gunicorn),
        notes: &[
            "Python only; wakes once a second; no readiness before the old workers go; a worker that cannot boot ends it",
        ],
        ..BASE
    },
    Peer {
        name: "uWSGI",
        worker: Worker::Uwsgi,
        needs: &["uwsgi"],
        version: &["uwsgi", "--version"],
        launch: Launch::Server(launch::uwsgi),
        reload: Reload::Write { file: "uwsgi.fifo", word: "c" },
        notes: &["chain reload with `lazy-apps`; its master checks its workers once a second"],
        ..BASE
    },
    Peer {
        name: "puma",
        worker: Worker::Rack,
        needs: &["puma"],
        version: &["puma", "--version"],
        launch: Launch::Server(launch::puma),
        reload: Reload::Signal(Signal::SIGUSR1),
        watched_for: Duration::from_secs(10),
        notes: &["Ruby only; phased restart, which stops an old worker before its successor starts"],
        ..BASE
    },
    Peer {
        name: "hypnotoad",
        worker: Worker::Mojolicious,
        needs: &["hypnotoad", "perl"],
        version: &["perl", "-MMojolicious", "-e", "print Mojolicious->VERSION"],
        launch: Launch::Server(launch::hypnotoad),
        reload: Reload::Signal(Signal::SIGUSR2),
        stop: Signal::SIGQUIT,
        watched_for: Duration::from_secs(10),
        notes: &["Mojolicious only; a reload replaces the manager too"],
        ..BASE
    },
    Peer {
        name: "pm2 cluster",
        worker: Worker::Node,
        needs: &["pm2", "pm2-runtime", "node"],
        version: &["pm2-runtime", "--version"],
        launch: Launch::Server(launch::pm2_cluster),
        reload: Reload::Commands(launch::pm2_reload),
        notes: &["its cluster mode, for node only: the one with a reload; `pm2-runtime`, `wait_ready`"],
        ..BASE
    },
    Peer {
        name: "pm2 fork",
        needs: &["pm2", "pm2-runtime"],
        version: &["pm2-runtime", "--version"],
        launch: Launch::Supervisor { serve: launch::pm2_serve, run: launch::pm2_fork },
        reload: Reload::Commands(launch::pm2_reload),
        executed: PLAIN,
        many: 100,
        sessions: SUPERVISOR,
        notes: &[
            "its fork mode has no reload: `pm2 reload` restarts; 1,000 workers are left out, a hundred say enough",
        ],
        ..BASE
    },
    Peer {
        name: "supervisord",
        needs: &["supervisord", "supervisorctl"],
        version: &["supervisord", "--version"],
        launch: Launch::Supervisor { serve: launch::supervisord_serve, run: launch::supervisord },
        reload: Reload::Commands(launch::supervisord_reload),
        executed: PLAIN,
        sessions: SUPERVISOR,
        notes: &[
            "no rolling reload: `supervisorctl restart`, one worker after the other; workers share its socket (`fcgi-program`, as uvicorn's manual has it); `startsecs` is 0",
        ],
        ..BASE
    },
    Peer {
        name: "circus",
        needs: &["circusd", "circusctl"],
        version: &["circusd", "--version"],
        launch: Launch::Supervisor { serve: launch::circus_serve, run: launch::circus },
        reload: Reload::Commands(launch::circus_reload),
        executed: PLAIN,
        sessions: SUPERVISOR,
        watched_for: Duration::from_secs(10),
        notes: &[
            "workers share its socket (`stdin_socket`); looks for dead workers every `check_delay`, 5 s as shipped: a shorter one costs that many wakeups",
        ],
        ..BASE
    },
    Peer {
        name: "s6",
        needs: &["s6-svscan", "s6-supervise", "s6-svc"],
        version: &["dpkg-query", "-W", "-f=${Version}", "s6"],
        launch: Launch::Supervisor { serve: launch::s6_serve, run: launch::s6 },
        reload: Reload::Commands(launch::s6_reload),
        executed: PLAIN,
        sessions: SUPERVISOR,
        notes: &[
            "a supervisor process for each worker, all counted; no rolling reload: `s6-svc -wr -r`, one after the other; waits a second before each start",
        ],
        ..BASE
    },
    Peer {
        name: "runit",
        needs: &["runsvdir", "runsv", "sv"],
        version: &["dpkg-query", "-W", "-f=${Version}", "runit"],
        launch: Launch::Supervisor { serve: launch::runit_serve, run: launch::runit },
        reload: Reload::Commands(launch::runit_reload),
        stop: Signal::SIGHUP,
        executed: PLAIN,
        settles: Duration::from_millis(1100),
        sessions: SUPERVISOR,
        notes: &[
            "a supervisor process for each worker, all counted; no rolling reload: `sv restart`, one after the other; at most a start a second",
        ],
        ..BASE
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_peer_has_work() {
        let mut names: Vec<_> = PEERS.iter().map(|peer| peer.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PEERS.len());
        for peer in PEERS {
            let runs_commands = matches!(peer.launch, Launch::Supervisor { .. });
            let is_asked_to = peer.sessions.contains(&Session::Many) || peer.sessions.contains(&Session::CrashLoop);
            assert!(!peer.sessions.is_empty() && runs_commands == is_asked_to, "{}", peer.name);
        }
    }
}
