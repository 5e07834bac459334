//! What the manager tells its own service manager about its state (`sd_notify(3)`). Without one there is no socket, and
//! nothing is told; one that does not read is not waited for.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use propane_core::{ReloadFailure, Report};

/// Whoever started the manager and waits for its words.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    /// Whether it has been told that the start is over: until then reloads are a part of it.
    is_started: bool,
}

impl ServiceManager {
    /// Tells what follows from `report`; `trouble` is what standard error says of it.
    pub(crate) fn tell(&mut self, report: &Report, trouble: Option<&str>) {
        let states = self.states(report, trouble, monotonic_micros());
        let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
        for state in states {
            if let Err(error) = send(&address, state.as_bytes()) {
                tracing::debug!("cannot notify the service manager: {error}");
            }
        }
    }

    /// The messages, each of them a datagram.
    fn states(&mut self, report: &Report, trouble: Option<&str>, monotonic_micros: i64) -> Vec<String> {
        let reloading = || format!("RELOADING=1\nMONOTONIC_USEC={monotonic_micros}");
        match report {
            Report::ManagerReady { workers, .. } => {
                self.is_started = true;
                vec![format!("READY=1\nSTATUS={workers} workers are ready")]
            }
            Report::ShutdownRequested { .. } => vec!["STOPPING=1\nSTATUS=stopping".to_owned()],
            // A stop tells of itself.
            Report::ReloadFailed { failure: ReloadFailure::Shutdown, .. } => Vec::new(),
            _ if !self.is_started => Vec::new(),
            Report::ReloadStarted { generation, .. } => vec![format!("{}\nSTATUS=reload {generation}", reloading())],
            Report::ReloadCompleted { generation, workers, .. } => {
                vec![format!("READY=1\nSTATUS=reload {generation} is done, {workers} workers are ready")]
            }
            // Who waits for a reload waits for its beginning first, and one that is refused has none.
            Report::ReloadFailed { .. } => {
                vec![reloading(), format!("READY=1\nSTATUS={}", trouble.unwrap_or("the reload failed"))]
            }
            _ => Vec::new(),
        }
    }
}

fn send(address: &OsStr, state: &[u8]) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state, &address).map(|_| ())
}

/// `CLOCK_MONOTONIC`, by which the service manager orders reloads.
fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use propane_core::ShutdownCause;

    use super::*;

    #[test]
    fn a_service_manager_hears_of_each_turn_in_its_own_words() {
        let failed = |failure| Report::ReloadFailed { generation: 2, failure, replaced: 0, of: 4 };
        let (after, killed, cut) = (Duration::ZERO, 0, 0);
        let ready = Report::ManagerReady { workers: 4, after };
        let started = Report::ReloadStarted { generation: 2, workers: 4, job_workers: 1 };
        let done = Report::ReloadCompleted { generation: 2, workers: 4, job_workers: 1, after, killed, cut };
        let stop = Report::ShutdownRequested { cause: ShutdownCause::BootFailed, exit_status: Some(1) };
        let why = Some("reload 2 failed (configuration)");
        // In this order.
        let story: [(Report, Option<&str>, &[&str]); 8] = [
            (started.clone(), None, &[]),
            (failed(ReloadFailure::Configuration), why, &[]),
            (ready, None, &["READY=1\nSTATUS=4 workers are ready"]),
            (started, None, &["RELOADING=1\nMONOTONIC_USEC=7\nSTATUS=reload 2"]),
            (done, None, &["READY=1\nSTATUS=reload 2 is done, 4 workers are ready"]),
            (
                failed(ReloadFailure::Configuration),
                why,
                &["RELOADING=1\nMONOTONIC_USEC=7", "READY=1\nSTATUS=reload 2 failed (configuration)"],
            ),
            (stop, None, &["STOPPING=1\nSTATUS=stopping"]),
            (failed(ReloadFailure::Shutdown), None, &[]),
        ];
        let mut service_manager = ServiceManager::default();
        for (report, trouble, expected) in story {
            assert_eq!(service_manager.states(&report, trouble, 7), expected, "{report:?}");
        }
    }
}
