//! Random schedules of receiving, flushing and revoking, against a model that only knows where each message is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::message;
use super::*;
use crate::ledger::{Ledger, Start};

#[derive(Debug, Clone)]
enum Step {
    Push {
        partition: i32,
        size: u8,
    },
    Take {
        limit: usize,
        with_aside: bool,
    },
    /// The oldest batch in flight ends: each of its messages as these say, over and over.
    End(Vec<End>),
    Forget(i32),
}

#[derive(Debug, Clone, Copy)]
enum End {
    Settled,
    GivenBack,
    SetAside,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![3 => Just(End::Settled), 1 => Just(End::GivenBack), 1 => Just(End::SetAside)];
    prop_oneof![
        8 => (0..3, any::<u8>()).prop_map(|(partition, size)| Step::Push { partition, size }),
        3 => (0_usize..12, any::<bool>()).prop_map(|(limit, with_aside)| Step::Take { limit, with_aside }),
        3 => prop::collection::vec(end, 1..6).prop_map(Step::End),
        1 => (0..3).prop_map(Step::Forget),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Fresh,
    Aside,
    InFlight,
}

/// Everything that is held, by its offset, which is its own here.
#[derive(Default)]
struct Model {
    held: BTreeMap<i64, (i32, usize, At)>,
}

impl Model {
    fn count(&self, at: At) -> usize {
        self.held.values().filter(|(_, _, there)| *there == at).count()
    }

    fn move_to(&mut self, offset: i64, from: At, to: At) {
        let (_, _, at) = self.held.get_mut(&offset).expect("held, and not doubled");
        assert_eq!(*at, from, "{offset}");
        *at = to;
    }
}

proptest! {
    #[test]
    fn no_message_is_lost_or_doubled_and_counts_and_bytes_never_drift(steps in prop::collection::vec(step(), 1..200)) {
        let (mut buffer, mut model) = (Buffer::default(), Model::default());
        let mut flights: std::collections::VecDeque<Batch> = std::collections::VecDeque::new();
        let generation = Ledger::default().assign(0, Start::after(None));
        for (offset, step) in (0_i64..).zip(steps) {
            match step {
                Step::Push { partition, size } => {
                    let message = message(size);
                    model.held.insert(offset, (partition, message.size(), At::Fresh));
                    let received = Instant::now();
                    buffer.push(message, RecordMeta { partition, generation, offset, received, trace: None, refused_since: None });
                }
                Step::Take { limit, with_aside } => {
                    let aside = if with_aside { model.count(At::Aside).min(limit) } else { 0 };
                    let wanted = aside + model.count(At::Fresh).min(limit - aside);
                    let batch = buffer.take(limit, with_aside);
                    prop_assert_eq!((batch.messages.len(), batch.metas.len()), (wanted, wanted));
                    for (index, meta) in batch.metas.iter().enumerate() {
                        let from = if index < aside { At::Aside } else { At::Fresh };
                        model.move_to(meta.offset, from, At::InFlight);
                    }
                    flights.push_back(batch);
                }
                Step::End(ends) => {
                    let Some(Batch { messages, metas }) = flights.pop_front() else { continue };
                    for ((message, meta), end) in messages.into_iter().zip(metas).zip(ends.iter().cycle()) {
                        match end {
                            End::Settled => {
                                model.held.remove(&meta.offset);
                                buffer.settle(&message);
                            }
                            End::GivenBack => {
                                model.move_to(meta.offset, At::InFlight, At::Fresh);
                                buffer.give_back(message, meta);
                            }
                            End::SetAside => {
                                model.move_to(meta.offset, At::InFlight, At::Aside);
                                buffer.set_aside(message, meta);
                            }
                        }
                    }
                }
                Step::Forget(partition) => {
                    let before = model.held.len();
                    model.held.retain(|_, (of, _, at)| *of != partition || *at == At::InFlight);
                    prop_assert_eq!(buffer.forget(partition), before - model.held.len());
                }
            }
            prop_assert_eq!(buffer.len(), model.held.len());
            prop_assert_eq!(buffer.aside(), model.count(At::Aside));
            prop_assert_eq!(buffer.bytes(), model.held.values().map(|(_, size, _)| size).sum::<usize>());
        }
        // Whatever is left comes out, each once.
        for flight in flights {
            for (message, meta) in flight.messages.iter().zip(&flight.metas) {
                model.held.remove(&meta.offset).expect("in flight");
                buffer.settle(message);
            }
        }
        let rest = buffer.take(usize::MAX, true);
        for (message, meta) in rest.messages.iter().zip(&rest.metas) {
            model.held.remove(&meta.offset).expect("held, and not doubled");
            buffer.settle(message);
        }
        prop_assert!(model.held.is_empty() && buffer.is_empty() && buffer.bytes() == 0);
    }
}
