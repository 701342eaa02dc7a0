//! What the worker counts. The names are a contract with dashboards and alert rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_kafka::Trouble;
use holdfast_service::serve::ConnectionMetrics;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// Messages received and not yet stored, those in flight included.
pub const BUFFER_MESSAGES: &str = "holdfast_worker_buffer_messages";
/// The larger of the buffer's messages and bytes, each as a part of its capacity.
pub const BUFFER_UTILIZATION: &str = "holdfast_worker_buffer_utilization_ratio";
/// How long one flush took.
pub const FLUSH_SECONDS: &str = "holdfast_worker_flush_seconds";
/// What became of messages in flushes, by `result`.
pub const FLUSH_MESSAGES: &str = "holdfast_worker_flush_messages_total";
/// From a message's stamp to the end of the flush that stored it.
pub const PERSIST_LATENCY: &str = "holdfast_worker_persist_latency_seconds";
/// The age of the oldest message that is held and not stored.
pub const OLDEST_UNPERSISTED: &str = "holdfast_worker_oldest_unpersisted_age_seconds";
/// Records between the committed offset and the end of the log, by `partition`.
pub const CONSUMER_LAG: &str = "holdfast_worker_consumer_lag";
/// 1 while fetching is paused as the buffer is full.
pub const PAUSED: &str = "holdfast_worker_paused";
/// Commits, by `result`: what the broker answered.
pub const COMMITS: &str = "holdfast_worker_commits_total";
/// Errors that the consumer reported and retried after, by `code`.
pub const CONSUMER_ERRORS: &str = "holdfast_worker_consumer_errors_total";
/// For how long the broker has taken no commit although there was something to commit.
pub const COMMIT_BEHIND: &str = "holdfast_worker_commit_behind_seconds";
/// Records that the log had dropped before they were read: lost messages.
pub const RECORDS_SKIPPED: &str = "holdfast_worker_records_skipped_total";
/// Lost records of the partitions that this worker has, until an operator acknowledges the loss: `sum` over the workers.
pub const LOSS_UNACKNOWLEDGED: &str = "holdfast_worker_loss_unacknowledged";
/// Records written to the dead-letter topic (or skipped, where that is switched off), by `reason`.
pub const DLQ_MESSAGES: &str = "holdfast_dlq_messages_total";
/// Times that the dead letters' producer failed for good and another took its place.
pub const PRODUCER_REBUILDS: &str = "holdfast_worker_producer_rebuilds_total";
/// Partitions that wait for a newer worker.
pub const PARTITIONS_HELD: &str = "holdfast_worker_partitions_held";
/// Records in the dead-letter topic.
pub const DLQ_RECORDS: &str = "holdfast_dlq_records";
/// Age of each partition's oldest record that no commit covers.
pub const BACKLOG_AGE: &str = "holdfast_worker_backlog_age_seconds";
/// Messages for the recent lists, by `result`.
pub const HEALED: &str = "holdfast_worker_healed_messages_total";
/// Messages that the conversations' view did not learn of: it is mended on read.
pub const CONVERSATIONS_SKIPPED: &str = "holdfast_worker_conversations_skipped_total";

/// The values of [`DLQ_MESSAGES`]' label.
const DLQ_REASONS: [&str; 4] = ["malformed", "invalid_field", "refused", "refused_alone"];

/// All of the worker's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Connections to the operators' port.
    pub connections: ConnectionMetrics,
    /// See [`BUFFER_MESSAGES`].
    pub buffer_messages: IntGauge,
    /// See [`BUFFER_UTILIZATION`].
    pub buffer_utilization: Gauge,
    /// See [`FLUSH_SECONDS`].
    pub flush_seconds: Histogram,
    /// [`FLUSH_MESSAGES`], stored.
    pub stored: IntCounter,
    /// [`FLUSH_MESSAGES`], stored before.
    pub duplicates: IntCounter,
    /// [`FLUSH_MESSAGES`], to be tried again.
    pub retried: IntCounter,
    dead_lettered: IntCounter,
    /// See [`PERSIST_LATENCY`].
    pub persist_latency: Histogram,
    /// See [`OLDEST_UNPERSISTED`].
    pub oldest_unpersisted: Gauge,
    consumer_lag: IntGaugeVec,
    /// See [`PAUSED`].
    pub paused: IntGauge,
    /// [`COMMITS`] that the broker took.
    pub commits_ok: IntCounter,
    /// [`COMMITS`] that it did not.
    pub commits_failed: IntCounter,
    consumer_errors: IntCounterVec,
    /// See [`COMMIT_BEHIND`].
    pub commit_behind: Gauge,
    /// See [`RECORDS_SKIPPED`].
    pub records_skipped: IntCounter,
    /// See [`LOSS_UNACKNOWLEDGED`].
    pub loss_unacknowledged: IntGauge,
    dlq: IntCounterVec,
    /// See [`PRODUCER_REBUILDS`].
    pub producer_rebuilds: IntCounter,
    /// See [`PARTITIONS_HELD`].
    pub partitions_held: IntGauge,
    dlq_records: IntGaugeVec,
    backlog_age: GaugeVec,
    /// [`HEALED`], added to their lists.
    pub healed: IntCounter,
    /// [`HEALED`], there already.
    pub heal_present: IntCounter,
    /// [`HEALED`], not taken as the queue was full or the cache away for too long.
    pub heal_skipped: IntCounter,
    /// See [`CONVERSATIONS_SKIPPED`].
    pub conversations_skipped: IntCounter,
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: Result<C, prometheus::Error>,
) -> Result<C, prometheus::Error> {
    let collector = collector?;
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl Metrics {
    /// Registers them all, at zero. The error names the one that could not be registered.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let seconds = |name, help, buckets: &[f64]| {
            add(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
        };
        let flushed = add(registry, counters(FLUSH_MESSAGES, "What became of messages in flushes.", "result"))?;
        let commits = add(registry, counters(COMMITS, "What the broker answered to commits.", "result"))?;
        let healed = add(registry, counters(HEALED, "Messages for the recent lists.", "result"))?;
        let [connections] = ConnectionMetrics::register(registry, ["operators"])?;
        let metrics = Self {
            connections,
            buffer_messages: add(registry, IntGauge::new(BUFFER_MESSAGES, "Messages received and not yet stored."))?,
            buffer_utilization: add(registry, Gauge::new(BUFFER_UTILIZATION, "How full the buffer is."))?,
            flush_seconds: seconds(FLUSH_SECONDS, "How long one flush took.", &FLUSH_BUCKETS)?,
            stored: flushed.with_label_values(&["stored"]),
            duplicates: flushed.with_label_values(&["duplicate"]),
            retried: flushed.with_label_values(&["retried"]),
            dead_lettered: flushed.with_label_values(&["dead_letter"]),
            persist_latency: seconds(PERSIST_LATENCY, "From a message's stamp to its storing.", &LATENCY_BUCKETS)?,
            oldest_unpersisted: add(
                registry,
                Gauge::new(OLDEST_UNPERSISTED, "Age of the oldest message that is held and not stored."),
            )?,
            consumer_lag: add(
                registry,
                IntGaugeVec::new(
                    Opts::new(CONSUMER_LAG, "Records between the committed offset and the end of the log."),
                    &["partition"],
                ),
            )?,
            paused: add(registry, IntGauge::new(PAUSED, "1 while fetching is paused as the buffer is full."))?,
            commits_ok: commits.with_label_values(&["ok"]),
            commits_failed: commits.with_label_values(&["failed"]),
            consumer_errors: add(
                registry,
                counters(CONSUMER_ERRORS, "Errors that the Kafka consumer reported.", "code"),
            )?,
            commit_behind: add(
                registry,
                Gauge::new(
                    COMMIT_BEHIND,
                    "For how long the broker has taken no commit although there was one to take.",
                ),
            )?,
            records_skipped: add(
                registry,
                FromZero::new(RECORDS_SKIPPED, "Records that the log had dropped before they were read."),
            )?
            .counter,
            loss_unacknowledged: add(
                registry,
                IntGauge::new(
                    LOSS_UNACKNOWLEDGED,
                    "Lost records of this worker's partitions, until an operator acknowledges the loss. Take sum.",
                ),
            )?,
            dlq: add(registry, counters(DLQ_MESSAGES, "Records written to the dead-letter topic.", "reason"))?,
            producer_rebuilds: add(
                registry,
                IntCounter::new(
                    PRODUCER_REBUILDS,
                    "Times that the dead letters' producer failed for good and another took its place.",
                ),
            )?,
            partitions_held: add(registry, IntGauge::new(PARTITIONS_HELD, "Partitions that wait for a newer worker."))?,
            dlq_records: add(
                registry,
                IntGaugeVec::new(Opts::new(DLQ_RECORDS, "Records in the dead-letter topic. Take max."), &[]),
            )?,
            backlog_age: add(
                registry,
                GaugeVec::new(
                    Opts::new(BACKLOG_AGE, "Age of the oldest record that no commit covers. Take max."),
                    &["topic", "partition"],
                ),
            )?,
            healed: healed.with_label_values(&["added"]),
            heal_present: healed.with_label_values(&["present"]),
            heal_skipped: healed.with_label_values(&["skipped"]),
            conversations_skipped: add(
                registry,
                IntCounter::new(CONVERSATIONS_SKIPPED, "Messages that the conversations' view did not learn of."),
            )?,
        };
        for trouble in Trouble::ALL {
            metrics.consumer_errors.with_label_values(&[trouble.code()]);
        }
        for reason in DLQ_REASONS {
            metrics.dlq.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    /// Counts dead letters.
    pub fn dead_letter(&self, reason: &str, count: u64) {
        self.dlq.with_label_values(&[reason]).inc_by(count);
        self.dead_lettered.inc_by(count);
    }

    /// Counts what the consumer complains of.
    pub fn consumer_error(&self, trouble: Trouble) {
        self.consumer_errors.with_label_values(&[trouble.code()]).inc();
    }

    #[cfg(test)]
    pub(crate) fn consumer_errors(&self, trouble: Trouble) -> u64 {
        self.consumer_errors.with_label_values(&[trouble.code()]).get()
    }

    /// Sets a partition's lag.
    pub fn lag(&self, partition: i32, records: i64) {
        self.consumer_lag.with_label_values(&[&partition.to_string()]).set(records);
    }

    #[cfg(test)]
    pub(crate) fn lag_of(&self, partition: i32) -> i64 {
        self.consumer_lag.with_label_values(&[&partition.to_string()]).get()
    }

    /// Sets how many records the dead-letter topic has; `None`: nobody knows.
    pub fn dlq_records(&self, records: Option<i64>) {
        match records {
            Some(records) => self.dlq_records.with_label_values::<&str>(&[]).set(records),
            None => self.dlq_records.reset(),
        }
    }

    /// Sets the age of each partition's backlog, in seconds. Partitions that are not named have no value.
    pub fn backlog_ages(&self, topic: &str, ages: &HashMap<i32, f64>) {
        self.backlog_age.reset();
        for (partition, age) in ages {
            self.backlog_age.with_label_values(&[topic, &partition.to_string()]).set(*age);
        }
    }

    /// A partition is no longer ours to report on.
    pub fn forget_lag(&self, partition: i32) {
        // Fails only if it was never set.
        let _ = self.consumer_lag.remove_label_values(&[&partition.to_string()]);
    }
}

/// A counter whose first export is 0, whatever it counts by then. A worker finds a loss within seconds of its start, before anybody has
/// looked: a series that begins with its first value never *increases*, so no rule on its increase would see it.
#[derive(Clone)]
struct FromZero {
    counter: IntCounter,
    zero: IntCounter,
    exported: Arc<AtomicBool>,
}

impl FromZero {
    fn new(name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let (counter, zero) = (IntCounter::new(name, help)?, IntCounter::new(name, help)?);
        Ok(Self { counter, zero, exported: Arc::default() })
    }
}

impl Collector for FromZero {
    fn desc(&self) -> Vec<&Desc> {
        self.counter.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if self.exported.swap(true, Ordering::Relaxed) { self.counter.collect() } else { self.zero.collect() }
    }
}

const FLUSH_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const LATENCY_BUCKETS: [f64; 14] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

fn counters(name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_at_zero_from_the_start() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.lag(3, 7);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "holdfast_worker_buffer_messages 0",
            "holdfast_worker_flush_messages_total{result=\"dead_letter\"} 0",
            "holdfast_worker_commits_total{result=\"ok\"} 0",
            "holdfast_worker_records_skipped_total 0",
            "holdfast_worker_loss_unacknowledged 0",
            "holdfast_worker_consumer_errors_total{code=\"topic_authorization_failed\"} 0",
            "holdfast_dlq_messages_total{reason=\"malformed\"} 0",
            "holdfast_worker_persist_latency_seconds_count 0",
            "holdfast_worker_consumer_lag{partition=\"3\"} 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from\n{text}");
        }
        metrics.forget_lag(3);
        assert!(registry.gather().iter().all(|family| family.name() != CONSUMER_LAG));
    }

    #[test]
    fn a_loss_that_is_found_before_the_first_look_is_an_increase_all_the_same() {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        metrics.records_skipped.inc_by(28);
        let look = || {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
            let value = text.lines().find_map(|line| line.strip_prefix("holdfast_worker_records_skipped_total "));
            value.unwrap().parse::<u64>().unwrap()
        };
        assert_eq!([look(), look(), look()], [0, 28, 28]);
    }
}
