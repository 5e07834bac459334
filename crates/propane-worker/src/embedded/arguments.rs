//! The embedded worker's command line: Arlen's, so that the manager starts every worker with the same words.

use std::ffi::OsString;

/// What `--help` prints.
pub(super) const HELP: &str = "\
Usage: propane worker [--env NAME] [--host ADDRESS] [--port N] [--once] [--print-routes]

Serves public/ of the app root (ARLEN_APP_ROOT, or the working directory), and /healthz, /readyz, /livez, /clusterz and
/metrics.

  --env NAME       the environment; taken for compatibility, nothing here depends on it
  --host ADDRESS   what to listen on (ARLEN_HOST, 127.0.0.1)
  --port N         what to listen on (ARLEN_PORT, 3000)
  --once           serve one connection, then exit
  --print-routes   print the routes, then exit
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Arguments {
    Help,
    PrintRoutes,
    Serve(Overrides),
}

/// Words that go over the environment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Overrides {
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) once: bool,
}

/// A command line that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UsageError {
    /// Arlen's words, which its operators search their logs for.
    #[error("Unknown argument: {0}")]
    Unknown(String),
    #[error("{0} requires a value")]
    NoValue(&'static str),
    #[error("{0} takes no value")]
    Value(&'static str),
    #[error("--port: expected a whole number from 1 to 65535 but got {0:?}")]
    Port(String),
}

/// Reads the words after `propane worker`, as `--flag value` or `--flag=value`; the last of a repeated flag wins.
pub(super) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, UsageError> {
    let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    let mut overrides = Overrides::default();
    let mut print_routes = false;
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let has_value = inline.is_some();
        let mut value = |flag| inline.clone().or_else(|| words.next()).ok_or(UsageError::NoValue(flag));
        let switch = |flag| if has_value { Err(UsageError::Value(flag)) } else { Ok(true) };
        match flag {
            "--help" | "-h" => return Ok(Arguments::Help),
            "--env" => drop(value("--env")?),
            "--host" => overrides.host = Some(value("--host")?),
            "--port" => overrides.port = Some(port(value("--port")?)?),
            "--once" => overrides.once = switch("--once")?,
            "--print-routes" => print_routes = switch("--print-routes")?,
            _ => return Err(UsageError::Unknown(word)),
        }
    }
    Ok(if print_routes { Arguments::PrintRoutes } else { Arguments::Serve(overrides) })
}

fn port(text: String) -> Result<u16, UsageError> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(UsageError::Port(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn both_forms_of_a_flag_are_read_and_the_last_one_wins() {
        let serve = |host: Option<&str>, port, once| {
            Ok(Arguments::Serve(Overrides { host: host.map(str::to_owned), port, once }))
        };
        assert_eq!(parsed(""), serve(None, None, false));
        assert_eq!(parsed("--env production --host ::1 --port 80"), serve(Some("::1"), Some(80), false));
        assert_eq!(parsed("--port=80 --port=81 --once"), serve(None, Some(81), true));
        assert_eq!(parsed("--port 80 --print-routes"), Ok(Arguments::PrintRoutes));
        assert_eq!(parsed("--port 80 -h --nonsense"), Ok(Arguments::Help));
    }

    #[test]
    fn a_wrong_word_is_named() {
        let message = |line| parsed(line).unwrap_err().to_string();
        assert_eq!(message("--jobs 3"), "Unknown argument: --jobs");
        assert_eq!(message("serve"), "Unknown argument: serve");
        assert_eq!(message("--host"), "--host requires a value");
        assert_eq!(message("--once=yes"), "--once takes no value");
        assert_eq!(message("--port 70000"), "--port: expected a whole number from 1 to 65535 but got \"70000\"");
    }
}
