//! What clients are told, over Socket.IO and REST alike: each answer is one type, which both serializes and describes itself.
//!
//! Over REST an answer is the body; over Socket.IO it goes with `ok: true` ([`Positive`]).

use std::collections::BTreeMap;

use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{MessageId, UserId};
use holdfast_store::{Group, Member, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::history::{Page, Source, write_cursor};
use crate::inbox::{self, Unread};
use crate::pipeline::Accepted;
use crate::publish::Durability;
use crate::relations::Friendship;

/// A positive answer over Socket.IO: `{ ok: true, … }`.
#[derive(Serialize)]
pub struct Positive<'a, T> {
    ok: bool,
    #[serde(flatten)]
    answer: &'a T,
}

impl<'a, T> Positive<'a, T> {
    /// The answer, as it goes to the wire.
    pub fn new(answer: &'a T) -> Self {
        Self { ok: true, answer }
    }
}

// Describes what `MessageJson` writes.
/// A message. It never changes.
#[derive(ToSchema)]
#[schema(as = Message, rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
pub struct MessageShape {
    /// The message, everywhere and for ever. Clients drop a `messageId` that they have.
    #[schema(format = "uuid")]
    message_id: String,
    /// The sender's own id for the send.
    #[schema(nullable = false)]
    temp_id: Option<String>,
    /// The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
    chat_id: String,
    /// Who sent it.
    sender_id: String,
    /// The other user of a direct chat.
    #[schema(nullable = false)]
    receiver_id: Option<String>,
    /// The text.
    content: String,
    /// An image, never fetched by the server.
    #[schema(nullable = false)]
    image_url: Option<String>,
    /// The image's id at its host.
    #[schema(nullable = false)]
    public_id: Option<String>,
    /// Unix epoch milliseconds, given by the gateway. History is in the order of (`timestamp`, `messageId`).
    timestamp: i64,
    /// Its place in the chat's live stream, rising by one per message within one epoch; null where the stream could not be asked.
    seq: Option<u64>,
    /// The live stream's epoch. A new one says that the stream may have lost something.
    epoch: Option<String>,
}

/// The answer to what is done once it is answered.
#[derive(Serialize, ToSchema)]
pub struct Done {}

/// The answer to a send. Only once the message is durable.
#[derive(Serialize, ToSchema)]
pub struct Sent<'a> {
    /// As it is stored: a repeat has the first copy's time.
    #[schema(value_type = MessageShape)]
    message: MessageJson<'a>,
    /// What made it durable.
    durability: Durability,
    /// True: an earlier send of the same message had it shown already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    duplicate: bool,
}

impl<'a> From<&'a Accepted> for Sent<'a> {
    fn from(accepted: &'a Accepted) -> Self {
        let position = match &accepted.position {
            Some(position) => Position::At { epoch: &position.epoch, seq: position.seq },
            None => Position::Unknown,
        };
        Self {
            message: MessageJson { message: &accepted.message, position },
            durability: accepted.durability,
            duplicate: accepted.duplicate,
        }
    }
}

/// A part of a chat's history.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage<'a> {
    /// Newest first.
    #[schema(value_type = Vec<MessageShape>)]
    messages: Vec<MessageJson<'a>>,
    /// Opaque; `before` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
    /// Where the page came from.
    source: Source,
    /// False: older or missed messages may be absent because the store could not be asked; ask again.
    complete: bool,
    /// The live stream's epoch, read before the messages; null when it could not be asked.
    #[schema(required)]
    epoch: Option<&'a str>,
    /// The live stream's position, read before the messages.
    #[schema(required)]
    seq: Option<u64>,
}

impl<'a> From<&'a Page> for HistoryPage<'a> {
    fn from(page: &'a Page) -> Self {
        let epoch = page.position.as_ref().map(|position| &*position.epoch);
        let shown = |shown: &'a crate::history::Shown| MessageJson {
            message: &shown.message,
            position: match (epoch, shown.seq) {
                (Some(epoch), Some(seq)) => Position::At { epoch, seq },
                _ => Position::Absent,
            },
        };
        Self {
            messages: page.messages.iter().map(shown).collect(),
            next_cursor: page.next.as_ref().map(write_cursor),
            source: page.source,
            complete: page.complete,
            epoch,
            seq: page.position.as_ref().map(|position| position.seq),
        }
    }
}

/// The answer to `markRead`.
#[derive(Serialize, ToSchema)]
pub struct Read {
    /// How much of the chat is unread now, 999 at most.
    #[schema(maximum = 999)]
    pub unread: usize,
}

/// How much is unread.
#[derive(Serialize, ToSchema)]
pub struct UnreadMessages<'a> {
    /// By chat, where there are any; each 999 at most.
    counts: BTreeMap<&'a str, usize>,
    /// Of all chats, 999 at most.
    #[schema(maximum = 999)]
    total: usize,
}

impl<'a> From<&'a Unread> for UnreadMessages<'a> {
    fn from(unread: &'a Unread) -> Self {
        let counts = unread.counts.iter().map(|(chat, count)| (chat.as_str(), *count)).collect();
        Self { counts, total: unread.total }
    }
}

/// A part of one's chats.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conversations<'a> {
    /// Newest first.
    conversations: Vec<ConversationShape<'a>>,
    /// Opaque; `before` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next_cursor: Option<String>,
    /// False: something may be absent because the store could not be asked; ask again.
    complete: bool,
}

/// One of one's chats.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct ConversationShape<'a> {
    /// The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
    chat_id: &'a str,
    /// Who belongs to it; of a group, 100 at most.
    members: Vec<&'a str>,
    /// Null in a new group.
    #[schema(value_type = Option<MessageShape>, required)]
    last_message: Option<MessageJson<'a>>,
    /// How much of it is unread, 999 at most; null if that can't be told now.
    #[schema(required, maximum = 999)]
    unread: Option<usize>,
    /// Who of the other members is online; null if that can't be told now.
    #[schema(required)]
    online: Option<Vec<&'a str>>,
}

impl<'a> From<&'a inbox::list::Page> for Conversations<'a> {
    fn from(page: &'a inbox::list::Page) -> Self {
        let shape = |conversation: &'a inbox::list::Conversation| ConversationShape {
            chat_id: conversation.chat.as_str(),
            members: conversation.members.iter().map(UserId::as_str).collect(),
            last_message: conversation.last.as_ref().map(|message| MessageJson { message, position: Position::Absent }),
            unread: conversation.unread,
            online: conversation.online.as_ref().map(|online| online.iter().map(UserId::as_str).collect()),
        };
        Self {
            conversations: page.conversations.iter().map(shape).collect(),
            next_cursor: page.next.as_ref().map(inbox::list::Place::write),
            complete: page.complete,
        }
    }
}

/// `resume`'s answer, and `resumed`.
#[derive(Serialize, ToSchema)]
pub struct Missed {
    /// By chat, for each chat that was named.
    #[schema(value_type = BTreeMap<String, MissedOfChat>)]
    pub chats: Map<String, Value>,
}

impl Missed {
    /// The messages of all chats, each with its position.
    pub fn messages(&self) -> impl Iterator<Item = (MessageId, &str, u64)> {
        let messages = self.chats.values().filter_map(|chat| chat["messages"].as_array()).flatten();
        messages.filter_map(|message| {
            let id = MessageId::parse(message["messageId"].as_str()?)?;
            Some((id, message["epoch"].as_str()?, message["seq"].as_u64()?))
        })
    }
}

// Describes what `resume::Room::answer` writes.
/// What was missed of one chat.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MissedOfChat {
    /// True: `messages` are exactly those after the offset. False: read history.
    recovered: bool,
    /// In the order of `seq`.
    #[schema(nullable = false)]
    messages: Option<Vec<MessageShape>>,
    /// The stream's epoch now; null when it can't be told.
    #[schema(required)]
    epoch: Option<String>,
    /// The stream's position now.
    #[schema(required)]
    seq: Option<u64>,
}

/// A group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Group)]
pub struct GroupShape {
    /// The group's id.
    chat_id: String,
    /// What it is called.
    name: String,
    /// Who belongs to it, in the order in which they joined.
    members: Vec<GroupMember>,
    /// Who made it.
    created_by: String,
    /// When, in Unix epoch milliseconds.
    created_at: i64,
}

/// A member of a group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupMember {
    /// Who.
    user_id: String,
    /// As what.
    role: GroupMemberRole,
    /// Since when, in Unix epoch milliseconds.
    joined_at: i64,
}

/// What a member of a group may do: everything (`owner`, of which there is one), rename it, add and remove members (`admin`), or read
/// and write (`member`).
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupMemberRole {
    /// Everything.
    Owner,
    /// Renames the group, adds and removes members.
    Admin,
    /// Reads and writes.
    Member,
}

impl From<Role> for GroupMemberRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
        }
    }
}

impl From<GroupMemberRole> for Role {
    fn from(role: GroupMemberRole) -> Self {
        match role {
            GroupMemberRole::Owner => Self::Owner,
            GroupMemberRole::Admin => Self::Admin,
            GroupMemberRole::Member => Self::Member,
        }
    }
}

impl From<&Group> for GroupShape {
    fn from(group: &Group) -> Self {
        let member = |member: &Member| GroupMember {
            user_id: member.user.to_string(),
            role: member.role.into(),
            joined_at: member.joined_at,
        };
        Self {
            chat_id: group.chat.to_string(),
            name: group.name.clone(),
            members: group.members.iter().map(member).collect(),
            created_by: group.created_by.to_string(),
            created_at: group.created_at,
        }
    }
}

/// How two users stand with each other.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Friendship)]
pub struct FriendshipShape {
    /// The other user.
    pub user_id: String,
    /// `requested`: you have asked; `incoming`: the other has.
    pub status: Friendship,
}
