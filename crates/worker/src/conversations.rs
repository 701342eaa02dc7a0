//! Updates the view of chats by last message. Takes stored messages; writes the latest message of each chat to the store, once in five seconds.
//!
//! Only the shutdown waits for it, for a short time. The view may lag, and may miss messages when this task can't keep up: readers of the
//! view correct it.
//!
//! See `docs/decisions/conversation-lists.md`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use holdfast_message::{ChatId, Message};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::bounded_queue::{self, Offered, Offers, Taken};
use crate::flush::Sink;
use crate::metrics::Metrics;

/// Flushes that may wait. When full, the next flush's messages are left out of the view, and counted.
const WAITING: usize = 16;
/// Bytes of memory that the waiting flushes and the gathered chats' latest messages may take together. When full: as above.
const WAITING_BYTES: usize = 32 << 20;
/// How long chats are gathered before they are written to the store.
const GATHER: Duration = Duration::from_secs(5);
/// The most chats in one write.
const CHATS: usize = 5000;

/// Sends stored messages to the task.
#[derive(Debug, Clone)]
pub struct Conversations {
    offers: Offers<Vec<Message>>,
    metrics: Metrics,
}

impl Conversations {
    /// Starts the task. It ends once the last clone is dropped and everything offered has been written.
    pub fn start<S: Sink>(sink: Arc<S>, metrics: Metrics) -> (Self, JoinHandle<()>) {
        let (offers, taken) = bounded_queue::channel(WAITING, WAITING_BYTES);
        let task = tokio::spawn(update_view(sink, taken, metrics.clone()));
        (Self { offers, metrics }, task)
    }

    /// Offers messages that were just stored. Never waits.
    pub fn offer(&self, stored: Vec<Message>) {
        if stored.is_empty() {
            return;
        }
        let (count, bytes) = (stored.len(), stored.iter().map(Message::size).sum());
        if !self.offers.offer(stored, bytes) {
            self.metrics.conversations_skipped.inc_by(count as u64);
        }
    }
}

async fn update_view<S: Sink>(sink: Arc<S>, mut stored: Taken<Vec<Message>>, metrics: Metrics) {
    while let Some(first) = stored.recv().await {
        let mut latest = Latest::of(first);
        let until = tokio::time::Instant::now() + GATHER;
        while latest.by_chat.len() < CHATS {
            match tokio::time::timeout_at(until, stored.recv()).await {
                Ok(Some(more)) => latest.gather(more),
                Ok(None) | Err(_) => break,
            }
        }
        let messages: Vec<Message> = latest.by_chat.into_values().collect();
        if let Err(error) = sink.touch_conversations(&messages).await {
            metrics.conversations_skipped.inc_by(messages.len() as u64);
            tracing::debug!(%error, chats = messages.len(), "the conversations' view could not be updated");
        }
    }
}

/// The latest message of each chat, and the permit for their bytes in the queue. Messages that are not the latest give theirs back.
struct Latest {
    by_chat: HashMap<ChatId, Message>,
    bytes: usize,
    room: OwnedSemaphorePermit,
}

impl Latest {
    fn of(offered: Offered<Vec<Message>>) -> Self {
        let (messages, room) = offered.into_parts();
        let mut latest = Self { by_chat: HashMap::new(), bytes: 0, room };
        latest.add(messages);
        latest
    }

    fn gather(&mut self, offered: Offered<Vec<Message>>) {
        let (messages, room) = offered.into_parts();
        self.room.merge(room);
        self.add(messages);
    }

    fn add(&mut self, messages: Vec<Message>) {
        for message in messages {
            match self.by_chat.entry(message.chat.clone()) {
                Entry::Vacant(place) => {
                    self.bytes += message.size();
                    place.insert(message);
                }
                Entry::Occupied(mut place) if place.get().key() < message.key() => {
                    self.bytes += message.size();
                    self.bytes -= place.insert(message).size();
                }
                Entry::Occupied(_) => {}
            }
        }
        drop(self.room.split(self.room.num_permits().saturating_sub(self.bytes)));
    }
}

#[cfg(test)]
mod tests;
