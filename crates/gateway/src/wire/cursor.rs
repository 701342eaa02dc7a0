//! Pages: the cursor that names where a page begins, and how long a page is.
//!
//! Every cursor is written and read here: as base64url without padding, opaque to clients. What its bytes are is the cursor's own affair.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_message::{ChatId, HistoryKey, Invalid, MessageId};

/// The most entries of one page.
pub const MAX_LIMIT: usize = 100;

/// A position in a list from which the next page goes on.
pub trait Cursor: Sized {
    /// The bytes that clients carry.
    fn to_bytes(&self) -> Vec<u8>;
    /// The position that these bytes name, if they name one.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

/// Writes a cursor as clients carry it.
pub fn write(cursor: &impl Cursor) -> String {
    URL_SAFE_NO_PAD.encode(cursor.to_bytes())
}

/// Reads the cursor of a request's `before`.
pub fn read<C: Cursor>(text: &str) -> Result<C, Invalid> {
    let cursor = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| C::from_bytes(&bytes));
    cursor.ok_or_else(|| Invalid::new("before", "must be a nextCursor of an earlier answer"))
}

/// The page size that a client asked for, or the default.
pub fn read_limit(limit: Option<usize>, default: usize) -> Result<usize, Invalid> {
    match limit.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Invalid::new("limit", format!("must be from 1 to {MAX_LIMIT}"))),
    }
}

/// A position in a chat's history: 24 bytes, the timestamp and the message's id.
impl Cursor for HistoryKey {
    fn to_bytes(&self) -> Vec<u8> {
        [&self.timestamp.to_be_bytes()[..], self.id.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (timestamp, id) = bytes.split_first_chunk()?;
        Some(Self { timestamp: i64::from_be_bytes(*timestamp), id: MessageId::from_bytes(id.try_into().ok()?) })
    }
}

/// A position in a user's list of conversations: by timestamp, then by chat. Its bytes are the two as text, with a space between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConversationCursor {
    /// When the chat's last message was sent; if its timestamp lies ahead of the clock, when it arrived. In Unix epoch milliseconds.
    pub timestamp: i64,
    /// The chat at this position.
    pub chat: ChatId,
}

impl Cursor for ConversationCursor {
    fn to_bytes(&self) -> Vec<u8> {
        format!("{} {}", self.timestamp, self.chat).into_bytes()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (timestamp, chat) = str::from_utf8(bytes).ok()?.split_once(' ')?;
        Some(Self { timestamp: timestamp.parse().ok()?, chat: ChatId::parse(chat).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use holdfast_message::UserId;

    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_and_as_older_gateways_wrote_it() {
        let key = HistoryKey { timestamp: -2, id: MessageId::from_bytes([7; 16]) };
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&key.timestamp.to_be_bytes());
        bytes[8..].copy_from_slice(key.id.as_bytes());
        assert_eq!(write(&key), URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(read(&write(&key)), Ok(key));

        let [alice, bob] = ["alice", "bob"].map(|user| UserId::parse(user).unwrap());
        let conversation = ConversationCursor { timestamp: 17, chat: ChatId::direct(&alice, &bob).unwrap() };
        assert_eq!(write(&conversation), URL_SAFE_NO_PAD.encode("17 alice:bob"));
        assert_eq!(read(&write(&conversation)), Ok(conversation));
    }

    #[test]
    fn what_is_no_cursor_of_this_list_is_refused() {
        for bytes in [0, 7, 8, 23, 25] {
            assert!(read::<HistoryKey>(&URL_SAFE_NO_PAD.encode(vec![1; bytes])).is_err(), "{bytes} bytes");
        }
        for text in ["", "17", "17 ", "x alice:bob", "17 nobody"] {
            assert!(read::<ConversationCursor>(&URL_SAFE_NO_PAD.encode(text)).is_err(), "{text}");
        }
        assert!(read::<HistoryKey>("no base64!").is_err());
    }
}
