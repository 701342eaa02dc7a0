//! The view of chats by last message. Takes what was stored; tells the store the latest of each chat, about once a second.
//!
//! Nothing waits for it but the end, and that not for long: it may lag, and may miss messages when it can't keep up, as whoever reads
//! the view mends it.
//!
//! See `docs/decisions/conversation-lists.md`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use holdfast_message::{ChatId, Message};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use crate::flush::Sink;
use crate::metrics::Metrics;
use crate::side_queue::{self, Offered, Offers, Taken};

/// Flushes that may wait. Full: the next one's messages are left out, and counted.
const WAITING: usize = 16;
/// What they and the chats gathered may take together, in bytes of memory. Full: as above.
const WAITING_BYTES: usize = 32 << 20;
/// How long chats are gathered before the store is told.
const GATHER: Duration = Duration::from_secs(1);
/// Chats gathered at most.
const CHATS: usize = 5000;

/// The way to the task.
#[derive(Debug, Clone)]
pub struct Conversations {
    offers: Offers<Vec<Message>>,
    metrics: Metrics,
}

impl Conversations {
    /// Starts the task, which ends when the last of these is dropped and the store was told of what they were offered.
    pub fn start<S: Sink>(sink: Arc<S>, metrics: Metrics) -> (Self, JoinHandle<()>) {
        let (offers, taken) = side_queue::channel(WAITING, WAITING_BYTES);
        let told = tokio::spawn(tell(sink, taken, metrics.clone()));
        (Self { offers, metrics }, told)
    }

    /// Messages were stored. Never waits.
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

async fn tell<S: Sink>(sink: Arc<S>, mut stored: Taken<Vec<Message>>, metrics: Metrics) {
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
            tracing::debug!(%error, chats = messages.len(), "the conversations' view was not told");
        }
    }
}

/// Gives back what keeps the messages' room taken.
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
