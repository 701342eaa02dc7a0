//! The names of events, each in one place.

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
    use crate::live::LiveEvent;

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
