//! The bytes of an entry of the recent list.
//!
//! A positional msgpack array: version, seq (nil if the entry came with a repair), then the *rest*: id (16 bytes, as a string), attempt,
//! timestamp, sender (0 or 1, the position in a direct chat's id; text in a group), content, `tempId`, `imageUrl`, `publicId`.
//! The script writes version and seq, because only it knows the seq; it gets the rest as bytes, and copies it into the publication
//! unchanged. A tombstone keeps seq, id, attempt and timestamp, and has nil for everything else.
//!
//! An entry of another version, or one that does not decode, is treated as absent and is counted; it does not affect other entries. Later
//! versions may append elements, and may change those after the timestamp: the scripts read no further.

use holdfast_message::id::Members;
use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};
use holdfast_redis::msgpack::{Reader, Writer};

/// The version that this build writes and reads.
pub const VERSION: u64 = 1;
/// The number of elements of an entry. The scripts write the header of the array as fixed bytes.
pub(crate) const ELEMENTS: u32 = 10;
/// The number of elements of the rest.
pub(crate) const REST_ELEMENTS: u32 = ELEMENTS - 2;

/// An entry of the recent list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// The position in the live stream; `None`: a repair inserted the entry below the live messages.
    pub seq: Option<u64>,
    /// The message or the tombstone.
    pub item: Listed,
}

/// The content of an entry of the recent list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// A message.
    Message(Message),
    /// A message that was not made durable. It is not shown, and a page that contains its key is merged with the store.
    Tombstone(HistoryKey),
}

impl Listed {
    /// The position in the history.
    pub fn key(&self) -> HistoryKey {
        match self {
            Self::Message(message) => message.key(),
            Self::Tombstone(key) => *key,
        }
    }
}

/// The entry of a message, as the scripts assemble it.
pub fn encode(seq: Option<u64>, message: &Message) -> Vec<u8> {
    let writer = Writer::with_capacity(80 + message.content.len()).array(ELEMENTS).uint(VERSION);
    let mut bytes = if let Some(seq) = seq { writer.uint(seq).0 } else { writer.nil().0 };
    bytes.extend_from_slice(&rest(message, u32::MAX));
    bytes
}

/// The rest of an entry: everything after version and seq.
pub(crate) fn rest(message: &Message, attempt: u32) -> Vec<u8> {
    let writer = head(Writer::with_capacity(64 + message.content.len()), &message.key(), attempt);
    let writer = match message.chat.members() {
        Members::Direct(first, _) => writer.uint(u64::from(first != message.sender)),
        Members::Group => writer.str(message.sender.as_str()),
    };
    let writer = writer.str(&message.content).maybe_str(message.temp_id.as_deref());
    writer.maybe_str(message.image_url.as_deref()).maybe_str(message.public_id.as_deref()).0
}

/// The rest of a tombstone.
pub(crate) fn tombstone_rest(key: &HistoryKey, attempt: u32) -> Vec<u8> {
    head(Writer::with_capacity(40), key, attempt).nil().nil().nil().nil().nil().0
}

fn head(writer: Writer, key: &HistoryKey, attempt: u32) -> Writer {
    writer.raw(key.id.as_bytes()).uint(u64::from(attempt)).int(key.timestamp)
}

/// Decodes an entry of a chat's list; `None`: this build can't read it.
pub fn decode(chat: &ChatId, bytes: &[u8]) -> Option<ListedEntry> {
    let mut reader = Reader(bytes);
    if reader.array()? < ELEMENTS || reader.uint()? != VERSION {
        return None;
    }
    let seq = reader.maybe_uint()?;
    Some(ListedEntry { seq, item: decode_rest(chat, &mut reader)? })
}

pub(crate) fn decode_rest(chat: &ChatId, reader: &mut Reader<'_>) -> Option<Listed> {
    let id = MessageId::from_bytes(reader.raw()?.try_into().ok()?);
    let _attempt = reader.uint()?;
    let timestamp = reader.int()?;
    if reader.skip_nil() {
        return reader.skip_nil().then_some(Listed::Tombstone(HistoryKey { timestamp, id }));
    }
    let sender = match chat.members() {
        Members::Direct(first, second) => match reader.uint()? {
            0 => first,
            1 => second,
            _ => return None,
        },
        Members::Group => UserId::parse(reader.str()?).ok()?,
    };
    let mut text = || reader.maybe_str();
    let content = text()??.to_owned();
    let temp_id = text()?.map(str::to_owned);
    let image_url = text()?.map(str::to_owned);
    let public_id = text()?.map(str::to_owned);
    let receiver = chat.other(&sender);
    let chat = chat.clone();
    Some(Listed::Message(Message { id, temp_id, chat, sender, receiver, content, image_url, public_id, timestamp }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(chat: &str, sender: &str) -> Message {
        let chat = ChatId::parse(chat).unwrap();
        let sender = UserId::parse(sender).unwrap();
        Message {
            id: MessageId::from_bytes([7; 16]),
            temp_id: Some("t".into()),
            receiver: chat.other(&sender),
            chat,
            sender,
            content: "hé".into(),
            image_url: None,
            public_id: Some("p".into()),
            timestamp: 1_700_000_000_000,
        }
    }

    fn entry(seq: Option<u64>, rest: &[u8]) -> Vec<u8> {
        let writer = Writer::default().array(ELEMENTS).uint(VERSION);
        let mut bytes = if let Some(seq) = seq { writer.uint(seq).0 } else { writer.nil().0 };
        bytes.extend_from_slice(rest);
        bytes
    }

    #[test]
    fn messages_of_both_kinds_of_chats_come_back_whole() {
        for (chat, sender) in
            [("alice:bob", "alice"), ("alice:bob", "bob"), ("g_00000000-0000-0000-0000-0000000000ab", "carol")]
        {
            let message = message(chat, sender);
            let bytes = entry(Some(300), &rest(&message, u32::MAX));
            let decoded = decode(&message.chat, &bytes).unwrap();
            assert_eq!(decoded, ListedEntry { seq: Some(300), item: Listed::Message(message) });
        }
    }

    #[test]
    fn a_tombstone_keeps_its_place() {
        let message = message("alice:bob", "bob");
        let bytes = entry(None, &tombstone_rest(&message.key(), 5));
        let decoded = decode(&message.chat, &bytes).unwrap();
        assert_eq!(decoded, ListedEntry { seq: None, item: Listed::Tombstone(message.key()) });
    }

    /// What a client shows: an id of its own, words, no image. With the longest attempt and a position of a busy chat.
    fn typical(number: u32, words: usize) -> Message {
        let content: String = "we could meet at the old station at seven, if that is not too early for you, and walk from there to the river ".chars().cycle().skip(number as usize).take(words * 6).collect();
        let mut message =
            message("alice.anderson:bob.brown", if number.is_multiple_of(2) { "alice.anderson" } else { "bob.brown" });
        message.id = MessageId::from_bytes(std::array::from_fn(|byte| {
            (number as u8).wrapping_mul(31).wrapping_add(byte as u8 * 17)
        }));
        (message.content, message.temp_id, message.public_id) = (content, Some(message.id.to_string()), None);
        message.timestamp += i64::from(number) * 1000;
        message
    }

    #[test]
    fn fifty_short_messages_take_less_than_half_of_their_json() {
        for (words, most) in [(4, 0.45), (20, 0.62), (160, 0.92)] {
            let messages: Vec<_> = (0..50).map(|number| typical(number, words)).collect();
            let json: usize = messages
                .iter()
                .map(|message| {
                    let position = holdfast_message::json::Position::Absent;
                    serde_json::to_vec(&holdfast_message::json::MessageJson { message, position }).unwrap().len()
                })
                .sum();
            let listed: usize = messages.iter().map(|message| encode(Some(100_000), message).len()).sum();
            let share = listed as f64 / json as f64;
            println!(
                "50 messages of {} characters: {listed} bytes, {json} as JSON ({:.0} %)",
                words * 6,
                share * 100.0
            );
            assert!(share <= most, "{share}");
        }
    }

    #[test]
    fn the_header_that_the_scripts_write_is_ours() {
        assert_eq!(entry(None, &[])[..2], [154, 1]);
    }

    #[test]
    fn what_this_build_cannot_read_is_absent() {
        let message = message("alice:bob", "bob");
        let whole = entry(Some(1), &rest(&message, 1));
        for end in 0..whole.len() {
            assert_eq!(decode(&message.chat, &whole[..end]), None);
        }
        let mut newer = whole.clone();
        newer[1] = 2;
        assert_eq!(decode(&message.chat, &newer), None);
        assert_eq!(decode(&message.chat, b"garbage"), None);
        let mut longer = Writer::default().array(ELEMENTS + 1).0;
        longer.extend_from_slice(&whole[1..]);
        longer.push(0xc0);
        assert!(decode(&message.chat, &longer).is_some());
    }
}
