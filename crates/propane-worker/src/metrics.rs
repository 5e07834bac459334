//! What the worker counts of itself, and how Prometheus reads it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::refusal::Refusal;

/// The counts of one worker since its start.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    active: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    by_status: BTreeMap<u16, u64>,
    refused: [u64; Refusal::ALL.len()],
    durations: Durations,
}

#[derive(Debug, Default, Clone, Copy)]
struct Durations {
    count: u64,
    sum: Duration,
    min: Duration,
    max: Duration,
}

/// How many of the limited things there are now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sessions {
    pub(crate) http: u64,
    pub(crate) websocket: u64,
}

impl Metrics {
    pub(crate) fn began(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    /// A request is over. `status`: none where its client left before there was an answer.
    pub(crate) fn ended(&self, status: Option<u16>, took: Duration) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(status) = status {
            let mut counts = self.counts();
            *counts.by_status.entry(status).or_default() += 1;
            counts.durations.add(took);
        }
    }

    /// A connection or a request was refused, for whichever reason.
    pub(crate) fn refused(&self, refusal: Refusal) {
        if let Some(index) = Refusal::ALL.iter().position(|other| *other == refusal) {
            self.counts().refused[index] += 1;
        }
    }

    /// Requests being served.
    pub(crate) fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// The text format of Prometheus, with Arlen's names as far as `promtool check metrics` lets them pass.
    pub(crate) fn text(&self, sessions: Sessions) -> String {
        let counts = self.counts().clone();
        let mut text = Text::default();
        let durations = counts.durations;
        text.family("aln_http_requests_total", "counter", "Requests answered.");
        text.sample("aln_http_requests_total", counts.total());
        for (status, count) in &counts.by_status {
            let name = format!("aln_http_status_{status}_total");
            text.family(&name, "counter", "Requests answered with this status.");
            text.sample(&name, *count);
        }
        text.family("aln_http_errors_total", "counter", "Requests answered with 500 or above.");
        text.sample("aln_http_errors_total", counts.errors());
        text.family("aln_http_refused_total", "counter", "Connections and requests refused by the worker itself.");
        for (refusal, count) in Refusal::ALL.iter().zip(counts.refused) {
            text.sample(&format!("aln_http_refused_total{{reason=\"{}\"}}", refusal.name()), count);
        }
        text.family("aln_http_requests_active", "gauge", "Requests being served.");
        text.sample("aln_http_requests_active", self.active());
        text.family("aln_http_sessions", "gauge", "Connections held.");
        text.sample("aln_http_sessions", sessions.http);
        text.family("aln_websocket_sessions", "gauge", "Upgraded connections held.");
        text.sample("aln_websocket_sessions", sessions.websocket);
        text.family("aln_http_request_duration_seconds", "summary", "From the first byte of a request to its end.");
        text.sample("aln_http_request_duration_seconds_count", durations.count);
        text.seconds("aln_http_request_duration_seconds_sum", durations.sum);
        for (name, value) in durations.others() {
            let name = format!("aln_http_request_duration_{name}_seconds");
            text.family(&name, "gauge", "Of all requests since the start.");
            text.seconds(&name, value);
        }
        text.0
    }

    /// The same as Arlen's JSON.
    pub(crate) fn json(&self, sessions: Sessions) -> Value {
        let counts = self.counts().clone();
        let durations = counts.durations;
        let mut counters = json!({
            "http_requests_total": counts.total(),
            "http_errors_total": counts.errors(),
        });
        for (status, count) in &counts.by_status {
            counters[format!("http_status_{status}_total")] = json!(count);
        }
        for (refusal, count) in Refusal::ALL.iter().zip(counts.refused) {
            counters[format!("http_refused_{}_total", refusal.name())] = json!(count);
        }
        let mut timing = json!({ "count": durations.count, "sum": in_ms(durations.sum) });
        for (name, value) in durations.others() {
            timing[name] = json!(in_ms(value));
        }
        json!({
            "counters": counters,
            "gauges": {
                "http_requests_active": self.active(),
                "http_sessions": sessions.http,
                "websocket_sessions": sessions.websocket,
            },
            "timings": { "http_request_duration_ms": timing },
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Every count is right on its own, whatever happened to the one who was counting.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn total(&self) -> u64 {
        self.by_status.values().sum()
    }

    fn errors(&self) -> u64 {
        self.by_status.range(500..).map(|(_, count)| count).sum()
    }
}

impl Durations {
    fn add(&mut self, took: Duration) {
        self.min = if self.count == 0 { took } else { self.min.min(took) };
        self.max = self.max.max(took);
        self.count += 1;
        self.sum += took;
    }

    fn others(self) -> [(&'static str, Duration); 3] {
        let average = self.sum.checked_div(u32::try_from(self.count).unwrap_or(u32::MAX)).unwrap_or_default();
        [("min", self.min), ("max", self.max), ("avg", average)]
    }
}

fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Lines of the text format.
#[derive(Default)]
struct Text(String);

impl Text {
    // Writing into a string cannot fail.

    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, value: u64) {
        let _ = writeln!(self.0, "{name} {value}");
    }

    fn seconds(&mut self, name: &str, value: Duration) {
        let _ = writeln!(self.0, "{name} {:.6}", value.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_belongs_to_a_family_that_is_described_before_it() {
        let metrics = Metrics::default();
        for (status, millis) in [(Some(200), 2), (Some(503), 4), (None, 8)] {
            metrics.began();
            metrics.ended(status, Duration::from_millis(millis));
        }
        metrics.began();
        metrics.refused(Refusal::HttpSessionLimit);
        let text = metrics.text(Sessions { http: 3, websocket: 1 });
        let mut family = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split(' ').next().unwrap();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest.split(' ').next(), Some(family));
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(family), "{line} is no {family}");
                assert!(value.parse::<f64>().is_ok(), "{line}");
            }
        }
        for line in [
            "aln_http_requests_total 2",
            "aln_http_status_200_total 1",
            "aln_http_errors_total 1",
            "aln_http_requests_active 1",
            "aln_http_refused_total{reason=\"http_session_limit\"} 1",
            "aln_http_request_duration_seconds_count 2",
            "aln_http_request_duration_seconds_sum 0.006000",
            "aln_http_request_duration_avg_seconds 0.003000",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
        let json = metrics.json(Sessions { http: 3, websocket: 1 });
        assert_eq!(json["counters"]["http_requests_total"], 2);
        assert_eq!(json["timings"]["http_request_duration_ms"]["max"], 4.0);
    }
}
