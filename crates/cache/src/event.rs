//! The bytes of the events that gateways publish to each other on channels.
//!
//! A positional msgpack array: version, origin, kind, chat, then what the kind needs. A message carries epoch, seq and the same rest
//! bytes as its list entry ([`crate::entry`]); the script writes epoch and seq. A live event has an empty text in place of the chat, because
//! its channel determines its audience. A kind, version or live event that this build does not know is counted and skipped.

use std::sync::Arc;

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::msgpack::{Reader, Writer};

use crate::entry::{self, Listed};

const VERSION: u64 = 1;
const KIND_MESSAGE: u64 = 0;
const KIND_FAILED: u64 = 1;
const KIND_LIVE: u64 = 2;
const KIND_GROUP: u64 = 8;
/// Commands of operators have kinds from 64 on, and a user in place of the chat.
const KIND_DISCONNECT: u64 = 64;

/// The longest payload of a live event, in bytes.
pub const MAX_LIVE_PAYLOAD: usize = 16 * 1024;

/// The process that published an event: a random number made at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Origin(pub u64);

impl Origin {
    /// The origin of a new process.
    pub fn random() -> Self {
        Self(fastrand::u64(..))
    }
}

/// A position in a chat's live stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The epoch of the stream. A new epoch means that messages may be missing.
    pub epoch: Arc<str>,
    /// The number of the message; within one epoch it increases by one with each message.
    pub seq: u64,
}

/// Ephemeral events: sent to connected clients, never stored. A client that misses one asks for the state that it announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LiveEvent {
    /// A user has started or stopped typing.
    Typing,
    /// A user has read a chat up to a message.
    MessagesRead,
    /// A user came online or went offline.
    Presence,
    /// The number of messages of a chat that a user has not read.
    UnreadCount,
}

impl LiveEvent {
    /// Every kind of live event.
    pub const ALL: [Self; 4] = [Self::Typing, Self::MessagesRead, Self::Presence, Self::UnreadCount];

    /// The name on the wire, among gateways and to clients.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Typing => "typing",
            Self::MessagesRead => "messagesRead",
            Self::Presence => "presence",
            Self::UnreadCount => "unreadCount",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.name() == name)
    }
}

/// An event that a process publishes to the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message was added to the chat's stream.
    Message {
        /// The process that published it.
        origin: Origin,
        /// Its position in the stream.
        position: Position,
        /// The message.
        message: Box<Message>,
    },
    /// A message that clients may have received was not made durable.
    Failed {
        /// The process that published it.
        origin: Origin,
        /// The message.
        message_id: MessageId,
        /// The client's id of the send.
        temp_id: Option<String>,
        /// Its chat.
        chat: ChatId,
    },
    /// An ephemeral event for clients.
    Live {
        /// The process that published it.
        origin: Origin,
        /// The user who must not get it, of those whom the channel reaches.
        except: Option<UserId>,
        /// The kind of event.
        event: LiveEvent,
        /// The JSON that clients get; it is not checked.
        payload: Arc<str>,
    },
    /// A group's members, their roles or its name have changed.
    Group {
        /// The process that published it.
        origin: Origin,
        /// The group.
        chat: ChatId,
        /// The user who has left or was removed, if there is one.
        left: Option<UserId>,
    },
    /// An operator wants the sockets of a user closed.
    Disconnect {
        /// The process that published it.
        origin: Origin,
        /// The user.
        user: UserId,
    },
}

impl Event {
    /// The process that published it.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Message { origin, .. }
            | Self::Failed { origin, .. }
            | Self::Live { origin, .. }
            | Self::Group { origin, .. }
            | Self::Disconnect { origin, .. } => *origin,
        }
    }

    /// Decodes an event; `None`: this build does not know it.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        reader.array()?;
        if reader.uint()? != VERSION {
            return None;
        }
        let origin = Origin(u64::from_be_bytes(reader.bin()?.try_into().ok()?));
        let kind = reader.uint()?;
        let subject = reader.str()?;
        if kind == KIND_DISCONNECT {
            return Some(Self::Disconnect { origin, user: UserId::parse(subject).ok()? });
        }
        if kind == KIND_LIVE {
            let except = reader.maybe_str()?.map(UserId::parse).transpose().ok()?;
            let event = LiveEvent::parse(reader.str()?)?;
            let payload = reader.str().filter(|payload| payload.len() <= MAX_LIVE_PAYLOAD)?.into();
            return Some(Self::Live { origin, except, event, payload });
        }
        let chat = ChatId::parse(subject).ok()?;
        match kind {
            KIND_MESSAGE => {
                let position = Position { epoch: reader.str()?.into(), seq: reader.uint()? };
                match entry::decode_rest(&chat, &mut reader)? {
                    Listed::Message(message) => Some(Self::Message { origin, position, message: Box::new(message) }),
                    Listed::Tombstone(_) => None,
                }
            }
            KIND_FAILED => {
                let message_id = MessageId::from_bytes(reader.raw()?.try_into().ok()?);
                let temp_id = reader.maybe_str()?.map(str::to_owned);
                Some(Self::Failed { origin, message_id, temp_id, chat })
            }
            KIND_GROUP => {
                let left = reader.maybe_str()?.map(UserId::parse).transpose().ok()?;
                Some(Self::Group { origin, chat, left })
            }
            _ => None,
        }
    }
}

fn start(origin: Origin, kind: u64, subject: &str, elements: u32) -> Writer {
    let writer = Writer::with_capacity(160).array(4 + elements).uint(VERSION);
    writer.bin(&origin.0.to_be_bytes()).uint(kind).str(subject)
}

/// The publication of a message, up to epoch, seq and rest, which the script appends.
pub(crate) fn message_prefix(origin: Origin, chat: &ChatId) -> Vec<u8> {
    start(origin, KIND_MESSAGE, chat.as_str(), 2 + entry::REST_ELEMENTS).0
}

/// The publication of a failed message.
pub(crate) fn failed(origin: Origin, message: &Message) -> Vec<u8> {
    let writer = start(origin, KIND_FAILED, message.chat.as_str(), 2);
    writer.raw(message.id.as_bytes()).maybe_str(message.temp_id.as_deref()).0
}

/// The publication of a live event, the same on every channel.
pub(crate) fn live(origin: Origin, except: Option<&UserId>, event: LiveEvent, payload: &str) -> Vec<u8> {
    let writer = start(origin, KIND_LIVE, "", 3).maybe_str(except.map(UserId::as_str));
    writer.str(event.name()).str(payload).0
}

/// The publication of a group's change.
pub(crate) fn group(origin: Origin, chat: &ChatId, left: Option<&UserId>) -> Vec<u8> {
    start(origin, KIND_GROUP, chat.as_str(), 1).maybe_str(left.map(UserId::as_str)).0
}

/// The publication of an operator's command.
pub(crate) fn disconnect(origin: Origin, user: &UserId) -> Vec<u8> {
    start(origin, KIND_DISCONNECT, user.as_str(), 0).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        let chat = ChatId::parse("alice:bob").unwrap();
        let sender = UserId::parse("bob").unwrap();
        Message {
            id: MessageId::from_bytes([9; 16]),
            temp_id: Some("t".into()),
            receiver: chat.other(&sender),
            chat,
            sender,
            content: "x".into(),
            image_url: None,
            public_id: None,
            timestamp: 5,
        }
    }

    #[test]
    fn events_come_back_whole() {
        let (origin, message) = (Origin(u64::MAX), message());
        let mut bytes = message_prefix(origin, &message.chat);
        bytes.extend_from_slice(&Writer::default().str("epoch").uint(70_000).0);
        bytes.extend_from_slice(&entry::rest(&message, 1));
        let position = Position { epoch: "epoch".into(), seq: 70_000 };
        let expected = Event::Message { origin, position, message: Box::new(message.clone()) };
        assert_eq!(Event::decode(&bytes), Some(expected));
        for end in 0..bytes.len() {
            assert_eq!(Event::decode(&bytes[..end]), None);
        }

        let failed = Event::decode(&failed(origin, &message)).unwrap();
        let Event::Failed { message_id, temp_id, .. } = &failed else { panic!("{failed:?}") };
        assert_eq!((message_id, temp_id.as_deref()), (&message.id, Some("t")));
        assert_eq!(failed.origin(), origin);

        let user = UserId::parse("alice").unwrap();
        for left in [None, Some(user.clone())] {
            let chat = ChatId::parse("g_00000000-0000-4000-8000-0000000000ab").unwrap();
            let bytes = group(origin, &chat, left.as_ref());
            assert_eq!(Event::decode(&bytes), Some(Event::Group { origin, chat, left }));
        }
        assert_eq!(Event::decode(&disconnect(origin, &user)), Some(Event::Disconnect { origin, user }));
    }

    #[test]
    fn a_live_event_comes_back_whole_and_one_of_a_later_build_or_too_long_is_none() {
        let (origin, user) = (Origin(7), UserId::parse("alice").unwrap());
        for (event, except) in LiveEvent::ALL.into_iter().zip([None, Some(user)].into_iter().cycle()) {
            let bytes = live(origin, except.as_ref(), event, r#"{"typing":true}"#);
            let payload = r#"{"typing":true}"#.into();
            assert_eq!(Event::decode(&bytes), Some(Event::Live { origin, except, event, payload }));
            for end in 0..bytes.len() {
                assert_eq!(Event::decode(&bytes[..end]), None);
            }
        }
        let later = start(origin, KIND_LIVE, "", 3).nil().str("somethingLater").str("{}").0;
        assert_eq!(Event::decode(&later), None);
        let long = live(origin, None, LiveEvent::Typing, &"x".repeat(MAX_LIVE_PAYLOAD + 1));
        assert_eq!(Event::decode(&long), None);
    }

    #[test]
    fn an_unknown_kind_or_version_is_no_event() {
        let chat = message().chat;
        assert_eq!(Event::decode(&start(Origin(1), 200, chat.as_str(), 0).0), None);
        let mut newer = failed(Origin(1), &message());
        newer[1] = 2;
        assert_eq!(Event::decode(&newer), None);
    }
}
