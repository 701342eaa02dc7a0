//! A message as Kafka and the failed queue hold it: protobuf bytes, and the names and values of the record's headers.

use prost::Message as _;

use crate::{ChatId, Message, MessageId, UserId};

/// The schema that this build writes, and the newest that it reads. A record without the header is of version 1.
pub const SCHEMA_VERSION: u32 = 1;
/// The value of [`header::CONTENT_TYPE`].
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// The names of the record's headers.
pub mod header {
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// The value's media type.
    pub const CONTENT_TYPE: &str = "content-type";
    /// The schema's version, in decimal.
    pub const SCHEMA_VERSION: &str = "schema-version";
    /// Present when the recent list may not have taken the message: the worker then adds it if absent.
    pub const UNCACHED: &str = "uncached";
    /// Why a record was dead-lettered.
    pub const DLQ_REASON: &str = "dlq-reason";
    /// The topic that a dead-lettered record came from.
    pub const DLQ_TOPIC: &str = "dlq-topic";
    /// The partition that it came from, in decimal.
    pub const DLQ_PARTITION: &str = "dlq-partition";
    /// Its offset there, in decimal.
    pub const DLQ_OFFSET: &str = "dlq-offset";
    /// When it was dead-lettered, in Unix epoch milliseconds, in decimal.
    pub const DLQ_TIME: &str = "dlq-time";
}

mod proto {
    #![allow(missing_docs, unreachable_pub)]
    include!(concat!(env!("OUT_DIR"), "/holdfast.v1.rs"));
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not the protobuf message of the schema.
    #[error("not a protobuf ChatMessage: {0}")]
    Malformed(String),
    /// A field's value is outside what any gateway writes.
    #[error("field {0} is missing or invalid")]
    Field(&'static str),
}

impl DecodeError {
    /// A short word for a metric's label or a header.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Field(_) => "invalid_field",
        }
    }
}

/// The record's value.
pub fn encode(message: &Message) -> Vec<u8> {
    proto::ChatMessage {
        message_id: message.id.to_string(),
        temp_id: message.temp_id.clone().unwrap_or_default(),
        chat_id: message.chat.to_string(),
        sender_id: message.sender.to_string(),
        receiver_id: message.receiver.as_ref().map(ToString::to_string).unwrap_or_default(),
        content: message.content.clone(),
        image_url: message.image_url.clone().unwrap_or_default(),
        public_id: message.public_id.clone().unwrap_or_default(),
        timestamp_ms: message.timestamp,
    }
    .encode_to_vec()
}

/// The message in a record's value. The fields are checked for what storing and showing them rests on.
pub fn decode(value: &[u8]) -> Result<Message, DecodeError> {
    let record = proto::ChatMessage::decode(value).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let present = |text: String| Some(text).filter(|text| !text.is_empty());
    let chat = ChatId::parse(&record.chat_id).map_err(|_| DecodeError::Field("chat_id"))?;
    let sender = UserId::parse(&record.sender_id).map_err(|_| DecodeError::Field("sender_id"))?;
    let receiver = chat.other(&sender);
    if receiver.is_none() && !chat.is_group() {
        return Err(DecodeError::Field("sender_id"));
    }
    if receiver.as_ref().map(UserId::as_str).unwrap_or_default() != record.receiver_id {
        return Err(DecodeError::Field("receiver_id"));
    }
    if record.timestamp_ms <= 0 {
        return Err(DecodeError::Field("timestamp_ms"));
    }
    Ok(Message {
        id: MessageId::parse(&record.message_id).ok_or(DecodeError::Field("message_id"))?,
        temp_id: present(record.temp_id),
        chat,
        sender,
        receiver,
        content: record.content,
        image_url: present(record.image_url),
        public_id: present(record.public_id),
        timestamp: record.timestamp_ms,
    })
}
