//! The services' own settings, and connections made from them.
//!
//! Everything that a gateway or a worker reads is read here too, so that a file written for either can be used; what only running
//! a service needs (a key for tokens, say) may be missing.

use anyhow::{Context, Result};
use holdfast_failed_queue::FailedQueue;
use holdfast_gateway::config::{GatewaySettings, check_servers};
use holdfast_kafka::{Admin, KafkaSettings, Publisher};
use holdfast_keys::Keys;
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_service::ops;
use holdfast_service::servers::{CacheSettings, ServerSettings};
use holdfast_service::settings::{SettingsError, Source};
use holdfast_store::{Store, StoreError, StoreSettings};
use holdfast_worker::config::{Cleanup, WorkerSettings};

use crate::BUDGET;
use crate::exit::Usage;

/// The settings of all services.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the servers are.
    pub servers: ServerSettings,
    /// How the cache is laid out.
    pub layout: CacheSettings,
    /// The settings that only gateways have.
    pub gateway: GatewaySettings,
    /// The settings that only workers have.
    pub worker: WorkerSettings,
}

/// Both topics, to be read and written.
#[derive(Debug, Clone)]
pub struct Topics {
    /// Asks the cluster.
    pub admin: Admin,
    /// Where Kafka is.
    pub kafka: KafkaSettings,
    /// Writes to the messages' topic.
    pub publisher: Publisher,
}

impl Settings {
    /// Reads everything, and says everything that is wrong.
    pub fn read(mut source: Source) -> Result<Self, SettingsError> {
        let servers = ServerSettings::read(&mut source);
        let layout = CacheSettings::read(&mut source);
        let gateway = GatewaySettings::read(&mut source);
        let worker = WorkerSettings::read(&mut source);
        if let Some(servers) = &servers {
            check_servers(servers, &mut source);
        }
        let all = servers.zip(layout).zip(gateway).zip(worker);
        let all = all.map(|(((servers, layout), gateway), worker)| Self { servers, layout, gateway, worker });
        source.finish(all).map(|effective| effective.value)
    }

    /// The names of keys and channels.
    pub fn keys(&self) -> Result<Keys> {
        Keys::of(&self.layout).map_err(|error| Usage(format!("CACHE_KEY_*: {error}")).into())
    }

    /// The cache's server or cluster.
    pub fn cache(&self) -> Result<Connection> {
        let servers = &self.servers;
        connection("cache", &servers.redis_url(), servers.redis_cluster()).context("REDIS_URL, REDIS_CLUSTER_NODES")
    }

    /// The failed queue's server or cluster.
    pub fn queue(&self) -> Result<Connection> {
        let (url, cluster) = (self.gateway.queue_url(&self.servers), self.gateway.queue_cluster(&self.servers));
        connection("queue", &url, cluster).context("REDIS_QUEUE_URL, REDIS_QUEUE_CLUSTER_NODES")
    }

    /// The failed queue. Must be called within a Tokio runtime.
    pub fn failed_queue(&self) -> Result<FailedQueue> {
        Ok(FailedQueue::new(self.queue()?, self.keys()?, self.gateway.failed_queue()))
    }

    /// Where Kafka is.
    pub fn kafka(&self) -> KafkaSettings {
        KafkaSettings { delivery_timeout: BUDGET, ..KafkaSettings::of(&self.servers, "holdfastctl") }
    }

    /// The workers' group.
    pub fn group(&self) -> &str {
        &self.worker.kafka_group
    }

    /// How long workers leave records in the topic, in milliseconds; `None`: they delete none.
    pub fn kept_for_ms(&self) -> Option<i64> {
        let worker = &self.worker;
        let margin = i64::try_from(worker.kafka_cleanup_margin.0.as_millis()).unwrap_or(i64::MAX);
        (worker.kafka_cleanup == Cleanup::DeleteRecords).then_some(margin)
    }

    /// A client for Kafka's administration.
    pub fn admin(&self) -> Result<Admin> {
        Admin::new(&self.kafka(), BUDGET).map_err(|error| Usage(format!("KAFKA_*: {error}")).into())
    }

    /// To read and write both topics. Fails while the messages' topic is missing.
    pub async fn topics(&self) -> Result<Topics> {
        let (admin, mut kafka) = (self.admin()?, self.kafka());
        let report = admin.describe(&kafka.topic).await?;
        anyhow::ensure!(
            report.partitions > 0,
            "topic {} is missing; make it by `holdfastctl topics create`",
            kafka.topic
        );
        // What the topic takes must pass the producer.
        kafka.max_record_bytes = report.max_message_bytes.unwrap_or(kafka.max_record_bytes).max(kafka.max_record_bytes);
        let publisher = Publisher::new(&kafka).map_err(|error| Usage(format!("KAFKA_*: {error}")))?;
        if let Some(bytes) = report.max_message_bytes {
            publisher.limit_records(bytes);
        }
        Ok(Topics { admin, kafka, publisher })
    }

    /// The store. Must be called within a Tokio runtime.
    pub async fn store(&self) -> Result<Store> {
        let url = self.servers.mongo_url.reveal();
        let settings = StoreSettings {
            read_timeout: BUDGET,
            max_connections: 4,
            server_selection_timeout: BUDGET / 2,
            ..StoreSettings::new(url, &self.servers.mongo_db)
        };
        Store::new(settings).await.map_err(|error| match error {
            StoreError::Rejected { reason, .. } => Usage(format!("MONGO_URL: {reason}")).into(),
            error => error.into(),
        })
    }
}

fn connection(name: &'static str, url: &str, cluster: Option<&[String]>) -> Result<Connection> {
    let metrics = RedisMetrics::register(&ops::registry("ctl")?)?;
    Connection::open_at(name, url, cluster, metrics).map_err(|error| Usage(error.to_string()).into())
}
