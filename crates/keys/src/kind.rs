//! Every kind of key and channel that Holdfast has in Redis.

use std::fmt;
use std::sync::Arc;

use holdfast_message::id::Members;
use holdfast_message::{ChatId, MessageId, UserId};

/// The longest name of a lock, in bytes.
pub const MAX_LOCK_NAME: usize = 160;

/// What a key or a channel stands for. [`Keys::key`](super::Keys::key) writes it, [`Keys::parse`](super::Keys::parse) reads it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chat's recent list.
    Recent(ChatId),
    /// The message ids that a recent list knows.
    RecentIds(ChatId),
    /// The state of a recent list: epoch, last seq, floor.
    RecentHead(ChatId),
    /// A chat's failed queue.
    Failed(ChatId),
    /// A chat's dead list: entries of its failed queue that can never be published.
    FailedDead(ChatId),
    /// The ids of the messages that were replayed last from a chat's failed queue.
    FailedReplayed(ChatId),
    /// The index of the failed queue: chats that have entries.
    FailedIndex,
    /// A channel for events.
    Channel(Channel),
    /// The channel on which a process publishes its own beacon.
    Beacon(String),
    /// The channel on which processes publish which cached values they have invalidated.
    Invalidations,
    /// A user's rate limit of messages.
    RateLimit(UserId),
    /// A user's rate limit of other events of one name.
    EventLimit(UserId, String),
    /// The users who are connected.
    Online,
    /// A user's connections: which there are, and when they were last seen.
    Devices(UserId),
    /// The marker that a user is typing in a chat.
    Typing(ChatId, UserId),
    /// A user's chats by last timestamp.
    Conversations(UserId),
    /// A user's unread counts.
    Unread(UserId),
    /// A value that MongoDB holds and Redis caches.
    Value(Cached),
    /// The lease on a cached value: its holder may fill the value. An invalidation deletes value and lease together, so that a
    /// value loaded before can't be filled any more.
    Lease(Cached),
    /// A lock.
    Lock(LockName),
}

/// A value that MongoDB holds and Redis caches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cached {
    /// A user's profile.
    Profile(UserId),
    /// The relationship of two users: friends, blocked.
    Relationship(Pair),
    /// The members of a group.
    Members(ChatId),
    /// One message.
    Message(MessageId),
}

/// Two users in no order, as in a direct chat. They may be the same user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair(UserId, UserId);

impl Pair {
    /// The pair of two users, named in any order.
    pub fn of(one: &UserId, other: &UserId) -> Self {
        let (first, second) = if one <= other { (one, other) } else { (other, one) };
        Self(first.clone(), second.clone())
    }

    /// Both, in byte order.
    pub fn users(&self) -> (&UserId, &UserId) {
        (&self.0, &self.1)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (first, second) = text.split_once(':')?;
        let (first, second) = (UserId::parse(first).ok()?, UserId::parse(second).ok()?);
        (first <= second).then_some(Self(first, second))
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

/// A channel on which events are published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Every gateway with a socket of this user subscribes to it.
    User(UserId),
    /// Every gateway with a socket of a member of this group subscribes to it.
    Group(ChatId),
}

impl Channel {
    /// The channels that together reach everybody in a chat: both users of a direct chat, or the group.
    pub fn audience(chat: &ChatId) -> Vec<Self> {
        match chat.members() {
            Members::Direct(first, second) => vec![Self::User(first), Self::User(second)],
            Members::Group => vec![Self::Group(chat.clone())],
        }
    }
}

/// A lock's name: letters, digits, `_`, `-`, `.` and `:`, at most [`MAX_LOCK_NAME`] of them. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

/// The text is no name of a lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lock's name is 1 to {MAX_LOCK_NAME} characters out of A-Z, a-z, 0-9, '_', '-', '.' and ':'")]
pub struct LockNameError;

impl LockName {
    /// Checks a name.
    ///
    /// # Errors
    /// It is empty, too long, or contains another character.
    pub fn parse(text: &str) -> Result<Self, LockNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
        if (1..=MAX_LOCK_NAME).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(LockNameError)
        }
    }

    /// The lock that the one process holds which warms the values of this kind.
    pub fn of_warming(kind: Family) -> Self {
        // The words of families are short, and consist of characters that a name may contain.
        Self(format!("warm:{}", kind.as_str()).into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kinds of keys that operators can search or count, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the kind of the same name")]
pub enum Family {
    Recent,
    RecentIds,
    RecentHead,
    Failed,
    FailedDead,
    FailedReplayed,
    FailedIndex,
    RateLimit,
    EventLimit,
    Online,
    Devices,
    Typing,
    Conversations,
    Unread,
    Profile,
    Relationship,
    Members,
    Message,
    Lease,
    Lock,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 20] = [
        Self::Recent,
        Self::RecentIds,
        Self::RecentHead,
        Self::Failed,
        Self::FailedDead,
        Self::FailedReplayed,
        Self::FailedIndex,
        Self::RateLimit,
        Self::EventLimit,
        Self::Online,
        Self::Devices,
        Self::Typing,
        Self::Conversations,
        Self::Unread,
        Self::Profile,
        Self::Relationship,
        Self::Members,
        Self::Message,
        Self::Lease,
        Self::Lock,
    ];

    /// The name that operators use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recent => "recent",
            Self::RecentIds => "recent-ids",
            Self::RecentHead => "recent-head",
            Self::Failed => "failed",
            Self::FailedDead => "failed-dead",
            Self::FailedReplayed => "failed-replayed",
            Self::FailedIndex => "failed-index",
            Self::RateLimit => "ratelimit",
            Self::EventLimit => "eventlimit",
            Self::Online => "online",
            Self::Devices => "devices",
            Self::Typing => "typing",
            Self::Conversations => "convlist",
            Self::Unread => "unread",
            Self::Profile => "profile",
            Self::Relationship => "rel",
            Self::Members => "members",
            Self::Message => "message",
            Self::Lease => "lease",
            Self::Lock => "lock",
        }
    }

    /// The family with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == name)
    }

    /// Whether its keys may be deleted at any moment. Those of the failed queue may not: nothing else holds what they hold.
    pub fn is_cache(self) -> bool {
        !matches!(self, Self::Failed | Self::FailedDead | Self::FailedReplayed | Self::FailedIndex)
    }
}

impl Kind {
    /// Its family; `None` for channels, which are not keys.
    pub fn family(&self) -> Option<Family> {
        Some(match self {
            Self::Recent(_) => Family::Recent,
            Self::RecentIds(_) => Family::RecentIds,
            Self::RecentHead(_) => Family::RecentHead,
            Self::Failed(_) => Family::Failed,
            Self::FailedDead(_) => Family::FailedDead,
            Self::FailedReplayed(_) => Family::FailedReplayed,
            Self::FailedIndex => Family::FailedIndex,
            Self::Channel(_) | Self::Beacon(_) | Self::Invalidations => return None,
            Self::RateLimit(_) => Family::RateLimit,
            Self::EventLimit(..) => Family::EventLimit,
            Self::Online => Family::Online,
            Self::Devices(_) => Family::Devices,
            Self::Typing(..) => Family::Typing,
            Self::Conversations(_) => Family::Conversations,
            Self::Unread(_) => Family::Unread,
            Self::Value(value) => value.family(),
            Self::Lease(_) => Family::Lease,
            Self::Lock(_) => Family::Lock,
        })
    }
}

impl Cached {
    /// The family of its key.
    pub fn family(&self) -> Family {
        match self {
            Self::Profile(_) => Family::Profile,
            Self::Relationship(_) => Family::Relationship,
            Self::Members(_) => Family::Members,
            Self::Message(_) => Family::Message,
        }
    }
}

/// Writes the id of its key.
impl fmt::Display for Cached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(user) => user.fmt(f),
            Self::Relationship(pair) => pair.fmt(f),
            Self::Members(chat) => chat.fmt(f),
            Self::Message(id) => id.fmt(f),
        }
    }
}
