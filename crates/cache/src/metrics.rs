//! The metrics of the caches. One [`CacheMetrics`] a process, shared by all parts of this crate.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Calls to Redis, by operation and result (`ok`, `refused`, `unavailable`, `unexpected`).
pub const OPERATIONS: &str = "cache_operations_total";
/// How long calls to Redis took, in seconds, by operation.
pub const OPERATION_LATENCY: &str = "cache_operation_latency_seconds";
/// State of a circuit breaker, by dependency: 0 closed, 1 open, 2 half-open.
pub const BREAKER_STATE: &str = "cache_circuit_breaker_state";
/// Values of a version or shape that this build can't read, by where they lay (`recent`, `failed`, `channel`).
pub const UNDECODABLE: &str = "cache_undecodable_entries_total";
/// Times that the subscription broke, fell silent, or had its events dropped because they were not taken fast enough.
pub const CHANNEL_BREAKS: &str = "cache_channel_breaks_total";
/// Events dropped because they were not taken fast enough; every one is followed by a resynchronisation.
pub const CHANNEL_DROPPED: &str = "cache_channel_dropped_events_total";

/// Handles to the metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    operations: IntCounterVec,
    latency: HistogramVec,
    pub(crate) breaker_state: IntGaugeVec,
    undecodable: IntCounterVec,
    pub(crate) channel_breaks: IntCounter,
    pub(crate) channel_dropped: IntCounter,
}

impl CacheMetrics {
    /// Registers the metrics, present from the start.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = vec![0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
        let metrics = Self {
            operations: IntCounterVec::new(Opts::new(OPERATIONS, "Calls to Redis"), &["op", "result"])?,
            latency: HistogramVec::new(
                HistogramOpts::new(OPERATION_LATENCY, "How long calls to Redis took").buckets(buckets),
                &["op"],
            )?,
            breaker_state: IntGaugeVec::new(
                Opts::new(BREAKER_STATE, "0 closed, 1 open, 2 half-open"),
                &["dependency"],
            )?,
            undecodable: IntCounterVec::new(
                Opts::new(UNDECODABLE, "Values of a version or shape that this build can't read"),
                &["where"],
            )?,
            channel_breaks: IntCounter::new(CHANNEL_BREAKS, "Times that live events may have been missed")?,
            channel_dropped: IntCounter::new(
                CHANNEL_DROPPED,
                "Events dropped because they were not taken fast enough",
            )?,
        };
        registry.register(Box::new(metrics.operations.clone()))?;
        registry.register(Box::new(metrics.latency.clone()))?;
        registry.register(Box::new(metrics.breaker_state.clone()))?;
        registry.register(Box::new(metrics.undecodable.clone()))?;
        registry.register(Box::new(metrics.channel_breaks.clone()))?;
        registry.register(Box::new(metrics.channel_dropped.clone()))?;
        for place in ["recent", "failed", "channel"] {
            metrics.undecodable.with_label_values(&[place]);
        }
        for op in ["recent_add", "recent_read", "failed_push"] {
            for result in ["ok", "refused", "unavailable"] {
                metrics.operations.with_label_values(&[op, result]);
            }
            metrics.latency.with_label_values(&[op]);
        }
        Ok(metrics)
    }

    pub(crate) fn operation(&self, op: &str, result: &str, took: Duration) {
        self.operations.with_label_values(&[op, result]).inc();
        self.latency.with_label_values(&[op]).observe(took.as_secs_f64());
    }

    pub(crate) fn undecodable(&self, place: &str, count: usize) {
        if count > 0 {
            self.undecodable.with_label_values(&[place]).inc_by(count as u64);
        }
    }
}
