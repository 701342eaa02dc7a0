//! Computes what may be committed. Takes every offset received and every offset done; returns the commit points.
//!
//! A partition's commit point is the offset below which everything received is done: stored or dead-lettered. Commits are
//! cumulative, so nothing else may ever be committed: a later success would hide an earlier failure. Four rules keep this true:
//!
//! * Each assignment of a partition is a [`Generation`] of its own, and what was received under another one counts for nothing. A
//!   flush that returns after its partition was revoked and assigned again does not mark records of the new assignment as done.
//! * Offsets may have gaps, which need nothing done. A gap at the end of what can be read shows in the consumer's position alone
//!   ([`Ledger::advance`]), which counts as long as every record that was polled was received.
//! * A partition that the group has never committed anything of is committed where it begins, before anything is received: a commit that is
//!   missing later says that the group has never had the partition, and a log that begins above a commit has lost records.
//! * Offsets may go back, when a topic was made anew or its log was truncated. Then the commit point goes back with them: a point
//!   left beyond the log's end would skip whatever is written there later.
//!
//! A loss is recorded in the commit that passes it ([`Loss`]), and in every later commit until an operator acknowledges it. So it survives
//! this worker, and the partition's next owner reports it too.
//!
//! This module does no I/O and reads no clock.
//!
//! See `docs/decisions/lost-records.md` and `docs/decisions/transactional-records.md`.

use std::collections::BTreeMap;

use holdfast_kafka::{Commit, Loss};

/// One assignment of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Generation(u64);

/// A commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point {
    /// The partition's number.
    pub partition: i32,
    /// The assignment that it belongs to.
    pub generation: Generation,
    /// The next offset that the partition's next owner must read.
    pub offset: i64,
    /// The unacknowledged loss below it.
    pub loss: Loss,
}

impl From<&Point> for Commit {
    fn from(point: &Point) -> Self {
        Self { partition: point.partition, offset: point.offset, loss: point.loss }
    }
}

/// Where reading a partition begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Start {
    /// What the group has committed, if anything.
    pub committed: Option<i64>,
    /// The loss that this commit carries.
    pub loss: Loss,
    /// Where the log begins, if it is known.
    pub log_start: Option<i64>,
}

impl Start {
    /// After this commit, if any, in a log whose beginning is not known.
    pub fn after(committed: Option<i64>) -> Self {
        Self { committed, ..Self::default() }
    }

    /// The first offset to be read. `None`: wherever the log begins.
    pub fn offset(&self) -> Option<i64> {
        match (self.committed, self.log_start) {
            (Some(committed), Some(start)) => Some(committed.max(start)),
            (committed, start) => committed.or(start),
        }
    }

    /// How many records were deleted before the group read them. What lies below a group's very first read was never the group's.
    pub fn lost(&self) -> u64 {
        let lost = self.committed.zip(self.log_start).map_or(0, |(committed, start)| start - committed);
        u64::try_from(lost).unwrap_or_default()
    }
}

/// A record whose receipt was recorded.
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
    committed_loss: Loss,
    /// One past the last record received; before the first, where reading begins, if that is known.
    next: Option<i64>,
    /// Offsets received and not done, with how many times each.
    open: BTreeMap<i64, u32>,
    /// Whether a record was polled and not received.
    dropped: bool,
    /// The loss before this assignment.
    loss: Loss,
    /// The losses since, each with the offset that a commit must reach to pass it.
    holes: Vec<(i64, Loss)>,
}

impl Partition {
    fn point(&self) -> Option<i64> {
        let first_open = self.open.first_key_value().map(|(offset, _)| *offset);
        self.next.map(|next| first_open.map_or(next, |open| open.min(next)))
    }

    /// What was lost below an offset.
    fn loss_below(&self, offset: i64) -> Loss {
        self.holes.iter().filter(|(passed, _)| *passed <= offset).fold(self.loss, |all, (_, loss)| all.and(*loss))
    }
}

/// All partitions that are assigned to this worker.
#[derive(Debug, Default)]
pub struct Ledger {
    partitions: BTreeMap<i32, Partition>,
    generations: u64,
}

impl Ledger {
    /// Adds an assigned partition, which is read from [`Start::offset`] on.
    pub fn assign(&mut self, partition: i32, start: Start) -> Generation {
        self.generations += 1;
        let generation = Generation(self.generations);
        let Start { committed, loss, .. } = start;
        let state = Partition {
            generation,
            committed,
            committed_loss: loss,
            next: start.offset(),
            open: BTreeMap::new(),
            dropped: false,
            loss,
            holes: Vec::new(),
        };
        self.partitions.insert(partition, state);
        generation
    }

    /// Removes a revoked partition. Its next owner reads again what was not committed.
    pub fn revoke(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// The partitions that are assigned to this worker.
    pub fn partitions(&self) -> impl Iterator<Item = i32> {
        self.partitions.keys().copied()
    }

    /// Whether what was received under `generation` still counts.
    pub fn is_current(&self, partition: i32, generation: Generation) -> bool {
        self.partitions.get(&partition).is_some_and(|state| state.generation == generation)
    }

    /// Records the receipt of a record. `None`: the partition is not assigned to this worker, so the record must be ignored.
    pub fn receive(&mut self, partition: i32, offset: i64) -> Option<Received> {
        let state = self.partitions.get_mut(&partition)?;
        let expected = state.next.replace(offset + 1);
        *state.open.entry(offset).or_default() += 1;
        Some(Received { generation: state.generation, expected })
    }

    /// Records below `passed` were deleted before they were received.
    pub fn lose(&mut self, partition: i32, passed: i64, loss: Loss) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.holes.push((passed, loss));
        }
    }

    /// The unacknowledged losses of all assigned partitions.
    pub fn lost(&self) -> Loss {
        self.partitions.values().map(|state| state.loss_below(i64::MAX)).fold(Loss::default(), Loss::and)
    }

    /// Records that an operator acknowledges all losses so far. The next commit carries none of them.
    pub fn acknowledge_losses(&mut self) {
        for state in self.partitions.values_mut() {
            state.loss = Loss::default();
            state.holes.clear();
        }
    }

    /// Records that a polled record is left to the partition's next owner: nothing at or above it may be committed.
    pub fn drop_record(&mut self, partition: i32) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            state.dropped = true;
        }
    }

    /// Records how far polling has come: the offsets between the last record and `position` are no records.
    pub fn advance(&mut self, partition: i32, position: i64) {
        if let Some(state) = self.partitions.get_mut(&partition)
            && !state.dropped
            && state.next.is_none_or(|next| next < position)
        {
            state.next = Some(position);
        }
    }

    /// Missing offsets from `expected` on are not judged yet. They count as one record there, which [`Self::done`] ends.
    pub fn doubt(&mut self, partition: i32, expected: i64) {
        if let Some(state) = self.partitions.get_mut(&partition) {
            *state.open.entry(expected).or_default() += 1;
        }
    }

    /// Marks a record as done: it is stored or dead-lettered.
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

    /// The commit points that the broker has not confirmed yet.
    pub fn due(&self) -> Vec<Point> {
        let due = |(partition, state): (&i32, &Partition)| {
            let offset = state.point()?;
            let loss = state.loss_below(offset);
            let known = state.committed == Some(offset) && state.committed_loss == loss;
            (!known).then_some(Point { partition: *partition, generation: state.generation, offset, loss })
        };
        self.partitions.iter().filter_map(due).collect()
    }

    /// Records that the broker has confirmed a commit point.
    pub fn committed(&mut self, point: &Point) {
        let state = self.partitions.get_mut(&point.partition);
        if let Some(state) = state.filter(|state| state.generation == point.generation) {
            state.committed = Some(point.offset);
            state.committed_loss = point.loss;
        }
    }

    /// The offset that the broker has confirmed, as far as is known.
    pub fn committed_offset(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).and_then(|state| state.committed)
    }

    /// Everything below is done, or was before us.
    pub fn point(&self, partition: i32) -> Option<i64> {
        self.partitions.get(&partition).and_then(Partition::point)
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
mod tests;
