//! The deduplication window: which connections received which messages, so that one connection receives a `messageId` once.
//!
//! A message that was delivered while the cache was away is listed later and announced then, with its position; after the cache has
//! lost its data, messages are listed and announced again. A connection that received the message already needs its position only.
//! So the window holds, for each message, the position under which it was last announced, and the connections that received it, each
//! with whether it knows that position.
//!
//! The window covers [`KEEP`] and at most [`MAX_MESSAGES`] messages and [`MAX_RECEIPTS`] receipts (one for each connection that received a
//! message) of the whole gateway; beyond that, the messages that were sent longest ago are forgotten first. It is divided by message
//! id into [`SHARDS`] parts, each behind its own lock, which is held while the message is given to its connections: so two
//! announcements of one message do not overtake each other. Looking up, adding and forgetting take constant time.
//!
//! Memory: about 160 bytes for a message with up to 4 receipts (96 in a table of powers of two, 20 in the queue), and with more of them
//! 8 to 16 bytes for each. At the bounds that is 16 MB for messages and at most 32 MB for receipts.
//!
//! See `docs/decisions/one-delivery-per-connection.md`.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_message::MessageId;
use holdfast_message::json::Position;
use prometheus::IntGauge;
use smallvec::SmallVec;

/// How long after its last delivery a message is remembered at least, if there is room.
const KEEP: Duration = Duration::from_secs(600);
/// The most messages.
const MAX_MESSAGES: usize = 100_000;
/// The most receipts of all messages.
const MAX_RECEIPTS: usize = 2_000_000;
/// Parts of the window.
const SHARDS: usize = 16;
/// Messages that may be forgotten for their age by one call.
const FORGOTTEN_AT_ONCE: usize = 16;

/// A connection of this process, by a number that no other one ever has.
pub(crate) type ConnectionNumber = u64;

/// What a connection is to be sent of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// All of it: it has not received it.
    Message,
    /// The position alone: it received the message under none, or under another one.
    Position,
    /// Nothing.
    Nothing,
}

/// The window. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SentWindow {
    shards: Arc<[Mutex<Shard>; SHARDS]>,
    /// For positions, of which only equality matters.
    hasher: RandomState,
    began: Instant,
    messages: IntGauge,
}

/// An epoch's hash, and a seq.
type PositionKey = (u64, u64);

/// A part of the window.
#[derive(Default)]
struct Shard {
    sent: HashMap<MessageId, Sent>,
    /// Each message once, with its last delivery as of when it was put here, in seconds. Roughly in the order of age.
    queue: VecDeque<(MessageId, u32)>,
    receipts: usize,
}

/// Who received a message.
#[derive(Default)]
struct Sent {
    position: Option<PositionKey>,
    /// When it was last delivered to a connection that had not received it, in seconds since the window began.
    last: u32,
    /// Each connection's number, doubled, and one more if it knows the position. In order.
    receipts: SmallVec<[u64; 4]>,
}

/// One message on its way to its connections.
pub(crate) struct Delivery<'a> {
    sent: &'a mut Sent,
    /// The first so many receipts are in order; those behind are of connections that received the message just now.
    ordered: usize,
    has_position: bool,
}

impl SentWindow {
    /// Empty; `messages` is the number of messages in it.
    pub(crate) fn new(messages: IntGauge) -> Self {
        let shards = std::array::from_fn(|_| Mutex::default());
        Self { shards: Arc::new(shards), hasher: RandomState::new(), began: Instant::now(), messages }
    }

    /// Delivers a message: `give` is to ask what each connection is due, and to note what it was given.
    pub(crate) fn deliver(
        &self,
        id: MessageId,
        position: Position<'_>,
        now: Instant,
        give: impl FnOnce(&mut Delivery<'_>),
    ) {
        let (position, now) = (self.key(position), self.seconds(now));
        self.with(id, |shard| {
            shard.forget_old(now);
            match shard.sent.get_mut(&id) {
                Some(sent) => {
                    let before = sent.receipts.len();
                    sent.deliver(position, give);
                    if sent.receipts.len() > before {
                        sent.last = now;
                        shard.receipts += sent.receipts.len() - before;
                    }
                }
                None => {
                    let mut sent = Sent { last: now, ..Sent::default() };
                    sent.deliver(position, give);
                    if !sent.receipts.is_empty() {
                        shard.receipts += sent.receipts.len();
                        shard.sent.insert(id, sent);
                        shard.queue.push_back((id, now));
                    }
                }
            }
            shard.forget_beyond(MAX_MESSAGES / SHARDS, MAX_RECEIPTS / SHARDS);
        });
    }

    /// A message's position has become known: `give` is to give it to the connections for which it is due.
    pub(crate) fn position(&self, id: MessageId, position: Position<'_>, give: impl FnOnce(&mut Delivery<'_>)) {
        let position = self.key(position);
        self.with(id, |shard| {
            if let Some(sent) = shard.sent.get_mut(&id) {
                sent.deliver(position, give);
            }
        });
    }

    /// A message is retracted: `give` informs connections and returns those that it informed. They count as not having received it.
    pub(crate) fn retract(&self, id: MessageId, give: impl FnOnce() -> Vec<ConnectionNumber>) {
        self.with(id, |shard| {
            let mut informed = give();
            informed.sort_unstable();
            shard.forget_receipts(&id, |connection| informed.binary_search(&connection).is_ok());
        });
    }

    /// A connection lost messages on their way: it has not received them.
    pub(crate) fn lost(&self, connection: ConnectionNumber, ids: impl IntoIterator<Item = MessageId>) {
        for id in ids {
            self.with(id, |shard| shard.forget_receipts(&id, |other| other == connection));
        }
    }

    fn with<T>(&self, id: MessageId, change: impl FnOnce(&mut Shard) -> T) -> T {
        // The last byte of a UUID is random.
        let shard = &self.shards[usize::from(id.as_bytes()[15]) % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let before = shard.sent.len();
        let changed = change(&mut shard);
        self.messages.add(shard.sent.len() as i64 - before as i64);
        changed
    }

    fn key(&self, position: Position<'_>) -> Option<PositionKey> {
        match position {
            Position::At { epoch, seq } => Some((self.hasher.hash_one(epoch), seq)),
            Position::Unknown | Position::Absent => None,
        }
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }
}

impl Sent {
    fn deliver(&mut self, position: Option<PositionKey>, give: impl FnOnce(&mut Delivery<'_>)) {
        if position.is_some() && position != self.position {
            self.position = position;
            self.receipts.iter_mut().for_each(|receipt| *receipt &= !1);
        }
        let ordered = self.receipts.len();
        give(&mut Delivery { ordered, has_position: position.is_some(), sent: self });
        if self.receipts.len() > ordered {
            self.receipts.sort_unstable();
        }
    }
}

impl Delivery<'_> {
    /// What this connection is to be sent.
    pub(crate) fn due(&self, connection: ConnectionNumber) -> Due {
        match self.receipt(connection) {
            None => Due::Message,
            Some(index) if self.has_position && self.sent.receipts[index] & 1 == 0 => Due::Position,
            Some(_) => Due::Nothing,
        }
    }

    /// The connection was given what was due. Each connection must be noted once.
    pub(crate) fn given(&mut self, connection: ConnectionNumber) {
        let receipt = connection << 1 | u64::from(self.has_position);
        match self.receipt(connection) {
            Some(index) => self.sent.receipts[index] = receipt,
            None => self.sent.receipts.push(receipt),
        }
    }

    fn receipt(&self, connection: ConnectionNumber) -> Option<usize> {
        self.sent.receipts[..self.ordered].binary_search_by_key(&connection, |receipt| receipt >> 1).ok()
    }
}

impl Shard {
    fn forget_receipts(&mut self, id: &MessageId, of: impl Fn(ConnectionNumber) -> bool) {
        // The message stays, and so does its place in the queue.
        if let Some(sent) = self.sent.get_mut(id) {
            let before = sent.receipts.len();
            sent.receipts.retain(|receipt| !of(*receipt >> 1));
            self.receipts -= before - sent.receipts.len();
        }
    }

    fn forget_old(&mut self, now: u32) {
        let is_old = |since: u32| u64::from(now.saturating_sub(since)) >= KEEP.as_secs();
        for _ in 0..FORGOTTEN_AT_ONCE {
            if !self.queue.front().is_some_and(|(_, since)| is_old(*since)) {
                return;
            }
            self.forget_oldest();
        }
    }

    fn forget_beyond(&mut self, messages: usize, receipts: usize) {
        while (self.sent.len() > messages || self.receipts > receipts) && !self.queue.is_empty() {
            self.forget_oldest();
        }
    }

    /// The first of the queue goes, unless it was delivered again since: then it goes to the end.
    fn forget_oldest(&mut self) {
        let Some((id, since)) = self.queue.pop_front() else { return };
        match self.sent.get(&id) {
            Some(sent) if sent.last > since => self.queue.push_back((id, sent.last)),
            _ => self.receipts -= self.sent.remove(&id).map_or(0, |sent| sent.receipts.len()),
        }
    }
}

#[cfg(test)]
mod tests;
