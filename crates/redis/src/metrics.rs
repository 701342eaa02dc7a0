//! The metrics of this crate. Register one [`RedisMetrics`] for each process; all connections share it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

mod aside;
mod hit_rate;
mod operations;

use hit_rate::HitRate;
use operations::Operations;

pub(crate) use aside::{AnsweredBy, AsideMetrics, KindMetrics};

/// Calls to Redis, by operation and result (`ok`, `refused`, `unavailable`, `unexpected`, `address`, `encode`).
pub const OPERATIONS: &str = "cache_operations_total";
/// How long calls to Redis took, in seconds, by operation.
pub const OPERATION_LATENCY: &str = "cache_operation_latency_seconds";
/// How many of the look-ups of the last five minutes were answered by a cache, in memory or in Redis; 0 if there were none.
pub const HIT_RATE: &str = "cache_hit_rate";
/// Look-ups in a cache, by result (`hit`, `miss`).
pub const LOOKUPS: &str = "cache_lookups_total";
/// Locks that this process holds.
pub const ACTIVE_LOCKS: &str = "cache_active_locks";
/// Values of a version or shape that this build can't read, by where they lay (`recent`, `failed`, `channel`, a cached value's kind).
pub const UNDECODABLE: &str = "cache_undecodable_entries_total";
/// Times that the subscription broke, fell silent, or had its events dropped because they were not taken fast enough.
pub const CHANNEL_BREAKS: &str = "cache_channel_breaks_total";
/// Events dropped because they were not taken fast enough; every one is followed by a resynchronisation.
pub const CHANNEL_DROPPED: &str = "cache_channel_dropped_events_total";

/// Handles to the metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedisMetrics {
    operations: Option<Arc<Operations>>,
    hit_rate: HitRate,
    hits: IntCounter,
    misses: IntCounter,
    pub(crate) locks: IntGauge,
    undecodable: IntCounterVec,
    /// See [`CHANNEL_BREAKS`].
    pub channel_breaks: IntCounter,
    /// See [`CHANNEL_DROPPED`].
    pub channel_dropped: IntCounter,
    pub(crate) aside: AsideMetrics,
}

impl RedisMetrics {
    /// Registers the metrics; each has a value from the start.
    ///
    /// # Errors
    /// The registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::register_with(registry, true)
    }

    /// As [`RedisMetrics::register`]; without `per_operation` calls to Redis are neither counted nor timed.
    ///
    /// # Errors
    /// The registry has metrics of these names already.
    pub fn register_with(registry: &Registry, per_operation: bool) -> Result<Self, prometheus::Error> {
        let counters = |name, help, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registered(registry, counters)
        };
        let counter = |name: &str, help: &str| registered(registry, IntCounter::new(name, help)?);
        let lookups = counters(LOOKUPS, "Look-ups in a cache", &["result"])?;
        let metrics = Self {
            operations: per_operation.then(|| operations(registry)).transpose()?.map(Arc::new),
            hit_rate: registered(registry, HitRate::new(HIT_RATE, Instant::now())?)?,
            hits: lookups.with_label_values(&["hit"]),
            misses: lookups.with_label_values(&["miss"]),
            locks: registered(registry, IntGauge::new(ACTIVE_LOCKS, "Locks that this process holds")?)?,
            undecodable: counters(UNDECODABLE, "Values of a version or shape that this build can't read", &["where"])?,
            channel_breaks: counter(CHANNEL_BREAKS, "Times that live events may have been missed")?,
            channel_dropped: counter(CHANNEL_DROPPED, "Events dropped because they were not taken fast enough")?,
            aside: AsideMetrics::register(registry)?,
        };
        for place in ["recent", "failed", "channel"] {
            metrics.undecodable.with_label_values(&[place]);
        }
        Ok(metrics)
    }

    /// Counts a look-up in a cache. A stale value that was used is a hit; a cache that could not be asked is a miss.
    pub fn lookup(&self, hit: bool) {
        self.hit_rate.record(hit, Instant::now());
        if hit { &self.hits } else { &self.misses }.inc();
    }

    /// The share of the look-ups of the last five minutes that were hits, 0 to 1; 0 if there were none.
    pub fn hit_rate(&self) -> f64 {
        self.hit_rate.now(Instant::now())
    }

    /// How many locks this process holds now.
    pub fn active_locks(&self) -> i64 {
        self.locks.get()
    }

    /// Counts and times one call to Redis.
    pub fn operation(&self, op: &'static str, result: &'static str, took: Duration) {
        if let Some(operations) = &self.operations {
            operations.record(op, result, took);
        }
    }

    /// Counts values that this build could not decode, by the place where they are stored.
    pub fn undecodable(&self, place: &str, count: usize) {
        if count > 0 {
            self.undecodable.with_label_values(&[place]).inc_by(count as u64);
        }
    }

    /// The counter of undecodable values at one place, for callers that need it often.
    pub(crate) fn undecodable_at(&self, place: &'static str) -> IntCounter {
        self.undecodable.with_label_values(&[place])
    }
}

fn operations(registry: &Registry) -> Result<Operations, prometheus::Error> {
    let buckets = vec![0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
    let calls = IntCounterVec::new(Opts::new(OPERATIONS, "Calls to Redis"), &["op", "result"])?;
    let latency = HistogramVec::new(
        HistogramOpts::new(OPERATION_LATENCY, "How long calls to Redis took").buckets(buckets),
        &["op"],
    )?;
    Ok(Operations::new(registered(registry, calls)?, registered(registry, latency)?))
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(registry: &Registry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap()
    }

    #[test]
    fn hits_and_misses_make_the_rate_and_are_there_from_the_start() {
        let registry = Registry::new();
        let metrics = RedisMetrics::register(&registry).unwrap();
        assert!(text(&registry).contains("cache_hit_rate{window=\"5m\"} 0\n"));
        assert!(text(&registry).contains("cache_lookups_total{result=\"miss\"} 0\n"));
        assert!(text(&registry).contains("cache_active_locks 0\n"));
        for hit in [true, true, true, false] {
            metrics.lookup(hit);
        }
        assert!(text(&registry).contains("cache_hit_rate{window=\"5m\"} 0.75\n"));
        assert!(text(&registry).contains("cache_lookups_total{result=\"hit\"} 3\n"));
    }

    #[test]
    fn operations_are_counted_by_result_unless_that_is_switched_off() {
        let (counted, silent) = (Registry::new(), Registry::new());
        for (registry, per_operation) in [(&counted, true), (&silent, false)] {
            let metrics = RedisMetrics::register_with(registry, per_operation).unwrap();
            metrics.operation("get", "ok", Duration::from_millis(3));
            metrics.operation("get", "unavailable", Duration::from_millis(50));
            metrics.operation("get", "ok", Duration::from_millis(3));
        }
        let text_counted = text(&counted);
        assert!(text_counted.contains("cache_operations_total{op=\"get\",result=\"ok\"} 2\n"), "{text_counted}");
        assert!(text_counted.contains("cache_operation_latency_seconds_bucket{op=\"get\",le=\"0.005\"} 2\n"));
        assert!(!text(&silent).contains("cache_operation"));
    }
}
