//! The endpoints that every worker has: health, cluster, metrics. They answer before the app and without waiting in its
//! queue, because a worker that is busy is not one that is ill.

use std::time::{Duration, SystemTime};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode, Uri};
use serde_json::{Value, json};

use crate::metrics::{Metrics, Sessions};
use crate::settings::{Cluster, Observability};

/// What an answer of a worker that is asked for its pid carries, in a cluster or not.
pub(crate) const WORKER_PID: HeaderName = HeaderName::from_static("x-arlen-worker-pid");

const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// The paths, which an app cannot have for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Health,
    Ready,
    Live,
    Cluster,
    Metrics,
}

/// What is known at the moment of asking.
pub(crate) struct Known<'a> {
    pub(crate) wanted: &'a Observability,
    pub(crate) cluster: &'a Cluster,
    pub(crate) metrics: &'a Metrics,
    pub(crate) sessions: Sessions,
    pub(crate) pid: u32,
    pub(crate) uptime: Duration,
    pub(crate) now: SystemTime,
}

impl Endpoint {
    /// The endpoint that a request is for.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        let endpoint = match path {
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/livez" => Self::Live,
            "/clusterz" => Self::Cluster,
            "/metrics" => Self::Metrics,
            _ => return None,
        };
        matches!(*method, Method::GET | Method::HEAD).then_some(endpoint)
    }

    /// Its answer. To a HEAD the body is empty, as Arlen has it.
    pub(crate) fn answer(
        self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        known: &Known<'_>,
    ) -> Response<Full<Bytes>> {
        let as_json = prefers_json(uri, headers);
        let (status, media, body) = match self {
            Self::Cluster => (StatusCode::OK, JSON, text(&known.cluster.report(known.pid))),
            Self::Metrics if !known.wanted.metrics => (StatusCode::NOT_FOUND, PLAIN, "not found\n".to_owned()),
            Self::Metrics if as_json => (StatusCode::OK, JSON, text(&known.metrics.json(known.sessions))),
            Self::Metrics => (StatusCode::OK, METRICS, known.metrics.text(known.sessions)),
            Self::Health | Self::Ready | Self::Live => self.health(as_json, known),
        };
        let body = if *method == Method::HEAD { String::new() } else { body };
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, media);
        response.headers_mut().insert(WORKER_PID, known.pid.into());
        response
    }

    fn health(self, as_json: bool, known: &Known<'_>) -> (StatusCode, HeaderValue, String) {
        // Who can be asked has started, so that only the quorum can be missing.
        let ready = self != Self::Ready || !known.wanted.readiness_requires_quorum || known.cluster.has_quorum();
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if as_json && known.wanted.health_details {
            return (status, JSON, text(&self.details(ready, known)));
        }
        let word = match self {
            Self::Ready if !ready => "not_ready\n",
            Self::Ready => "ready\n",
            Self::Live => "live\n",
            Self::Health | Self::Cluster | Self::Metrics => "ok\n",
        };
        (status, PLAIN, word.to_owned())
    }

    fn details(self, ready: bool, known: &Known<'_>) -> Value {
        let (signal, status) = match self {
            Self::Ready if !ready => ("ready", "not_ready"),
            Self::Ready => ("ready", "ready"),
            Self::Live => ("live", "ok"),
            Self::Health | Self::Cluster | Self::Metrics => ("health", "ok"),
        };
        let mut details = json!({
            "ok": ready,
            "signal": signal,
            "status": status,
            "timestamp_utc": timestamp(known.now),
            "uptime_seconds": known.uptime.as_secs(),
            "checks": {
                "request_dispatch": { "ok": true, "mode": "in_process" },
                "metrics_registry": { "ok": true, "source": "propane-worker", "enabled": known.wanted.metrics },
                "active_requests": { "ok": true, "value": known.metrics.active() },
                "startup": {
                    "ok": true,
                    "started": true,
                    "required_for_readyz": known.wanted.readiness_requires_startup,
                },
                "cluster_quorum": known.cluster.health(known.wanted.readiness_requires_quorum),
            },
        });
        if self == Self::Ready {
            details["ready"] = json!(ready);
        }
        details
    }
}

fn text(value: &Value) -> String {
    value.to_string()
}

fn prefers_json(uri: &Uri, headers: &HeaderMap) -> bool {
    let asked_by_query = uri.query().is_some_and(|query| query.split('&').any(|pair| pair == "format=json"));
    let accepts = |accept: &HeaderValue| {
        let accept = accept.as_bytes().to_ascii_lowercase();
        [&b"application/json"[..], b"text/json"]
            .iter()
            .any(|media| accept.windows(media.len()).any(|part| part == *media))
    };
    asked_by_query || headers.get_all(ACCEPT).iter().any(accepts)
}

/// `2026-03-01T12:00:00Z`.
fn timestamp(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// The civil date so many days after 1970-01-01, by counting years from March in eras of 400.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Observability = Observability {
        endpoints: true,
        health_details: true,
        metrics: true,
        readiness_requires_startup: false,
        readiness_requires_quorum: true,
        identity_headers: true,
        trace_headers: true,
        performance_headers: true,
    };

    fn ask(target: &str, wanted: Observability, enabled: bool) -> Response<Full<Bytes>> {
        let cluster = Cluster {
            enabled,
            name: "c".to_owned(),
            node_id: "n".to_owned(),
            expected_nodes: 2,
            observed_nodes: 1,
            emit_headers: true,
        };
        let known = Known {
            wanted: &wanted,
            cluster: &cluster,
            metrics: &Metrics::default(),
            sessions: Sessions { http: 1, websocket: 0 },
            pid: 7,
            uptime: Duration::from_millis(2500),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(951_827_696),
        };
        let uri: Uri = target.parse().unwrap();
        let endpoint = Endpoint::of(&Method::GET, uri.path()).unwrap();
        endpoint.answer(&Method::GET, &uri, &HeaderMap::new(), &known)
    }

    fn body(response: Response<Full<Bytes>>) -> String {
        use hyper::body::Body as _;
        let mut body = response.into_body();
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let std::task::Poll::Ready(Some(Ok(frame))) = std::pin::Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("a body in memory")
        };
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn only_reading_is_answered() {
        assert_eq!(Endpoint::of(&Method::POST, "/healthz"), None);
        assert_eq!(Endpoint::of(&Method::GET, "/healthz/"), None);
        assert_eq!(Endpoint::of(&Method::HEAD, "/metrics"), Some(Endpoint::Metrics));
    }

    #[test]
    fn a_missing_quorum_is_told_by_readyz_alone() {
        for (target, enabled, status, word) in [
            ("/healthz", true, 200, "ok\n"),
            ("/livez", true, 200, "live\n"),
            ("/readyz", true, 503, "not_ready\n"),
            ("/readyz", false, 200, "ready\n"),
        ] {
            let response = ask(target, WANTED, enabled);
            assert_eq!(response.status().as_u16(), status, "{target}");
            assert_eq!(body(response), word);
        }
    }

    #[test]
    fn details_are_json_where_they_are_enabled() {
        let details: Value = serde_json::from_str(&body(ask("/readyz?format=json", WANTED, true))).unwrap();
        assert_eq!(details["status"], "not_ready");
        assert_eq!(details["ready"], false);
        assert_eq!(details["timestamp_utc"], "2000-02-29T12:34:56Z");
        assert_eq!(details["uptime_seconds"], 2);
        assert_eq!(details["checks"]["cluster_quorum"]["status"], "degraded");
        let without = Observability { health_details: false, ..WANTED };
        assert_eq!(body(ask("/readyz?format=json", without, false)), "ready\n");
    }

    #[test]
    fn dates_are_civil() {
        for (days, civil) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_819, (2027, 1, 1))] {
            assert_eq!(date(days), civil);
        }
    }
}
