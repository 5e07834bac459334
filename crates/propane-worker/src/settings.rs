//! What a worker is told through its environment.
//!
//! The names are those that the manager exports (`ARLEN_*`) and systemd's socket and notify protocols (`LISTEN_*`,
//! `NOTIFY_SOCKET`, `WATCHDOG_*`). Nothing else is read from the environment by this library.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use crate::variables::{BadVariables, Variables};

/// The largest number that the manager exports for a limit.
const LARGEST: u32 = i32::MAX as u32;

/// Everything that shapes a [`Server`](crate::Server).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where connections come from.
    pub socket: Socket,
    /// How long a connection may take over a request head, and how long it may stay idle between two requests.
    /// `ARLEN_CONNECTION_TIMEOUT_SECONDS`, 1 to 86400 s, default 30 s.
    pub connection_timeout: Duration,
    /// Connections held at once, idle ones included; the next one is answered 503. `ARLEN_MAX_HTTP_SESSIONS`,
    /// default 256.
    pub max_http_sessions: u32,
    /// The datagram socket that hears `READY=1`, `STOPPING=1` and `WATCHDOG=1`: a path, or an abstract name after `@`.
    /// `NOTIFY_SOCKET`.
    pub notify_socket: Option<OsString>,
    /// How long the manager waits for a `WATCHDOG=1`; it is sent twice as often. `WATCHDOG_USEC`, ignored where
    /// `WATCHDOG_PID` names another process.
    pub watchdog: Option<Duration>,
    /// One line for each request on stderr, in this form; none where unset. `ARLEN_LOG_FORMAT`.
    pub log_format: Option<LogFormat>,
    /// Serve one connection, then end in an orderly way.
    pub once: bool,
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    /// File descriptor 3 is a listening socket (`LISTEN_FDS=1`, and `LISTEN_PID` is this process). Its queue belongs to
    /// whoever made it, and goes on to the successor.
    Inherited,
    /// The worker binds a socket of its own.
    Bind {
        /// A host name or an address; an IPv6 address with or without brackets. `ARLEN_HOST`, default `127.0.0.1`.
        host: String,
        /// 1 to 65535. `ARLEN_PORT`, default 3000.
        port: u16,
        /// Share the port with other processes of the same user. `ARLEN_ENABLE_REUSEPORT`, default no.
        reuse_port: bool,
        /// Connections that may wait to be accepted, from 1. `ARLEN_LISTEN_BACKLOG`, default 128.
        backlog: i32,
    },
}

/// The form of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` words.
    Text,
    /// One JSON object a line.
    Json,
}

impl Settings {
    /// Reads the settings through `lookup`; `pid` is this process, which `LISTEN_PID` must name.
    ///
    /// # Errors
    /// All variables that are set to something unusable, also those that the others make irrelevant.
    pub fn read(lookup: &dyn Fn(&str) -> Option<OsString>, pid: u32) -> Result<Self, BadVariables> {
        let mut variables = Variables::new(lookup);
        let settings = Self {
            socket: socket(&mut variables, pid),
            connection_timeout: Duration::from_secs(
                variables.integer("ARLEN_CONNECTION_TIMEOUT_SECONDS", 1..=86_400).unwrap_or(30),
            ),
            max_http_sessions: variables.integer("ARLEN_MAX_HTTP_SESSIONS", 1..=LARGEST).unwrap_or(256),
            notify_socket: notify_socket(&mut variables),
            watchdog: watchdog(&mut variables, pid),
            log_format: log_format(&mut variables),
            once: false,
        };
        variables.finish().map(|()| settings)
    }
}

fn socket(variables: &mut Variables<'_>, pid: u32) -> Socket {
    let host = variables.text("ARLEN_HOST").unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = variables.integer("ARLEN_PORT", 1..=u16::MAX).unwrap_or(3000);
    let reuse_port = variables.boolean("ARLEN_ENABLE_REUSEPORT").unwrap_or(false);
    let backlog = variables.integer("ARLEN_LISTEN_BACKLOG", 1..=i32::MAX).unwrap_or(128);
    if inherits(variables, pid) { Socket::Inherited } else { Socket::Bind { host, port, reuse_port, backlog } }
}

/// `LISTEN_FDS` counts for the process that `LISTEN_PID` names and no other, because both survive into grandchildren.
fn inherits(variables: &mut Variables<'_>, pid: u32) -> bool {
    let ours = variables.integer("LISTEN_PID", 1..=LARGEST) == Some(pid);
    match variables.integer::<u32>("LISTEN_FDS", 0..=LARGEST) {
        Some(1) if ours => true,
        Some(count) if ours && count > 1 => {
            variables.problem("LISTEN_FDS", &count.to_string(), "1, because a worker serves one socket");
            false
        }
        _ => false,
    }
}

fn notify_socket(variables: &mut Variables<'_>) -> Option<OsString> {
    let address = variables.raw("NOTIFY_SOCKET")?;
    if matches!(address.as_bytes(), [b'/' | b'@', _, ..]) {
        return Some(address);
    }
    variables.problem("NOTIFY_SOCKET", &address.to_string_lossy(), "an absolute path, or a name after @");
    None
}

fn watchdog(variables: &mut Variables<'_>, pid: u32) -> Option<Duration> {
    let period = variables.integer("WATCHDOG_USEC", 1..=u64::MAX).map(Duration::from_micros)?;
    let ours = variables.integer("WATCHDOG_PID", 1..=LARGEST).is_none_or(|watched| watched == pid);
    ours.then_some(period)
}

fn log_format(variables: &mut Variables<'_>) -> Option<LogFormat> {
    let text = variables.text("ARLEN_LOG_FORMAT")?;
    match text.trim().to_ascii_lowercase().as_str() {
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => {
            variables.problem("ARLEN_LOG_FORMAT", &text, "text or json");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, BadVariables> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        Settings::read(&lookup, 77)
    }

    #[test]
    fn nothing_set_gives_the_documented_defaults() {
        let expected = Settings {
            socket: Socket::Bind { host: "127.0.0.1".to_owned(), port: 3000, reuse_port: false, backlog: 128 },
            connection_timeout: Duration::from_secs(30),
            max_http_sessions: 256,
            notify_socket: None,
            watchdog: None,
            log_format: None,
            once: false,
        };
        assert_eq!(read(&[]), Ok(expected.clone()));
        assert_eq!(read(&[("ARLEN_PORT", ""), ("LISTEN_FDS", "")]), Ok(expected), "an empty variable is an unset one");
    }

    #[test]
    fn a_socket_is_inherited_only_by_the_process_it_was_meant_for() {
        let inherited = |pairs| read(pairs).map(|settings| settings.socket == Socket::Inherited);
        assert_eq!(inherited(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "77")]), Ok(true));
        assert_eq!(inherited(&[("LISTEN_FDS", "1"), ("LISTEN_PID", "78")]), Ok(false));
        assert_eq!(inherited(&[("LISTEN_FDS", "1")]), Ok(false));
        assert_eq!(inherited(&[("LISTEN_FDS", "0"), ("LISTEN_PID", "77")]), Ok(false));
        assert!(inherited(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "77")]).is_err());
    }

    #[test]
    fn every_bad_variable_is_named_at_once() {
        let bad = read(&[
            ("ARLEN_PORT", "tcp://10.0.0.1:3000"),
            ("ARLEN_LISTEN_BACKLOG", "0"),
            ("ARLEN_ENABLE_REUSEPORT", "maybe"),
            ("ARLEN_MAX_HTTP_SESSIONS", "-1"),
            ("NOTIFY_SOCKET", "relative"),
            ("WATCHDOG_USEC", "soon"),
            ("ARLEN_LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        let names: Vec<&str> = bad.0.iter().map(|problem| problem.variable).collect();
        assert_eq!(
            names,
            [
                "ARLEN_PORT",
                "ARLEN_ENABLE_REUSEPORT",
                "ARLEN_LISTEN_BACKLOG",
                "ARLEN_MAX_HTTP_SESSIONS",
                "NOTIFY_SOCKET",
                "WATCHDOG_USEC",
                "ARLEN_LOG_FORMAT"
            ]
        );
        assert_eq!(
            bad.0[0].to_string(),
            r#"ARLEN_PORT: expected a whole number from 1 to 65535 but got "tcp://10.0.0.1:3000""#
        );
    }

    #[test]
    fn a_watchdog_for_another_process_is_none() {
        let watchdog = |pairs| read(pairs).map(|settings| settings.watchdog);
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "2000000")]), Ok(Some(Duration::from_secs(2))));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "77")]), Ok(Some(Duration::from_micros(5))));
        assert_eq!(watchdog(&[("WATCHDOG_USEC", "5"), ("WATCHDOG_PID", "78")]), Ok(None));
    }
}
