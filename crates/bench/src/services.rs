//! The services that are compared: ours and the twin's, started with the same settings by the same names.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::{Child, Folder, free_port, http_get};

use crate::servers::{Place, Servers};
use crate::usage::Watched;

/// How long a service may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long a service may take to end.
const END: Duration = Duration::from_secs(30);

/// Whose services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Holdfast's, as built in this folder.
    Holdfast(PathBuf),
    /// The same design in Node.js (`peers/`).
    Twin,
}

/// Which services a workload needs.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// How many gateways.
    pub gateways: usize,
    /// Whether a worker from the beginning.
    pub worker: bool,
}

impl Default for Needs {
    fn default() -> Self {
        Self { gateways: 1, worker: true }
    }
}

/// A running service.
#[derive(Debug)]
struct Service {
    child: Child,
    // Dropped after the child that writes to it.
    _folder: Folder,
}

impl Service {
    fn start(kind: &Kind, name: &str, mut environment: Vec<(String, String)>) -> Result<Self> {
        let folder = Folder::temporary(name)?;
        let log = folder.path().join("log");
        let child = match kind {
            Kind::Holdfast(binaries) => Child::new(name, binaries.join(format!("holdfast-{name}")), log),
            Kind::Twin => {
                let installed = peers().join("node_modules").exists();
                ensure!(installed, "the twin is not installed; run scripts/bench, or npm ci in {}", peers().display());
                environment.push(("NODE_ENV".to_owned(), "production".to_owned()));
                Child::new(format!("twin-{name}"), "node", log)
                    // Short-lived objects of some thousand messages at a time fit, and are not copied on.
                    .arg("--max-semi-space-size=32")
                    .arg(peers().join(format!("{name}.mjs")))
            }
        };
        environment.push(("PATH".to_owned(), std::env::var("PATH").unwrap_or_default()));
        let child = child.environment(environment, false);
        child.start()?;
        Ok(Self { child, _folder: folder })
    }

    async fn wait_ready(&self, ops_address: &str) -> Result<()> {
        let ready = || async { matches!(http_get(ops_address, "/health/ready").await, Ok((200, _))) };
        self.child.ready_within(READY, ready).await
    }
}

/// The folder of the twin.
fn peers() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))
}

/// Gateways and perhaps a worker. Ended on drop.
#[derive(Debug)]
pub struct Services {
    kind: Kind,
    shared: Vec<(String, String)>,
    gateways: Vec<Service>,
    worker: Option<Service>,
    ports: Vec<u16>,
}

impl Services {
    /// Starts them and waits until they are ready.
    ///
    /// # Errors
    /// One can't be started; the end of its log is part of the error.
    pub async fn start(servers: &Servers, place: &Place, kind: Kind, needs: Needs, secret: &str) -> Result<Self> {
        let shared = [
            ("PROFILE", "production".to_owned()),
            ("LOG_LEVEL", "warn".to_owned()),
            ("KAFKA_BROKERS", servers.kafka.brokers()),
            // The production profile makes topics for three brokers.
            ("KAFKA_REPLICATION_FACTOR", "1".to_owned()),
            ("KAFKA_TOPIC", place.topic.clone()),
            ("KAFKA_DLQ_TOPIC", place.dlq_topic.clone()),
            ("REDIS_URL", servers.cache.url()),
            ("MONGO_URL", servers.mongo.url()),
            ("MONGO_DB", place.database.clone()),
            // Each service takes what it knows.
            ("REDIS_QUEUE_URL", servers.queue.url()),
            ("KAFKA_GROUP", place.group.clone()),
        ];
        let shared = shared.map(|(name, value)| (name.to_owned(), value)).into();
        let mut services = Self { kind, shared, gateways: Vec::new(), worker: None, ports: Vec::new() };
        if needs.worker {
            services.start_worker().await?;
        }
        for _ in 0..needs.gateways {
            services.start_gateway(secret).await?;
        }
        Ok(services)
    }

    async fn start_gateway(&mut self, secret: &str) -> Result<()> {
        let (port, ops) = (free_port()?, address()?);
        let own = [
            ("BIND", "127.0.0.1"),
            ("PORT", &port.to_string()),
            ("OPS_ADDR", &ops),
            ("JWT_SECRET", secret),
            // All load comes from one address, and from users who write more than people do.
            ("MESSAGE_LIMIT", "0"),
            ("SOCKET_EVENTS_PER_SECOND", "0"),
            ("SOCKET_BYTES_PER_SECOND", "0"),
            ("MAX_SOCKETS_PER_ADDRESS", "0"),
            ("HANDSHAKES_PER_SECOND_PER_ADDRESS", "0"),
            // The limit is there to spare live traffic; a replay is measured without any.
            ("FAILED_QUEUE_REPLAY_RATE", "1000000"),
        ];
        let gateway = Service::start(&self.kind, "gateway", self.with(&own))?;
        gateway.wait_ready(&ops).await?;
        self.gateways.push(gateway);
        self.ports.push(port);
        Ok(())
    }

    /// Starts the worker.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn start_worker(&mut self) -> Result<()> {
        let ops = address()?;
        // What few messages wait for; a run would wait five minutes for the last of them. The twin's batches gather for a fraction of it.
        let own = [("FLUSH_INTERVAL_MS", "1000"), ("OPS_ADDR", ops.as_str())];
        let worker = Service::start(&self.kind, "worker", self.with(&own))?;
        worker.wait_ready(&ops).await?;
        self.worker = Some(worker);
        Ok(())
    }

    /// What all share, and a service's own.
    fn with(&self, own: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.shared.iter().cloned().chain(own).collect()
    }

    /// Where clients connect, a URL a gateway.
    pub fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// All of them, to be watched.
    pub fn processes(&self) -> Vec<Watched> {
        let gateways = self.gateways.iter().map(|gateway| Watched::new("gateway", gateway.child.pid()));
        gateways.chain(self.worker.iter().map(|worker| Watched::new("worker", worker.child.pid()))).collect()
    }

    /// The ends of their logs, for a run that went wrong.
    pub fn logs(&self) -> String {
        let all = self.gateways.iter().chain(&self.worker);
        let logs = all.map(|service| format!("{}:\n{}\n", service.child.name(), service.child.log_tail(20)));
        logs.collect()
    }

    /// Ends them in an orderly way.
    ///
    /// # Errors
    /// One does not end in time.
    pub async fn stop(self) -> Result<()> {
        for service in self.gateways.iter().chain(&self.worker) {
            service.child.term_and_wait(END).await.context("ending a service")?;
        }
        Ok(())
    }
}

fn address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}
