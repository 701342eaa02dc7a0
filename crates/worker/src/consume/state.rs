//! The loop's state as others see it: gauges and the health report.

use std::time::Instant;

use holdfast_service::clock::unix_ms;

use super::{COMMITS_WITHIN, Loop, TICK};
use crate::backpressure::Capacity;
use crate::flush::Sink;
use crate::health::{Degraded, Snapshot};

impl<S: Sink> Loop<S> {
    /// Sets the gauges and publishes the health state, at most once a [`TICK`].
    pub(super) fn publish_state(&mut self, now: Instant) {
        self.state.tick();
        if self.published_at.is_some_and(|at| now.duration_since(at) < TICK) {
            return;
        }
        self.published_at = Some(now);
        self.advance();
        let (held, bytes) = self.held();
        let Capacity { messages, bytes: most_bytes } = self.settings.capacity;
        let fill = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
        let age = self.buffer.oldest_stamp().map_or(0.0, |stamp| (unix_ms() - stamp).max(0) as f64 / 1000.0);
        self.metrics.buffer_messages.set(held as i64);
        self.metrics.buffer_utilization.set(fill(held, messages).max(fill(bytes, most_bytes)));
        self.metrics.oldest_unpersisted.set(age);
        let behind = self.commits.behind_for(now);
        self.metrics.commit_behind.set(behind.as_secs_f64());
        self.metrics.paused.set(self.backpressure.is_full().into());
        self.metrics.partitions_held.set(self.backpressure.held().len() as i64);
        for partition in self.ledger.partitions() {
            if let Some(high) = self.high_watermarks.get(&partition) {
                let committed = self.ledger.committed_offset(partition).or_else(|| self.ledger.point(partition));
                let lag = high - committed.unwrap_or_default();
                self.metrics.lag(partition, lag.max(0));
            }
        }
        let lost = self.ledger.lost().records;
        self.metrics.loss_unacknowledged.set(i64::try_from(lost).unwrap_or(i64::MAX));
        let refused = self.authorization.is_denied();
        self.state.refused(refused);
        let degraded = [
            (!self.backpressure.held().is_empty(), Degraded::PartitionHeld),
            (lost > 0, Degraded::RecordsLost),
            (self.flusher.is_failing(), Degraded::MongoDb),
            (behind > COMMITS_WITHIN, Degraded::CommitsBehind),
            (self.letters.is_failing(), Degraded::DeadLetters),
            (refused, Degraded::Denied),
        ];
        let degraded = degraded.into_iter().filter_map(|(is, why)| is.then_some(why)).collect();
        self.state.publish(Snapshot {
            messages: held,
            bytes,
            capacity: messages,
            paused: self.backpressure.is_full(),
            last_flush_at: self.last_flush_at,
            partitions: self.ledger.partitions().collect(),
            lost,
            degraded,
        });
    }
}
