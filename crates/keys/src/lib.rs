//! The names of all keys and channels in Redis: [`Keys`] builds them and parses them back. No other crate writes a name by hand.
//!
//! A name is a prefix, a version, a word for its [`Kind`] and an id in braces: `chat:v1:unread:{alice}`. The names of the recent list
//! and of the failed queue have no version, because their entries carry one. The braces are Redis hash tags: all keys of one chat
//! share a cluster slot, and so do a value and its lease.
//!
//! Ids are checked types that contain neither braces nor `SCAN` wildcards, and [`Keys::new`] checks the configurable parts. Therefore no
//! two inputs form the same key, every key parses back to what it was made from, and keys of another version do not parse.
//!
//! The cache and the failed queue share this crate, so that one test proves that their names do not collide; neither depends on the
//! other.
//!
//! See `docs/decisions/crates-on-redis.md`.

mod kind;
mod parse;

use holdfast_message::id::MAX_USER_ID;
use holdfast_message::{ChatId, UserId};
use holdfast_service::servers::CacheSettings;

pub use kind::{Cached, Channel, Family, Kind, LockName, LockNameError, MAX_LOCK_NAME, Pair};

/// The longest key that is ever built, in bytes, unless configured.
pub const MAX_KEY_LENGTH: usize = 250;
/// The longest name, in bytes, that parts and separators add to prefix and version: a typing key of a direct chat.
const LONGEST_PARTS: usize = 2 + "typing".len() + 1 + (2 + 2 * MAX_USER_ID + 1) + 1 + (2 + MAX_USER_ID);
/// Words that names without a version have in its place.
const BARE_WORDS: [&str; 2] = ["recent", "failed"];

/// Why a prefix, a version or a separator is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A part is empty, too long, or contains a character that is not allowed there.
    #[error(
        "{0} must be 1 to 32 characters out of letters, digits, '_', '-' and '.' (a separator: one of ':', '/', '|')"
    )]
    Part(&'static str),
    /// The version is a word that names without a version have in its place.
    #[error("the key version must be neither 'recent' nor 'failed'")]
    Reserved,
    /// The longest key would exceed this many bytes.
    #[error("prefix and version would make keys longer than {0} bytes")]
    TooLong(usize),
}

/// Builds and parses names. Cheap to clone.
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
    /// The names of a deployment with these settings.
    ///
    /// # Errors
    /// As [`Keys::new`].
    pub fn of(settings: &CacheSettings) -> Result<Self, KeyError> {
        let CacheSettings { cache_key_prefix, cache_key_version, cache_key_separator, .. } = settings;
        Self::new(cache_key_prefix, cache_key_version, cache_key_separator, settings.cache_max_key_length)
    }

    /// Names with the prefix, the version and the separator of a deployment, at most `max_length` bytes long.
    ///
    /// # Errors
    /// A part is not allowed, or a key could become longer than `max_length`.
    pub fn new(prefix: &str, version: &str, separator: &str, max_length: usize) -> Result<Self, KeyError> {
        if !is_word(prefix) {
            return Err(KeyError::Part("the key prefix"));
        }
        if !is_word(version) {
            return Err(KeyError::Part("the key version"));
        }
        if BARE_WORDS.contains(&version) {
            return Err(KeyError::Reserved);
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

    /// The name of a key or channel.
    pub fn key(&self, kind: &Kind) -> String {
        match kind {
            Kind::Recent(chat) => self.recent(chat),
            Kind::RecentIds(chat) => self.recent_ids(chat),
            Kind::RecentHead(chat) => self.recent_head(chat),
            Kind::Failed(chat) => self.failed(chat),
            Kind::FailedDead(chat) => self.failed_dead(chat),
            Kind::FailedReplayed(chat) => self.failed_replayed(chat),
            Kind::FailedIndex => self.failed_index(),
            Kind::Channel(channel) => self.channel(channel),
            Kind::Beacon(gateway) => self.beacon(gateway),
            Kind::Invalidations => self.invalidations(),
            Kind::RateLimit(user) => self.rate_limit(user),
            Kind::EventLimit(user, event) => self.rate_limit_of(user, event),
            Kind::Online => self.online(),
            Kind::Devices(user) => self.devices(user),
            Kind::Typing(chat, user) => self.typing(chat, user),
            Kind::Conversations(user) => self.conversations(user),
            Kind::Unread(user) => self.unread(user),
            Kind::Value(value) => self.value(value),
            Kind::Lease(value) => self.lease(value),
            Kind::Lock(name) => self.lock(name),
        }
    }

    /// A `SCAN` pattern that matches the keys of this family and no others.
    pub fn pattern(&self, family: Family) -> String {
        let one = |word| self.name(word, "*", "");
        match family {
            Family::Recent => self.bare_name("recent", "*", ""),
            Family::RecentIds => self.bare_name("recent", "*", "ids"),
            Family::RecentHead => self.bare_name("recent", "*", "head"),
            Family::Failed => self.bare_name("failed", "*", ""),
            Family::FailedDead => self.bare_name("failed", "*", "dead"),
            Family::FailedReplayed => self.bare_name("failed", "*", "replayed"),
            Family::FailedIndex => self.failed_index(),
            Family::RateLimit => one("ratelimit"),
            Family::EventLimit => self.name("ratelimit", "*", "*"),
            Family::Online => self.online(),
            Family::Devices => self.name("devices", &self.online(), "*"),
            Family::Typing => self.name("typing", "*", "{*}"),
            Family::Conversations => one("convlist"),
            Family::Unread => one("unread"),
            Family::Profile => one(&self.profile_word()),
            Family::Relationship => one("rel"),
            Family::Members => one("members"),
            Family::Message => one("message"),
            // The first letters of what is cached; a user of this name has devices.
            Family::Lease => self.name("[mpr]*", "*", "lease"),
            Family::Lock => one("lock"),
        }
    }

    /// A `SCAN` pattern that matches every key with this version. Keys of recent lists and failed queues have no version.
    pub fn pattern_of_version(&self) -> String {
        format!("{}*", self.versioned)
    }

    /// The entries of a chat's recent list.
    pub fn recent(&self, chat: &ChatId) -> String {
        self.bare_name("recent", chat.as_str(), "")
    }

    /// The message ids that a chat's recent list knows.
    pub fn recent_ids(&self, chat: &ChatId) -> String {
        self.bare_name("recent", chat.as_str(), "ids")
    }

    /// The state of a chat's recent list: epoch, last seq, floor.
    pub fn recent_head(&self, chat: &ChatId) -> String {
        self.bare_name("recent", chat.as_str(), "head")
    }

    /// A chat's failed queue.
    pub fn failed(&self, chat: &ChatId) -> String {
        self.bare_name("failed", chat.as_str(), "")
    }

    /// A chat's dead list: entries of its failed queue that can never be published.
    pub fn failed_dead(&self, chat: &ChatId) -> String {
        self.bare_name("failed", chat.as_str(), "dead")
    }

    /// The ids of the messages that were replayed last from a chat's failed queue.
    pub fn failed_replayed(&self, chat: &ChatId) -> String {
        self.bare_name("failed", chat.as_str(), "replayed")
    }

    /// The index of the failed queue: chats that have entries, by the time of their next attempt.
    pub fn failed_index(&self) -> String {
        format!("{0}failed{1}index", self.bare, self.separator)
    }

    /// A `SCAN` pattern that matches every key of a chat's failed queue, and nothing else.
    pub fn failed_pattern(&self) -> String {
        format!("{}failed{}{{*}}*", self.bare, self.separator)
    }

    /// The name of a channel.
    pub fn channel(&self, channel: &Channel) -> String {
        match channel {
            Channel::User(user) => self.name("user", user.as_str(), ""),
            Channel::Group(chat) => self.name("group", chat.as_str(), ""),
        }
    }

    /// The channel on which a process publishes its own beacon. `gateway` is a random word that names the process.
    pub fn beacon(&self, gateway: &str) -> String {
        self.name("beacon", gateway, "")
    }

    /// The channel on which processes publish which cached values they have invalidated.
    pub fn invalidations(&self) -> String {
        format!("{}invalidations", self.versioned)
    }

    /// A user's rate limit of messages.
    pub fn rate_limit(&self, user: &UserId) -> String {
        self.name("ratelimit", user.as_str(), "")
    }

    /// A user's rate limit of other events of one name, a word.
    pub fn rate_limit_of(&self, user: &UserId, event: &str) -> String {
        self.name("ratelimit", user.as_str(), event)
    }

    /// The users who are connected.
    pub fn online(&self) -> String {
        format!("{}online", self.versioned)
    }

    /// A user's connections. In the cluster slot of [`Keys::online`], so that one script may touch both.
    pub fn devices(&self, user: &UserId) -> String {
        self.name("devices", &self.online(), user.as_str())
    }

    /// The marker that a user is typing in a chat.
    pub fn typing(&self, chat: &ChatId, user: &UserId) -> String {
        self.name("typing", chat.as_str(), &format!("{{{user}}}"))
    }

    /// A user's chats by last timestamp.
    pub fn conversations(&self, user: &UserId) -> String {
        self.name("convlist", user.as_str(), "")
    }

    /// A user's unread counts.
    pub fn unread(&self, user: &UserId) -> String {
        self.name("unread", user.as_str(), "")
    }

    /// A cached value.
    pub fn value(&self, value: &Cached) -> String {
        self.cached(value, "")
    }

    /// The lease on a cached value, which decides who may fill it. In the cluster slot of the value.
    pub fn lease(&self, value: &Cached) -> String {
        self.cached(value, "lease")
    }

    /// A lock.
    pub fn lock(&self, name: &LockName) -> String {
        self.name("lock", name.as_str(), "")
    }

    fn cached(&self, value: &Cached, suffix: &str) -> String {
        let id = value.to_string();
        match value {
            Cached::Profile(_) => self.name(&self.profile_word(), &id, suffix),
            Cached::Relationship(_) => self.name("rel", &id, suffix),
            Cached::Members(_) => self.name("members", &id, suffix),
            Cached::Message(_) => self.name("message", &id, suffix),
        }
    }

    fn profile_word(&self) -> String {
        format!("profile{}user", self.separator)
    }

    fn name(&self, word: &str, id: &str, suffix: &str) -> String {
        self.written(&self.versioned, word, id, suffix)
    }

    fn bare_name(&self, word: &str, id: &str, suffix: &str) -> String {
        self.written(&self.bare, word, id, suffix)
    }

    fn written(&self, space: &str, word: &str, id: &str, suffix: &str) -> String {
        let separator = self.separator.as_str();
        let mut name = String::with_capacity(space.len() + word.len() + id.len() + suffix.len() + 4);
        for part in [space, word, separator, "{", id, "}"] {
            name.push_str(part);
        }
        if !suffix.is_empty() {
            name.push_str(separator);
            name.push_str(suffix);
        }
        name
    }
}

impl holdfast_redis::aside::Names for Keys {
    type Value = Cached;

    fn value(&self, value: &Cached) -> String {
        Self::value(self, value)
    }

    fn lease(&self, value: &str) -> String {
        format!("{value}{}lease", self.separator)
    }

    fn invalidations(&self) -> String {
        Self::invalidations(self)
    }

    fn beacon(&self, process: &str) -> String {
        Self::beacon(self, process)
    }
}

fn is_word(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}

/// Escapes a text, so that as a `SCAN` pattern it matches this text only.
pub fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '^' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// The README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
