//! Updates the view of chats by last message. Takes stored messages; writes the latest message of each chat to the store, about once a second.
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
/// Bytes of memory that the waiting flushes and the gathered chats may take together. When full: as above.
const WAITING_BYTES: usize = 32 << 20;
/// How long chats are gathered before they are written to the store.
const GATHER: Duration = Duration::from_secs(1);
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
        let mut latest = HashMap::new();
        let mut rooms = vec![gather(&mut latest, first)];
        let until = tokio::time::Instant::now() + GATHER;
        while latest.len() < CHATS {
            match tokio::time::timeout_at(until, stored.recv()).await {
                Ok(Some(more)) => rooms.push(gather(&mut latest, more)),
                Ok(None) | Err(_) => break,
            }
        }
        let messages: Vec<Message> = latest.into_values().collect();
        if let Err(error) = sink.touch_conversations(&messages).await {
            metrics.conversations_skipped.inc_by(messages.len() as u64);
            tracing::debug!(%error, chats = messages.len(), "the conversations' view could not be updated");
        }
    }
}

/// Adds a flush's messages to `latest`. Returns the permit that occupies their bytes in the queue.
fn gather(latest: &mut HashMap<ChatId, Message>, offered: Offered<Vec<Message>>) -> OwnedSemaphorePermit {
    let (messages, room) = offered.into_parts();
    for message in messages {
        match latest.entry(message.chat.clone()) {
            Entry::Vacant(place) => drop(place.insert(message)),
            Entry::Occupied(mut place) if place.get().key() < message.key() => drop(place.insert(message)),
            Entry::Occupied(_) => {}
        }
    }
    room
}
