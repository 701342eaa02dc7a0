//! What clients send: over Socket.IO as an event's payload, over REST as a body or put together from path and query.
//!
//! Each request is one type, which both deserializes and describes itself, and has a method that checks it. Unknown fields are ignored.

use std::collections::BTreeMap;

use holdfast_cache::event::Position;
use holdfast_message::draft::target;
use holdfast_message::{ChatId, Draft, HistoryKey, Invalid, MessageId, UserId};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::cursor::{self, ConversationCursor, read_limit};
use super::integer;
use crate::refusal::Refusal;

/// Chats that one `resume` may name; the rest are not recovered.
pub const MAX_RESUMED_CHATS: usize = 1000;

/// Chats of one round trip to the cache, and of one event's worth of `resume`.
pub(crate) const RESUME_BATCH: usize = 50;

/// The handshake's `auth`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct Handshake {
    /// A JWT.
    #[schema(required, nullable = false)]
    token: Option<String>,
    /// As `resume`'s; the answer is the event `resumed`.
    #[schema(value_type = Option<BTreeMap<String, Offset>>, nullable = false)]
    offsets: Option<Value>,
}

/// A send: to one of `friendId` and `chatId`; both must agree.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendRequest {
    /// The client's id for the send; a UUID is advised. Every repeat with the same `tempId` and body is the same message.
    #[schema(min_length = 1, max_length = 128)]
    pub temp_id: Option<String>,
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The text. It may be empty beside an image.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub content: String,
    /// An https address, never fetched by the server.
    #[schema(max_length = 2048)]
    pub image_url: Option<String>,
    /// The image's id at its host.
    #[schema(max_length = 256)]
    pub public_id: Option<String>,
}

/// A page of the chat with `friendId`, or of `chatId`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The most messages.
    #[serde(default, deserialize_with = "integer::optional")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// The `nextCursor` of a page: the page after it.
    pub before: Option<String>,
}

/// What a client has of the live streams. At most 1,000 chats are recovered.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ResumeRequest {
    /// By chat, the highest seq up to which the client has everything.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Offset>)]
    pub offsets: BTreeMap<String, Value>,
}

// Describes what `offset` reads.
/// A position in a chat's live stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub(crate) struct Offset {
    /// The stream's epoch.
    epoch: String,
    /// The highest seq up to which the client has everything.
    seq: u64,
}

/// Everything up to a message of the chat with `friendId`, or of `chatId`, is read.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The last message that was read.
    #[schema(format = "uuid", required, nullable = false)]
    pub up_to: Option<String>,
}

/// A page of the user's chats.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ConversationsRequest {
    /// The most conversations.
    #[serde(default, deserialize_with = "integer::optional")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// The `nextCursor` of a page: the page after it.
    pub before: Option<String>,
}

/// Whether the user types, to the members of one of `friendId` and `chatId`; both must agree.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TypingRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// Whether the user types. True again every few seconds while it lasts.
    pub typing: bool,
}

/// The users whose presence is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceRequest {
    /// At most 100 users.
    #[schema(max_items = 100)]
    pub user_ids: Vec<String>,
}

/// Nothing but the event's name.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub(crate) struct Nothing {}

impl Handshake {
    /// The token, and `offsets` if they can be read.
    pub fn into_parts(self) -> (String, Option<BTreeMap<String, Value>>) {
        let offsets = self.offsets.and_then(|offsets| serde_json::from_value(offsets).ok());
        (self.token.unwrap_or_default(), offsets)
    }
}

impl SendRequest {
    /// What the user asks to send, within every limit.
    pub fn draft(self, user: &UserId) -> Result<Draft, Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        Ok(Draft::new(user.clone(), chat, self.temp_id, self.content, self.image_url, self.public_id)?)
    }
}

impl HistoryRequest {
    /// The chat, where the page begins, and how long it is at most.
    pub fn read(&self, user: &UserId, default_limit: usize) -> Result<(ChatId, Option<HistoryKey>, usize), Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        let limit = read_limit(self.limit, default_limit)?;
        let before = self.before.as_deref().map(cursor::read).transpose()?;
        Ok((chat, before, limit))
    }
}

impl ReadRequest {
    /// The chat, and up to where it is read.
    pub(crate) fn read(&self, user: &UserId) -> Result<(ChatId, MessageId), Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        let up_to = self.up_to.as_deref().and_then(MessageId::parse);
        Ok((chat, up_to.ok_or_else(|| Invalid::new("upTo", "must be a messageId"))?))
    }
}

impl ConversationsRequest {
    /// Where the page begins, and how long it is at most.
    pub(crate) fn read(&self, default_limit: usize) -> Result<(Option<ConversationCursor>, usize), Refusal> {
        let limit = read_limit(self.limit, default_limit)?;
        Ok((self.before.as_deref().map(cursor::read).transpose()?, limit))
    }
}

/// As how many events a `resume` counts: one for each round trip to the cache, and one more. Chats beyond those that are read are echoed,
/// and so count alike.
pub(crate) fn resume_weight(offsets: &BTreeMap<String, Value>) -> usize {
    1 + offsets.len() / RESUME_BATCH
}

/// The offsets that can be read, of no more chats than one request may name.
pub fn readable_offsets(offsets: &BTreeMap<String, Value>) -> impl Iterator<Item = (ChatId, Position)> {
    let named = offsets.iter().take(MAX_RESUMED_CHATS);
    named.filter_map(|(chat, value)| Some((ChatId::parse(chat).ok()?, offset(value)?)))
}

fn offset(value: &Value) -> Option<Position> {
    Some(Position { epoch: value["epoch"].as_str()?.into(), seq: integer::of(&value["seq"])? })
}
