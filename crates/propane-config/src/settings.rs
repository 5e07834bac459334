//! The one table of settings.
//!
//! From its rows come the typed structs, the environment and command-line layers, the workers' environment, the
//! reference documents and what a reload does with a change. A fact about a setting stands here and nowhere else.

use serde::{Deserialize, Serialize};

use crate::choices::{DispatchMode, LogFormat, SocketStrategy};
use crate::value::{Kind, Shape, Value};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Where it stands in a property list, groups separated by dots.
    pub key: &'static str,
    /// The field of the typed configuration that holds it; empty for what is no part of it.
    pub field: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// Its value when no layer sets it.
    pub default: DefaultValue,
    /// Its environment variable.
    pub variable: Option<&'static str>,
    /// Its command-line flag, without the dashes.
    pub flag: Option<&'static str>,
    /// Whether workers get it in their environment.
    pub export: Export,
    /// What a reload does with a change of it.
    pub reload: Reload,
    legacy: bool,
    doc: &'static str,
}

/// The lowest layer's value of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultValue {
    /// This number.
    Int(i64),
    /// This switch.
    Bool(bool),
    /// This text.
    Text(&'static str),
    /// Worked out from other values; see [`crate::derive`].
    Derived,
    /// None: each worker has a default of its own.
    Workers,
}

/// Whether workers get a setting in their environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Never: it is the manager's own.
    Never,
    /// Always.
    Always,
    /// Only where there is a value that is not the worker's own.
    WhenSet,
}

/// What a reload does with a changed setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reload {
    /// Applies at once, to the running workers too.
    Live,
    /// Applies to the workers that the reload starts.
    Generation,
    /// Waits for the next start of the manager.
    Restart,
}

impl Reload {
    /// What it takes to apply a change.
    pub const fn takes(self) -> &'static str {
        match self {
            Self::Live => "a reload (HUP), and applies at once",
            Self::Generation => "a reload (HUP), and applies to new workers",
            Self::Restart => "a restart (HUP is not enough)",
        }
    }
}

/// The prefix of every variable, and the one it had before the framework was renamed.
pub(crate) const PREFIX: &str = "ARLEN_";
pub(crate) const LEGACY_PREFIX: &str = "MOJOOBJC_";

const fn row(kind: Kind, default: DefaultValue) -> Setting {
    Setting {
        key: "",
        field: "",
        kind,
        default,
        variable: None,
        flag: None,
        export: Export::Never,
        reload: Reload::Generation,
        legacy: false,
        doc: "",
    }
}

const fn int(default: i64, min: i64, max: i64) -> Setting {
    row(Kind::Int { min, max }, DefaultValue::Int(default))
}

const fn switch(default: bool) -> Setting {
    row(Kind::Bool, DefaultValue::Bool(default))
}

const fn text(default: &'static str, shape: Shape) -> Setting {
    row(Kind::Text(shape), DefaultValue::Text(default))
}

const fn choice(default: &'static str, words: &'static [&'static str]) -> Setting {
    row(Kind::Choice(words), DefaultValue::Text(default))
}

/// A setting whose default belongs to each worker.
const fn workers(kind: Kind) -> Setting {
    row(kind, DefaultValue::Workers)
}

const fn derived(kind: Kind) -> Setting {
    row(kind, DefaultValue::Derived)
}

impl Setting {
    /// The variable, which also has an alias under [`LEGACY_PREFIX`] where Arlen itself reads it.
    const fn var(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    const fn with_legacy_alias(mut self) -> Self {
        self.legacy = true;
        self
    }

    const fn flag(mut self, flag: &'static str) -> Self {
        self.flag = Some(flag);
        self
    }

    const fn export(mut self, export: Export) -> Self {
        self.export = export;
        self
    }

    const fn on_reload(mut self, reload: Reload) -> Self {
        self.reload = reload;
        self
    }

    const fn held_in(mut self, field: &'static str) -> Self {
        self.field = field;
        self
    }

    const fn named(mut self, key: &'static str, doc: &'static str) -> Self {
        self.key = key;
        self.doc = doc;
        self
    }

    /// One line of documentation.
    pub fn doc(&self) -> &'static str {
        self.doc.trim()
    }

    /// The deprecated name of its variable, if it ever had one.
    pub fn legacy_variable(&self) -> Option<String> {
        let name = self.variable.filter(|_| self.legacy)?.strip_prefix(PREFIX)?;
        Some(format!("{LEGACY_PREFIX}{name}"))
    }

    /// Its flag as it is written on a command line.
    pub fn flag_usage(&self) -> Option<String> {
        let value = if self.kind == Kind::Bool { "[=no]" } else { "" };
        Some(format!("--{}{value}", self.flag?))
    }

    /// Its default in words, also where that is no value.
    pub fn default_words(&self) -> String {
        match self.default {
            DefaultValue::Derived => "derived".to_owned(),
            DefaultValue::Workers => "the worker's".to_owned(),
            _ => self.default_value().map_or_else(String::new, |value| value.to_string()),
        }
    }

    /// The last part of its key.
    pub fn name(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or(self.key)
    }

    /// The group it stands in, if it does not stand at the top level.
    pub fn group(&self) -> Option<&'static str> {
        self.key.rsplit_once('.').map(|(group, _)| group)
    }

    /// Its value when no layer sets it; `None` for derived values and workers' own defaults.
    pub fn default_value(&self) -> Option<Value> {
        match self.default {
            DefaultValue::Int(number) => Some(Value::Int(number)),
            DefaultValue::Bool(on) => Some(Value::Bool(on)),
            DefaultValue::Text(text) => Some(Value::Text(text.to_owned())),
            DefaultValue::Derived | DefaultValue::Workers => None,
        }
    }
}

/// The row of a setting or an option.
pub fn row_of(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().chain(OPTIONS).find(|setting| setting.key == key)
}

/// The row of `key`.
pub fn setting(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// Turns rows into the structs (fields named exactly as the property list's keys) and the table.
macro_rules! settings {
    (
        top { $( $(#[doc = $doc:literal])+ $field:ident: $ty:ty = $key:literal => $row:expr; )+ }
        $( $(#[doc = $group_doc:literal])+ $group_field:ident: $group:ident = $group_key:literal {
            $( $(#[doc = $inner_doc:literal])+ $inner_field:ident: $inner_ty:ty = $inner_key:literal => $inner_row:expr; )+
        } )+
    ) => {
        /// The configuration after all layers and rules: what the manager acts on.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ResolvedConfig {
            $( $(#[doc = $doc])+ #[serde(rename = $key)] pub $field: $ty, )+
            $( $(#[doc = $group_doc])+ #[serde(rename = $group_key)] pub $group_field: $group, )+
        }

        $( $(#[doc = $group_doc])+
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(clippy::struct_field_names, reason = "the property list's names")]
        pub struct $group {
            $( $(#[doc = $inner_doc])+ #[serde(rename = $inner_key)] pub $inner_field: $inner_ty, )+
        } )+

        /// Every setting, in the order in which people read them.
        pub static SETTINGS: &[Setting] = &[
            $( $row.named($key, concat!($($doc),+)).held_in(stringify!($field)), )+
            $( $( $inner_row
                .named(concat!($group_key, ".", $inner_key), concat!($($inner_doc),+))
                .held_in(stringify!($inner_field)), )+ )+
        ];

        /// The dictionaries that hold nothing but settings: an unknown key in one of them is a mistake.
        pub static GROUPS: &[&str] = &[$($group_key),+];
    };
}

/// The largest number an Arlen worker reads: its integers are 32 bits wide.
const MAX: i64 = i32::MAX as i64;
/// Longest time that any of the timings accepts, in seconds: a day.
const DAY: i64 = 86_400;
/// Longest overlap or drain, in seconds: an hour.
const HOUR: i64 = 3600;
/// The same, in milliseconds.
const HOUR_MS: i64 = 3_600_000;

settings! {
    top {
        /// Address or name that workers listen on, or unix: and the path of a socket, relative to the app root.
        host: String = "host" => text("127.0.0.1", Shape::NonEmpty)
            .var("ARLEN_HOST").with_legacy_alias().flag("host").export(Export::Always).on_reload(Reload::Restart);
        /// TCP port that workers listen on; means nothing on a UNIX socket.
        port: u16 = "port" => int(3000, 1, 65535)
            .var("ARLEN_PORT").with_legacy_alias().flag("port").export(Export::Always).on_reload(Reload::Restart);
        /// Connections the kernel queues for a listener before it turns new ones away.
        listen_backlog: u32 = "listenBacklog" => int(128, 1, MAX)
            .var("ARLEN_LISTEN_BACKLOG").with_legacy_alias().flag("listen-backlog")
            .export(Export::Always).on_reload(Reload::Restart);
        /// Seconds that a worker waits for a client's next bytes.
        connection_timeout_seconds: u32 = "connectionTimeoutSeconds" => int(30, 1, DAY)
            .var("ARLEN_CONNECTION_TIMEOUT_SECONDS").with_legacy_alias().flag("connection-timeout-seconds")
            .export(Export::Always);
        /// Set SO_REUSEPORT on the sockets of workers that bind by themselves; on by itself where it is needed.
        enable_reuse_port: bool = "enableReusePort" => switch(false)
            .var("ARLEN_ENABLE_REUSEPORT").with_legacy_alias().flag("enable-reuse-port").export(Export::Always);
        /// How an Arlen worker runs its requests: several at a time, or one after the other.
        request_dispatch_mode: DispatchMode = "requestDispatchMode" => choice("concurrent", DispatchMode::WORDS)
            .var("ARLEN_REQUEST_DISPATCH_MODE").with_legacy_alias().export(Export::Always);
        /// Whether workers serve static files.
        serve_static: Option<bool> = "serveStatic" => workers(Kind::Bool)
            .var("ARLEN_SERVE_STATIC").with_legacy_alias().export(Export::WhenSet);
        /// File name extensions that workers serve as static files.
        static_allow_extensions: Option<Vec<String>> = "staticAllowExtensions" => workers(Kind::List)
            .var("ARLEN_STATIC_ALLOW_EXTENSIONS").with_legacy_alias().export(Export::WhenSet);
        /// Form of the workers' log lines.
        log_format: Option<LogFormat> = "logFormat" => workers(Kind::Choice(LogFormat::WORDS))
            .var("ARLEN_LOG_FORMAT").with_legacy_alias().export(Export::WhenSet);
    }

    /// What each worker takes on at a time.
    runtime_limits: RuntimeLimits = "runtimeLimits" {
        /// HTTP connections per worker; more are answered with 503.
        max_concurrent_http_sessions: u32 = "maxConcurrentHTTPSessions" => int(256, 1, MAX)
            .var("ARLEN_MAX_HTTP_SESSIONS").with_legacy_alias().flag("max-http-sessions").export(Export::Always);
        /// WebSocket connections per worker; more are answered with 503.
        max_concurrent_websocket_sessions: u32 = "maxConcurrentWebSocketSessions" => int(256, 1, MAX)
            .var("ARLEN_MAX_WEBSOCKET_SESSIONS").with_legacy_alias().flag("max-websocket-sessions")
            .export(Export::Always);
        /// Threads of a worker that serve HTTP.
        max_concurrent_http_workers: u32 = "maxConcurrentHTTPWorkers" => int(8, 1, 65535)
            .var("ARLEN_MAX_HTTP_WORKERS").with_legacy_alias().export(Export::WhenSet);
        /// Accepted connections that wait for such a thread.
        max_queued_http_connections: u32 = "maxQueuedHTTPConnections" => int(256, 1, MAX)
            .var("ARLEN_MAX_QUEUED_HTTP_CONNECTIONS").with_legacy_alias().export(Export::WhenSet);
        /// Realtime subscribers per worker; 0 is no limit.
        max_realtime_total_subscribers: u32 = "maxRealtimeTotalSubscribers" => int(0, 0, MAX)
            .var("ARLEN_MAX_REALTIME_SUBSCRIBERS").with_legacy_alias().export(Export::WhenSet);
        /// Realtime subscribers per channel and worker; 0 is no limit.
        max_realtime_channel_subscribers: u32 = "maxRealtimeChannelSubscribers" => int(0, 0, MAX)
            .var("ARLEN_MAX_REALTIME_SUBSCRIBERS_PER_CHANNEL").with_legacy_alias().export(Export::WhenSet);
    }

    /// The largest request that a worker reads.
    request_limits: RequestLimits = "requestLimits" {
        /// Bytes of the request line.
        max_request_line_bytes: u32 = "maxRequestLineBytes" => int(4096, 1, MAX)
            .var("ARLEN_MAX_REQUEST_LINE_BYTES").with_legacy_alias().export(Export::WhenSet);
        /// Bytes of all headers together.
        max_header_bytes: u32 = "maxHeaderBytes" => int(32_768, 1, MAX)
            .var("ARLEN_MAX_HEADER_BYTES").with_legacy_alias().export(Export::WhenSet);
        /// Bytes of the body.
        max_body_bytes: u32 = "maxBodyBytes" => int(1_048_576, 1, MAX)
            .var("ARLEN_MAX_BODY_BYTES").with_legacy_alias().export(Export::WhenSet);
    }

    /// What the manager does with its workers.
    propane_accessories: PropaneAccessories = "propaneAccessories" {
        /// Number of HTTP workers.
        worker_count: u32 = "workerCount" => int(4, 1, 1024)
            .var("ARLEN_PROPANE_WORKERS").with_legacy_alias().flag("workers");
        /// Seconds that a stopping worker gets to finish before it is killed.
        graceful_shutdown_seconds: u32 = "gracefulShutdownSeconds" => int(10, 1, DAY)
            .var("ARLEN_PROPANE_GRACEFUL_SHUTDOWN_SECONDS").with_legacy_alias().flag("graceful-shutdown-seconds")
            .export(Export::Always).on_reload(Reload::Live);
        /// Milliseconds before a worker that died is replaced.
        respawn_delay_ms: u32 = "respawnDelayMs" => int(250, 0, HOUR_MS)
            .var("ARLEN_PROPANE_RESPAWN_DELAY_MS").with_legacy_alias().flag("respawn-delay-ms")
            .on_reload(Reload::Live);
        /// Milliseconds up to which that delay grows for workers that keep dying early.
        respawn_delay_max_ms: u32 = "respawnDelayMaxMs" => int(30_000, 0, HOUR_MS)
            .var("ARLEN_PROPANE_RESPAWN_DELAY_MAX_MS").flag("respawn-delay-max-ms").on_reload(Reload::Live);
        /// Seconds that new workers must hold before a reload stops the old ones.
        reload_overlap_seconds: u32 = "reloadOverlapSeconds" => int(1, 0, HOUR)
            .var("ARLEN_PROPANE_RELOAD_OVERLAP_SECONDS").with_legacy_alias().flag("reload-overlap-seconds")
            .on_reload(Reload::Live);
        /// Extra workers that a reload may run at a time; 0 starts the whole new generation at once. Above 0 each
        /// batch takes over by itself, and stays on the new generation if the reload fails later.
        reload_max_surge: u32 = "reloadMaxSurge" => int(0, 0, 1024)
            .var("ARLEN_PROPANE_RELOAD_MAX_SURGE").flag("reload-max-surge").on_reload(Reload::Live);
        /// Command that starts a worker, split like a shell splits words and run without a shell. One that needs another
        /// socketStrategy, because {fd} has come or gone say, needs a restart.
        worker_command: String = "workerCommand" => text("", Shape::Any)
            .var("ARLEN_PROPANE_WORKER_COMMAND").flag("worker-cmd");
        /// How new connections reach the workers.
        socket_strategy: SocketStrategy = "socketStrategy" => choice("auto", SocketStrategy::WORDS)
            .var("ARLEN_PROPANE_SOCKET_STRATEGY").flag("socket-strategy").on_reload(Reload::Restart);
        /// Seconds that a new worker gets to become ready.
        worker_boot_timeout_seconds: u32 = "workerBootTimeoutSeconds" => int(60, 1, DAY)
            .var("ARLEN_PROPANE_WORKER_BOOT_TIMEOUT_SECONDS").flag("worker-boot-timeout-seconds")
            .on_reload(Reload::Live);
        /// Path that must answer 200 before a worker counts as ready; empty asks for none.
        readiness_path: String = "readinessPath" => text("", Shape::UrlPath)
            .var("ARLEN_PROPANE_READINESS_PATH").flag("readiness-path");
        /// Seconds without a sign of life after which a worker that gives them is killed; 0 is off.
        worker_timeout_seconds: u32 = "workerTimeoutSeconds" => int(0, 0, DAY)
            .var("ARLEN_PROPANE_WORKER_TIMEOUT_SECONDS").flag("worker-timeout-seconds");
        /// Seconds, give or take 10 %, after which a worker is replaced; 0 is never.
        worker_max_lifetime_seconds: u32 = "workerMaxLifetimeSeconds" => int(0, 0, 31_536_000)
            .var("ARLEN_PROPANE_WORKER_MAX_LIFETIME_SECONDS").flag("worker-max-lifetime-seconds")
            .on_reload(Reload::Live);
        /// Megabytes of memory over which a worker is replaced, in three looks in a row (workerFDCheckSeconds); 0 is no
        /// limit.
        worker_max_rss_mb: u32 = "workerMaxRSSMB" => int(0, 0, 1_048_576)
            .var("ARLEN_PROPANE_WORKER_MAX_RSS_MB").flag("worker-max-rss-mb").on_reload(Reload::Live);
        /// Failed boots in a row, with no worker ever ready, after which the manager gives up; 0 is never.
        start_limit_burst: u32 = "startLimitBurst" => int(0, 0, 1000)
            .var("ARLEN_PROPANE_START_LIMIT_BURST").flag("start-limit-burst").on_reload(Reload::Live);
        /// Seconds that workers go on serving after the manager was told to stop.
        shutdown_drain_seconds: u32 = "shutdownDrainSeconds" => int(0, 0, HOUR)
            .var("ARLEN_PROPANE_SHUTDOWN_DRAIN_SECONDS").flag("shutdown-drain-seconds").on_reload(Reload::Live);
        /// User that workers run as; empty keeps the manager's.
        run_as_user: String = "runAsUser" => text("", Shape::Any)
            .var("ARLEN_PROPANE_RUN_AS_USER").flag("run-as-user").on_reload(Reload::Restart);
        /// Group that workers run as; empty is the user's own.
        run_as_group: String = "runAsGroup" => text("", Shape::Any)
            .var("ARLEN_PROPANE_RUN_AS_GROUP").flag("run-as-group").on_reload(Reload::Restart);
        /// Octal file mode mask of workers; empty keeps the manager's. A UNIX socket keeps the one of the start.
        umask: String = "umask" => text("", Shape::Octal).var("ARLEN_PROPANE_UMASK").flag("umask");
        /// Number of job workers.
        job_worker_count: u32 = "jobWorkerCount" => int(0, 0, 1024)
            .var("ARLEN_PROPANE_JOB_WORKER_COUNT").flag("job-worker-count");
        /// Shell command that starts a job worker.
        job_worker_command: String = "jobWorkerCommand" => text("", Shape::Any)
            .var("ARLEN_PROPANE_JOB_WORKER_COMMAND").flag("job-worker-cmd");
        /// Milliseconds before a job worker that died is replaced.
        job_worker_respawn_delay_ms: u32 = "jobWorkerRespawnDelayMs" => int(250, 0, HOUR_MS)
            .var("ARLEN_PROPANE_JOB_WORKER_RESPAWN_DELAY_MS").flag("job-worker-respawn-delay-ms")
            .on_reload(Reload::Live);
        /// Percentage of a worker's descriptors in use that is worth a warning; 0 is off.
        worker_fd_warn_percent: u32 = "workerFDWarnPercent" => int(80, 0, 100)
            .var("ARLEN_PROPANE_WORKER_FD_WARN_PERCENT").flag("worker-fd-warn-percent").on_reload(Reload::Live);
        /// Percentage of a worker's descriptors in use that is critical; 0 is off.
        worker_fd_critical_percent: u32 = "workerFDCriticalPercent" => int(90, 0, 100)
            .var("ARLEN_PROPANE_WORKER_FD_CRITICAL_PERCENT").flag("worker-fd-critical-percent")
            .on_reload(Reload::Live);
        /// Percentage of a worker's descriptors in use at which it is replaced; 0 is off.
        worker_fd_retire_percent: u32 = "workerFDRetirePercent" => int(0, 0, 100)
            .var("ARLEN_PROPANE_WORKER_FD_RETIRE_PERCENT").flag("worker-fd-retire-percent")
            .on_reload(Reload::Live);
        /// Number of open descriptors at which a worker is replaced; 0 is off.
        worker_fd_retire_count: u32 = "workerFDRetireCount" => int(0, 0, MAX)
            .var("ARLEN_PROPANE_WORKER_FD_RETIRE_COUNT").flag("worker-fd-retire-count").on_reload(Reload::Live);
        /// Seconds between two looks at the workers' descriptors and memory.
        worker_fd_check_seconds: u32 = "workerFDCheckSeconds" => int(15, 1, DAY)
            .var("ARLEN_PROPANE_WORKER_FD_CHECK_SECONDS").flag("worker-fd-check-seconds").on_reload(Reload::Live);
    }

    /// The nodes that serve this app together.
    cluster: Cluster = "cluster" {
        /// Whether this node is one of several.
        enabled: bool = "enabled" => switch(false)
            .var("ARLEN_CLUSTER_ENABLED").with_legacy_alias().flag("cluster-enabled").export(Export::Always);
        /// Name of the cluster.
        name: String = "name" => text("default", Shape::NonEmpty)
            .var("ARLEN_CLUSTER_NAME").with_legacy_alias().flag("cluster-name").export(Export::Always);
        /// Name of this node; the host name unless it is set.
        node_id: String = "nodeID" => derived(Kind::Text(Shape::Any))
            .var("ARLEN_CLUSTER_NODE_ID").with_legacy_alias().flag("cluster-node-id").export(Export::Always);
        /// Nodes that the cluster should have.
        expected_nodes: u32 = "expectedNodes" => int(1, 1, 65535)
            .var("ARLEN_CLUSTER_EXPECTED_NODES").with_legacy_alias().flag("cluster-expected-nodes")
            .export(Export::Always);
        /// Nodes that the cluster has, as far as this one was told; all that are expected unless it is set.
        observed_nodes: u32 = "observedNodes" => derived(Kind::Int { min: 0, max: 65535 })
            .var("ARLEN_CLUSTER_OBSERVED_NODES").with_legacy_alias().export(Export::Always);
        /// Whether responses carry the cluster headers; on in a cluster unless it is set.
        emit_headers: bool = "emitHeaders" => derived(Kind::Bool)
            .var("ARLEN_CLUSTER_EMIT_HEADERS").with_legacy_alias().export(Export::Always);
    }
}

/// What is no key of a property list, but is resolved and shown in the same way. A change needs a restart.
pub static OPTIONS: &[Setting] = &[
    text("production", Shape::NonEmpty)
        .flag("env")
        .named(
            "environment",
            "Environment: names the file under config/environments/ that is read over config/app.plist.",
        )
        .on_reload(Reload::Restart),
    derived(Kind::Text(Shape::Path))
        .var("ARLEN_APP_ROOT")
        .flag("app-root")
        .export(Export::Always)
        .named("appRoot", "Directory of the app; the current directory unless it is set.")
        .on_reload(Reload::Restart),
    derived(Kind::Text(Shape::Path))
        .var("ARLEN_FRAMEWORK_ROOT")
        .flag("framework-root")
        .export(Export::WhenSet)
        .named(
            "frameworkRoot",
            "Directory of an Arlen checkout or release; found beside this program unless it is set.",
        )
        .on_reload(Reload::Restart),
    text("tmp/propane.pid", Shape::Path)
        .flag("pid-file")
        .named("pidFile", "Pid file, relative to the app root.")
        .on_reload(Reload::Restart),
    text("", Shape::Path)
        .var("ARLEN_PROPANE_LIFECYCLE_LOG")
        .named(
            "lifecycleLog",
            "File that lifecycle lines are appended to, relative to the app root; empty writes none.",
        )
        .on_reload(Reload::Restart),
    switch(false)
        .flag("no-respawn")
        .named("noRespawn", "Do not replace workers that exit; end when none is left.")
        .on_reload(Reload::Restart),
    switch(false)
        .flag("once")
        .named("once", "Serve one connection: the first worker that exits ends the manager, with its status.")
        .on_reload(Reload::Restart),
    switch(false)
        .flag("print-routes")
        .named("printRoutes", "Have one worker print its routes, in place of this program.")
        .on_reload(Reload::Restart),
];
