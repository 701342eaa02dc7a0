//! Judges missing offsets. Takes the gaps that the loop finds between records; returns which of them were deleted records.
//!
//! Not every offset is a record: a transaction ends with a marker, and an aborted one leaves nothing to be read. Only what lies below
//! the log's beginning was deleted. The log's beginning is requested from the broker once a pass for each partition with gaps, so a log
//! with a transaction for every record costs one request for some hundred records.
//!
//! While the broker does not answer, a gap can't be judged: its first offset counts as received and not done in the ledger, so nothing is
//! committed beyond it.
//!
//! See `docs/decisions/lost-records.md`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::ledger::Generation;

/// Offsets that are missing in front of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The partition's number.
    pub partition: i32,
    /// The assignment under which it was found.
    pub generation: Generation,
    /// The first missing offset.
    pub expected: i64,
    /// The offset of the record behind the gap.
    pub offset: i64,
}

impl Gap {
    /// The number of its offsets that lie below the log's beginning.
    fn deleted(&self, log_start: i64) -> u64 {
        u64::try_from(log_start.min(self.offset) - self.expected).unwrap_or_default()
    }
}

/// The gaps that are not judged yet.
#[derive(Debug)]
pub struct Gaps {
    waiting: Vec<Gap>,
    backoff: Backoff,
}

impl Default for Gaps {
    fn default() -> Self {
        // A request that the broker does not answer blocks the loop for a second.
        Self { waiting: Vec::new(), backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(10)) }
    }
}

impl Gaps {
    /// Adds a gap.
    pub fn push(&mut self, gap: Gap) {
        self.waiting.push(gap);
    }

    /// Whether all gaps have been judged.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Discards the gaps of a revoked partition.
    pub fn forget(&mut self, partition: i32) {
        self.waiting.retain(|gap| gap.partition != partition);
    }

    /// Returns the gaps that can be judged, each with how many records were deleted unread. `log_start` asks the broker.
    pub fn judge(&mut self, now: Instant, mut log_start: impl FnMut(i32) -> Option<i64>) -> Vec<(Gap, u64)> {
        if self.waiting.is_empty() || !self.backoff.is_over(now) {
            return Vec::new();
        }
        let mut starts = BTreeMap::new();
        let mut judged = Vec::new();
        let mut silent = false;
        self.waiting.retain(|gap| {
            // One unanswered request a pass is enough.
            let start = match starts.get(&gap.partition) {
                Some(start) => *start,
                None if silent => None,
                None => *starts.entry(gap.partition).or_insert_with(|| log_start(gap.partition)),
            };
            silent |= start.is_none();
            judged.extend(start.map(|start| (*gap, gap.deleted(start))));
            start.is_none()
        });
        match silent {
            true => self.backoff.fail(now, fastrand::f64()),
            false => self.backoff.reset(),
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, Start};

    fn gap(partition: i32, expected: i64, offset: i64) -> Gap {
        let generation = Ledger::default().assign(partition, Start::after(None));
        Gap { partition, generation, expected, offset }
    }

    fn lost(judged: &[(Gap, u64)]) -> Vec<(i32, i64, u64)> {
        judged.iter().map(|(gap, lost)| (gap.partition, gap.expected, *lost)).collect()
    }

    #[test]
    fn only_what_lies_below_the_logs_beginning_was_deleted_and_the_broker_is_asked_once_for_many() {
        let mut gaps = Gaps::default();
        for gap in [gap(0, 5, 6), gap(0, 7, 10), gap(0, 11, 20), gap(1, 3, 4)] {
            gaps.push(gap);
        }
        let mut asked = Vec::new();
        let judged = gaps.judge(Instant::now(), |partition| {
            asked.push(partition);
            Some(if partition == 0 { 14 } else { 0 })
        });
        assert_eq!(lost(&judged), [(0, 5, 1), (0, 7, 3), (0, 11, 3), (1, 3, 0)]);
        assert_eq!(asked, [0, 1]);
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_gap_waits_for_a_broker_that_answers() {
        let (mut gaps, now) = (Gaps::default(), Instant::now());
        gaps.push(gap(0, 5, 6));
        gaps.push(gap(1, 5, 6));
        let mut asked = 0;
        let silence = |_| {
            asked += 1;
            None
        };
        assert_eq!(gaps.judge(now, silence), []);
        assert_eq!(asked, 1, "one question that nobody answers is enough");
        assert_eq!(gaps.judge(now, |_| panic!("not again at once")), []);
        gaps.forget(1);
        assert_eq!(lost(&gaps.judge(now + Duration::from_secs(1), |_| Some(6))), [(0, 5, 1)]);
        assert!(gaps.is_empty());
    }
}
