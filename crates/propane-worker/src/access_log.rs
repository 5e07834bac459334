//! One line on stderr for each request, where the settings ask for it.
//!
//! Off by default: at full speed the lines cost more than the requests, and a production set-up usually logs in front.
//! Query strings and headers are left out, because they carry secrets.

use std::fmt::Write as _;
use std::process;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::header::HeaderValue;
use hyper::http::request::Parts;

use crate::listener::Peer;
use crate::settings::LogFormat;
use crate::stderr;

/// What is known of a request; written when it is over.
pub(crate) struct Record {
    format: LogFormat,
    began: Instant,
    peer: Peer,
    method: String,
    path: String,
    /// Only what can stand in a log as it is.
    pub(crate) request_id: Option<HeaderValue>,
    /// None where the service failed or the client left before there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of the body that were handed over for sending.
    pub(crate) bytes: u64,
}

impl Record {
    pub(crate) fn begin(format: LogFormat, peer: Peer, request: &Parts) -> Self {
        Self { method: request.method.to_string(), path: as_uri(request.uri.path()), ..Self::new(format, peer) }
    }

    /// Of something that was refused before it was known what it asks for.
    pub(crate) fn refused(format: LogFormat, peer: Peer, status: StatusCode, waited: Duration) -> Self {
        let began = Instant::now().checked_sub(waited);
        Self { status: Some(status), began: began.unwrap_or_else(Instant::now), ..Self::new(format, peer) }
    }

    fn new(format: LogFormat, peer: Peer) -> Self {
        let (method, path) = ("-".to_owned(), "-".to_owned());
        Self { format, began: Instant::now(), peer, method, path, request_id: None, status: None, bytes: 0 }
    }

    /// Writes the line, without waiting for whoever reads it.
    pub(crate) fn write(&self) {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = self.line(since_epoch.as_millis(), self.began.elapsed().as_micros(), process::id());
        stderr::write(line.as_bytes());
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds for people, not for sums")]
    fn line(&self, unix_ms: u128, micros: u128, pid: u32) -> String {
        let status = self.status.map_or(0, |status| status.as_u16());
        let duration_ms = micros as f64 / 1000.0;
        let id = self.request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
        match self.format {
            // `{:?}` quotes and escapes, so that no path can forge a line.
            LogFormat::Text => format!(
                "event=request method={} path={:?} status={status} bytes={} duration_ms={duration_ms} peer={} pid={pid} request_id={id}\n",
                self.method, self.path, self.bytes, self.peer
            ),
            LogFormat::Json => {
                let object = serde_json::json!({
                    "event": "request", "time_unix_ms": u64::try_from(unix_ms).unwrap_or(u64::MAX),
                    "method": self.method, "path": self.path, "status": status, "bytes": self.bytes,
                    "duration_ms": duration_ms, "peer": self.peer.to_string(), "pid": pid, "request_id": id,
                });
                format!("{object}\n")
            }
        }
    }
}

/// What a URI should not have is shown as it should be written, because it may command a terminal or end a line for
/// somebody.
fn as_uri(path: &str) -> String {
    let mut shown = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii() {
            shown.push(byte.into());
        } else {
            // Writing into a string cannot fail.
            let _ = write!(shown, "%{byte:02X}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(format: LogFormat, uri: &str) -> Record {
        let (request, ()) = hyper::Request::builder().uri(uri).body(()).unwrap().into_parts();
        let mut record = Record::begin(format, Peer::Unix, &request);
        record.request_id = Some(HeaderValue::from_static("r1"));
        record.status = Some(StatusCode::NOT_FOUND);
        record.bytes = 10;
        record
    }

    #[test]
    fn a_text_line_shows_the_path_escaped_and_without_its_query() {
        assert_eq!(
            record(LogFormat::Text, "/a\"b?token=secret").line(0, 1500, 7),
            "event=request method=GET path=\"/a\\\"b\" status=404 bytes=10 duration_ms=1.5 peer=unix pid=7 request_id=r1\n"
        );
    }

    #[test]
    fn no_path_commands_a_terminal() {
        let path = record(LogFormat::Json, "/\u{9b}2J\u{85}\u{fc}").line(0, 0, 7);
        assert!(path.contains(r#""path":"/%C2%9B2J%C2%85%C3%BC""#), "{path}");
    }

    #[test]
    fn a_json_line_is_one_object() {
        let line = record(LogFormat::Json, "/x?token=secret").line(12, 1500, 7);
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["path"], "/x");
        assert_eq!(object["status"], 404);
        assert_eq!(object["time_unix_ms"], 12);
        assert_eq!(object["duration_ms"], 1.5);
        assert_eq!(object["request_id"], "r1");
        assert!(line.ends_with("}\n") && line.matches('\n').count() == 1);
    }
}
