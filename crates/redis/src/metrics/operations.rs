//! Counts and latencies of calls to Redis. The handles of frequent operations are looked up once.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

/// Operations that are frequent or on the path of a request. Others are looked up by their labels at each call.
const FREQUENT: [&str; 24] = [
    "recent_add",
    "recent_read",
    "failed_push",
    "get",
    "set",
    "delete",
    "exists",
    "expire",
    "count",
    "hash_read",
    "hash_write",
    "list_read",
    "list_write",
    "set_read",
    "set_write",
    "sorted_read",
    "sorted_write",
    "rate_limit",
    "recent_resume",
    "recent_tombstone",
    "recent_repair",
    "lock",
    "beacon",
    "ping",
];
/// How many of them show zero from the start.
const FROM_THE_START: usize = 17;
const RESULTS: [&str; 5] = ["ok", "refused", "unavailable", "unexpected", "address"];

#[derive(Debug)]
pub(super) struct Operations {
    calls: IntCounterVec,
    latency: HistogramVec,
    handles: [Handles; FREQUENT.len()],
}

/// Made at the first use, so that an operation that is never called has no series.
#[derive(Debug, Default)]
struct Handles {
    results: [OnceLock<IntCounter>; RESULTS.len()],
    latency: OnceLock<Histogram>,
}

impl Operations {
    pub(super) fn new(calls: IntCounterVec, latency: HistogramVec) -> Self {
        let operations = Self { calls, latency, handles: Default::default() };
        for op in &FREQUENT[..FROM_THE_START] {
            for result in &RESULTS[..3] {
                operations.calls.with_label_values(&[op, result]);
            }
            operations.latency.with_label_values(&[op]);
        }
        operations
    }

    pub(super) fn record(&self, op: &'static str, result: &'static str, took: Duration) {
        let found = (FREQUENT.iter().position(|known| *known == op), RESULTS.iter().position(|known| *known == result));
        if let (Some(op_index), Some(result_index)) = found {
            let handles = &self.handles[op_index];
            let made = || self.calls.with_label_values(&[op, result]);
            handles.results[result_index].get_or_init(made).inc();
            let made = || self.latency.with_label_values(&[op]);
            handles.latency.get_or_init(made).observe(took.as_secs_f64());
        } else {
            self.calls.with_label_values(&[op, result]).inc();
            self.latency.with_label_values(&[op]).observe(took.as_secs_f64());
        }
    }
}
