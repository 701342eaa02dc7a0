//! The messages that this process has made durable lately, so that a repeat keeps its timestamp without the cache too, and need not be published again
//! if Kafka has it.
//!
//! See `docs/decisions/listed-and-stored-times.md`.

use holdfast_message::MessageId;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::wire::responses::Durability;

/// Messages that are remembered; about 10 MB.
pub(crate) const REMEMBERED: u64 = 100_000;

/// The newest durable messages. Cheap to clone.
#[derive(Clone)]
pub(crate) struct AckedMessages(Cache<MessageId, AckedMessage>);

/// A message that became durable here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AckedMessage {
    /// The timestamp of the first copy, in Unix epoch milliseconds.
    pub(crate) timestamp: i64,
    /// Kafka, once it has acknowledged a copy.
    pub(crate) by: Durability,
}

impl AckedMessages {
    /// Remembers `capacity` messages: the least recently used goes first. How often one was read, moka's usual criterion, means nothing here.
    pub(crate) fn new(capacity: u64) -> Self {
        Self(Cache::builder().max_capacity(capacity).eviction_policy(EvictionPolicy::lru()).build())
    }

    /// What became durable here, if it is remembered.
    pub(crate) fn get(&self, id: &MessageId) -> Option<AckedMessage> {
        self.0.get(id)
    }

    /// Records a durable copy. The first copy's timestamp stays, and Kafka's acknowledgement once it is there.
    pub(crate) fn record(&self, id: MessageId, timestamp: i64, by: Durability) {
        self.0.entry(id).and_upsert_with(|known| match known.map(|entry| entry.into_value()) {
            Some(known) if known.by == Durability::Kafka => known,
            Some(known) => AckedMessage { by, ..known },
            None => AckedMessage { timestamp, by },
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
        let acked = AckedMessages::new(100);
        for number in 0..10_000 {
            assert_eq!(acked.get(&id(number)), None);
            acked.record(id(number), number.into(), Durability::Kafka);
            acked.0.run_pending_tasks();
        }
        for number in 9_900..10_000 {
            assert_eq!(acked.get(&id(number)).map(|durable| durable.timestamp), Some(number.into()));
        }
        assert_eq!(acked.get(&id(9_000)), None);
    }

    #[test]
    fn the_first_time_and_kafkas_acknowledgement_stay() {
        let acked = AckedMessages::new(100);
        acked.record(id(1), 10, Durability::FailedQueue);
        assert_eq!(acked.get(&id(1)), Some(AckedMessage { timestamp: 10, by: Durability::FailedQueue }));
        acked.record(id(1), 20, Durability::Kafka);
        acked.record(id(1), 30, Durability::FailedQueue);
        assert_eq!(acked.get(&id(1)), Some(AckedMessage { timestamp: 10, by: Durability::Kafka }));
    }
}
