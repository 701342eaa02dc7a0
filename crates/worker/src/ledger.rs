//! What may be committed. Takes every offset received and every offset done; gives the commit points.
//!
//! A partition's commit point is the offset below which everything received is done: stored or dead-lettered. Commits are
//! cumulative, so nothing else may ever be committed: a later success would hide an earlier failure. Three rules keep this true:
//!
//! * Each assignment of a partition is a [`Generation`] of its own, and what was received under another one counts for nothing. A
//!   flush that returns after its partition went away and came back can't vouch for records that it never saw.
//! * Offsets may have gaps, which need nothing done.
//! * Offsets may go back, when a topic was made anew or its log was truncated. Then the commit point goes back with them: a point
//!   left beyond the log's end would skip whatever is written there later.
//!
//! No I/O and no clock here.

use std::collections::BTreeMap;

/// One assignment of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u64);

/// A commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The partition.
    pub partition: i32,
    /// The assignment that it belongs to.
    pub generation: Generation,
    /// The next offset to be read by whoever comes after us.
    pub offset: i64,
}

/// A record that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The assignment that it belongs to.
    pub generation: Generation,
    /// The offset that was expected in its place, if any was. Larger ones in its place may mean that records were lost.
    pub expected: Option<i64>,
}

#[derive(Debug)]
struct Partition {
    generation: Generation,
    /// What the broker has, as far as we know.
    committed: Option<i64>,
    /// One past the last record received.
    next: Option<i64>,
    /// Received and not done, with how often.
    open: BTreeMap<i64, u32>,
}

impl Partition {
    fn point(&self) -> Option<i64> {
        let first_open = self.open.first_key_value().map(|(offset, _)| *offset);
        self.next.map(|next| first_open.map_or(next, |open| open.min(next)))
    }
}

/// All partitions that are ours now.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: BTreeMap<i32, Partition>,
    generations: u64,
}

impl Ledger {
    /// A partition became ours, and is read from `committed` on, or from the beginning.
    pub fn assign(&mut self, partition: i32, committed: Option<i64>) -> Generation {
        self.generations += 1;
        let generation = Generation(self.generations);
        self.partitions.insert(partition, Partition { generation, committed, next: None, open: BTreeMap::new() });
        generation
    }

    /// A partition is no longer ours. What was not committed is another's to do again.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// The partitions that are ours.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.partitions.keys().copied()
    }

    /// Whether what was received under `generation` still counts.
    pub fn is_current(&self, partition: i32, generation: Generation) -> bool {
        self.partitions.get(&partition).is_some_and(|state| state.generation == generation)
    }

    /// Takes in a record. `None`: the partition is not ours, and the record must not be touched.
    pub fn receive(&mut self, partition: i32, offset: i64) -> Option<Received> {
        let state = self.partitions.get_mut(&partition)?;
        // A group that has committed nothing was to begin at the log's first record.
        let expected = state.next.or(state.committed).or(Some(0));
        state.next = Some(offset + 1);
        *state.open.entry(offset).or_default() += 1;
        Some(Received { generation: state.generation, expected })
    }

    /// A record is stored or dead-lettered.
    pub fn done(&mut self, partition: i32, generation: Generation, offset: i64) {
        let Some(state) = self.partitions.get_mut(&partition).filter(|state| state.generation == generation) else {
            return;
        };
        if let Some(times) = state.open.get_mut(&offset) {
            *times -= 1;
            if *times == 0 {
                state.open.remove(&offset);
            }
        }
    }

    /// The points that the broker does not have yet.
    pub fn due(&self) -> Vec<Point> {
        let due = |(partition, state): (&i32, &Partition)| {
            let offset = state.point().filter(|point| state.committed != Some(*point))?;
            Some(Point { partition: *partition, generation: state.generation, offset })
        };
        self.partitions.iter().filter_map(due).collect()
    }

    /// The broker has taken a point.
    pub fn committed(&mut self, point: &Point) {
        let state = self.partitions.get_mut(&point.partition);
        if let Some(state) = state.filter(|state| state.generation == point.generation) {
            state.committed = Some(point.offset);
        }
    }

    /// What the broker has, as far as we know.
    pub fn committed_offset(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).and_then(|state| state.committed)
    }

    /// Everything below is done, or was before us.
    pub fn point(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).and_then(|state| state.point().or(state.committed))
    }

    /// How far the records received reach above the commit point.
    pub fn span(&self, partition: i32) -> usize {
        let span = self.partitions.get(&partition).and_then(|state| Some(state.next? - state.point()?));
        span.and_then(|span| usize::try_from(span).ok()).unwrap_or_default()
    }

    /// How many records of the partition are received and not done.
    pub fn open(&self, partition: i32) -> usize {
        self.partitions.get(&partition).map_or(0, |state| state.open.len())
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
