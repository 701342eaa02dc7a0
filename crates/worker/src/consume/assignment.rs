//! Handles the assignment and revocation of partitions. Takes the coordinator's request; answers it once everything that must happen first
//! is done.
//!
//! librdkafka waits for the answer (see [`holdfast_kafka::consumer`]), so the loop goes on polling in between.
//!
//! *Assigned*: the committed offsets are read first, and fetching starts exactly there. The position that librdkafka might
//! remember from an earlier assignment may be ahead of what was committed. Where nothing is committed, fetching starts where the log
//! begins, and that is committed at once. A log that begins above what is committed has lost records, which is noticed here even if
//! no record is left to be read.
//!
//! *Revoked*: buffered messages are flushed and committed first, within a deadline. Past it, or when the assignment was lost, the records
//! are dropped uncommitted; their next owner reads them again, and the primary key absorbs what was stored already.

use std::time::{Duration, Instant};

use holdfast_kafka::Committed;

use super::Loop;
use crate::backoff::Backoff;
use crate::flush::Sink;
use crate::ledger::Start;

/// Bounds each of the two calls for which the loop does not poll.
const COMMITTED_WITHIN: Duration = Duration::from_secs(1);

/// A rebalance that the coordinator asked for and that is not answered yet.
#[derive(Debug)]
pub struct Rebalance {
    partitions: Vec<i32>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Assign { attempts: Backoff },
    Revoke { lost: bool, until: Instant },
}

impl Rebalance {
    /// An assignment of partitions.
    pub fn assign(partitions: Vec<i32>) -> Self {
        let attempts = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        Self { partitions, kind: Kind::Assign { attempts } }
    }

    /// A revocation of partitions, which may be flushed until the deadline.
    pub fn revoke(partitions: Vec<i32>, lost: bool, until: Instant) -> Self {
        Self { partitions, kind: Kind::Revoke { lost, until } }
    }
}

impl<S: Sink> Loop<S> {
    /// Whether revoked partitions are being flushed.
    pub(crate) fn is_revoking(&self) -> bool {
        matches!(&self.rebalance, Some(Rebalance { kind: Kind::Revoke { .. }, .. }))
    }

    /// Answers the rebalance if everything is ready for it. If the answer fails the process must end: otherwise the group would count on this
    /// worker for partitions that it does not read.
    pub(crate) fn advance_rebalance(&mut self, now: Instant) -> Result<(), String> {
        let Some(mut rebalance) = self.rebalance.take() else { return Ok(()) };
        let answered = match &mut rebalance.kind {
            Kind::Assign { attempts } => self.take_over(now, &rebalance.partitions, attempts),
            Kind::Revoke { lost, until } => {
                let is_lost = *lost || self.consumer.assignment_lost();
                self.give_up(now, &rebalance.partitions, is_lost, *until)
            }
        };
        if !answered? {
            self.rebalance = Some(rebalance);
        }
        Ok(())
    }

    fn take_over(&mut self, now: Instant, partitions: &[i32], attempts: &mut Backoff) -> Result<bool, String> {
        if !attempts.is_over(now) {
            return Ok(false);
        }
        let from = match partitions {
            [] => Ok(Vec::new()),
            _ => self.consumer.committed(partitions, COMMITTED_WITHIN),
        };
        let from = match from {
            Ok(from) => from,
            Err(error) => {
                attempts.fail(now, fastrand::f64());
                if attempts.failures().is_power_of_two() {
                    tracing::warn!(%error, ?partitions, attempts = attempts.failures(), "the committed offsets can't be read");
                }
                return Ok(false);
            }
        };
        let mut asked = true;
        let starts: Vec<_> = from
            .iter()
            .map(|committed| {
                // Where the log begins is worth one wait, not one for each partition of a broker that does not answer.
                let log_start =
                    asked.then(|| self.consumer.watermarks(committed.partition, COMMITTED_WITHIN).ok()).flatten();
                asked = log_start.is_some();
                self.begin(committed, log_start.map(|(low, _)| low))
            })
            .collect();
        self.consumer.assign(&starts).map_err(|error| error.to_string())?;
        self.authorization.assigned(partitions);
        tracing::info!(from = ?starts, "partitions assigned");
        self.state.joined(true);
        Ok(true)
    }

    /// Takes over an assigned partition, and returns the offset from which to read it.
    fn begin(&mut self, committed: &Committed, log_start: Option<i64>) -> (i32, Option<i64>) {
        let partition = committed.partition;
        let start = Start { committed: committed.offset, loss: committed.loss, log_start };
        self.forget(partition);
        self.ledger.assign(partition, start);
        match (start.committed, start.offset()) {
            (Some(committed), Some(offset)) if start.lost() > 0 => {
                self.lose(partition, committed, offset, start.lost())
            }
            // Whether the group once read it and its offsets expired is unknown.
            (None, Some(offset @ 1..)) => tracing::warn!(
                partition,
                offset,
                "the group has committed nothing of this partition: reading what is left of its log"
            ),
            _ => {}
        }
        (partition, start.offset())
    }

    fn give_up(&mut self, now: Instant, partitions: &[i32], lost: bool, until: Instant) -> Result<bool, String> {
        let stored = partitions.iter().all(|partition| self.ledger.open(*partition) == 0)
            || (self.buffer.is_empty() && self.letters.is_empty());
        let committed = || self.ledger.due().iter().all(|point| !partitions.contains(&point.partition));
        let complete = stored && committed();
        if !(complete || lost || now >= until) {
            return Ok(false);
        }
        let open: usize = partitions.iter().map(|partition| self.ledger.open(*partition)).sum();
        if complete {
            tracing::info!(?partitions, "partitions given up");
        } else {
            tracing::warn!(
                ?partitions,
                lost,
                open,
                "partitions given up with records uncommitted, to be read again elsewhere"
            );
        }
        partitions.iter().for_each(|partition| self.forget(*partition));
        self.consumer.unassign(partitions).map_err(|error| error.to_string())?;
        if lost {
            self.state.joined(false);
        }
        Ok(true)
    }

    /// Discards what is known of a revoked partition.
    fn forget(&mut self, partition: i32) {
        self.ledger.revoke(partition);
        self.buffer.forget(partition);
        self.letters.forget(partition);
        self.gaps.forget(partition);
        self.backpressure.forget(partition);
        self.authorization.forget(partition);
        self.high_watermarks.remove(&partition);
        self.metrics.forget_lag(partition);
    }
}
