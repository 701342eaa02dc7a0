//! What this process has made durable lately, so that a repeat keeps its time without the cache too, and need not be published again
//! if Kafka has it.

use holdfast_message::MessageId;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::wire::responses::Durability;

/// How many messages are remembered; about 10 MB.
pub(crate) const REMEMBERED: u64 = 100_000;

/// The newest durable messages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Durables(Cache<MessageId, Durable>);

/// A message that became durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Durable {
    /// The timestamp of the first copy, in Unix epoch milliseconds.
    pub(crate) timestamp: i64,
    /// Kafka, once it has acknowledged a copy.
    pub(crate) by: Durability,
}

impl Durables {
    /// Remembers so many: the least recently used goes first. What was asked for most, which moka would keep otherwise, means nothing here.
    pub(crate) fn new(capacity: u64) -> Self {
        Self(Cache::builder().max_capacity(capacity).eviction_policy(EvictionPolicy::lru()).build())
    }

    /// What became durable here, if it is remembered.
    pub(crate) fn get(&self, id: &MessageId) -> Option<Durable> {
        self.0.get(id)
    }

    /// Takes note of a copy. The first one's time stays, and Kafka's acknowledgement once it is there.
    pub(crate) fn note(&self, id: MessageId, timestamp: i64, by: Durability) {
        self.0.entry(id).and_upsert_with(|known| match known.map(|entry| entry.into_value()) {
            Some(known) if known.by == Durability::Kafka => known,
            Some(known) => Durable { by, ..known },
            None => Durable { timestamp, by },
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> MessageId {
        MessageId::from_bytes(u128::from(number).to_be_bytes())
    }

    #[test]
    fn the_newest_are_remembered_however_many_came_before() {
        let durables = Durables::new(100);
        for number in 0..10_000 {
            assert_eq!(durables.get(&id(number)), None);
            durables.note(id(number), number.into(), Durability::Kafka);
            durables.0.run_pending_tasks();
        }
        for number in 9_900..10_000 {
            assert_eq!(durables.get(&id(number)).map(|durable| durable.timestamp), Some(number.into()));
        }
        assert_eq!(durables.get(&id(9_000)), None);
    }

    #[test]
    fn the_first_time_and_kafkas_acknowledgement_stay() {
        let durables = Durables::new(100);
        durables.note(id(1), 10, Durability::FailedQueue);
        assert_eq!(durables.get(&id(1)), Some(Durable { timestamp: 10, by: Durability::FailedQueue }));
        durables.note(id(1), 20, Durability::Kafka);
        durables.note(id(1), 30, Durability::FailedQueue);
        assert_eq!(durables.get(&id(1)), Some(Durable { timestamp: 10, by: Durability::Kafka }));
    }
}
