//! What a manager says first: the plain lines of ARLEN-CONTRACT A7, which worker it runs and why, and that it has started.

use propane_config::{PropaneAccessories, Resolution, ResolvedConfig, Strategy};

use crate::journal::Journal;
use crate::sockets::Address;

/// What the first lines say.
pub(crate) struct Greeting<'a> {
    resolution: &'a Resolution,
    strategy: Strategy,
    host: String,
    port: u16,
}

impl<'a> Greeting<'a> {
    /// `address` is where the manager listens, if not where the configuration says.
    pub(crate) fn new(resolution: &'a Resolution, strategy: Strategy, address: Option<&Address>) -> Self {
        let (host, port) = match address {
            Some(address) => (address.host(), address.port()),
            None => (resolution.config.host.clone(), resolution.config.port),
        };
        Self { resolution, strategy, host, port }
    }

    pub(crate) fn greet(&self, journal: &mut Journal) {
        let config = &self.resolution.config;
        let accessories = &config.propane_accessories;
        journal.plain(&accessories_line(accessories));
        journal.plain(&self.runtime_line(config));
        journal.plain(&cluster_line(config));
        if accessories.job_worker_count > 0 {
            journal.plain(&format!(
                "async workers count={} respawnDelayMs={}",
                accessories.job_worker_count, accessories.job_worker_respawn_delay_ms
            ));
        }
        journal.plain(&fd_pressure_line(accessories));
        let (worker, strategy) = (&self.resolution.worker, self.strategy.as_str());
        journal.plain(&format!("worker {}: {}; socketStrategy={strategy}", worker.choice.name(), worker.reason));
    }

    fn runtime_line(&self, config: &ResolvedConfig) -> String {
        format!(
            "runtime host={} port={} listenBacklog={} connectionTimeoutSeconds={} enableReusePort={}",
            self.host,
            self.port,
            config.listen_backlog,
            config.connection_timeout_seconds,
            u8::from(config.enable_reuse_port)
        )
    }

    pub(crate) fn say_started(&self, journal: &mut Journal) {
        let Self { resolution, strategy, host, port } = self;
        let (config, run) = (&resolution.config, &resolution.run);
        // `--print-routes` runs one, whatever is configured.
        let workers = if run.print_routes { 1 } else { config.propane_accessories.worker_count };
        let line = journal
            .event("manager_started")
            .field("worker_count", workers)
            .field("async_worker_count", config.propane_accessories.job_worker_count)
            .field("host", host)
            .field("port", port)
            .field("env", &run.environment)
            .field("strategy", strategy.as_str());
        journal.write(line);
    }
}

fn accessories_line(accessories: &PropaneAccessories) -> String {
    format!(
        "starting with propane accessories workerCount={} gracefulShutdownSeconds={} respawnDelayMs={} \
         reloadOverlapSeconds={}",
        accessories.worker_count,
        accessories.graceful_shutdown_seconds,
        accessories.respawn_delay_ms,
        accessories.reload_overlap_seconds
    )
}

fn cluster_line(config: &ResolvedConfig) -> String {
    let cluster = &config.cluster;
    format!(
        "cluster enabled={} name={} nodeID={} expectedNodes={}",
        u8::from(cluster.enabled),
        cluster.name,
        cluster.node_id,
        cluster.expected_nodes
    )
}

fn fd_pressure_line(accessories: &PropaneAccessories) -> String {
    format!(
        "fd pressure warnPercent={} criticalPercent={} retirePercent={} retireCount={} checkSeconds={}",
        accessories.worker_fd_warn_percent,
        accessories.worker_fd_critical_percent,
        accessories.worker_fd_retire_percent,
        accessories.worker_fd_retire_count,
        accessories.worker_fd_check_seconds
    )
}
