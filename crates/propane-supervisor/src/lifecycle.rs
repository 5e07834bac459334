//! How reports read: the plain lines and the lifecycle lines of ARLEN-CONTRACT A7 and A8, with propane's own fields
//! after the contract's and propane's own events beside them. Pure: pids are looked up, nothing is written.

use std::fmt::{Display, Write};
use std::time::Duration;

use propane_core::{
    ExitStatus, FdSeverity, RecycleReason, ReloadCause, ReloadFailure, Report, Role, Sample, ShutdownCause, StopReason,
    StopSignal, WorkerId, fd_usage_percent,
};

/// What stands in a signal's place where nobody sent one.
const INTERNAL: &str = "internal";

/// What a report does not know of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerFacts {
    pub(crate) pid: i32,
    pub(crate) role: Role,
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

/// One lifecycle line under construction.
#[derive(Debug)]
pub(crate) struct Line(String);

impl Line {
    /// The start that every line has.
    pub(crate) fn event(event: &str, manager_pid: u32) -> Self {
        Self(format!("propane:lifecycle event={event} manager_pid={manager_pid}"))
    }

    /// Adds `key=value`. A value with blanks or quotes is quoted, so that a line splits the same way for everybody.
    pub(crate) fn field(mut self, key: &str, value: impl Display) -> Self {
        let value = value.to_string();
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '"' || c.is_control());
        // Writing to a String cannot fail.
        let _ = if plain { write!(self.0, " {key}={value}") } else { write!(self.0, " {key}={value:?}") };
        self
    }

    fn millis(self, key: &str, duration: Duration) -> Self {
        self.field(key, duration.as_millis())
    }

    /// The finished line, with its newline.
    pub(crate) fn finish(mut self) -> String {
        self.0.push('\n');
        self.0
    }
}

/// The lines that a report makes: plain ones, and the lifecycle event.
pub(crate) struct Lines {
    /// For people, to standard output.
    pub(crate) plain: Option<String>,
    /// For people, to the diagnostics, where something is wrong.
    pub(crate) trouble: Option<String>,
    /// To standard output and the lifecycle log.
    pub(crate) event: String,
}

/// Renders one report. `facts` tells of a worker that the driver still knows.
pub(crate) fn render(report: &Report, manager_pid: u32, facts: impl Fn(WorkerId) -> WorkerFacts) -> Lines {
    let renderer = Renderer { manager_pid, facts };
    Lines { plain: renderer.plain(report), trouble: renderer.trouble(report), event: renderer.event(report).finish() }
}

struct Renderer<F> {
    manager_pid: u32,
    facts: F,
}

impl<F: Fn(WorkerId) -> WorkerFacts> Renderer<F> {
    fn plain(&self, report: &Report) -> Option<String> {
        match report {
            Report::WorkerStarted { worker, .. } => {
                let WorkerFacts { pid, role, .. } = (self.facts)(*worker);
                Some(format!("propane: {} started pid={pid}\n", worker_noun(role)))
            }
            Report::WorkerExited { worker, status, .. } => {
                let WorkerFacts { pid, role, .. } = (self.facts)(*worker);
                Some(format!("propane: {} exited pid={pid} status={}\n", worker_noun(role), status.shell()))
            }
            Report::ReloadStarted { .. } => {
                Some("propane: reload requested; starting replacement workers\n".to_owned())
            }
            _ => None,
        }
    }

    fn trouble(&self, report: &Report) -> Option<String> {
        match report {
            Report::WorkerSpawnFailed { role, slot, message, .. } => {
                Some(format!("cannot start {} of slot {slot}: {message}", worker_noun(*role)))
            }
            Report::WorkerBootTimedOut { worker, timeout } => {
                let pid = (self.facts)(*worker).pid;
                Some(format!("worker pid={pid} was not ready within {} s and is killed", timeout.as_secs()))
            }
            Report::WorkerHeartbeatTimedOut { worker, timeout } => {
                let pid = (self.facts)(*worker).pid;
                Some(format!("worker pid={pid} gave no sign of life for {} s and is aborted", timeout.as_secs()))
            }
            Report::ReloadFailed { generation, failure, replaced: 0, .. } if *failure != ReloadFailure::Shutdown => {
                Some(format!("reload {generation} failed ({}); the old workers go on", failure.name()))
            }
            Report::ReloadFailed { generation, failure, replaced, of } if *failure != ReloadFailure::Shutdown => {
                Some(format!("reload {generation} failed ({}) after {replaced} of {of} workers", failure.name()))
            }
            Report::ShutdownRequested { cause: ShutdownCause::BootFailed, .. } => {
                Some("the workers cannot be executed; nothing is left to do".to_owned())
            }
            Report::ShutdownRequested { cause: ShutdownCause::StartLimit, .. } => {
                Some("no worker ever became ready, and startLimitBurst is reached".to_owned())
            }
            _ => None,
        }
    }

    fn line(&self, event: &str) -> Line {
        Line::event(event, self.manager_pid)
    }

    /// A line about a worker whose role is named as in `worker_started`: `http` or `async`.
    fn worker_line(&self, event: &str, worker: WorkerId) -> (Line, WorkerFacts) {
        let facts = (self.facts)(worker);
        let prefix = if facts.role == Role::Job { "async_" } else { "" };
        let line = self.line(&format!("{prefix}{event}")).field("role", role(facts.role)).field("pid", facts.pid);
        (line, facts)
    }

    /// A line about a worker that leaves, whose role is named in the longer form.
    fn stop_line(&self, event: &str, worker: WorkerId) -> (Line, WorkerFacts) {
        let facts = (self.facts)(worker);
        let name = format!("{}_worker", role(facts.role));
        let line = self.line(&format!("{name}_{event}")).field("role", &name).field("pid", facts.pid);
        (line, facts)
    }

    /// One line a report: a new report is a new arm.
    fn event(&self, report: &Report) -> Line {
        match report {
            Report::WorkerStarted { worker, reason } => {
                self.about("worker_started", *worker, |line| line.field("reason", reason))
            }
            Report::WorkerSpawnFailed { role: of, slot, generation, message, retry_in } => {
                let line = self.line("worker_spawn_failed").field("role", role(*of));
                let line = line.field("slot", slot).field("generation", generation).field("error", message);
                with_delay(line, "retry_in_ms", *retry_in)
            }
            Report::WorkerReady { worker, after, proof } => {
                self.about("worker_ready", *worker, |line| line.field("proof", proof).millis("after_ms", *after))
            }
            Report::WorkerExited { worker, status, respawn_in } => self.exited(*worker, *status, *respawn_in),
            Report::WorkerBootTimedOut { worker, timeout } => {
                self.about("worker_boot_timeout", *worker, |line| with_timeout(line, *timeout))
            }
            Report::WorkerHeartbeatTimedOut { worker, timeout } => {
                self.about("worker_watchdog_timeout", *worker, |line| with_timeout(line, *timeout))
            }
            Report::WorkerTurnedAway { worker, reason } => {
                self.about("worker_turned_away", *worker, |line| line.field("reason", reason))
            }
            Report::WorkerDrained { worker, after, waited } => self.about("worker_drained", *worker, |line| {
                line.field("waited_connections", waited).millis("after_ms", *after)
            }),
            Report::WorkerDrainTimedOut { worker, timeout } => {
                self.about("worker_drain_timeout", *worker, |line| line.millis("timeout_ms", *timeout))
            }
            Report::WorkerConnectionsCut { worker, count } => {
                self.about("worker_connections_cut", *worker, |line| line.field("count", count))
            }
            Report::WorkerStopRequested { worker, kill, reason, grace_over } => {
                let (line, facts) = self.stop_line("stop_requested", *worker);
                let signal = if *kill { "KILL" } else { "TERM" };
                with_place(line.field("signal", signal).field("reason", stop_reason(*reason, *grace_over)), facts)
            }
            Report::WorkerStopped { worker, status, reason, after } => {
                let (line, facts) = self.stop_line("stopped", *worker);
                let line = with_status(line, *status).field("reason", reason);
                with_place(line, facts).millis("after_ms", *after)
            }
            Report::WorkerFdPressure { worker, severity, sample } => {
                let name = if *severity == FdSeverity::Critical { "critical" } else { "warning" };
                self.about(&format!("worker_fd_pressure_{name}"), *worker, |line| with_fds(line, sample))
            }
            Report::WorkerRecycleRequested { worker, reason, sample } => {
                self.recycle_requested(*worker, *reason, sample.as_ref())
            }
            Report::WorkerRecycleFailed { slot, failure } => {
                with_failure(self.line("worker_recycle_failed"), *failure).field("slot", slot)
            }
            Report::ManagerReady { workers, after } => {
                self.line("manager_ready").field("worker_count", workers).millis("after_ms", *after)
            }
            Report::ReloadRequested { cause } => self.reload_requested(*cause),
            Report::ReloadStarted { generation, workers, job_workers } => {
                let line = self.line("manager_reload_started").field("generation", generation);
                line.field("worker_count", workers).field("async_worker_count", job_workers)
            }
            Report::ReloadCompleted { generation, workers, job_workers, after, killed, cut } => {
                let line = self.line("manager_reload_completed").field("generation", generation);
                let line = line.field("active_workers", workers).field("active_async_workers", job_workers);
                let line = line.millis("after_ms", *after);
                line.field("killed_workers", killed).field("cut_connections", cut)
            }
            Report::ReloadFailed { generation, failure, replaced, of } => {
                let line = self.line("manager_reload_failed").field("generation", generation);
                with_failure(line, *failure).field("replaced", replaced).field("of", of)
            }
            Report::Resized { from, to } => self.line("manager_workers_changed").field("from", from).field("to", to),
            Report::ShutdownRequested { cause, exit_status } => self.shutdown_requested(*cause, *exit_status),
            Report::ManagerStopping { cause, exit_code } => {
                self.line("manager_stopping").field("reason", cause).field("exit_code", exit_code)
            }
        }
    }

    /// A line about a worker that ends with its place.
    fn about(&self, event: &str, worker: WorkerId, tell: impl FnOnce(Line) -> Line) -> Line {
        let (line, facts) = self.worker_line(event, worker);
        with_place(tell(line), facts)
    }

    fn exited(&self, worker: WorkerId, status: ExitStatus, respawn_in: Option<Duration>) -> Line {
        let action = if respawn_in.is_some() { "respawn" } else { "none" };
        let tell = |line| with_status(line, status).field("restart_action", action);
        with_delay(self.about("worker_exited", worker, tell), "respawn_in_ms", respawn_in)
    }

    fn recycle_requested(&self, worker: WorkerId, reason: RecycleReason, sample: Option<&Sample>) -> Line {
        let of_fds = matches!(reason, RecycleReason::FdCount | RecycleReason::FdPercent);
        let event = if of_fds { "worker_fd_pressure_retire_requested" } else { "worker_recycle_requested" };
        self.about(event, worker, |line| {
            let line = line.field("reason", reason.threshold());
            match sample {
                Some(sample) if of_fds => with_fds(line, sample),
                Some(sample) => line.field("rss_kib", sample.rss_kib),
                None => line,
            }
        })
    }

    fn reload_requested(&self, cause: ReloadCause) -> Line {
        let line = self.line("manager_reload_requested");
        match cause {
            ReloadCause::Hup => line.field("signal", "HUP"),
            ReloadCause::SocketRenewed => line.field("signal", INTERNAL).field("reason", "socket_renewed"),
        }
    }

    fn shutdown_requested(&self, cause: ShutdownCause, exit_status: Option<u8>) -> Line {
        let line = self.line("manager_shutdown_requested");
        let line = line.field("signal", shutdown_signal(cause)).field("reason", cause);
        match exit_status {
            Some(status) => line.field("exit_status", status),
            None => line,
        }
    }
}

fn worker_noun(role: Role) -> &'static str {
    match role {
        Role::Http => "worker",
        Role::Job => "async worker",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Http => "http",
        Role::Job => "async",
    }
}

fn shutdown_signal(cause: ShutdownCause) -> &'static str {
    match cause {
        ShutdownCause::Signal(StopSignal::Term) => "TERM",
        ShutdownCause::Signal(StopSignal::Int) => "INT",
        ShutdownCause::Signal(StopSignal::Quit) => "QUIT",
        _ => INTERNAL,
    }
}

fn stop_reason(reason: StopReason, grace_over: bool) -> String {
    if grace_over { format!("{reason}_grace_timeout") } else { reason.to_string() }
}

fn with_status(line: Line, status: ExitStatus) -> Line {
    line.field("status", status.shell()).field("exit_reason", status)
}

fn with_place(line: Line, facts: WorkerFacts) -> Line {
    line.field("slot", facts.slot).field("generation", facts.generation)
}

fn with_timeout(line: Line, timeout: Duration) -> Line {
    line.field("timeout_seconds", timeout.as_secs())
}

fn with_delay(line: Line, key: &str, delay: Option<Duration>) -> Line {
    match delay {
        Some(delay) => line.millis(key, delay),
        None => line,
    }
}

fn with_failure(line: Line, failure: ReloadFailure) -> Line {
    let line = line.field("reason", failure.name());
    match failure {
        ReloadFailure::WorkerExited(status) => with_status(line, status),
        _ => line,
    }
}

fn with_fds(line: Line, sample: &Sample) -> Line {
    line.field("fd_count", sample.fd_count)
        .field("fd_soft_limit", sample.fd_limit)
        .field("fd_usage_percent", fd_usage_percent(sample))
        .field("fd_remaining", sample.fd_limit.saturating_sub(sample.fd_count))
        .field("top_fd_targets", &sample.top_fd_targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    use propane_core::{Proof, SpawnError, StartReason};

    const WORKER: WorkerId = WorkerId(0);
    const JOB: WorkerId = WorkerId(1);

    fn facts(worker: WorkerId) -> WorkerFacts {
        let role = if worker == JOB { Role::Job } else { Role::Http };
        WorkerFacts { pid: 42, role, slot: 3, generation: 2 }
    }

    fn sample() -> Sample {
        Sample { fd_count: 95, fd_limit: 100, rss_kib: 2048, top_fd_targets: "90_socket,5_pipe".to_owned() }
    }

    fn worker_reports() -> Vec<Report> {
        let (status, second) = (ExitStatus::Signal(9), Duration::from_secs(1));
        let error = SpawnError { permanent: true, message: "cannot execute \"x y\"".to_owned() };
        let failed = |role, retry_in| Report::WorkerSpawnFailed {
            role,
            slot: 3,
            generation: 2,
            message: error.message.clone(),
            retry_in,
        };
        let mut reports = Vec::new();
        for worker in [WORKER, JOB] {
            reports.extend([
                Report::WorkerStarted { worker, reason: StartReason::Boot },
                Report::WorkerReady { worker, after: second, proof: Proof::Notified },
                Report::WorkerExited { worker, status, respawn_in: Some(second) },
                Report::WorkerExited { worker, status: ExitStatus::Code(3), respawn_in: None },
                Report::WorkerStopRequested {
                    worker,
                    kill: false,
                    reason: StopReason::ReloadRetire(2),
                    grace_over: false,
                },
                Report::WorkerStopRequested {
                    worker,
                    kill: true,
                    reason: StopReason::Shutdown(ShutdownCause::Signal(StopSignal::Term)),
                    grace_over: true,
                },
                Report::WorkerStopped { worker, status, reason: StopReason::ScaleDown, after: second },
                Report::WorkerTurnedAway { worker, reason: StopReason::ReloadRetire(2) },
                Report::WorkerDrained { worker, after: second, waited: 7 },
                Report::WorkerDrainTimedOut { worker, timeout: second },
                Report::WorkerConnectionsCut { worker, count: 3 },
            ]);
        }
        reports.extend([
            failed(Role::Http, Some(second)),
            failed(Role::Job, None),
            Report::WorkerBootTimedOut { worker: WORKER, timeout: second },
            Report::WorkerHeartbeatTimedOut { worker: WORKER, timeout: second },
        ]);
        reports
    }

    fn recycle_reports() -> Vec<Report> {
        let request = |reason, sample| Report::WorkerRecycleRequested { worker: WORKER, reason, sample };
        vec![
            Report::WorkerFdPressure { worker: WORKER, severity: FdSeverity::Warning, sample: sample() },
            Report::WorkerFdPressure { worker: WORKER, severity: FdSeverity::Critical, sample: sample() },
            request(RecycleReason::FdCount, Some(sample())),
            request(RecycleReason::FdPercent, Some(sample())),
            request(RecycleReason::MaxRss, Some(sample())),
            request(RecycleReason::MaxLifetime, None),
            Report::WorkerRecycleFailed { slot: 3, failure: ReloadFailure::BootTimeout },
        ]
    }

    fn manager_reports() -> Vec<Report> {
        let second = Duration::from_secs(1);
        let failed = |failure, replaced| Report::ReloadFailed { generation: 2, failure, replaced, of: 4 };
        let shutdown = |cause, exit_status| Report::ShutdownRequested { cause, exit_status };
        vec![
            Report::ManagerReady { workers: 4, after: second },
            Report::ReloadRequested { cause: ReloadCause::Hup },
            Report::ReloadRequested { cause: ReloadCause::SocketRenewed },
            Report::ReloadStarted { generation: 2, workers: 4, job_workers: 1 },
            Report::ReloadCompleted { generation: 2, workers: 4, job_workers: 1, after: second, killed: 0, cut: 0 },
            failed(ReloadFailure::Configuration, 0),
            failed(ReloadFailure::WorkerExited(ExitStatus::Code(1)), 2),
            failed(ReloadFailure::Shutdown, 0),
            Report::Resized { from: 4, to: 5 },
            shutdown(ShutdownCause::Signal(StopSignal::Int), None),
            shutdown(ShutdownCause::OnceWorkerExit, Some(137)),
            shutdown(ShutdownCause::BootFailed, Some(1)),
            shutdown(ShutdownCause::StartLimit, Some(1)),
            Report::ManagerStopping { cause: ShutdownCause::Signal(StopSignal::Term), exit_code: 0 },
        ]
    }

    #[test]
    fn every_report_reads_as_the_contract_has_it() {
        let reports = [worker_reports(), recycle_reports(), manager_reports()].concat();
        let mut shown = String::new();
        for report in &reports {
            let Lines { plain, trouble, event } = render(report, 1, facts);
            shown.push_str(&plain.unwrap_or_default());
            shown.push_str(&trouble.map(|text| format!("(stderr) {text}\n")).unwrap_or_default());
            shown.push_str(&event);
        }
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/../../snapshots/propane-supervisor"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!("lifecycle", shown) });
    }

    #[test]
    fn a_value_cannot_break_a_line() {
        let line = Line::event("x", 1).field("a", "").field("b", "c d\ne=\"f\"").field("g", "h=i").finish();
        assert_eq!(line, "propane:lifecycle event=x manager_pid=1 a=\"\" b=\"c d\\ne=\\\"f\\\"\" g=h=i\n");
    }
}
