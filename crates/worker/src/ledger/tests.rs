use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn due(ledger: &Ledger) -> Vec<(i32, i64)> {
    ledger.due().into_iter().map(|point| (point.partition, point.offset)).collect()
}

#[test]
fn a_point_waits_for_the_earliest_record_whatever_later_ones_do() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(10)));
    assert_eq!(due(&ledger), [], "nothing was received");
    for offset in [10, 11, 14] {
        assert!(ledger.receive(0, offset).is_some());
    }
    ledger.done(0, generation, 11);
    ledger.done(0, generation, 14);
    assert_eq!((due(&ledger), ledger.point(0), ledger.span(0)), (vec![], Some(10), 5));
    ledger.done(0, generation, 10);
    assert_eq!((due(&ledger), ledger.span(0)), (vec![(0, 15)], 0), "over the gap at 12 and 13");
    ledger.committed(&ledger.due()[0]);
    assert_eq!(due(&ledger), []);
}

#[test]
fn what_was_received_under_another_assignment_counts_for_nothing() {
    let mut ledger = Ledger::default();
    let old = ledger.assign(0, Start::after(None));
    ledger.receive(0, 0);
    ledger.revoke(0);
    assert_eq!(ledger.receive(0, 1), None, "not ours");
    let new = ledger.assign(0, Start::after(None));
    ledger.receive(0, 0);
    ledger.done(0, old, 0);
    assert_eq!((due(&ledger), ledger.open(0)), (vec![(0, 0)], 1));
    ledger.committed(&Point { partition: 0, generation: old, offset: 1, loss: Loss::default() });
    ledger.done(0, new, 0);
    assert_eq!(due(&ledger), [(0, 1)]);
}

#[test]
fn a_jump_is_told_and_a_topic_made_anew_takes_the_point_back() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(100)));
    assert_eq!(ledger.receive(0, 120).unwrap().expected, Some(100));
    assert_eq!(ledger.receive(0, 121).unwrap().expected, Some(121));
    ledger.done(0, generation, 120);
    ledger.done(0, generation, 121);
    assert_eq!(due(&ledger), [(0, 122)]);
    ledger.committed(&ledger.due()[0]);
    assert_eq!(ledger.receive(0, 0).unwrap().expected, Some(122));
    ledger.done(0, generation, 0);
    assert_eq!(due(&ledger), [(0, 1)], "not 122, which the new log will reach some day");
}

#[test]
fn a_record_received_twice_must_be_done_twice() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(None));
    ledger.receive(0, 5);
    ledger.receive(0, 5);
    ledger.done(0, generation, 5);
    assert_eq!(due(&ledger), [(0, 5)]);
    ledger.done(0, generation, 5);
    assert_eq!(due(&ledger), [(0, 6)]);
}

#[test]
fn a_group_that_has_committed_nothing_commits_where_the_log_begins_and_misses_nothing_below() {
    let mut ledger = Ledger::default();
    let start = Start { log_start: Some(28), ..Start::default() };
    assert_eq!((start.offset(), start.lost()), (Some(28), 0));
    ledger.assign(0, start);
    assert_eq!(due(&ledger), [(0, 28)], "before anything is received");
    ledger.committed(&ledger.due()[0]);
    assert_eq!(due(&ledger), []);
    assert_eq!(ledger.receive(0, 28).unwrap().expected, Some(28));
    // Where the log begins is not known: then nothing can be missed in front of the first record.
    ledger.assign(0, Start::default());
    assert_eq!((due(&ledger), ledger.receive(0, 28).unwrap().expected), (vec![], None));
}

#[test]
fn a_log_that_begins_above_the_commit_has_lost_what_lies_between() {
    let start = |committed, log_start| Start { log_start: Some(log_start), ..Start::after(Some(committed)) };
    assert_eq!((start(10, 17).offset(), start(10, 17).lost()), (Some(17), 7));
    assert_eq!((start(17, 10).offset(), start(17, 10).lost()), (Some(17), 0));
    assert_eq!((Start::after(Some(10)).offset(), Start::after(Some(10)).lost()), (Some(10), 0));
}

#[test]
fn a_loss_goes_with_the_commit_that_passes_it_and_with_every_later_one_until_it_is_acknowledged() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(10)));
    ledger.receive(0, 10);
    ledger.receive(0, 20);
    ledger.lose(0, 20, Loss { records: 9, since: 500 });
    assert_eq!(ledger.lost().records, 9, "it is known at once");
    ledger.done(0, generation, 20);
    assert_eq!(ledger.due(), [], "the hole is not passed: whoever is next finds it again");
    ledger.done(0, generation, 10);
    let point = ledger.due()[0];
    assert_eq!((point.offset, point.loss), (21, Loss { records: 9, since: 500 }));
    ledger.committed(&point);
    assert_eq!(ledger.due(), []);

    // The next owner has it from the commit, and finds one more.
    let mut next = Ledger::default();
    let generation = next.assign(0, Start { loss: point.loss, ..Start::after(Some(21)) });
    assert_eq!((next.lost(), next.due()), (point.loss, vec![]));
    next.receive(0, 25);
    next.lose(0, 25, Loss { records: 1, since: 900 });
    next.done(0, generation, 25);
    let point = next.due()[0];
    assert_eq!(point.loss, Loss { records: 10, since: 500 });

    // Acknowledged while that is on its way: what the broker takes then is out of date, and is sent again.
    next.acknowledge_losses();
    next.committed(&point);
    let point = next.due()[0];
    assert_eq!((point.offset, point.loss, next.lost()), (26, Loss::default(), Loss::default()));
    next.committed(&point);
    assert_eq!(next.due(), []);
}

#[test]
fn what_is_no_record_at_the_end_is_committed_once_everything_before_it_is_done() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(10)));
    ledger.advance(0, 10);
    assert_eq!(due(&ledger), [], "nothing was passed");
    ledger.receive(0, 10);
    ledger.advance(0, 12);
    assert_eq!((due(&ledger), ledger.point(0)), (vec![], Some(10)), "the record is not stored");
    ledger.done(0, generation, 10);
    assert_eq!(due(&ledger), [(0, 12)]);
    ledger.committed(&ledger.due()[0]);
    // Nothing but markers, for somebody who has received no record at all.
    ledger.assign(0, Start::after(Some(12)));
    ledger.advance(0, 13);
    assert_eq!(due(&ledger), [(0, 13)]);
    ledger.advance(0, 11);
    assert_eq!(due(&ledger), [(0, 13)], "a position that is behind says nothing");
    ledger.advance(1, 5);
    assert_eq!(ledger.partitions().collect::<Vec<_>>(), [0], "nor does another's");
}

#[test]
fn a_record_that_was_polled_and_not_received_is_never_passed() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(10)));
    ledger.receive(0, 10);
    ledger.done(0, generation, 10);
    ledger.drop_record(0);
    ledger.advance(0, 12);
    assert_eq!(due(&ledger), [(0, 11)]);
    // The next assignment receives it.
    ledger.assign(0, Start::after(Some(11)));
    ledger.receive(0, 11);
    ledger.advance(0, 13);
    assert_eq!(ledger.point(0), Some(11));
}

#[test]
fn nothing_beyond_a_gap_in_doubt_is_committed() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Start::after(Some(10)));
    assert_eq!(ledger.receive(0, 15).unwrap().expected, Some(10));
    ledger.doubt(0, 10);
    ledger.done(0, generation, 15);
    assert_eq!(due(&ledger), []);
    ledger.done(0, generation, 10);
    assert_eq!(due(&ledger), [(0, 16)]);
}

#[derive(Debug, Clone)]
enum Step {
    Poll(u8),
    /// Only what is no record: up to the next record.
    Markers,
    /// Polled while the worker drains.
    Drop,
    /// A batch comes back: each record with this bit set is stored.
    Flush(u64),
    SendCommit,
    CommitAnswered {
        taken: bool,
    },
    Revoke {
        partition: i32,
    },
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20u8).prop_map(Step::Poll),
        2 => Just(Step::Markers),
        1 => Just(Step::Drop),
        4 => any::<u64>().prop_map(Step::Flush),
        2 => Just(Step::SendCommit),
        2 => any::<bool>().prop_map(|taken| Step::CommitAnswered { taken }),
        1 => (0..2).prop_map(|partition| Step::Revoke { partition }),
        1 => Just(Step::Crash),
    ]
}

/// A broker, a store and workers that come and go, around the ledger.
#[derive(Default)]
struct World {
    ledger: Ledger,
    committed: [i64; 2],
    position: [i64; 2],
    stored: [BTreeSet<i64>; 2],
    /// Records in the buffer or in flight, of any assignment.
    held: Vec<(i32, Generation, i64)>,
    sent: Vec<Point>,
}

impl World {
    fn assign(&mut self, partition: i32) {
        let from = self.committed[partition as usize];
        self.position[partition as usize] = from;
        let committed = Some(from).filter(|from| *from > 0);
        self.ledger.assign(partition, Start { log_start: Some(0), ..Start::after(committed) });
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Poll(count) => {
                for partition in 0..2 {
                    for _ in 0..count {
                        let offset = &mut self.position[partition as usize];
                        // Every seventh offset is a gap.
                        *offset += i64::from(*offset % 7 == 3);
                        let received = self.ledger.receive(partition, *offset).unwrap();
                        self.held.push((partition, received.generation, *offset));
                        *offset += 1;
                    }
                }
            }
            Step::Markers => {
                for partition in 0..2 {
                    let offset = &mut self.position[partition as usize];
                    *offset += i64::from(*offset % 7 == 3);
                    self.ledger.advance(partition, *offset);
                }
            }
            Step::Drop => {
                for partition in 0..2 {
                    self.position[partition as usize] += 1;
                    self.ledger.drop_record(partition);
                    self.ledger.advance(partition, self.position[partition as usize]);
                }
                // What was on its way before has its answer, and another commit may follow.
                for step in
                    [Step::CommitAnswered { taken: true }, Step::SendCommit, Step::CommitAnswered { taken: true }]
                {
                    self.run(step);
                }
                // A worker that drains receives nothing more until it is assigned anew.
                self.assign(0);
                self.assign(1);
            }
            Step::Flush(pattern) => {
                let mut bit = 0;
                self.held.retain(|(partition, generation, offset)| {
                    bit = (bit + 1) % 64;
                    let stored = pattern >> bit & 1 == 1;
                    if stored {
                        self.stored[*partition as usize].insert(*offset);
                        self.ledger.done(*partition, *generation, *offset);
                    }
                    !stored
                });
            }
            Step::SendCommit if self.sent.is_empty() => self.sent = self.ledger.due(),
            Step::SendCommit => {}
            Step::CommitAnswered { taken } => {
                for point in std::mem::take(&mut self.sent) {
                    // A broker refuses a commit of an assignment that is over.
                    if taken && self.ledger.is_current(point.partition, point.generation) {
                        self.committed[point.partition as usize] = point.offset;
                        self.ledger.committed(&point);
                    }
                }
            }
            Step::Revoke { partition } => {
                self.ledger.revoke(partition);
                self.assign(partition);
            }
            Step::Crash => {
                (self.ledger, self.held, self.sent) = (Ledger::default(), Vec::new(), Vec::new());
                self.assign(0);
                self.assign(1);
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_committed_is_stored(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::default();
        world.assign(0);
        world.assign(1);
        for step in steps {
            world.run(step);
            for (committed, stored) in world.committed.iter().zip(&world.stored) {
                for offset in (0..*committed).filter(|offset| offset % 7 != 3) {
                    prop_assert!(stored.contains(&offset), "{offset} is committed (< {committed}) and not stored");
                }
            }
        }
        // And nothing stays behind once everything is stored and commits succeed.
        for step in [Step::CommitAnswered { taken: false }, Step::Flush(u64::MAX), Step::SendCommit, Step::CommitAnswered { taken: true }] {
            world.run(step);
        }
        for partition in 0..2 {
            prop_assert_eq!(world.committed[partition], world.position[partition]);
        }
    }
}
