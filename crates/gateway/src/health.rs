//! What the gateway says of itself.
//!
//! Ready means: it can make a message durable, by Kafka or by the failed queue, whatever else is away. Once ready, only draining
//! makes it unready. The other servers are probed in the background, so that asking for health costs nothing.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_cache::breaker::Hold;
use holdfast_cache::{Breaker, Connection, FailedQueue};
use holdfast_kafka::Publisher;
use holdfast_service::ops::{Health, Turn};
use holdfast_store::Store;
use serde_json::{Value, json};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::pipeline::Pipeline;

/// How often the other servers are probed, and how long they have to answer.
const PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// The gateway's health.
pub struct GatewayHealth {
    pipeline: Pipeline,
    breakers: Breakers,
    metrics: Metrics,
    ready: AtomicBool,
    draining: CancellationToken,
    seen: Mutex<Seen>,
}

/// The breakers in front of other servers.
pub struct Breakers {
    /// Kafka's.
    pub kafka: Breaker,
    /// MongoDB's.
    pub mongodb: Breaker,
    /// The cache's.
    pub cache: Breaker,
}

/// Who answered the last probe.
#[derive(Debug, Clone, Default)]
struct Seen {
    kafka: bool,
    store: bool,
    cache: bool,
    /// `Err` says why the failed queue would refuse.
    queue: Option<Result<(), String>>,
}

/// Who is probed.
pub struct Probed {
    /// Kafka.
    pub publisher: Publisher,
    /// MongoDB.
    pub store: Store,
    /// The cache's Redis.
    pub cache: Connection,
    /// The failed queue's.
    pub queue: FailedQueue,
}

impl GatewayHealth {
    /// Not ready yet.
    pub fn new(pipeline: Pipeline, breakers: Breakers, metrics: Metrics, draining: CancellationToken) -> Self {
        let (ready, seen) = (AtomicBool::new(false), Mutex::default());
        Self { pipeline, breakers, metrics, ready, draining, seen }
    }

    /// Probes until the token is cancelled.
    pub async fn probe(&self, probed: Probed, stop: CancellationToken) {
        let mut tick = interval(PROBE.0);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let (kafka, store, cache, queue) = tokio::join!(
                probed.publisher.ping(PROBE.1),
                probed.store.ping(PROBE.1),
                probed.cache.ping_all(PROBE.1),
                probed.queue.check(PROBE.1),
            );
            let seen = Seen {
                kafka: kafka.is_ok(),
                store: store.is_ok(),
                cache: cache.is_ok(),
                queue: Some(queue.map_err(|refusal| refusal.to_string())),
            };
            if (seen.kafka || matches!(seen.queue, Some(Ok(())))) && !self.ready.swap(true, Ordering::Relaxed) {
                tracing::info!(kafka = seen.kafka, queue = ?seen.queue, "ready");
            }
            self.note(seen);
        }
    }

    fn note(&self, seen: Seen) {
        let mut last = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Err(why)) = &seen.queue
            && last.queue != seen.queue
        {
            tracing::warn!(why, "the failed queue would refuse messages");
        }
        *last = seen;
    }
}

impl Health for GatewayHealth {
    fn live(&self) -> bool {
        self.pipeline.is_running()
    }

    fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed) && !self.draining.is_cancelled()
    }

    fn report(&self) -> Value {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue_up = matches!(seen.queue, Some(Ok(())));
        let status = if self.draining.is_cancelled() {
            "draining"
        } else if !self.ready.load(Ordering::Relaxed) {
            "waiting"
        } else if seen.kafka && seen.store && seen.cache && queue_up {
            "active"
        } else {
            "degraded"
        };
        let refuses = match &seen.queue {
            Some(Err(why)) => Some(why.as_str()),
            _ => None,
        };
        json!({
            "status": status,
            "dependencies": {
                "kafka": { "up": seen.kafka, "breaker": self.breakers.kafka.state().as_str() },
                "mongodb": { "up": seen.store, "breaker": self.breakers.mongodb.state().as_str() },
                "redis": { "up": seen.cache, "breaker": self.breakers.cache.state().as_str() },
                "redisQueue": { "up": queue_up, "refuses": refuses },
            },
            "failedQueue": {
                "messages": self.metrics.failed_messages.get(),
                "oldestAgeSeconds": self.metrics.failed_age.get(),
            },
        })
    }

    fn turn(&self, dependency: &str, to: Turn) -> bool {
        let breaker = match dependency {
            "kafka" => &self.breakers.kafka,
            "mongodb" => &self.breakers.mongodb,
            "redis" => &self.breakers.cache,
            // The failed queue is behind none.
            _ => return false,
        };
        breaker.hold(match to {
            Turn::Open => Some(Hold::Open),
            Turn::Close => Some(Hold::Closed),
            Turn::Auto => None,
        });
        true
    }
}
