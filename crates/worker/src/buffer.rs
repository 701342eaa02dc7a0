//! The messages that are received and not yet stored. Takes decoded messages; gives batches, and says when one is due.
//!
//! It counts a message until its flush has ended, so its length and its bytes cover everything received and not yet stored. A message
//! is in one of three states: *fresh*, in the order of arrival; *in flight*, counted only; *set aside*, because MongoDB refused this
//! message alone, to be retried while the others go on.
//!
//! Its capacity is not a hard limit: above it fetching is paused, but the buffer still takes what librdkafka has already delivered.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use holdfast_message::Message;
use holdfast_service::trace::TraceParent;

use crate::ledger::Generation;

/// The record that a message came from, and its state so far.
#[derive(Debug, Clone, Copy)]
pub struct RecordMeta {
    /// The record's partition.
    pub partition: i32,
    /// The assignment under which it was received.
    pub generation: Generation,
    /// The record's offset.
    pub offset: i64,
    /// When the record was received.
    pub received: Instant,
    /// The trace context in the record's headers.
    pub trace: Option<TraceParent>,
    /// When MongoDB first refused this message alone.
    pub refused_since: Option<Instant>,
}

/// Messages, and the metadata of their records in the same order.
#[derive(Debug, Default)]
pub struct Batch {
    /// The messages to store.
    pub messages: Vec<Message>,
    /// The record of each message.
    pub metas: Vec<RecordMeta>,
}

/// The messages that are received and not yet stored.
#[derive(Debug, Default)]
pub struct Buffer {
    fresh: VecDeque<(Message, RecordMeta)>,
    aside: Vec<(Message, RecordMeta)>,
    in_flight: usize,
    bytes: usize,
}

impl Buffer {
    /// Adds a received message.
    pub fn push(&mut self, message: Message, meta: RecordMeta) {
        self.bytes += message.size();
        self.fresh.push_back((message, meta));
    }

    /// How many messages are held, those in flight included.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.aside.len() + self.in_flight
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many are set aside.
    pub fn aside(&self) -> usize {
        self.aside.len()
    }

    /// When the next batch is due although `threshold` fresh messages are not there.
    pub fn due_at(&self, interval: Duration) -> Option<Instant> {
        self.fresh.front().map(|(_, meta)| meta.received + interval)
    }

    /// Whether a batch of fresh messages is due.
    pub fn is_due(&self, now: Instant, threshold: usize, interval: Duration) -> bool {
        self.fresh.len() >= threshold || self.due_at(interval).is_some_and(|at| now >= at)
    }

    /// The earliest stamp among what is not in flight, in epoch milliseconds.
    pub fn oldest_stamp(&self) -> Option<i64> {
        // Fresh messages are almost in the order of their stamps: one chat's are, and partitions are read alike.
        let aside = self.aside.iter().map(|(message, _)| message.timestamp);
        self.fresh.front().map(|(message, _)| message.timestamp).into_iter().chain(aside).min()
    }

    /// Takes at most `limit` messages out for a flush, those set aside first if `with_aside`.
    pub fn take(&mut self, limit: usize, with_aside: bool) -> Batch {
        let aside = if with_aside { self.aside.len().min(limit) } else { 0 };
        let fresh = self.fresh.len().min(limit - aside);
        let (messages, metas) = self.aside.drain(..aside).chain(self.fresh.drain(..fresh)).unzip();
        self.in_flight += aside + fresh;
        Batch { messages, metas }
    }

    /// Stops counting a message of a batch: it is stored, dead-lettered, or its partition was revoked.
    pub fn settle(&mut self, message: &Message) {
        self.in_flight -= 1;
        self.bytes -= message.size();
    }

    /// Returns a message of a batch to the front, to be stored before all others.
    pub fn give_back(&mut self, message: Message, meta: RecordMeta) {
        self.in_flight -= 1;
        self.fresh.push_front((message, meta));
    }

    /// Sets a message of a batch aside, to be retried together with others.
    pub fn set_aside(&mut self, message: Message, meta: RecordMeta) {
        self.in_flight -= 1;
        self.aside.push((message, meta));
    }

    /// Drops a revoked partition's messages that are not in flight. Returns their number.
    pub fn forget(&mut self, partition: i32) -> usize {
        let before = self.fresh.len() + self.aside.len();
        let bytes = &mut self.bytes;
        let mut keep = |(message, meta): &(Message, RecordMeta)| {
            let keep = meta.partition != partition;
            *bytes -= if keep { 0 } else { message.size() };
            keep
        };
        self.fresh.retain(&mut keep);
        self.aside.retain(&mut keep);
        before - self.fresh.len() - self.aside.len()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use holdfast_message::{ChatId, MessageId, UserId};

    use super::*;
    use crate::ledger::{Ledger, Start};

    pub(crate) fn message(number: u8) -> Message {
        let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
        Message {
            id: MessageId::from_bytes([number; 16]),
            temp_id: None,
            chat: ChatId::direct(&alice, &bob).unwrap(),
            sender: alice,
            receiver: Some(bob),
            content: "x".repeat(number.into()),
            image_url: None,
            public_id: None,
            timestamp: 1000 + i64::from(number),
        }
    }

    fn meta(partition: i32, offset: i64, received: Instant) -> RecordMeta {
        let generation = Ledger::default().assign(partition, Start::after(None));
        RecordMeta { partition, generation, offset, received, trace: None, refused_since: None }
    }

    #[test]
    fn a_batch_is_due_at_the_threshold_or_when_the_oldest_has_waited_long_enough() {
        let (mut buffer, now, interval) = (Buffer::default(), Instant::now(), Duration::from_secs(300));
        assert!(!buffer.is_due(now + interval, 3, interval), "nothing is never due");
        for number in 0..2 {
            buffer.push(message(number), meta(0, 0, now + Duration::from_secs(number.into())));
        }
        assert!(!buffer.is_due(now + Duration::from_secs(299), 3, interval));
        assert!(buffer.is_due(now + interval, 3, interval));
        buffer.push(message(9), meta(0, 0, now));
        assert!(buffer.is_due(now, 3, interval));
    }

    #[test]
    fn what_is_held_counts_until_its_flush_has_ended() {
        let (mut buffer, now) = (Buffer::default(), Instant::now());
        for number in 1..=4 {
            buffer.push(message(number), meta(i32::from(number) % 2, number.into(), now));
        }
        let bytes = buffer.bytes();
        let batch = buffer.take(3, true);
        assert_eq!((batch.messages.len(), buffer.len(), buffer.bytes()), (3, 4, bytes));
        let mut back = batch.messages.into_iter().zip(batch.metas);
        let (stored, _) = back.next().unwrap();
        buffer.settle(&stored);
        let (refused, meta) = back.next().unwrap();
        buffer.set_aside(refused, meta);
        let (again, meta) = back.next().unwrap();
        buffer.give_back(again, meta);
        assert_eq!((buffer.len(), buffer.aside(), buffer.bytes()), (3, 1, bytes - message(1).size()));
        assert_eq!(buffer.oldest_stamp(), Some(1002));

        let order = |batch: &Batch| batch.metas.iter().map(|meta| meta.offset).collect::<Vec<_>>();
        let next = buffer.take(10, false);
        assert_eq!(order(&next), [3, 4], "what came back goes first, what was set aside waits for its turn");
        next.messages.iter().for_each(|message| buffer.settle(message));
        assert_eq!(order(&buffer.take(10, true)), [2]);
    }

    #[test]
    fn a_partition_that_went_away_takes_its_messages_with_it() {
        let (mut buffer, now) = (Buffer::default(), Instant::now());
        for number in 1..=5 {
            buffer.push(message(number), meta(i32::from(number) % 2, number.into(), now));
        }
        assert_eq!(buffer.forget(1), 3);
        assert_eq!((buffer.len(), buffer.bytes()), (2, message(2).size() + message(4).size()));
    }
}

#[cfg(test)]
mod model;
