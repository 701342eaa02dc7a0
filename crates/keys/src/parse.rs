//! Parses names back to what they were built from.

use holdfast_message::{ChatId, MessageId, UserId};

use crate::{Cached, Channel, Keys, Kind, LockName, Pair, is_word};

impl Keys {
    /// The kind that has this name; `None`: no kind of this prefix and version has it.
    pub fn parse(&self, name: &str) -> Option<Kind> {
        // A version is no bare word, so at most one of the two can match.
        if let Some(rest) = name.strip_prefix(&self.versioned) { self.versioned(rest) } else { self.bare(name) }
    }

    /// The chat whose failed queue has this key; `None` also for the key of a dead list.
    pub fn chat_of_failed(&self, key: &str) -> Option<ChatId> {
        match self.parse(key)? {
            Kind::Failed(chat) => Some(chat),
            _ => None,
        }
    }

    /// The chat whose dead list has this key.
    pub fn chat_of_dead(&self, key: &str) -> Option<ChatId> {
        match self.parse(key)? {
            Kind::FailedDead(chat) => Some(chat),
            _ => None,
        }
    }

    /// The channel with this name.
    pub fn parse_channel(&self, name: &str) -> Option<Channel> {
        match self.parse(name)? {
            Kind::Channel(channel) => Some(channel),
            _ => None,
        }
    }

    fn versioned(&self, rest: &str) -> Option<Kind> {
        match rest {
            "online" => return Some(Kind::Online),
            "invalidations" => return Some(Kind::Invalidations),
            _ => {}
        }
        let (word, id, suffix) = self.parts(rest)?;
        let user = || UserId::parse(id).ok();
        let chat = || ChatId::parse(id).ok();
        let value = if word == self.profile_word() {
            Some(Cached::Profile(user()?))
        } else {
            match word {
                "rel" => Some(Cached::Relationship(Pair::parse(id)?)),
                "members" => Some(Cached::Members(chat()?)),
                "message" => Some(Cached::Message(MessageId::parse(id)?)),
                _ => None,
            }
        };
        Some(match (value, word, suffix) {
            (Some(value), _, "") => Kind::Value(value),
            (Some(value), _, "lease") => Kind::Lease(value),
            (None, "user", "") => Kind::Channel(Channel::User(user()?)),
            (None, "group", "") => Kind::Channel(Channel::Group(chat()?)),
            (None, "beacon", "") => Kind::Beacon(is_word(id).then(|| id.to_owned())?),
            (None, "ratelimit", "") => Kind::RateLimit(user()?),
            (None, "ratelimit", event) => Kind::EventLimit(user()?, is_word(event).then(|| event.to_owned())?),
            (None, "convlist", "") => Kind::Conversations(user()?),
            (None, "unread", "") => Kind::Unread(user()?),
            (None, "lock", "") => Kind::Lock(LockName::parse(id).ok()?),
            (None, "devices", who) if id == self.online() => Kind::Devices(UserId::parse(who).ok()?),
            (None, "typing", who) => {
                Kind::Typing(chat()?, UserId::parse(who.strip_prefix('{')?.strip_suffix('}')?).ok()?)
            }
            _ => return None,
        })
    }

    fn bare(&self, name: &str) -> Option<Kind> {
        let rest = name.strip_prefix(&self.bare)?;
        if rest.strip_prefix("failed").and_then(|rest| rest.strip_prefix(&self.separator)) == Some("index") {
            return Some(Kind::FailedIndex);
        }
        let (word, id, suffix) = self.parts(rest)?;
        let chat = ChatId::parse(id).ok()?;
        Some(match (word, suffix) {
            ("recent", "") => Kind::Recent(chat),
            ("recent", "ids") => Kind::RecentIds(chat),
            ("recent", "head") => Kind::RecentHead(chat),
            ("failed", "") => Kind::Failed(chat),
            ("failed", "dead") => Kind::FailedDead(chat),
            ("failed", "replayed") => Kind::FailedReplayed(chat),
            _ => return None,
        })
    }

    /// Word, id and suffix; the last is empty if there is none.
    fn parts<'a>(&self, rest: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let (word, rest) = rest.split_once('{')?;
        let word = word.strip_suffix(&self.separator)?;
        let (id, suffix) = rest.split_once('}')?;
        match suffix {
            "" => Some((word, id, "")),
            suffix => suffix
                .strip_prefix(&self.separator)
                .filter(|suffix| !suffix.is_empty())
                .map(|suffix| (word, id, suffix)),
        }
    }
}
