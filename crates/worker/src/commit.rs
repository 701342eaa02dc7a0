//! Tells the broker how far everything is done. Takes commit points from the ledger; gives one commit at a time to the consumer,
//! and tells the ledger what the broker has taken.
//!
//! While a commit is on its way, further progress waits for the next one, which then carries the newest points. A commit that
//! failed is sent again with whatever the points are by then.

use std::time::{Duration, Instant};

use holdfast_kafka::GroupConsumer;

use crate::backoff::Backoff;
use crate::ledger::{Ledger, Point};
use crate::metrics::Metrics;

/// See the module.
#[derive(Debug)]
pub struct Commits {
    sent: Option<Vec<Point>>,
    backoff: Backoff,
    last_success: Option<Instant>,
}

impl Default for Commits {
    /// Nothing is on its way.
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        Self { sent: None, backoff, last_success: None }
    }
}

impl Commits {
    /// Whether a commit is on its way.
    pub fn is_busy(&self) -> bool {
        self.sent.is_some()
    }

    /// When the broker last took one.
    pub fn last_success(&self) -> Option<Instant> {
        self.last_success
    }

    /// Sends a commit if there is progress that the broker does not know.
    pub fn begin(&mut self, now: Instant, ledger: &Ledger, consumer: &GroupConsumer) {
        if self.sent.is_some() || !self.backoff.is_over(now) {
            return;
        }
        let points = ledger.due();
        if !points.is_empty() {
            consumer.commit(points.iter().map(|point| (point.partition, point.offset)).collect());
            self.sent = Some(points);
        }
    }

    /// Takes the broker's answer in.
    pub fn settle(&mut self, now: Instant, result: Result<(), String>, ledger: &mut Ledger, metrics: &Metrics) {
        let Some(points) = self.sent.take() else { return };
        match result {
            Ok(()) => {
                metrics.commits_ok.inc();
                points.iter().for_each(|point| ledger.committed(point));
                self.backoff.reset();
                self.last_success = Some(now);
            }
            Err(error) => {
                metrics.commits_failed.inc();
                self.backoff.fail(now, fastrand::f64());
                if self.backoff.failures().is_power_of_two() {
                    tracing::warn!(attempts = self.backoff.failures(), error, "commit failed, trying again");
                }
            }
        }
    }
}
