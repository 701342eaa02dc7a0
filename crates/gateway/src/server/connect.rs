//! The other servers' clients, each behind its breaker.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_breaker::{Breaker, BreakerMetrics};
use holdfast_kafka::{Admin, AdminError, KafkaSettings, Publisher, TopicsReport};
use holdfast_keys::Keys;
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_store::{Store, StoreSettings};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;

/// The time that Kafka's administration has for one request.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts to create what is missing in the other servers.
const PREPARE_AGAIN: Duration = Duration::from_secs(2);

/// The other servers. None of them need answer yet.
pub(super) struct Servers {
    pub(super) keys: Keys,
    /// The cache's Redis.
    pub(super) cache: Connection,
    pub(super) cache_breaker: Breaker,
    pub(super) cache_metrics: RedisMetrics,
    /// The failed queue's Redis, which is behind no breaker.
    pub(super) queue: Connection,
    pub(super) store: Store,
    pub(super) mongo_breaker: Breaker,
    pub(super) kafka: KafkaSettings,
    pub(super) publisher: Publisher,
    pub(super) kafka_breaker: Breaker,
}

impl Servers {
    /// Opens their clients.
    pub(super) async fn connect(config: &Config, registry: &Registry, metrics: &Metrics) -> Result<Self> {
        let (own, layout, servers) = (&config.own, &config.cache, &config.servers);
        let cache_metrics = RedisMetrics::register_with(registry, layout.cache_metrics_enabled).context("metrics")?;
        let breaker_metrics = BreakerMetrics::register(registry).context("metrics")?;
        let keys = Keys::of(layout).context("CACHE_KEY_*")?;
        let cache = Connection::open_at("cache", &servers.redis_url(), servers.redis_cluster(), cache_metrics.clone())
            .context("REDIS_URL, REDIS_CLUSTER_NODES")?;
        let (url, cluster) = (own.queue_url(servers), own.queue_cluster(servers));
        let queue = Connection::open_at("queue", &url, cluster, cache_metrics.clone())
            .context("REDIS_QUEUE_URL, REDIS_QUEUE_CLUSTER_NODES")?;
        let unreadable = metrics.unreadable.clone();
        let store = Store::new(StoreSettings {
            on_unreadable: Some(Arc::new(move || unreadable.inc())),
            ..StoreSettings::new(servers.mongo_url.reveal(), &servers.mongo_db)
        })
        .await
        .context("MONGO_URL")?;
        let kafka = config.kafka();
        let publisher = Publisher::new(&kafka).context("KAFKA_*")?;
        Ok(Self {
            keys,
            cache,
            queue,
            store,
            kafka,
            publisher,
            cache_breaker: Breaker::new("redis", config.cache_breaker(), Some(&breaker_metrics)),
            kafka_breaker: Breaker::new("kafka", config.kafka_breaker(), Some(&breaker_metrics)),
            mongo_breaker: Breaker::new("mongodb", config.mongo_breaker(), Some(&breaker_metrics)),
            cache_metrics,
        })
    }
}

/// Creates the topics, or waits until another does, and reports them as soon as the main one can be described: an unread
/// `max.message.bytes` would leave records that are too large to the broker to refuse, one delivery timeout after the other.
async fn described(admin: &Admin) -> TopicsReport {
    let mut refused = false;
    loop {
        let report = match admin.ensure_topics().await {
            Err(error @ AdminError::Refused { .. }) => {
                if !refused {
                    tracing::warn!(%error, "topics can't be created; they must be there already");
                    refused = true;
                }
                admin.check_topics().await
            }
            report => report,
        };
        match report {
            Ok(report) if report.main.partitions > 0 => return report,
            Ok(_) => {}
            Err(error) => tracing::info!(%error, "waiting for kafka"),
        }
        tokio::time::sleep(PREPARE_AGAIN).await;
    }
}

/// Creates what is missing in the other servers, as soon as they answer.
pub(super) async fn prepare(kafka: KafkaSettings, publisher: Publisher, store: Store, stop: CancellationToken) {
    let topics = async {
        let admin = match Admin::new(&kafka, ADMIN_TIMEOUT) {
            Ok(admin) => admin,
            Err(error) => return tracing::error!(%error, "topics can't be looked after"),
        };
        let report = described(&admin).await;
        report.warnings.iter().for_each(|warning| tracing::warn!(warning, "topic settings"));
        if let Some(bytes) = report.main.max_message_bytes {
            publisher.limit_records(bytes);
        }
    };
    let indexes = async {
        while let Err(error) = store.ensure_indexes().await {
            tracing::info!(%error, "waiting for mongodb");
            tokio::time::sleep(PREPARE_AGAIN).await;
        }
    };
    stop.run_until_cancelled(async { tokio::join!(topics, indexes) }).await;
}
