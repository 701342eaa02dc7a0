//! User ids and chat ids.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The longest user id, in bytes.
pub const MAX_USER_ID: usize = 64;

/// Why a text is no valid id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not `[A-Za-z0-9_.-]{1,64}`.
    #[error("a user id is 1 to 64 characters out of A-Z, a-z, 0-9, '_', '.' and '-'")]
    User,
    /// Neither two user ids nor a group's id.
    #[error("a chat id is two different user ids in byte order joined by ':', or 'g_' and a UUID")]
    Chat,
    /// A user can't chat with themselves.
    #[error("the friend must be another user")]
    Oneself,
}

/// A user, `[A-Za-z0-9_.-]{1,64}`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(Arc<str>);

impl UserId {
    /// Checks and takes a user id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if (1..=MAX_USER_ID).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(IdError::User)
        }
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A chat: two users, or a group. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChatId(Arc<str>);

/// The members of a chat, as far as its id contains them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// The two users of a direct chat, in byte order.
    Direct(UserId, UserId),
    /// A group; its members are stored elsewhere.
    Group,
}

impl ChatId {
    /// Checks and takes a chat id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        members(text).map(|_| Self(text.into()))
    }

    /// The chat of two users.
    pub fn direct(one: &UserId, other: &UserId) -> Result<Self, IdError> {
        match one.as_str().cmp(other.as_str()) {
            std::cmp::Ordering::Equal => Err(IdError::Oneself),
            std::cmp::Ordering::Less => Ok(Self(format!("{one}:{other}").into())),
            std::cmp::Ordering::Greater => Ok(Self(format!("{other}:{one}").into())),
        }
    }

    /// The chat of a group.
    pub fn group(id: Uuid) -> Self {
        Self(format!("g_{id}").into())
    }

    /// Its members, as far as the id contains them.
    pub fn members(&self) -> Members {
        // A chat id is checked when it is made.
        members(&self.0).unwrap_or(Members::Group)
    }

    /// The other user, if this is a direct chat of `user`.
    pub fn other(&self, user: &UserId) -> Option<UserId> {
        match self.members() {
            Members::Direct(a, b) if a == *user => Some(b),
            Members::Direct(a, b) if b == *user => Some(a),
            _ => None,
        }
    }

    /// Whether it is a group's.
    pub fn is_group(&self) -> bool {
        !self.0.contains(':')
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn members(text: &str) -> Result<Members, IdError> {
    if let Some((first, second)) = text.split_once(':') {
        return match (UserId::parse(first), UserId::parse(second)) {
            (Ok(first), Ok(second)) if first < second => Ok(Members::Direct(first, second)),
            _ => Err(IdError::Chat),
        };
    }
    let uuid = text.strip_prefix("g_").ok_or(IdError::Chat)?;
    // One spelling only: two texts for one group would be two keys.
    Uuid::try_parse(uuid)
        .ok()
        .filter(|parsed| parsed.hyphenated().to_string() == uuid)
        .map(|_| Members::Group)
        .ok_or(IdError::Chat)
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(text: &str) -> UserId {
        UserId::parse(text).unwrap()
    }

    #[test]
    fn a_direct_chat_has_one_id_whoever_names_it() {
        let chat = ChatId::direct(&user("bob"), &user("alice")).unwrap();
        assert_eq!(chat.as_str(), "alice:bob");
        assert_eq!(chat, ChatId::direct(&user("alice"), &user("bob")).unwrap());
        assert_eq!(chat.other(&user("alice")), Some(user("bob")));
        assert_eq!(chat.other(&user("carol")), None);
        assert_eq!(ChatId::direct(&user("bob"), &user("bob")), Err(IdError::Oneself));
    }

    #[test]
    fn ids_that_could_form_another_key_are_refused() {
        for text in ["", "a b", "a:b", "a*", "{a}", "a\n", "ä", &"x".repeat(65)] {
            assert_eq!(UserId::parse(text), Err(IdError::User), "{text:?}");
        }
        for text in ["", "bob:alice", "a:a", "a:b:c", "a:", ":b", "g_", "g_x", "alice", "a:{b}", "a:b\n"] {
            assert_eq!(ChatId::parse(text), Err(IdError::Chat), "{text:?}");
        }
    }

    #[test]
    fn a_group_has_one_spelling() {
        let group = ChatId::group(Uuid::from_u128(0xAB));
        assert_eq!(ChatId::parse(group.as_str()), Ok(group.clone()));
        assert!(group.is_group());
        assert_eq!(ChatId::parse(&group.as_str().replace("ab", "AB")), Err(IdError::Chat));
        assert_eq!(ChatId::parse("g_000000000000000000000000000000ab"), Err(IdError::Chat));
    }
}
