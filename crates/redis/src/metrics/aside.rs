//! The metrics of the aside caches.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Reads, by kind of value and by what answered them.
const READS: &str = "cache_aside_reads_total";
/// Loads from the source, by kind of value and by how they ended.
const LOADS: &str = "cache_aside_loads_total";
/// Values that were loaded and not cached: an invalidation came in between, the lease had expired, or Redis did not take them.
const UNFILLED: &str = "cache_aside_unfilled_total";
/// Bytes that the first level (memory) uses, approximately, by kind of value.
const MEMORY: &str = "cache_aside_memory_bytes";
/// 1 while the first level is in use, 0 while this process may miss invalidations.
const HEARING: &str = "cache_aside_hearing";
/// Times that the first level was emptied because invalidations may have been missed.
const EMPTIED: &str = "cache_aside_emptied_total";
/// Invalidations that Redis has not taken yet.
const OWED: &str = "cache_aside_owed_invalidations";
/// Invalidations that were given up because too many were pending: old values live until they expire.
const LOST: &str = "cache_aside_lost_invalidations_total";

/// Which level answered a read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AnsweredBy {
    Memory,
    Redis,
    /// A value from Redis that was stale.
    Stale,
    Source,
    /// There was no answer.
    Nothing,
}

const ANSWERED_BY: [&str; 5] = ["memory", "redis", "stale", "source", "nothing"];

/// The metrics of all kinds of values.
#[derive(Debug, Clone)]
pub(crate) struct AsideMetrics {
    reads: IntCounterVec,
    loads: IntCounterVec,
    unfilled: IntCounterVec,
    memory: IntGaugeVec,
    pub(crate) hearing: IntGauge,
    pub(crate) emptied: IntCounter,
    pub(crate) pending_invalidations: IntGauge,
    pub(crate) lost_invalidations: IntCounter,
}

/// The metrics of one kind of values.
#[derive(Debug, Clone)]
pub(crate) struct KindMetrics {
    reads: [IntCounter; 5],
    pub(crate) loaded: IntCounter,
    pub(crate) load_failed: IntCounter,
    pub(crate) unfilled: IntCounter,
    pub(crate) memory: IntGauge,
}

impl AsideMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            reads: counters(READS, "Reads, by what answered them", &["kind", "by"])?,
            loads: counters(LOADS, "Loads from the source", &["kind", "result"])?,
            unfilled: counters(UNFILLED, "Values loaded that were not cached", &["kind"])?,
            memory: IntGaugeVec::new(Opts::new(MEMORY, "Bytes that the first level takes, about"), &["kind"])?,
            hearing: IntGauge::new(HEARING, "1 while invalidations are heard and the first level is in use")?,
            emptied: IntCounter::new(EMPTIED, "Times that the first level was emptied for missed invalidations")?,
            pending_invalidations: IntGauge::new(OWED, "Invalidations that Redis has yet to take")?,
            lost_invalidations: IntCounter::new(LOST, "Invalidations that were given up because too many were owed")?,
        };
        registry.register(Box::new(metrics.reads.clone()))?;
        registry.register(Box::new(metrics.loads.clone()))?;
        registry.register(Box::new(metrics.unfilled.clone()))?;
        registry.register(Box::new(metrics.memory.clone()))?;
        registry.register(Box::new(metrics.hearing.clone()))?;
        registry.register(Box::new(metrics.emptied.clone()))?;
        registry.register(Box::new(metrics.pending_invalidations.clone()))?;
        registry.register(Box::new(metrics.lost_invalidations.clone()))?;
        for kind in ["profile", "message", "rel", "members"] {
            metrics.of(kind);
        }
        Ok(metrics)
    }

    pub(crate) fn of(&self, kind: &str) -> KindMetrics {
        KindMetrics {
            reads: ANSWERED_BY.map(|by| self.reads.with_label_values(&[kind, by])),
            loaded: self.loads.with_label_values(&[kind, "ok"]),
            load_failed: self.loads.with_label_values(&[kind, "failed"]),
            unfilled: self.unfilled.with_label_values(&[kind]),
            memory: self.memory.with_label_values(&[kind]),
        }
    }
}

impl KindMetrics {
    pub(crate) fn read(&self, by: AnsweredBy) {
        self.reads[by as usize].inc();
    }
}
