//! Back-pressure. Takes how much is held; pauses and resumes partitions. Polling itself never stops.
//!
//! Everything is paused above the buffer's capacity, in messages or bytes, and resumed at half of it. One partition is paused
//! alone when its records reach too far above its commit point: one record that can't be done must not let the others pile up
//! behind it, to be read again after a restart. A partition with a record of a newer schema is paused until it goes elsewhere.
//!
//! An assignment begins unpaused and is decided anew: nothing of an earlier one counts. What pausing means is told in
//! [`holdfast_kafka::consumer`].
//!
//! See `docs/decisions/paused-partitions.md`.

use std::collections::BTreeSet;

use holdfast_kafka::GroupConsumer;

use crate::ledger::Ledger;

/// What is held, and what may be.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// `MAX_BUFFER_SIZE`.
    pub messages: usize,
    /// `MAX_BUFFER_BYTES`.
    pub bytes: usize,
}

/// Which partitions are paused, and why.
#[derive(Debug)]
pub struct Pauses {
    capacity: Capacity,
    full: bool,
    stopped: bool,
    /// Too far above their commit point.
    ahead: BTreeSet<i32>,
    /// With a record that only a newer worker understands.
    held: BTreeSet<i32>,
    /// As the consumer has been told.
    paused: BTreeSet<i32>,
}

impl Pauses {
    /// Nothing is paused.
    pub fn new(capacity: Capacity) -> Self {
        let none = BTreeSet::new;
        Self { capacity, full: false, stopped: false, ahead: none(), held: none(), paused: none() }
    }

    /// Whether fetching is paused as the buffer is full.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// The partitions that wait for a newer worker.
    pub fn held(&self) -> &BTreeSet<i32> {
        &self.held
    }

    /// Stops fetching for good.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Pauses a partition until it goes elsewhere.
    pub fn hold(&mut self, partition: i32) {
        self.held.insert(partition);
    }

    /// A partition came or went: nothing is known of it any more.
    pub fn forget(&mut self, partition: i32) {
        for set in [&mut self.ahead, &mut self.held, &mut self.paused] {
            set.remove(&partition);
        }
    }

    /// Decides anew. Returns what to resume and what to pause.
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

    /// Makes the consumer do what [`Self::decide`] says. Returns whether there may be records again.
    pub fn apply(&mut self, messages: usize, bytes: usize, ledger: &Ledger, consumer: &mut GroupConsumer) -> bool {
        let was_full = self.full;
        let (resume, pause) = self.decide(messages, bytes, ledger);
        if self.full != was_full {
            tracing::debug!(messages, bytes, paused = self.full, "the buffer's level changed");
        }
        consumer.resume(&resume);
        consumer.pause(&pause);
        self.tell(&resume, &pause);
        !resume.is_empty()
    }

    fn tell(&mut self, resume: &[i32], pause: &[i32]) {
        self.paused.retain(|partition| !resume.contains(partition));
        self.paused.extend(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Start;

    fn pauses() -> Pauses {
        Pauses::new(Capacity { messages: 10, bytes: 1000 })
    }

    fn apply(pauses: &mut Pauses, messages: usize, bytes: usize, ledger: &Ledger) -> (Vec<i32>, Vec<i32>) {
        let (resume, pause) = pauses.decide(messages, bytes, ledger);
        pauses.tell(&resume, &pause);
        (resume, pause)
    }

    #[test]
    fn everything_is_paused_above_the_capacity_and_resumed_at_half_of_it() {
        let (mut pauses, mut ledger) = (pauses(), Ledger::default());
        ledger.assign(0, Start::after(None));
        ledger.assign(1, Start::after(None));
        assert_eq!(apply(&mut pauses, 10, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut pauses, 11, 0, &ledger), (vec![], vec![0, 1]));
        assert_eq!(apply(&mut pauses, 6, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut pauses, 5, 0, &ledger), (vec![0, 1], vec![]));
        assert_eq!(apply(&mut pauses, 5, 1001, &ledger), (vec![], vec![0, 1]));
        assert_eq!(apply(&mut pauses, 5, 500, &ledger), (vec![0, 1], vec![]));
    }

    #[test]
    fn a_partition_far_above_its_commit_point_is_paused_alone() {
        let (mut pauses, mut ledger) = (pauses(), Ledger::default());
        let generation = ledger.assign(0, Start::after(None));
        ledger.assign(1, Start::after(None));
        for offset in 0..10 {
            ledger.receive(0, offset);
        }
        assert_eq!(apply(&mut pauses, 1, 0, &ledger), (vec![], vec![0]));
        (0..4).for_each(|offset| ledger.done(0, generation, offset));
        assert_eq!(apply(&mut pauses, 1, 0, &ledger), (vec![], vec![]), "six above");
        ledger.done(0, generation, 4);
        assert_eq!(apply(&mut pauses, 1, 0, &ledger), (vec![0], vec![]));
    }

    #[test]
    fn a_held_partition_stays_paused_until_it_goes_and_one_that_comes_is_decided_anew() {
        let (mut pauses, mut ledger) = (pauses(), Ledger::default());
        ledger.assign(0, Start::after(None));
        pauses.hold(0);
        assert_eq!(apply(&mut pauses, 0, 0, &ledger), (vec![], vec![0]));
        assert_eq!(apply(&mut pauses, 11, 0, &ledger), (vec![], vec![]));
        assert_eq!(apply(&mut pauses, 0, 0, &ledger), (vec![], vec![]));
        pauses.forget(0);
        assert_eq!(
            apply(&mut pauses, 11, 0, &ledger),
            (vec![], vec![0]),
            "over the mark: paused again after an assignment"
        );
        pauses.stop();
        assert_eq!(apply(&mut pauses, 0, 0, &ledger), (vec![], vec![]));
    }
}
