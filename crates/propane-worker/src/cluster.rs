//! What the worker knows of its cluster: all of it from the settings, because nothing here talks to other nodes.

use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::settings::Cluster;

impl Cluster {
    fn status(&self) -> &'static str {
        match self.observed_nodes {
            _ if !self.enabled => "single_node",
            0 => "partitioned",
            observed if observed < self.expected_nodes => "degraded",
            _ => "nominal",
        }
    }

    /// Whether as many nodes are there as should be.
    pub(crate) fn has_quorum(&self) -> bool {
        !self.enabled || self.observed_nodes >= self.expected_nodes
    }

    /// The headers of every answer, made once.
    pub(crate) fn headers(&self, pid: u32) -> Vec<(HeaderName, HeaderValue)> {
        if !(self.enabled && self.emit_headers) {
            return Vec::new();
        }
        // A name with a control character is no setting, so none is left out.
        let text = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
        let headers = [
            ("x-arlen-cluster", text(&self.name)),
            ("x-arlen-cluster-expected-nodes", Some(self.expected_nodes.into())),
            ("x-arlen-cluster-observed-nodes", Some(self.observed_nodes.into())),
            ("x-arlen-cluster-status", text(self.status())),
            ("x-arlen-node", text(&self.node_id)),
            ("x-arlen-worker-pid", Some(pid.into())),
        ];
        headers.into_iter().filter_map(|(name, value)| Some((HeaderName::from_static(name), value?))).collect()
    }

    /// `/clusterz`.
    pub(crate) fn report(&self, pid: u32) -> Value {
        let quorum = json!({
            "status": self.status(),
            "met": self.has_quorum(),
            "observed_nodes": self.observed_nodes,
            "expected_nodes": self.expected_nodes,
        });
        json!({
            "ok": true,
            "cluster": {
                "enabled": self.enabled,
                "name": self.name,
                "node_id": self.node_id,
                "expected_nodes": self.expected_nodes,
                "observed_nodes": self.observed_nodes,
                "worker_pid": pid,
                "mode": if self.enabled { "multi_node" } else { "single_node" },
                "quorum": quorum,
            },
            // Sessions are the app's own matter.
            "contracts": {
                "session": {
                    "enabled": false,
                    "mode": "cookie_signed",
                    "shared_secret_required": false,
                    "shared_secret_configured": false,
                },
                "realtime": {
                    "mode": "node_local_pubsub",
                    "cluster_broadcast": "external_broker_required",
                },
            },
            "coordination": {
                "membership_source": "static_config",
                "state": self.status(),
                "capability_matrix": {
                    "cross_node_request_routing": "external_load_balancer_required",
                    "cross_node_realtime_fanout": "external_broker_required",
                    "cross_node_jobs_deduplication": "external_queue_required",
                    "cross_node_cache_coherence": "external_cache_required",
                },
            },
        })
    }

    /// The quorum as the health endpoints tell it.
    pub(crate) fn health(&self, required: bool) -> Value {
        json!({
            "ok": self.has_quorum() || !required,
            "status": self.status(),
            "required_for_readyz": required && self.enabled,
            "observed_nodes": self.observed_nodes,
            "expected_nodes": self.expected_nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(enabled: bool, observed_nodes: u32) -> Cluster {
        let (name, node_id) = ("blue".to_owned(), "a1".to_owned());
        Cluster { enabled, name, node_id, expected_nodes: 2, observed_nodes, emit_headers: true }
    }

    #[test]
    fn the_status_goes_by_the_nodes() {
        let rows = [
            (false, 0, "single_node", true),
            (true, 0, "partitioned", false),
            (true, 1, "degraded", false),
            (true, 2, "nominal", true),
            (true, 3, "nominal", true),
        ];
        for (enabled, observed, status, quorum) in rows {
            let cluster = cluster(enabled, observed);
            assert_eq!((cluster.status(), cluster.has_quorum()), (status, quorum), "{cluster:?}");
        }
    }

    #[test]
    fn there_are_six_headers_or_none() {
        let headers = cluster(true, 1).headers(7);
        let shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(
            shown,
            [
                "x-arlen-cluster: blue",
                "x-arlen-cluster-expected-nodes: 2",
                "x-arlen-cluster-observed-nodes: 1",
                "x-arlen-cluster-status: degraded",
                "x-arlen-node: a1",
                "x-arlen-worker-pid: 7",
            ]
        );
        assert!(cluster(false, 1).headers(7).is_empty());
        assert!(Cluster { emit_headers: false, ..cluster(true, 1) }.headers(7).is_empty());
    }
}
