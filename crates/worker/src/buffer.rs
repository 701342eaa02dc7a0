//! The messages that are received and not yet stored. Takes decoded messages; gives batches, and says when one is due.
//!
//! It holds a message until its flush has ended, so that its length and its bytes are what the process is answerable for. A
//! message is in one of three places: *fresh*, in the order of arrival; *in flight*, counted only; *set aside*, because MongoDB
//! would not take it alone, to be tried again while the others go on.
//!
//! Its capacity is not a hard limit: above it fetching is paused, and what librdkafka has handed over already is still taken.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use holdfast_message::Message;
use holdfast_service::trace::TraceParent;

use crate::ledger::Generation;

/// Where a message came from, and what happened to it so far.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its partition.
    pub partition: i32,
    /// The assignment under which it was received.
    pub generation: Generation,
    /// Its offset.
    pub offset: i64,
    /// When it was received.
    pub received: Instant,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
    /// When MongoDB first would not take it alone.
    pub refused_since: Option<Instant>,
}

/// Messages and their places, in step.
#[derive(Debug, Default)]
pub struct Batch {
    /// What is to be stored.
    pub messages: Vec<Message>,
    /// Where each came from.
    pub places: Vec<Place>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Buffer {
    fresh: VecDeque<(Message, Place)>,
    aside: Vec<(Message, Place)>,
    in_flight: usize,
    bytes: usize,
}

impl Buffer {
    /// Takes a message in.
    pub fn push(&mut self, message: Message, place: Place) {
        self.bytes += message.size();
        self.fresh.push_back((message, place));
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
        self.fresh.front().map(|(_, place)| place.received + interval)
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
        let (messages, places) = self.aside.drain(..aside).chain(self.fresh.drain(..fresh)).unzip();
        self.in_flight += aside + fresh;
        Batch { messages, places }
    }

    /// A message of a batch is stored, dead-lettered or no longer ours.
    pub fn settle(&mut self, message: &Message) {
        self.in_flight -= 1;
        self.bytes -= message.size();
    }

    /// A message of a batch must be tried again, before all others.
    pub fn give_back(&mut self, message: Message, place: Place) {
        self.in_flight -= 1;
        self.fresh.push_front((message, place));
    }

    /// A message of a batch must be tried again, beside the others.
    pub fn set_aside(&mut self, message: Message, place: Place) {
        self.in_flight -= 1;
        self.aside.push((message, place));
    }

    /// Drops what is not in flight of a partition that is no longer ours. Returns how many messages that were.
    pub fn forget(&mut self, partition: i32) -> usize {
        let before = self.fresh.len() + self.aside.len();
        let bytes = &mut self.bytes;
        let mut keep = |(message, place): &(Message, Place)| {
            let kept = place.partition != partition;
            *bytes -= if kept { 0 } else { message.size() };
            kept
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

    fn place(partition: i32, offset: i64, received: Instant) -> Place {
        let generation = Ledger::default().assign(partition, Start::after(None));
        Place { partition, generation, offset, received, trace: None, refused_since: None }
    }

    #[test]
    fn a_batch_is_due_at_the_threshold_or_when_the_oldest_has_waited_long_enough() {
        let (mut buffer, now, interval) = (Buffer::default(), Instant::now(), Duration::from_secs(300));
        assert!(!buffer.is_due(now + interval, 3, interval), "nothing is never due");
        for number in 0..2 {
            buffer.push(message(number), place(0, 0, now + Duration::from_secs(number.into())));
        }
        assert!(!buffer.is_due(now + Duration::from_secs(299), 3, interval));
        assert!(buffer.is_due(now + interval, 3, interval));
        buffer.push(message(9), place(0, 0, now));
        assert!(buffer.is_due(now, 3, interval));
    }

    #[test]
    fn what_is_held_counts_until_its_flush_has_ended() {
        let (mut buffer, now) = (Buffer::default(), Instant::now());
        for number in 1..=4 {
            buffer.push(message(number), place(i32::from(number) % 2, number.into(), now));
        }
        let bytes = buffer.bytes();
        let batch = buffer.take(3, true);
        assert_eq!((batch.messages.len(), buffer.len(), buffer.bytes()), (3, 4, bytes));
        let mut back = batch.messages.into_iter().zip(batch.places);
        let (stored, _) = back.next().unwrap();
        buffer.settle(&stored);
        let (refused, place) = back.next().unwrap();
        buffer.set_aside(refused, place);
        let (again, place) = back.next().unwrap();
        buffer.give_back(again, place);
        assert_eq!((buffer.len(), buffer.aside(), buffer.bytes()), (3, 1, bytes - message(1).size()));
        assert_eq!(buffer.oldest_stamp(), Some(1002));

        let order = |batch: &Batch| batch.places.iter().map(|place| place.offset).collect::<Vec<_>>();
        let next = buffer.take(10, false);
        assert_eq!(order(&next), [3, 4], "what came back goes first, what was set aside waits for its turn");
        next.messages.iter().for_each(|message| buffer.settle(message));
        assert_eq!(order(&buffer.take(10, true)), [2]);
    }

    #[test]
    fn a_partition_that_went_away_takes_its_messages_with_it() {
        let (mut buffer, now) = (Buffer::default(), Instant::now());
        for number in 1..=5 {
            buffer.push(message(number), place(i32::from(number) % 2, number.into(), now));
        }
        assert_eq!(buffer.forget(1), 3);
        assert_eq!((buffer.len(), buffer.bytes()), (2, message(2).size() + message(4).size()));
    }
}

#[cfg(test)]
#[path = "buffer_model_tests.rs"]
mod model;
