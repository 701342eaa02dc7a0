//! The events: their names, and one row for each that clients emit.
//!
//! A row says what the event takes and answers, whether it needs an acknowledgement, and which limit and deadline it has. Handlers
//! ([`crate::socketio`]) and the description ([`super::asyncapi`]) are made from these rows, so neither can say anything else.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::requests::{
    ConversationsRequest, HistoryRequest, Nothing, PresenceRequest, ReadRequest, ResumeRequest, SendRequest,
    TypingRequest, resume_weight,
};
use super::responses::{self, Done, HistoryPage, Missed, Presences, Read, Sent, UnreadMessages};
use crate::refusal::{Code, Refusal};

/// An event that clients emit.
pub(crate) trait ClientEvent: 'static {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What it does, for the description.
    const SUMMARY: &'static str;
    /// Whether a client must ask for an acknowledgement.
    const ACK: AckPolicy = AckPolicy::Required;
    /// Which of a user's limits it counts against.
    const LIMIT: EventLimit = EventLimit::Events;
    /// Within which time it is answered.
    const DEADLINE: Deadline = Deadline::Event;
    /// Its payload.
    type Request: DeserializeOwned + ToSchema + Send + Sync + 'static;
    /// Its positive answer.
    type Answer<'a>: Serialize + ToSchema;

    /// As how many events a request counts.
    fn weight(_: &Self::Request) -> usize {
        1
    }

    /// The request that a payload is, or why it is none.
    fn request<E: fmt::Display>(payload: Result<Self::Request, E>) -> Result<Self::Request, Refusal> {
        payload.map_err(|error| Refusal::new(Code::Validation, format!("the payload is not as described: {error}")))
    }
}

/// Whether a client must ask for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckPolicy {
    /// Without one the event is refused: what it asks for would reach nobody.
    Required,
    /// The event has an effect of its own, and may be emitted without one.
    Optional,
}

/// Which of a user's limits an event counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventLimit {
    /// `EVENT_LIMIT`, by the event's name.
    Events,
    /// `MESSAGE_LIMIT`, which the pipeline applies to a batch at a time.
    Messages,
}

/// Within which time an event is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deadline {
    /// `SEND_DEADLINE_MS`, for all that is done for it.
    Event,
    /// Its handler has one for each step.
    Own,
}

/// A send.
pub(crate) struct SendMessage;

impl ClientEvent for SendMessage {
    const NAME: &'static str = client::SEND_MESSAGE;
    const SUMMARY: &'static str = "Sends a message. Answered positively only once it is durable.";
    const LIMIT: EventLimit = EventLimit::Messages;
    const DEADLINE: Deadline = Deadline::Own;
    type Request = SendRequest;
    type Answer<'a> = Sent<'a>;
}

/// A page of a chat's history.
pub(crate) struct History;

impl ClientEvent for History {
    const NAME: &'static str = client::HISTORY;
    const SUMMARY: &'static str = "Reads a page of a chat's history, newest first.";
    type Request = HistoryRequest;
    type Answer<'a> = HistoryPage<'a>;
}

/// What was missed of the live streams.
pub(crate) struct Resume;

impl ClientEvent for Resume {
    const NAME: &'static str = client::RESUME;
    const SUMMARY: &'static str = "Asks for exactly what was missed of the live streams since an offset.";
    // An answer that recovers nothing is worth more than a refusal.
    const DEADLINE: Deadline = Deadline::Own;
    type Request = ResumeRequest;
    type Answer<'a> = Missed;

    fn weight(request: &ResumeRequest) -> usize {
        resume_weight(&request.offsets)
    }
}

/// How far a user has read a chat.
pub(crate) struct MarkRead;

impl ClientEvent for MarkRead {
    const NAME: &'static str = client::MARK_READ;
    const SUMMARY: &'static str = "Says up to where a chat is read. It only moves forward.";
    const ACK: AckPolicy = AckPolicy::Optional;
    type Request = ReadRequest;
    type Answer<'a> = Read;
}

/// How many messages a user has not read.
pub(crate) struct Unread;

impl ClientEvent for Unread {
    const NAME: &'static str = client::UNREAD;
    const SUMMARY: &'static str = "Asks how much is unread.";
    type Request = Nothing;
    type Answer<'a> = UnreadMessages<'a>;

    /// It takes no payload, so whatever is sent as one is ignored.
    fn request<E: fmt::Display>(_: Result<Nothing, E>) -> Result<Nothing, Refusal> {
        Ok(Nothing {})
    }
}

/// A page of a user's chats.
pub(crate) struct Conversations;

impl ClientEvent for Conversations {
    const NAME: &'static str = client::CONVERSATIONS;
    const SUMMARY: &'static str = "Asks for a page of one's chats, newest first.";
    type Request = ConversationsRequest;
    type Answer<'a> = responses::Conversations<'a>;
}

/// Whether a user types.
pub(crate) struct Typing;

impl ClientEvent for Typing {
    const NAME: &'static str = client::TYPING;
    const SUMMARY: &'static str = "Says whether one types. It holds for five seconds, and ends with the message.";
    const ACK: AckPolicy = AckPolicy::Optional;
    type Request = TypingRequest;
    type Answer<'a> = Done;
}

/// Which users are online.
pub(crate) struct Presence;

impl ClientEvent for Presence {
    const NAME: &'static str = client::PRESENCE;
    const SUMMARY: &'static str = "Asks who is online.";
    type Request = PresenceRequest;
    type Answer<'a> = Presences;
}

/// Whether somebody types.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TypingTold)]
pub(crate) struct TypingEvent<'a> {
    /// The chat.
    pub(crate) chat_id: &'a str,
    /// The member who types.
    pub(crate) user_id: &'a str,
    /// False: they stopped, or said nothing for a while.
    pub(crate) typing: bool,
}

/// Whether somebody is online.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PresenceTold)]
pub(crate) struct PresenceEvent<'a> {
    /// The user.
    pub(crate) user_id: &'a str,
    /// Whether any of their devices is connected.
    pub(crate) online: bool,
    /// When they were last there, in Unix epoch milliseconds.
    pub(crate) last_seen: i64,
}

/// What clients emit, and the gateway answers.
pub mod client {
    /// Sends a message.
    pub const SEND_MESSAGE: &str = "sendMessage";
    /// A page of a chat's history.
    pub const HISTORY: &str = "history";
    /// What was missed of the live streams.
    pub const RESUME: &str = "resume";

    /// Moves how far one has read.
    pub const MARK_READ: &str = "markRead";
    /// How much is unread.
    pub const UNREAD: &str = "unread";
    /// A page of one's chats.
    pub const CONVERSATIONS: &str = "conversations";
    /// Whether one types.
    pub const TYPING: &str = "typing";
    /// Who is online.
    pub const PRESENCE: &str = "presence";

    /// All of them.
    pub const ALL: [&str; 8] = [SEND_MESSAGE, HISTORY, RESUME, MARK_READ, UNREAD, CONVERSATIONS, TYPING, PRESENCE];
}

/// What the gateway emits.
pub mod server {
    use holdfast_cache::event::LiveEvent;

    /// A new message.
    pub const NEW_MESSAGE: &str = "newMessage";
    /// The position of a message that the connection has received already.
    pub const MESSAGE_POSITIONED: &str = "messagePositioned";
    /// A message that nothing durable took, shown before.
    pub const MESSAGE_FAILED: &str = "messageFailed";
    /// The answer to the handshake's `offsets`.
    pub const RESUMED: &str = "resumed";
    /// Live events may have been missed.
    pub const RESYNC: &str = "resync";
    /// A group has changed, or whether one belongs to it.
    pub const CHAT_UPDATED: &str = "chatUpdated";

    /// Somebody types, or does no more.
    pub const TYPING: &str = LiveEvent::Typing.name();
    /// Somebody came online, or has gone.
    pub const PRESENCE: &str = LiveEvent::Presence.name();
    /// Somebody has read a chat up to a message.
    pub const MESSAGES_READ: &str = LiveEvent::MessagesRead.name();
    /// How much of a chat is unread.
    pub const UNREAD_COUNT: &str = LiveEvent::UnreadCount.name();

    /// All of them.
    pub const ALL: [&str; 10] = [
        NEW_MESSAGE,
        MESSAGE_POSITIONED,
        MESSAGE_FAILED,
        RESUMED,
        RESYNC,
        CHAT_UPDATED,
        TYPING,
        PRESENCE,
        MESSAGES_READ,
        UNREAD_COUNT,
    ];
}
