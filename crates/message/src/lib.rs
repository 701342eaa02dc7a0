//! What a Holdfast message is: its identifiers, its limits, and its form as a Kafka record and as JSON.
//!
//! This crate has no I/O, no clock and no runtime. In the order of a message's journey:
//!
//! 1. [`UserId`] and [`ChatId`] ([`id`]): the sender and the chat.
//! 2. [`Draft`] ([`draft`]): what a client asked to send, checked against the limits. Does it show anything ([`visible`])?
//! 3. [`MessageId`] ([`message_id`]): the identity that every retry of one send shares.
//! 4. [`Message`] ([`Draft::stamp`]): immutable from here on.
//! 5. [`record`]: the bytes and headers that Kafka, the failed queue and the dead-letter topic hold.
//! 6. [`json`]: the shape that clients see.
//! 7. [`recency`]: what it says of when its chat was written to last.

pub mod draft;
pub mod id;
pub mod json;
pub mod message_id;
pub mod recency;
pub mod record;
pub mod visible;

pub use draft::{Draft, Invalid};
pub use id::{ChatId, UserId};
pub use message_id::MessageId;
pub use visible::is_visible;

/// The key of a message in history: messages are ordered by timestamp, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryKey {
    /// Unix epoch milliseconds.
    pub timestamp: i64,
    /// Compared by bytes, which is the order of its text too.
    pub id: MessageId,
}

/// One chat message, as stamped by the gateway that took it. Never changed afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What makes every copy of this message the same message.
    pub id: MessageId,
    /// The client's id for the send.
    pub temp_id: Option<String>,
    /// The chat that it belongs to.
    pub chat: ChatId,
    /// The sender, from the verified token.
    pub sender: UserId,
    /// The other user of a direct chat; absent in a group.
    pub receiver: Option<UserId>,
    /// The text; it may be empty if there is an image.
    pub content: String,
    /// The https address of an image.
    pub image_url: Option<String>,
    /// The image's id at its host.
    pub public_id: Option<String>,
    /// Unix epoch milliseconds.
    pub timestamp: i64,
}

impl Message {
    /// Its key in history.
    pub fn key(&self) -> HistoryKey {
        HistoryKey { timestamp: self.timestamp, id: self.id }
    }

    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        size_of::<Self>()
            + self.content.len()
            + [&self.temp_id, &self.image_url, &self.public_id].into_iter().flatten().map(String::len).sum::<usize>()
    }
}
