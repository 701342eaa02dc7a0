//! The gateway's health.
//!
//! Ready means: it can make a message durable, by Kafka or by the failed queue, whatever else is away. Where the failed queue is required
//! (`FAILED_QUEUE_REQUIRED`), a server of its own that has the wrong settings keeps the gateway from becoming ready, for with it the next
//! outage of Kafka refuses every send; one that is away does not, because its settings are not known. Once ready, only draining makes it
//! unready. The other servers are probed in the background, so that a health check costs nothing.
//!
//! See `docs/decisions/readiness.md`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_breaker::{Breaker, Hold};
use holdfast_failed_queue::{FailedQueue, Refusal};
use holdfast_kafka::Publisher;
use holdfast_redis::Connection;
use holdfast_service::ops::{Health, Signals, Turn};
use holdfast_store::Store;
use serde_json::{Value, json};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::send::pipeline::Pipeline;

/// How often the other servers are probed, and how long they have to answer.
const PROBE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// The gateway's health.
pub(crate) struct GatewayHealth {
    pipeline: Pipeline,
    breakers: Breakers,
    metrics: Metrics,
    queue_required: bool,
    ready: AtomicBool,
    draining: CancellationToken,
    seen: Mutex<Seen>,
}

/// The breakers in front of other servers.
pub(crate) struct Breakers {
    /// The breaker in front of Kafka.
    pub(crate) kafka: Breaker,
    /// The breaker in front of MongoDB.
    pub(crate) mongodb: Breaker,
    /// The breaker in front of the cache.
    pub(crate) cache: Breaker,
}

/// Which servers answered the last probe.
#[derive(Debug, Clone, Default)]
struct Seen {
    kafka: bool,
    store: bool,
    cache: bool,
    /// `Err` says why the failed queue would refuse.
    queue: Option<Result<(), Refusal>>,
    /// What an operator should know of its servers although it takes messages.
    queue_warnings: Vec<String>,
}

/// The servers that are probed.
pub(crate) struct Probed {
    /// Kafka.
    pub(crate) publisher: Publisher,
    /// MongoDB.
    pub(crate) store: Store,
    /// The cache's Redis.
    pub(crate) cache: Connection,
    /// The failed queue's.
    pub(crate) queue: FailedQueue,
}

impl GatewayHealth {
    /// Not ready yet. `queue_required`: nor will it be while the failed queue's server has settings that make it refuse.
    pub(crate) fn new(
        pipeline: Pipeline,
        breakers: Breakers,
        metrics: Metrics,
        queue_required: bool,
        draining: CancellationToken,
    ) -> Self {
        let (ready, seen) = (AtomicBool::new(false), Mutex::default());
        Self { pipeline, breakers, metrics, queue_required, ready, draining, seen }
    }

    /// Probes until the token is cancelled.
    pub(crate) async fn probe(&self, probed: Probed, stop: CancellationToken) {
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
                queue: Some(queue),
                queue_warnings: probed.queue.warnings().iter().map(ToString::to_string).collect(),
            };
            if seen.unready(self.queue_required).is_none() && !self.ready.swap(true, Ordering::Relaxed) {
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
            tracing::warn!(%why, "the failed queue would refuse messages");
        }
        self.metrics.failed_usable.set(i64::from(matches!(seen.queue, Some(Ok(())))));
        *last = seen;
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Seen {
    /// Why a gateway that sees this does not become ready; `None`: it does.
    fn unready(&self, queue_required: bool) -> Option<String> {
        match &self.queue {
            None => Some("the other servers have not been asked yet".into()),
            Some(Ok(())) => None,
            Some(Err(why)) if queue_required && why.is_by_settings() => {
                Some(format!("the failed queue would refuse messages, and FAILED_QUEUE_REQUIRED is on: {why}"))
            }
            Some(Err(_)) if self.kafka => None,
            Some(Err(why)) => Some(format!(
                "no message can be made durable: kafka does not answer, and the failed queue would refuse: {why}"
            )),
        }
    }
}

impl Health for GatewayHealth {
    fn live(&self) -> bool {
        self.pipeline.is_running()
    }

    fn unready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("draining".into());
        }
        let is_ready = self.ready.load(Ordering::Relaxed);
        // Between a probe and its effect there is nothing to complain of, and it is not ready yet.
        (!is_ready).then(|| self.seen().unready(self.queue_required).unwrap_or_else(|| "starting".into()))
    }

    fn report(&self) -> Value {
        let seen = self.seen();
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
            Some(Err(why)) => Some(why.to_string()),
            _ => None,
        };
        json!({
            "status": status,
            "dependencies": {
                "kafka": { "up": seen.kafka, "breaker": self.breakers.kafka.state().as_str() },
                "mongodb": { "up": seen.store, "breaker": self.breakers.mongodb.state().as_str() },
                "redis": { "up": seen.cache, "breaker": self.breakers.cache.state().as_str() },
                "redisQueue": { "up": queue_up, "refuses": refuses, "warnings": seen.queue_warnings },
            },
            "failedQueue": {
                "messages": self.metrics.failed_messages.get(),
                "oldestAgeSeconds": self.metrics.failed_age.get(),
            },
        })
    }

    fn signals(&self) -> Signals {
        let seen = self.seen();
        let refusal = match &seen.queue {
            Some(Err(why)) => Some(why),
            Some(Ok(())) | None => None,
        };
        let queue_up = seen.queue.is_some() && !matches!(refusal, Some(Refusal::Unreachable(_)));
        let dependencies =
            [("kafka", seen.kafka), ("mongodb", seen.store), ("redis", seen.cache), ("redis_queue", queue_up)];
        let asked = seen.queue.is_some();
        let away = dependencies[..3].iter().map(|(name, up)| (*name, asked && !up));
        let refuses =
            Refusal::REASONS.map(|reason| (reason, refusal.is_some_and(|refusal| refusal.reason() == reason)));
        Signals {
            ready: self.ready(),
            draining: self.draining.is_cancelled(),
            dependencies: dependencies.to_vec(),
            degraded: away.chain(refuses).collect(),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kafka: bool, queue: Result<(), Refusal>) -> Seen {
        Seen { kafka, queue: Some(queue), ..Seen::default() }
    }

    #[test]
    fn a_queue_that_has_the_wrong_settings_keeps_from_being_ready_only_where_it_is_required() {
        for refusal in [
            Refusal::NoAppendOnlyFile,
            Refusal::NeverSynced,
            Refusal::Evicts("allkeys-lru".into()),
            Refusal::Unreadable("appendonly"),
        ] {
            let seen = seen(true, Err(refusal.clone()));
            assert!(seen.unready(true).is_some_and(|why| why.contains(&refusal.to_string())), "{refusal}");
            assert_eq!(seen.unready(false), None);
        }
        let away = || Err(Refusal::Unreachable("no answer in time".into()));
        assert_eq!(seen(true, away()).unready(true), None, "nobody knows the settings of a server that is away");
        assert!(seen(false, away()).unready(false).is_some());
        assert_eq!(seen(true, Err(Refusal::Replica)).unready(true), None, "a failover is under way");
        assert_eq!(seen(false, Ok(())).unready(true), None);
        assert!(Seen::default().unready(false).is_some(), "not asked yet");
    }
}
