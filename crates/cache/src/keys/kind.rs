//! What a key names: every kind of key and channel that Holdfast has in Redis.

use std::fmt;
use std::sync::Arc;

use holdfast_message::id::Members;
use holdfast_message::{ChatId, MessageId, UserId};

/// The longest name of a lock, in bytes.
pub const MAX_LOCK_NAME: usize = 160;

/// What a key or a channel is about. [`Keys::key`](super::Keys::key) writes it, [`Keys::parse`](super::Keys::parse) reads it back.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A chat's recent list.
    Recent(ChatId),
    /// The ids that a recent list knows.
    RecentIds(ChatId),
    /// A recent list's head.
    RecentHead(ChatId),
    /// A chat's failed queue.
    Failed(ChatId),
    /// What a chat's failed queue gave up on.
    FailedDead(ChatId),
    /// The chats with failed queues.
    FailedIndex,
    /// A channel for events.
    Channel(Channel),
    /// The channel of a gateway's own beacon.
    Beacon(String),
    /// The channel on which processes tell each other what they invalidated.
    Invalidations,
    /// A user's rate limit of messages.
    RateLimit(UserId),
    /// A user's rate limit of other events of one name.
    EventLimit(UserId, String),
    /// Who is connected.
    Online,
    /// A user's connections: which there are, and when they were last seen.
    Devices(UserId),
    /// A user types in a chat.
    Typing(ChatId, UserId),
    /// A user's chats by last timestamp.
    Conversations(UserId),
    /// A user's unread counts.
    Unread(UserId),
    /// A value that a store holds and the cache repeats.
    Value(Cached),
    /// Who may fill the value beside it; dropped with the value, so that no older fill comes after an invalidation.
    Lease(Cached),
    /// A lock.
    Lock(LockName),
}

/// What the cache repeats of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Cached {
    /// A user's profile.
    Profile(UserId),
    /// What two users are to each other.
    Relationship(Pair),
    /// The members of a group.
    Members(ChatId),
    /// One message.
    Message(MessageId),
}

/// Two users without an order, as in a direct chat; perhaps the same one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair(UserId, UserId);

impl Pair {
    /// The pair of these, whoever is named first.
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

/// Where events for somebody are published.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Channel {
    /// Every gateway that holds a socket of this user hears it.
    User(UserId),
    /// Every gateway that holds a socket of a member of this group hears it.
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

/// A lock's name that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a lock's name is 1 to {MAX_LOCK_NAME} characters out of A-Z, a-z, 0-9, '_', '-', '.' and ':'")]
pub struct LockNameError;

impl LockName {
    /// Checks and takes a name.
    pub fn parse(text: &str) -> Result<Self, LockNameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':');
        if (1..=MAX_LOCK_NAME).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(LockNameError)
        }
    }

    /// The lock of whoever warms values of this kind, so that one does for all.
    pub fn of_warming(kind: Family) -> Self {
        // Words hold nothing that a name may not hold, and no more of it.
        Self(format!("warm:{}", kind.as_str()).into())
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Kinds of keys that operators may look for or count, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each is the kind of the same name")]
pub enum Family {
    Recent,
    RecentIds,
    RecentHead,
    Failed,
    FailedDead,
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
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::Recent,
        Self::RecentIds,
        Self::RecentHead,
        Self::Failed,
        Self::FailedDead,
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

    /// The name that operators know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recent => "recent",
            Self::RecentIds => "recent-ids",
            Self::RecentHead => "recent-head",
            Self::Failed => "failed",
            Self::FailedDead => "failed-dead",
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

    /// The one with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == name)
    }

    /// Whether its keys may be deleted at any moment: all but the failed queue's, which hold what nothing else holds.
    pub fn is_cache(self) -> bool {
        !matches!(self, Self::Failed | Self::FailedDead | Self::FailedIndex)
    }
}

impl Kind {
    /// Its family; channels have none, for nothing lies under their names.
    pub fn family(&self) -> Option<Family> {
        Some(match self {
            Self::Recent(_) => Family::Recent,
            Self::RecentIds(_) => Family::RecentIds,
            Self::RecentHead(_) => Family::RecentHead,
            Self::Failed(_) => Family::Failed,
            Self::FailedDead(_) => Family::FailedDead,
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
    /// Its family.
    pub fn family(&self) -> Family {
        match self {
            Self::Profile(_) => Family::Profile,
            Self::Relationship(_) => Family::Relationship,
            Self::Members(_) => Family::Members,
            Self::Message(_) => Family::Message,
        }
    }
}

/// Whose value it is, as in its key.
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
