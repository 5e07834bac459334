//! What every answer says besides the app's own words.
//!
//! Each answer begins with a copy of the same map, in which only values are set: to hash ten names for every request costs
//! more than all that they say.

use std::mem;

use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, DATE, HeaderName, HeaderValue, SERVER};

use crate::identity::{CORRELATION_ID, Identity, REQUEST_ID, TRACE_ID, TRACEPARENT};
use crate::refusal::{TIMING_HEADERS, Timings};
use crate::settings::{Cluster, Observability};

/// The headers of an answer without an app.
#[derive(Debug)]
pub(crate) struct OwnHeaders {
    /// Every name, and the values that are always the same.
    all: HeaderMap,
    /// What is set for each request, in the order of `all`.
    slots: Vec<Slot>,
    /// Those that an app cannot say in its own way.
    reserved: Vec<HeaderName>,
}

/// Whose value a header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Fixed,
    Date,
    Correlation,
    Request,
    Trace,
    TraceParent,
    /// One of the [`TIMING_HEADERS`].
    Timing(usize),
}

impl OwnHeaders {
    pub(crate) fn new(wanted: Observability, cluster: &Cluster, pid: u32) -> Self {
        let unset = || HeaderValue::from_static("");
        let mut all = HeaderMap::new();
        all.insert(SERVER, HeaderValue::from_static("Arlen"));
        all.insert(DATE, unset());
        if wanted.identity_headers {
            // In this order, because the last one takes what it is called by.
            all.extend([CORRELATION_ID, REQUEST_ID].map(|name| (name, unset())));
        }
        if wanted.trace_headers {
            all.extend([TRACE_ID, TRACEPARENT].map(|name| (name, unset())));
        }
        let cluster = cluster.headers(pid);
        let timing = TIMING_HEADERS.into_iter().filter(|_| wanted.performance_headers);
        let reserved = cluster.iter().map(|(name, _)| name.clone()).chain(timing.clone()).collect();
        all.extend(cluster);
        all.extend(timing.map(|name| (name, unset())));
        // Nearly every app says what its answer is: then the map need not grow.
        all.insert(CONTENT_TYPE, unset());
        let slots = all.keys().map(slot).collect();
        Self { all, slots, reserved }
    }

    /// Adds them to what the app says.
    pub(crate) fn finish(&self, app: &mut HeaderMap, date: HeaderValue, mut identity: Identity, timings: Timings) {
        let mut all = self.all.clone();
        let (mut date, times) = (Some(date), timings.values());
        for (value, slot) in all.values_mut().zip(&self.slots) {
            let set = match slot {
                Slot::Fixed => None,
                Slot::Date => date.take(),
                Slot::Correlation => identity.request.clone(),
                Slot::Request => identity.request.take(),
                Slot::Trace => identity.trace.take(),
                Slot::TraceParent => identity.parent.take(),
                Slot::Timing(which) => times.get(*which).cloned(),
            };
            if let Some(set) = set {
                *value = set;
            }
        }
        if app.keys().any(|name| self.reserved.contains(name)) {
            for name in &self.reserved {
                app.remove(name);
            }
        }
        if !app.contains_key(CONTENT_TYPE) {
            all.remove(CONTENT_TYPE);
        }
        // Where the app says one of the others, it stays the app's.
        all.extend(mem::take(app));
        *app = all;
    }
}

fn slot(name: &HeaderName) -> Slot {
    if let Some(which) = TIMING_HEADERS.iter().position(|timing| timing == name) {
        return Slot::Timing(which);
    }
    match name {
        name if name == DATE => Slot::Date,
        name if name == CORRELATION_ID => Slot::Correlation,
        name if name == REQUEST_ID => Slot::Request,
        name if name == TRACE_ID => Slot::Trace,
        name if name == TRACEPARENT => Slot::TraceParent,
        _ => Slot::Fixed,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::identity::Numbers;

    const ALL: Observability = Observability {
        endpoints: true,
        health_details: true,
        metrics: true,
        readiness_requires_startup: false,
        readiness_requires_quorum: false,
        identity_headers: true,
        trace_headers: true,
        performance_headers: true,
    };
    const NONE: Observability =
        Observability { identity_headers: false, trace_headers: false, performance_headers: false, ..ALL };

    fn cluster() -> Cluster {
        let (name, node_id) = ("blue".to_owned(), "a1".to_owned());
        Cluster { enabled: true, name, node_id, expected_nodes: 2, observed_nodes: 2, emit_headers: true }
    }

    fn header((name, value): &(&'static str, &'static str)) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    /// The answer to a request that is called `r`, with these headers of the app.
    fn answer(wanted: Observability, app: &[(&'static str, &'static str)]) -> Vec<String> {
        let asked = [("x-request-id", "r"), ("x-trace-id", "4bf92f3577b34da6a3ce929d0e0e4736")];
        let identity = Identity::of(&asked.iter().map(header).collect(), wanted, &Numbers::new(7));
        let mut headers = HeaderMap::new();
        headers.extend(app.iter().map(header));
        let timings = Timings { parse: Duration::from_micros(12), total: Duration::from_micros(1234) };
        let date = HeaderValue::from_static("today");
        OwnHeaders::new(wanted, &cluster(), 7).finish(&mut headers, date, identity, timings);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn every_header_has_its_own_value() {
        let mut lines = answer(ALL, &[("content-type", "text/html")]);
        let parent = lines.iter().position(|line| line.starts_with("traceparent: ")).unwrap();
        assert!(lines.remove(parent).starts_with("traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        lines.sort();
        assert_eq!(
            lines,
            [
                "content-type: text/html",
                "date: today",
                "server: Arlen",
                "x-arlen-cluster-expected-nodes: 2",
                "x-arlen-cluster-observed-nodes: 2",
                "x-arlen-cluster-status: nominal",
                "x-arlen-cluster: blue",
                "x-arlen-node: a1",
                "x-arlen-parse-ms: 0.012",
                "x-arlen-response-write-ms: 0.000",
                "x-arlen-total-ms: 1.234",
                "x-arlen-worker-pid: 7",
                "x-correlation-id: r",
                "x-mojo-total-ms: 1.234",
                "x-request-id: r",
                "x-trace-id: 4bf92f3577b34da6a3ce929d0e0e4736",
            ]
        );
    }

    #[test]
    fn what_is_not_wanted_is_not_said() {
        let mut lines = answer(NONE, &[]);
        lines.retain(|line| !line.starts_with("x-arlen-"));
        assert_eq!(lines, ["server: Arlen", "date: today"]);
    }

    #[test]
    fn an_app_has_its_way_but_for_the_cluster_and_the_times() {
        let app = [
            ("server", "mine"),
            ("x-request-id", "mine"),
            ("set-cookie", "a"),
            ("x-arlen-node", "mine"),
            ("set-cookie", "b"),
            ("x-arlen-total-ms", "mine"),
            ("x-arlen-total-ms", "too"),
        ];
        let lines = answer(ALL, &app);
        let said = |name: &str| -> Vec<&str> {
            lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
        };
        assert_eq!(said("server"), ["mine"]);
        assert_eq!(said("x-request-id"), ["mine"]);
        assert_eq!(said("x-correlation-id"), ["r"]);
        assert_eq!(said("set-cookie"), ["a", "b"]);
        assert_eq!(said("x-arlen-node"), ["a1"]);
        assert_eq!(said("x-arlen-total-ms"), ["1.234"]);
    }
}
