//! Actions and reports as one line of text each.

use propane_core::{
    Action, ExitStatus, FdSeverity, Phase, ReloadCause, ReloadFailure, Report, Role, Signal, Status, WorkerId,
};

use super::units::show;

/// What the supervisor asks for, as a story has it.
pub(crate) fn action(action: &Action) -> String {
    match action {
        Action::Spawn { worker, role, slot, generation } => {
            format!("spawn {}: {} slot {slot}, generation {generation}", name(*worker), role_name(*role))
        }
        Action::Signal { worker, signal } => format!("{} {}", signal_name(*signal), name(*worker)),
        Action::CallOff { worker } => format!("call off {}", name(*worker)),
        Action::TurnAway { worker } => format!("turn away from {}", name(*worker)),
        Action::CountConnections { worker } => format!("count the connections of {}", name(*worker)),
        Action::LoadConfiguration { generation } => format!("load configuration for generation {generation}"),
        Action::Sample { worker } => format!("sample {}", name(*worker)),
        Action::CloseSlot { slot } => format!("close slot {slot}"),
        Action::KeepGenerations { generations } => {
            let list: Vec<_> = generations.iter().map(ToString::to_string).collect();
            format!("keep generations {}", list.join(" "))
        }
        Action::ReopenLog => "reopen the log".to_owned(),
        Action::Report(report) => format!("  {}", self::report(report)),
        Action::Exit { code, cause } => format!("exit {code}: {cause}"),
    }
}

/// A worker as a story names it.
pub(crate) fn name(worker: WorkerId) -> String {
    format!("w{}", worker.0)
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Term => "TERM",
        Signal::Abort => "ABRT",
        Signal::Kill => "KILL",
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Http => "http",
        Role::Job => "job",
    }
}

fn severity_name(severity: FdSeverity) -> &'static str {
    match severity {
        FdSeverity::Fine => "fine",
        FdSeverity::Warning => "warning",
        FdSeverity::Critical => "critical",
    }
}

fn failure_name(failure: ReloadFailure) -> String {
    match failure {
        ReloadFailure::WorkerExited(status) => format!("worker exited with {status}"),
        ReloadFailure::Configuration => "configuration".to_owned(),
        ReloadFailure::SpawnFailed => "spawn failed".to_owned(),
        ReloadFailure::BootTimeout => "boot timeout".to_owned(),
        ReloadFailure::HeartbeatTimeout => "heartbeat timeout".to_owned(),
        ReloadFailure::Shutdown => "shutdown".to_owned(),
    }
}

fn report(report: &Report) -> String {
    match report {
        Report::ReloadRequested { .. }
        | Report::ReloadStarted { .. }
        | Report::ReloadCompleted { .. }
        | Report::ReloadFailed { .. }
        | Report::Resized { .. }
        | Report::ManagerReady { .. }
        | Report::ShutdownRequested { .. }
        | Report::ManagerStopping { .. } => manager_report(report),
        _ => worker_report(report),
    }
}

fn manager_report(report: &Report) -> String {
    match report {
        Report::ReloadRequested { cause: ReloadCause::Hup } => "reload requested".to_owned(),
        Report::ReloadRequested { cause: ReloadCause::SocketRenewed } => "reload requested: socket renewed".to_owned(),
        Report::ReloadStarted { generation, workers, job_workers } => {
            format!("reload {generation} started: {workers} http, {job_workers} job")
        }
        Report::ReloadCompleted { generation, workers, job_workers, after, killed, cut } => {
            let after = show(*after);
            let cut = if *cut > 0 { format!(", {cut} cut") } else { String::new() };
            format!(
                "reload {generation} completed: {workers} http, {job_workers} job, {killed} killed{cut}, after {after}"
            )
        }
        Report::ReloadFailed { generation, failure, replaced, of } => {
            format!("reload {generation} failed: {}, {replaced} of {of} replaced", failure_name(*failure))
        }
        Report::Resized { from, to } => format!("resized from {from} to {to}"),
        Report::ManagerReady { workers, after } => format!("manager ready: {workers} http, after {}", show(*after)),
        Report::ShutdownRequested { cause, exit_status: Some(code) } => format!("shutdown requested: {cause} ({code})"),
        Report::ShutdownRequested { cause, exit_status: None } => format!("shutdown requested: {cause}"),
        Report::ManagerStopping { cause, exit_code } => format!("manager stopping: {cause}, exit code {exit_code}"),
        other => format!("{other:?}"),
    }
}

fn worker_report(report: &Report) -> String {
    match report {
        Report::WorkerStarted { worker, reason } => format!("{} started: {reason}", name(*worker)),
        Report::WorkerSpawnFailed { role, slot, generation, message, retry_in } => {
            let (role, again) = (role_name(*role), again("retry", *retry_in));
            format!("{role} slot {slot}, generation {generation}, not started: {message}{again}")
        }
        Report::WorkerReady { worker, after, proof } => {
            format!("{} ready: {}, after {}", name(*worker), proof, show(*after))
        }
        Report::WorkerExited { worker, status, respawn_in } => {
            format!("{} exited: {status}{}", name(*worker), again("respawn", *respawn_in))
        }
        Report::WorkerTurnedAway { worker, reason } => format!("{} turned away from: {reason}", name(*worker)),
        Report::WorkerDrained { worker, after, waited } => {
            format!("{} drained: {waited} waited, after {}", name(*worker), show(*after))
        }
        Report::WorkerDrainTimedOut { worker, timeout } => {
            format!("{} not drained in {}", name(*worker), show(*timeout))
        }
        Report::WorkerConnectionsCut { worker, count } => format!("{} cut off from {count} connections", name(*worker)),
        Report::WorkerStopRequested { worker, kill, reason, grace_over } => {
            let (how, over) =
                (if *kill { "killed" } else { "told to stop" }, if *grace_over { ", grace over" } else { "" });
            format!("{} {how}: {reason}{over}", name(*worker))
        }
        Report::WorkerStopped { worker, status, reason, after } => stopped(*worker, *status, reason, &show(*after)),
        Report::WorkerBootTimedOut { worker, timeout } => {
            format!("{} not ready in {}", name(*worker), show(*timeout))
        }
        Report::WorkerHeartbeatTimedOut { worker, timeout } => {
            format!("{} silent for {}", name(*worker), show(*timeout))
        }
        Report::WorkerFdPressure { worker, severity, sample } => {
            format!(
                "{} fd pressure {}: {} of {}",
                name(*worker),
                severity_name(*severity),
                sample.fd_count,
                sample.fd_limit
            )
        }
        Report::WorkerRecycleRequested { worker, reason, .. } => {
            format!("{} to be recycled: {}", name(*worker), reason.threshold())
        }
        Report::WorkerRecycleFailed { slot, failure } => {
            format!("recycling in slot {slot} failed: {}", failure_name(*failure))
        }
        other => format!("{other:?}"),
    }
}

fn stopped(worker: WorkerId, status: ExitStatus, reason: &impl std::fmt::Display, after: &str) -> String {
    format!("{} stopped: {status}, {reason}, after {after}", name(worker))
}

fn again(what: &str, delay: Option<std::time::Duration>) -> String {
    delay.map_or_else(|| format!(", no {what}"), |delay| format!(", {what} in {}", show(delay)))
}

/// The supervisor's books in a few lines.
pub(crate) fn status(status: &Status) -> Vec<String> {
    let phase = match status.phase {
        Phase::Idle => "idle",
        Phase::Running => "running",
        Phase::Lasting { .. } => "lasting",
        Phase::Stopping { .. } => "stopping",
        Phase::Stopped => "stopped",
    };
    let mark = |on: bool, text: &'static str| if on { text } else { "" };
    let marks = [mark(status.rolling, ", rolling"), mark(status.reload_pending, ", reload pending")].concat();
    let mut lines = vec![format!("{phase}, generation {}{marks}", status.generation)];
    for (role, slots) in [("http", &status.http), ("job", &status.jobs)] {
        for (index, slot) in slots.iter().enumerate() {
            let current = slot.current.map_or("empty".to_owned(), name);
            let next = slot.next.map(|next| format!(", next {}", name(next))).unwrap_or_default();
            lines.push(format!("{role} slot {index}: {current}{next}"));
        }
    }
    lines
}
