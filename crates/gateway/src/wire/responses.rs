//! What clients get as answers, over Socket.IO and REST alike: each answer is one type, which both serializes and describes itself.
//!
//! Over REST an answer is the body; over Socket.IO it goes with `ok: true` ([`Positive`]).

use std::collections::BTreeMap;

use holdfast_message::MessageId;
use holdfast_message::json::MessageJson;
use holdfast_store::{Group, Member, Role};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The recent list alone.
    Cache,
    /// MongoDB (and the failed queue), without the recent list.
    Store,
    /// All of them.
    Merged,
}

impl Source {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Merged => "merged",
        }
    }
}

/// What made a message durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Kafka acknowledged it with all in-sync replicas.
    Kafka,
    /// The failed queue accepted it.
    FailedQueue,
}

/// The friendship of a user with another, as the user may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FriendshipStatus)]
pub enum Friendship {
    /// Neither has asked for friendship.
    None,
    /// The user has asked.
    Requested,
    /// The other one has asked.
    Incoming,
    /// Both have asked.
    Friends,
}

/// Who is online.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Presences {
    /// By user, for each user who was named: whether any device is connected.
    pub online: BTreeMap<String, bool>,
    /// By user, when they were last there, in Unix epoch milliseconds; now, if they are. Absent if that is not known: it is
    /// remembered for a week.
    pub last_seen: BTreeMap<String, i64>,
}

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
    /// The id of the message, everywhere. Clients drop a `messageId` that they have.
    #[schema(format = "uuid")]
    message_id: String,
    /// The sender's own id for the send.
    #[schema(nullable = false)]
    temp_id: Option<String>,
    /// The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
    chat_id: String,
    /// The user who sent it.
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

/// The answer to a request that returns nothing.
#[derive(Serialize, ToSchema)]
pub struct Done {}

/// The answer to a send. Only once the message is durable.
#[derive(Serialize, ToSchema)]
pub struct Sent<'a> {
    /// As it is stored: a repeat has the first copy's time.
    #[schema(value_type = MessageShape)]
    pub(crate) message: MessageJson<'a>,
    /// What made it durable.
    pub(crate) durability: Durability,
    /// True: an earlier send of the same message had it shown already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) duplicate: bool,
}

/// A page of a chat's history.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPage<'a> {
    /// Newest first.
    #[schema(value_type = Vec<MessageShape>)]
    pub(crate) messages: Vec<MessageJson<'a>>,
    /// Opaque; `before` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next_cursor: Option<String>,
    /// Where the page came from.
    pub(crate) source: Source,
    /// False: older or missed messages may be absent because the store could not be asked; ask again.
    pub(crate) complete: bool,
    /// The live stream's epoch, read before the messages; null when it could not be asked.
    #[schema(required)]
    pub(crate) epoch: Option<&'a str>,
    /// The live stream's position, read before the messages.
    #[schema(required)]
    pub(crate) seq: Option<u64>,
    /// The other members who are typing now. On the first page only; absent while the cache is unavailable, and in groups of more than 100
    /// members.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) typing: Option<Vec<&'a str>>,
}

/// The answer to `markRead`.
#[derive(Serialize, ToSchema)]
pub struct Read {
    /// Unread messages of the chat now, 999 at most.
    #[schema(maximum = 999)]
    pub unread: usize,
}

/// Unread messages.
#[derive(Serialize, ToSchema)]
pub struct UnreadMessages<'a> {
    /// By chat, where there are any; each count is 999 at most.
    pub(crate) counts: BTreeMap<&'a str, usize>,
    /// The sum over all chats, 999 at most.
    #[schema(maximum = 999)]
    pub(crate) total: usize,
}

/// A page of the user's chats.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Conversations<'a> {
    /// Newest first.
    pub(crate) conversations: Vec<ConversationShape<'a>>,
    /// Opaque; `before` of the next page. Absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) next_cursor: Option<String>,
    /// False: something may be absent because the store could not be asked; ask again.
    pub(crate) complete: bool,
}

/// A chat of the user.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Conversation)]
pub struct ConversationShape<'a> {
    /// The chat: two user ids in byte order joined by `:`, or `g_` and a UUID.
    pub(crate) chat_id: &'a str,
    /// Its members; of a group, 100 at most.
    pub(crate) members: Vec<&'a str>,
    /// Null in a new group.
    #[schema(value_type = Option<MessageShape>, required)]
    pub(crate) last_message: Option<MessageJson<'a>>,
    /// Unread messages of the chat, 999 at most; null if that is not known now.
    #[schema(required, maximum = 999)]
    pub(crate) unread: Option<usize>,
    /// The other members who are online; null if that is not known now.
    #[schema(required)]
    pub(crate) online: Option<Vec<&'a str>>,
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
    /// The stream's epoch now; null when it is not known.
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
    /// Its members, in the order in which they joined.
    members: Vec<GroupMember>,
    /// The user who created it.
    created_by: String,
    /// When it was created, in Unix epoch milliseconds.
    created_at: i64,
}

/// A member of a group.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupMember {
    /// The member.
    user_id: String,
    /// The member's role.
    role: GroupMemberRole,
    /// When the member joined, in Unix epoch milliseconds.
    joined_at: i64,
}

/// What a member of a group may do: everything (`owner`, of which there is one), rename it, add and remove members (`admin`), or read
/// and write (`member`).
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupMemberRole {
    /// May do everything.
    Owner,
    /// May rename the group, add and remove members.
    Admin,
    /// May read and write.
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

/// The friendship of two users.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Friendship)]
pub struct FriendshipShape {
    /// The other user.
    pub user_id: String,
    /// `requested`: you have asked; `incoming`: the other has.
    pub status: Friendship,
}
