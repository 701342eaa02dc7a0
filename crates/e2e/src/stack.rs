//! Gateways and workers as processes.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::{Program, Shared, free_port, http_get, token, unique};
use serde_json::Value;

use crate::Stored;

/// The secret of a stack's tokens.
pub const SECRET: &str = "end-to-end-tests-need-a-secret-of-32-bytes";
/// How long a service has to become ready.
const READY: Duration = Duration::from_secs(60);

/// The addresses of a stack's servers.
#[derive(Debug, Clone)]
pub struct Backends {
    /// The URL of the cache's Redis.
    pub redis: String,
    /// The URL of the failed queue's Redis.
    pub redis_queue: String,
    /// MongoDB's connection string.
    pub mongo: String,
    /// Kafka's brokers, `host:port`.
    pub kafka: String,
}

impl From<&Shared> for Backends {
    fn from(shared: &Shared) -> Self {
        Self {
            redis: shared.redis_cache_url.clone(),
            redis_queue: shared.redis_queue_url.clone(),
            mongo: shared.mongo_url.clone(),
            kafka: shared.kafka_brokers.clone(),
        }
    }
}

/// The size and the settings of a stack.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// The number of gateways.
    pub gateways: usize,
    /// The number of workers.
    pub workers: usize,
    /// Settings that override a stack's own.
    pub settings: Vec<(&'static str, String)>,
}

impl StackOptions {
    /// With a cache that is given time: for tests of what the cache answers, on a machine that may be busy. Shipped gateways wait for
    /// 50 ms, and then go on without the cache.
    pub fn patient(gateways: usize) -> Self {
        let settings = [("REDIS_BUDGET_MS", "5000"), ("SEND_DEADLINE_MS", "20000")];
        Self { gateways, settings: settings.map(|(name, value)| (name, value.to_owned())).into(), ..Self::default() }
    }

    /// The settings that `scripts/run`, compose and Kubernetes ship, and nothing made easier.
    pub fn shipped(gateways: usize) -> Self {
        let settings =
            [("FLUSH_INTERVAL_MS", "1000"), ("MESSAGE_LIMIT", "100"), ("EVENT_LIMIT", "300"), ("WINDOW_SECONDS", "10")];
        Self { gateways, settings: settings.map(|(name, value)| (name, value.to_owned())).into(), ..Self::default() }
    }
}

impl Default for StackOptions {
    fn default() -> Self {
        Self { gateways: 1, workers: 1, settings: Vec::new() }
    }
}

/// Gateways and workers with topics, keys and a database of their own.
pub struct Stack {
    /// The gateways.
    pub gateways: Vec<Service>,
    /// The workers.
    pub workers: Vec<Service>,
    /// The stored messages, read from MongoDB itself.
    pub stored: Stored,
    /// The messages' topic.
    pub topic: String,
    /// The dead letters' topic.
    pub dlq_topic: String,
    /// The first part of every key in Redis, and the database's name.
    pub key_prefix: String,
    /// The settings of every service.
    common: Vec<(&'static str, String)>,
}

/// One gateway or worker.
pub struct Service {
    /// The process.
    pub program: Program,
    /// Where clients connect; empty for a worker.
    pub url: String,
    /// The operators' address.
    pub ops: String,
}

impl Stack {
    /// Starts the processes and waits until they are ready.
    pub async fn start(backends: &Backends, options: StackOptions) -> Result<Self> {
        let name = unique("e2e");
        let (topic, dlq_topic) = (format!("{name}-messages"), format!("{name}-dlq"));
        let mut common = vec![
            ("KAFKA_BROKERS", backends.kafka.clone()),
            ("KAFKA_TOPIC", topic.clone()),
            ("KAFKA_DLQ_TOPIC", dlq_topic.clone()),
            ("KAFKA_GROUP", format!("{name}-workers")),
            ("KAFKA_PARTITIONS", "4".into()),
            ("KAFKA_REPLICATION_FACTOR", "1".into()),
            ("REDIS_URL", backends.redis.clone()),
            ("REDIS_QUEUE_URL", backends.redis_queue.clone()),
            ("MONGO_URL", backends.mongo.clone()),
            ("MONGO_DB", name.clone()),
            ("CACHE_KEY_PREFIX", name.clone()),
            ("JWT_SECRET", SECRET.into()),
            ("FLUSH_INTERVAL_MS", "200".into()),
            ("PROFILE", "testing".into()),
            ("LOG_FORMAT", "text".into()),
        ];
        common.retain(|(name, _)| options.settings.iter().all(|(other, _)| other != name));
        common.extend(options.settings);
        let stored = Stored::connect(&backends.mongo, &name).await?;
        let (gateways, workers) = (Vec::new(), Vec::new());
        let mut stack = Self { gateways, workers, stored, topic, dlq_topic, key_prefix: name, common };
        for _ in 0..options.gateways {
            stack.add_gateway(&[])?;
        }
        for _ in 0..options.workers {
            stack.add_worker(&[])?;
        }
        stack.ready().await?;
        Ok(stack)
    }

    /// Starts one more gateway, with settings of its own over the common ones; does not wait.
    pub fn add_gateway(&mut self, own: &[(&'static str, String)]) -> Result<()> {
        let gateway = Service::start("holdfast-gateway", &self.common, own)?;
        self.gateways.push(gateway);
        Ok(())
    }

    /// Starts one more worker, with settings of its own over the common ones; does not wait.
    pub fn add_worker(&mut self, own: &[(&'static str, String)]) -> Result<()> {
        let worker = Service::start("holdfast-worker", &self.common, own)?;
        self.workers.push(worker);
        Ok(())
    }

    /// Waits until every service is ready.
    pub async fn ready(&self) -> Result<()> {
        for service in self.gateways.iter().chain(&self.workers) {
            service.ready().await?;
        }
        Ok(())
    }

    /// A token for a user, valid for an hour.
    pub fn token(&self, user: &str) -> String {
        token(user, SECRET, Duration::from_secs(3600))
    }

    /// The first gateway's address.
    pub fn url(&self) -> &str {
        &self.gateways[0].url
    }
}

impl Service {
    fn start(binary: &str, common: &[(&'static str, String)], own: &[(&'static str, String)]) -> Result<Self> {
        let (port, ops) = (free_port()?, format!("127.0.0.1:{}", free_port()?));
        let mut environment = common.to_vec();
        environment.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
        environment.extend_from_slice(own);
        environment.extend([("PORT", port.to_string()), ("BIND", "127.0.0.1".into()), ("OPS_ADDR", ops.clone())]);
        let program = Program::start(binary, environment)?;
        let url = if binary == "holdfast-gateway" { format!("http://127.0.0.1:{port}") } else { String::new() };
        Ok(Self { program, url, ops })
    }

    /// Waits until it is ready.
    pub async fn ready(&self) -> Result<()> {
        self.program.wait_ready(&self.ops, READY).await
    }

    /// One sample of its metrics, by its name and labels as they are printed.
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        let (_, text) = http_get(&self.ops, "/metrics").await?;
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        Ok(value.with_context(|| format!("{sample}: no such sample"))?.parse()?)
    }

    /// Its health report.
    pub async fn health(&self) -> Result<Value> {
        Ok(serde_json::from_str(&http_get(&self.ops, "/health").await?.1)?)
    }
}
