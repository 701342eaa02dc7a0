use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn due(ledger: &Ledger) -> Vec<(i32, i64)> {
    ledger.due().into_iter().map(|point| (point.partition, point.offset)).collect()
}

#[test]
fn a_point_waits_for_the_earliest_record_whatever_later_ones_do() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Some(10));
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
    let old = ledger.assign(0, None);
    ledger.receive(0, 0);
    ledger.revoke(0);
    assert_eq!(ledger.receive(0, 1), None, "not ours");
    let new = ledger.assign(0, None);
    ledger.receive(0, 0);
    ledger.done(0, old, 0);
    assert_eq!((due(&ledger), ledger.open(0)), (vec![(0, 0)], 1));
    ledger.committed(&Point { partition: 0, generation: old, offset: 1 });
    ledger.done(0, new, 0);
    assert_eq!(due(&ledger), [(0, 1)]);
}

#[test]
fn a_jump_is_told_and_a_topic_made_anew_takes_the_point_back() {
    let mut ledger = Ledger::default();
    let generation = ledger.assign(0, Some(100));
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
    let generation = ledger.assign(0, None);
    ledger.receive(0, 5);
    ledger.receive(0, 5);
    ledger.done(0, generation, 5);
    assert_eq!(due(&ledger), [(0, 5)]);
    ledger.done(0, generation, 5);
    assert_eq!(due(&ledger), [(0, 6)]);
}

#[derive(Debug, Clone)]
enum Step {
    Poll(u8),
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
        self.ledger.assign(partition, Some(from).filter(|from| *from > 0));
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
