//! The one place that builds the names of keys and channels.
//!
//! Braces are literal hash tags: the keys of one chat share a cluster slot. Users and chats are checked types, the configurable
//! parts are checked here, so that no input can form another key.

use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

/// The longest key that is ever built, in bytes, unless configured.
pub const MAX_KEY_LENGTH: usize = 250;
/// The longest name, in bytes, that a part adds to prefix and version: a typing key of a group.
const LONGEST_PARTS: usize = 190;

/// Why a prefix, version or separator can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A part is empty or holds something else than letters, digits, `_`, `-`, `.` (or, as separator, `:`, `/`, `|`).
    #[error(
        "{0} must be 1 to 32 characters out of letters, digits, '_', '-' and '.' (a separator: one of ':', '/', '|')"
    )]
    Part(&'static str),
    /// Keys would become longer than allowed.
    #[error("prefix and version would make keys longer than {0} bytes")]
    TooLong(usize),
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

/// Builds keys. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// `prefix` and separator.
    bare: String,
    /// `prefix`, separator, `version` and separator.
    versioned: String,
    separator: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self { bare: "chat:".into(), versioned: "chat:v1:".into(), separator: ":".into() }
    }
}

impl Keys {
    /// Keys with a prefix, a version and a separator of the deployment's choice, never longer than `max_length` bytes.
    pub fn new(prefix: &str, version: &str, separator: &str, max_length: usize) -> Result<Self, KeyError> {
        let word = |text: &str| {
            (1..=32).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
        };
        if !word(prefix) {
            return Err(KeyError::Part("the key prefix"));
        }
        if !word(version) {
            return Err(KeyError::Part("the key version"));
        }
        // Characters that no user or chat id holds, but for ':', which braces keep apart.
        if !matches!(separator, ":" | "/" | "|") {
            return Err(KeyError::Part("the key separator"));
        }
        if prefix.len() + version.len() + LONGEST_PARTS > max_length {
            return Err(KeyError::TooLong(max_length));
        }
        Ok(Self {
            bare: format!("{prefix}{separator}"),
            versioned: format!("{prefix}{separator}{version}{separator}"),
            separator: separator.into(),
        })
    }

    /// The recent list's entries.
    pub fn recent(&self, chat: &ChatId) -> String {
        format!("{}recent{}{{{chat}}}", self.bare, self.separator)
    }

    /// The ids that the recent list knows.
    pub fn recent_ids(&self, chat: &ChatId) -> String {
        format!("{}{}ids", self.recent(chat), self.separator)
    }

    /// The recent list's head.
    pub fn recent_head(&self, chat: &ChatId) -> String {
        format!("{}{}head", self.recent(chat), self.separator)
    }

    /// A chat's failed queue.
    pub fn failed(&self, chat: &ChatId) -> String {
        format!("{}failed{}{{{chat}}}", self.bare, self.separator)
    }

    /// What a chat's failed queue gave up on.
    pub fn failed_dead(&self, chat: &ChatId) -> String {
        format!("{}{}dead", self.failed(chat), self.separator)
    }

    /// The chats with failed queues.
    pub fn failed_index(&self) -> String {
        format!("{0}failed{1}index", self.bare, self.separator)
    }

    /// A `SCAN` pattern that every failed queue matches, and nothing else but dead lists.
    pub fn failed_pattern(&self) -> String {
        format!("{}failed{}{{*}}*", self.bare, self.separator)
    }

    /// The chat whose failed queue has this key. A dead list is no failed queue.
    pub fn chat_of_failed(&self, key: &str) -> Option<ChatId> {
        let rest = key.strip_prefix(&self.bare)?.strip_prefix("failed")?.strip_prefix(&self.separator)?;
        ChatId::parse(rest.strip_prefix('{')?.strip_suffix('}')?).ok()
    }

    /// The chat whose dead list has this key.
    pub fn chat_of_dead(&self, key: &str) -> Option<ChatId> {
        self.chat_of_failed(key.strip_suffix("dead")?.strip_suffix(&self.separator)?)
    }

    /// A channel's name.
    pub fn channel(&self, channel: &Channel) -> String {
        match channel {
            Channel::User(user) => format!("{}user{}{{{user}}}", self.versioned, self.separator),
            Channel::Group(chat) => format!("{}group{}{{{chat}}}", self.versioned, self.separator),
        }
    }

    /// The channel with this name.
    pub fn parse_channel(&self, name: &str) -> Option<Channel> {
        let rest = name.strip_prefix(&self.versioned)?;
        let (kind, rest) = rest.split_once(&self.separator)?;
        let id = rest.strip_prefix('{')?.strip_suffix('}')?;
        match kind {
            "user" => UserId::parse(id).ok().map(Channel::User),
            "group" => ChatId::parse(id).ok().map(Channel::Group),
            _ => None,
        }
    }

    /// Where a gateway's own beacon is published.
    pub fn beacon(&self, gateway: &str) -> String {
        format!("{}beacon{}{{{gateway}}}", self.versioned, self.separator)
    }

    /// A user's rate limit of messages.
    pub fn rate_limit(&self, user: &UserId) -> String {
        format!("{}ratelimit{}{{{user}}}", self.versioned, self.separator)
    }

    /// A user's rate limit of other events of one name, a word of at most 32 letters.
    pub fn rate_limit_of(&self, user: &UserId, event: &'static str) -> String {
        format!("{}{}{event}", self.rate_limit(user), self.separator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_the_contracts() {
        let keys = Keys::default();
        assert_eq!(keys, Keys::new("chat", "v1", ":", MAX_KEY_LENGTH).unwrap());
        let chat = ChatId::parse("alice:bob").unwrap();
        let user = UserId::parse("alice").unwrap();
        assert_eq!(keys.recent(&chat), "chat:recent:{alice:bob}");
        assert_eq!(keys.recent_ids(&chat), "chat:recent:{alice:bob}:ids");
        assert_eq!(keys.recent_head(&chat), "chat:recent:{alice:bob}:head");
        assert_eq!(keys.failed(&chat), "chat:failed:{alice:bob}");
        assert_eq!(keys.failed_dead(&chat), "chat:failed:{alice:bob}:dead");
        assert_eq!(keys.failed_index(), "chat:failed:index");
        assert_eq!(keys.channel(&Channel::User(user.clone())), "chat:v1:user:{alice}");
        assert_eq!(keys.rate_limit(&user), "chat:v1:ratelimit:{alice}");
        assert_eq!(keys.rate_limit_of(&user, "history"), "chat:v1:ratelimit:{alice}:history");
        assert_eq!(keys.beacon("7f"), "chat:v1:beacon:{7f}");
    }

    #[test]
    fn a_failed_queue_is_known_by_its_key_and_a_dead_list_is_none() {
        let keys = Keys::default();
        let chat = ChatId::parse("alice:bob").unwrap();
        assert_eq!(keys.chat_of_failed(&keys.failed(&chat)), Some(chat.clone()));
        assert_eq!(keys.chat_of_dead(&keys.failed_dead(&chat)), Some(chat.clone()));
        assert_eq!(keys.chat_of_dead(&keys.failed(&chat)), None);
        for key in [keys.failed_dead(&chat), keys.failed_index(), "chat:failed:{x}".into(), "chat:failed:".into()] {
            assert_eq!(keys.chat_of_failed(&key), None, "{key}");
        }
    }

    #[test]
    fn a_channel_is_known_by_its_name() {
        let keys = Keys::default();
        let group = ChatId::parse("g_00000000-0000-0000-0000-0000000000ab").unwrap();
        for channel in [Channel::User(UserId::parse("al.ice").unwrap()), Channel::Group(group)] {
            assert_eq!(keys.parse_channel(&keys.channel(&channel)), Some(channel));
        }
        assert_eq!(keys.parse_channel(&keys.beacon("7f")), None);
    }

    #[test]
    fn no_setting_can_form_another_key() {
        for (prefix, version, separator) in
            [("", "v1", ":"), ("a{b", "v1", ":"), ("a b", "v1", ":"), ("chat", "*", ":"), ("chat", "v1", "}")]
        {
            assert!(Keys::new(prefix, version, separator, MAX_KEY_LENGTH).is_err(), "{prefix} {version} {separator}");
        }
        assert_eq!(Keys::new("chat", "v1", ":", 100), Err(KeyError::TooLong(100)));
    }

    #[test]
    fn no_key_is_longer_than_promised() {
        let long = |letter: &str| UserId::parse(&letter.repeat(64)).unwrap();
        let chat = ChatId::direct(&long("a"), &long("b")).unwrap();
        let keys = Keys::new(&"p".repeat(32), &"v".repeat(16), ":", MAX_KEY_LENGTH).unwrap();
        for key in [keys.recent_head(&chat), keys.failed_dead(&chat), keys.channel(&Channel::User(long("a")))] {
            assert!(key.len() <= MAX_KEY_LENGTH);
        }
    }
}
