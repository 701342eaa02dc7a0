//! Backpressure: takes the fill level of the buffer; pauses and resumes partitions. Polling itself never stops.
//!
//! All partitions are paused above the buffer's capacity, in messages or bytes, and resumed at half of it. A single partition is paused
//! when its records reach too far above its commit point: one record that can't be stored must not let the others pile up behind it, to
//! be read again after a restart. A partition with a record of a newer schema stays paused until it is assigned to another worker.
//!
//! Each assignment starts unpaused; the decisions of an earlier assignment are discarded. [`holdfast_kafka::consumer`] documents what
//! pausing a partition does.
//!
//! See `docs/decisions/paused-partitions.md`.

use std::collections::BTreeSet;

use holdfast_kafka::GroupConsumer;

use crate::ledger::Ledger;

/// The most that the buffer may hold before fetching is paused.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Messages (`MAX_BUFFER_SIZE`).
    pub messages: usize,
    /// Bytes of memory (`MAX_BUFFER_BYTES`).
    pub bytes: usize,
}

/// Which partitions are paused, and why.
#[derive(Debug)]
pub struct Backpressure {
    capacity: Capacity,
    full: bool,
    stopped: bool,
    /// Partitions whose records reach too far above their commit point.
    ahead: BTreeSet<i32>,
    /// Partitions with a record that only a newer worker can decode.
    held: BTreeSet<i32>,
    /// The partitions that the consumer has paused now.
    paused: BTreeSet<i32>,
}

impl Backpressure {
    /// Starts with every partition unpaused.
    pub fn new(capacity: Capacity) -> Self {
        let none = BTreeSet::new;
        Self { capacity, full: false, stopped: false, ahead: none(), held: none(), paused: none() }
    }

    /// Whether all partitions are paused because the buffer is full.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The partitions that wait for a newer worker.
    pub fn held(&self) -> &BTreeSet<i32> {
        &self.held
    }

    /// Pauses all partitions until the process ends.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Pauses a partition until it is revoked.
    pub fn hold(&mut self, partition: i32) {
        self.held.insert(partition);
    }

    /// Discards what is known of a partition that was assigned or revoked.
    pub fn forget(&mut self, partition: i32) {
        for set in [&mut self.ahead, &mut self.held, &mut self.paused] {
            set.remove(&partition);
        }
    }

    /// Decides which partitions must be paused now. Returns those to resume and those to pause.
    pub fn decide(&mut self, messages: usize, bytes: usize, ledger: &Ledger) -> (Vec<i32>, Vec<i32>) {
        let Capacity { messages: most, bytes: most_bytes } = self.capacity;
        self.full = match self.full {
            false => messages > most || bytes > most_bytes,
            true => messages > most / 2 || bytes > most_bytes / 2,
        };
        let mut wanted = BTreeSet::new();
        for partition in ledger.partitions() {
            let span = ledger.span(partition);
            if span >= most {
                self.ahead.insert(partition);
            } else if span <= most / 2 {
                self.ahead.remove(&partition);
            }
            let alone = self.ahead.contains(&partition) || self.held.contains(&partition);
            if self.full || self.stopped || alone {
                wanted.insert(partition);
            }
        }
        let resume = self.paused.difference(&wanted).copied().collect();
        let pause = wanted.difference(&self.paused).copied().collect();
        (resume, pause)
    }

    /// Pauses and resumes the partitions that [`Self::decide`] returns. Returns whether any was resumed, so that records may arrive.
    pub fn apply(&mut self, messages: usize, bytes: usize, ledger: &Ledger, consumer: &mut GroupConsumer) -> bool {
        let was_full = self.full;
        let (resume, pause) = self.decide(messages, bytes, ledger);
        if self.full != was_full {
            tracing::debug!(messages, bytes, paused = self.full, "the buffer's level changed");
        }
        consumer.resume(&resume);
        consumer.pause(&pause);
        self.record(&resume, &pause);
        !resume.is_empty()
    }

    /// Records which partitions the consumer has resumed and paused.
    fn record(&mut self, resume: &[i32], pause: &[i32]) {
        self.paused.retain(|partition| !resume.contains(partition));
        self.paused.extend(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Start;

    fn backpressure() -> Backpressure {
        Backpressure::new(Capacity { messages: 10, bytes: 1000 })
    }

    fn apply(backpressure: &mut Backpressure, messages: usize, bytes: usize, ledger: &Ledger) -> (Vec<i32>, Vec<i32>) {
        let (resume, pause) = backpressure.decide(messages, bytes, ledger);
        backpressure.record(&resume, &pause);
        (resume, pause)
    }

    #[test]
    fn everything_is_paused_above_the_capacity_and_resumed_at_half_of_it() {
        let (mut backpressure, mut ledger) = (backpressure(), Ledger::default());
        ledger.assign(0, Start::after(None));
        ledger.assign(1, Start::after(None));
        assert_eq!(apply(&mut backpressure, 10, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut backpressure, 11, 0, &ledger), (vec![], vec![0, 1]));
        assert_eq!(apply(&mut backpressure, 6, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut backpressure, 5, 0, &ledger), (vec![0, 1], vec![]));
        assert_eq!(apply(&mut backpressure, 5, 1001, &ledger), (vec![], vec![0, 1]));
        assert_eq!(apply(&mut backpressure, 5, 500, &ledger), (vec![0, 1], vec![]));
    }

    #[test]
    fn a_partition_far_above_its_commit_point_is_paused_alone() {
        let (mut backpressure, mut ledger) = (backpressure(), Ledger::default());
        let generation = ledger.assign(0, Start::after(None));
        ledger.assign(1, Start::after(None));
        for offset in 0..10 {
            ledger.receive(0, offset);
        }
        assert_eq!(apply(&mut backpressure, 1, 0, &ledger), (vec![], vec![0]));
        (0..4).for_each(|offset| ledger.done(0, generation, offset));
        assert_eq!(apply(&mut backpressure, 1, 0, &ledger), (vec![], vec![]), "six above");
        ledger.done(0, generation, 4);
        assert_eq!(apply(&mut backpressure, 1, 0, &ledger), (vec![0], vec![]));
    }

    #[test]
    fn a_held_partition_stays_paused_until_it_goes_and_one_that_comes_is_decided_anew() {
        let (mut backpressure, mut ledger) = (backpressure(), Ledger::default());
        ledger.assign(0, Start::after(None));
        backpressure.hold(0);
        assert_eq!(apply(&mut backpressure, 0, 0, &ledger), (vec![], vec![0]));
        assert_eq!(apply(&mut backpressure, 11, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut backpressure, 0, 0, &ledger), (vec![], vec![]));
        backpressure.forget(0);
        assert_eq!(
            apply(&mut backpressure, 11, 0, &ledger),
            (vec![], vec![0]),
            "over the mark: paused again after an assignment"
        );
        backpressure.stop();
        assert_eq!(apply(&mut backpressure, 0, 0, &ledger), (vec![], vec![]));
    }
}
