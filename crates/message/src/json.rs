//! A message as clients see it, over Socket.IO and REST alike.

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{Message, MessageId};

/// A message's position in the chat's live stream, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position<'a> {
    /// The epoch and the number within it.
    At {
        /// The stream's epoch.
        epoch: &'a str,
        /// Rises by one per message within one epoch.
        seq: u64,
    },
    /// Live, but the stream could not be asked: both fields are `null`.
    Unknown,
    /// Not from the stream: both fields are left out.
    Absent,
}

/// `{ messageId, tempId?, chatId, senderId, receiverId?, content, imageUrl?, publicId?, timestamp, seq?, epoch? }`.
#[derive(Debug, Clone, Copy)]
pub struct MessageJson<'a> {
    /// The message.
    pub message: &'a Message,
    /// Its position.
    pub position: Position<'a>,
}

impl Serialize for MessageJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.message;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("messageId", &message.id)?;
        if let Some(temp_id) = &message.temp_id {
            map.serialize_entry("tempId", temp_id)?;
        }
        map.serialize_entry("chatId", message.chat.as_str())?;
        map.serialize_entry("senderId", message.sender.as_str())?;
        if let Some(receiver) = &message.receiver {
            map.serialize_entry("receiverId", receiver.as_str())?;
        }
        map.serialize_entry("content", &message.content)?;
        if let Some(url) = &message.image_url {
            map.serialize_entry("imageUrl", url)?;
        }
        if let Some(id) = &message.public_id {
            map.serialize_entry("publicId", id)?;
        }
        map.serialize_entry("timestamp", &message.timestamp)?;
        match self.position {
            Position::At { epoch, seq } => {
                map.serialize_entry("seq", &seq)?;
                map.serialize_entry("epoch", epoch)?;
            }
            Position::Unknown => {
                map.serialize_entry("seq", &())?;
                map.serialize_entry("epoch", &())?;
            }
            Position::Absent => {}
        }
        map.end()
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
