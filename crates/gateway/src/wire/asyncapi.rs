//! What is said over Socket.IO and Kafka, described as AsyncAPI 3.
//!
//! One row an event, with the types that handlers take and answers are made of, and an example of each. A test holds the rows
//! against [`crate::wire::events`], and the examples against a running gateway. REST's description is [`crate::rest::description`].

use std::collections::BTreeMap;

use holdfast_message::record::{CONTENT_TYPE, SCHEMA_VERSION, header};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::events::{self, ClientEvent, PresenceEvent, TypingEvent, server};
use super::requests::{Handshake, Nothing};
use super::responses::{MessageShape, Missed};
use crate::refusal::{Code, Refusal};

const UUID: &str = "9b0f2c61-5a7e-4a5c-8f0e-6f4f3a1d2c77";
const MESSAGE: &str = "1b4e28ba-2fa1-51d2-883f-0016d3cca427";
const EPOCH: &str = "5f3a9c1e77aa0b42";

/// A message that nothing durable took, though it was shown. Provisional: a later `newMessage`, history or resume with that id wins.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MessageFailed {
    /// The id of the message.
    message_id: String,
    /// The sender's own id for the send.
    #[schema(required)]
    temp_id: Option<String>,
    /// The chat.
    chat_id: String,
}

/// The position of a message that this connection has received already. It counts towards the client's offset; a client that does not have
/// the message ignores it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MessagePositioned {
    /// The chat.
    chat_id: String,
    /// The message.
    #[schema(format = "uuid")]
    message_id: String,
    /// The stream's epoch.
    epoch: String,
    /// Its position within the epoch.
    seq: u64,
}

/// The chat that an event is about.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct OfChat {
    /// The chat.
    chat_id: String,
}

/// Somebody has read a chat.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct MessagesRead {
    /// The chat that was read.
    chat_id: String,
    /// The member who read it.
    user_id: String,
    /// Up to which message.
    #[schema(format = "uuid")]
    up_to: String,
}

/// How much is unread; each count at most 999.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a description")]
struct UnreadCount {
    /// The chat.
    chat_id: String,
    /// Unread messages of the chat.
    #[schema(maximum = 999)]
    count: usize,
    /// Unread messages of all chats.
    #[schema(maximum = 999)]
    total: usize,
}

/// The whole description.
pub fn description() -> Value {
    let mut socket = Socket::default();
    client_events(&mut socket);
    server_events(&mut socket);
    let Socket { mut schemas, mut messages, operations } = socket;
    messages.insert("refusal".into(), refusal(&mut schemas));
    let handshake = schemas.reference::<Handshake>();
    let connect_error = json!({
        "type": "object", "required": ["message"], "properties": { "message": { "enum": [Code::Unauthenticated, Code::RateLimited] } }
    });
    messages.insert(
        "connect_error".into(),
        message(
            "connect_error",
            "A handshake was refused.",
            &connect_error,
            &json!({ "message": Code::Unauthenticated }),
        ),
    );
    let in_channel: Map<_, _> = messages
        .keys()
        .map(|name| (name.clone(), json!({ "$ref": format!("#/components/messages/{name}") })))
        .collect();
    let mut operations: Map<_, _> = operations.into_iter().collect();
    operations.insert("connect_error".into(), emitted("connect_error", "Says why a handshake was refused."));
    kafka(&mut messages, &mut operations);
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Holdfast", "version": env!("CARGO_PKG_VERSION"), "license": { "name": "Apache-2.0" },
            "description": "A chat backend that does not lose messages: its events over Socket.IO, its records in Kafka.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "localhost:3000", "pathname": "/socket.io", "protocol": "ws", "title": "Socket.IO v4, WebSocket or long polling",
                "security": [{ "$ref": "#/components/securitySchemes/token" }],
            },
            "kafka": { "host": "localhost:9092", "protocol": "kafka" },
        },
        "channels": {
            "socket": {
                "address": "/", "title": "The namespace", "servers": [{ "$ref": "#/servers/gateway" }],
                "description": "Every client event takes an acknowledgement callback and is answered within SEND_DEADLINE_MS, positively or by a refusal. Unknown fields are ignored.",
                "messages": in_channel, "x-handshake-auth": handshake,
            },
            "persist": {
                "address": "chat-messages-persist", "title": "Messages to be stored", "servers": [{ "$ref": "#/servers/kafka" }],
                "description": "The key is the chat's id (KAFKA_TOPIC).",
                "messages": { "chatMessage": { "$ref": "#/components/messages/chatMessage" } },
            },
            "deadLetters": {
                "address": "chat-messages-dlq", "title": "Records that can't be stored", "servers": [{ "$ref": "#/servers/kafka" }],
                "description": "The original key, bytes and headers, and why (KAFKA_DLQ_TOPIC).",
                "messages": { "deadLetter": { "$ref": "#/components/messages/deadLetter" } },
            },
        },
        "operations": operations,
        "components": {
            "messages": messages, "schemas": schemas.0,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "As `auth.token` of the handshake." } },
        },
    })
}

fn client_events(socket: &mut Socket) {
    socket.client_event::<events::SendMessage>(
        json!({ "friendId": "bob", "content": "hello", "tempId": UUID }),
        json!({ "message": example_message(), "durability": "kafka" }),
    );
    socket.client_event::<events::History>(
        json!({ "friendId": "bob", "limit": 20 }),
        json!({ "messages": [example_message()], "source": "cache", "complete": true, "epoch": EPOCH, "seq": 7 }),
    );
    socket
        .client_event::<events::Resume>(json!({ "offsets": { "alice:bob": { "epoch": EPOCH, "seq": 6 } } }), missed());
    socket.client_event::<events::Typing>(json!({ "friendId": "bob", "typing": true }), json!({}));
    socket.client_event::<events::Presence>(
        json!({ "userIds": ["bob"] }),
        json!({ "online": { "bob": true }, "lastSeen": { "bob": 1_767_225_600_000_i64 } }),
    );
    socket.client_event::<events::MarkRead>(json!({ "friendId": "bob", "upTo": MESSAGE }), json!({ "unread": 0 }));
    socket.client_event::<events::Unread>(json!({}), json!({ "counts": { "alice:bob": 1 }, "total": 1 }));
    socket.client_event::<events::Conversations>(
        json!({ "limit": 20 }),
        json!({ "conversations": [conversation()], "complete": true }),
    );
}

fn server_events(socket: &mut Socket) {
    socket.server_event::<MessageShape>(
        server::NEW_MESSAGE,
        "A new message, to every device of sender and receivers. One connection receives a `messageId` once, as far as the gateway remembers (10 minutes, 100,000 messages). Clients still drop a `messageId` that they have.",
        example_message(),
    );
    socket.server_event::<MessagePositioned>(
        server::MESSAGE_POSITIONED,
        "The position of a message that this connection has received already, once the position is known.",
        json!({ "chatId": "alice:bob", "messageId": MESSAGE, "epoch": EPOCH, "seq": 7 }),
    );
    socket.server_event::<MessageFailed>(
        server::MESSAGE_FAILED,
        "A message that was shown before, but that nothing durable took.",
        json!({ "messageId": UUID, "tempId": UUID, "chatId": "alice:bob" }),
    );
    socket.server_event::<Missed>(server::RESUMED, "The answer to the handshake's `offsets`.", missed());
    socket.server_event::<Nothing>(server::RESYNC, "Live events may have been missed: `resume`.", json!({}));
    socket.server_event::<OfChat>(
        server::CHAT_UPDATED,
        "A group has changed, or whether one belongs to it.",
        json!({ "chatId": "g_6f1e0a52-8a56-4b9e-9f6e-3f0a4f0c2b11" }),
    );
    socket.server_event::<TypingEvent<'_>>(
        server::TYPING,
        "Another member types, or does no more.",
        json!({ "chatId": "alice:bob", "userId": "bob", "typing": true }),
    );
    socket.server_event::<PresenceEvent<'_>>(
        server::PRESENCE,
        "Somebody who shares a chat came online, or has gone.",
        json!({ "userId": "bob", "online": true, "lastSeen": 1_767_225_600_000_i64 }),
    );
    socket.server_event::<MessagesRead>(
        server::MESSAGES_READ,
        "Another member has read the chat: at once, and then at most once a second. Not sent in groups of more than 100 members.",
        json!({ "chatId": "alice:bob", "userId": "bob", "upTo": MESSAGE }),
    );
    socket.server_event::<UnreadCount>(
        server::UNREAD_COUNT,
        "How much is unread, to one's own devices: on `markRead`, and at most once a second on arrival.",
        json!({ "chatId": "alice:bob", "count": 1, "total": 3 }),
    );
}

fn example_message() -> Value {
    json!({
        "messageId": MESSAGE, "tempId": UUID, "chatId": "alice:bob", "senderId": "alice",
        "receiverId": "bob", "content": "hello", "timestamp": 1_767_225_600_000_i64, "seq": 7, "epoch": EPOCH,
    })
}

fn conversation() -> Value {
    json!({ "chatId": "alice:bob", "members": ["alice", "bob"], "lastMessage": example_message(), "unread": 1, "online": ["bob"] })
}

fn missed() -> Value {
    json!({ "chats": { "alice:bob": { "recovered": true, "messages": [example_message()], "epoch": EPOCH, "seq": 7 } } })
}

/// Types that were described, by name.
#[derive(Default)]
struct Schemas(Map<String, Value>);

impl Schemas {
    /// Describes a type and what it is made of.
    fn reference<T: ToSchema>(&mut self) -> Value {
        let mut parts = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut parts);
        for (name, schema) in parts {
            // A schema has no map with keys that are not text, so it always becomes a value.
            self.0.insert(name, serde_json::to_value(schema).unwrap_or_default());
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }
}

/// What is said in the namespace.
#[derive(Default)]
struct Socket {
    schemas: Schemas,
    messages: Map<String, Value>,
    operations: BTreeMap<String, Value>,
}

impl Socket {
    /// An event that clients emit, and its answer.
    fn client_event<E: ClientEvent>(&mut self, example: Value, answer: Value) {
        let (name, says) = (E::NAME, E::SUMMARY);
        let payload = self.schemas.reference::<E::Request>();
        self.messages.insert(name.into(), message(name, says, &payload, &example));
        let ok = json!({ "type": "object", "required": ["ok"], "properties": { "ok": { "const": true } } });
        let payload = json!({ "allOf": [ok, self.schemas.reference::<E::Answer<'_>>()] });
        let mut example = answer;
        example["ok"] = json!(true);
        let answer = format!("{name}Answer");
        self.messages.insert(answer.clone(), message(&answer, "The acknowledgement.", &payload, &example));
        let operation = json!({
            "action": "receive", "title": name, "summary": says, "channel": { "$ref": "#/channels/socket" },
            "messages": [{ "$ref": format!("#/channels/socket/messages/{name}") }],
            "reply": {
                "channel": { "$ref": "#/channels/socket" },
                "messages": [
                    { "$ref": format!("#/channels/socket/messages/{answer}") },
                    { "$ref": "#/channels/socket/messages/refusal" },
                ],
            },
        });
        self.operations.insert(name.into(), operation);
    }

    /// An event that the gateway emits. Its name may be a client event's, too.
    fn server_event<T: ToSchema>(&mut self, name: &str, says: &str, example: Value) {
        let payload = self.schemas.reference::<T>();
        let key = if self.messages.contains_key(name) { format!("{name}Told") } else { name.to_owned() };
        self.messages.insert(key.clone(), message(name, says, &payload, &example));
        let mut operation = emitted(&key, says);
        operation["title"] = json!(name);
        self.operations.insert(key, operation);
    }
}

fn message(name: &str, says: &str, payload: &Value, example: &Value) -> Value {
    json!({ "name": name, "summary": says, "payload": payload, "examples": [{ "payload": example }] })
}

fn emitted(key: &str, says: &str) -> Value {
    json!({
        "action": "send", "title": key, "summary": says, "channel": { "$ref": "#/channels/socket" },
        "messages": [{ "$ref": format!("#/channels/socket/messages/{key}") }],
    })
}

fn refusal(schemas: &mut Schemas) -> Value {
    let payload = json!({
        "type": "object", "required": ["ok", "error"],
        "properties": { "ok": { "const": false }, "error": schemas.reference::<Refusal>() },
    });
    let examples: Vec<_> = Code::ALL
        .iter()
        .map(|code| {
            let retryable = matches!(code, Code::RateLimited | Code::Unavailable);
            let mut error = json!({ "code": code, "message": "a sentence for developers", "retryable": retryable });
            if *code == Code::RateLimited {
                error["retryAfterMs"] = json!(1200);
            }
            json!({ "name": code, "payload": { "ok": false, "error": error } })
        })
        .collect();
    json!({ "name": "refusal", "summary": "The acknowledgement of what was not done.", "payload": payload, "examples": examples })
}

fn kafka(messages: &mut Map<String, Value>, operations: &mut Map<String, Value>) {
    let text = |says: &str| json!({ "type": "string", "description": says });
    let mut headers = json!({
        header::TRACEPARENT: text("The trace that the send belongs to (W3C)."),
        header::CONTENT_TYPE: { "const": CONTENT_TYPE },
        header::SCHEMA_VERSION: { "const": SCHEMA_VERSION.to_string() },
        header::UNCACHED: text("Present when the recent list did not take the message, or may hold it otherwise."),
    });
    let payload = json!({
        "schemaFormat": "application/vnd.google.protobuf;version=3",
        "schema": include_str!("../../../../proto/holdfast/v1/message.proto"),
    });
    let record = |summary: &str, headers: &Value| {
        json!({
            "name": "ChatMessage", "summary": summary, "contentType": CONTENT_TYPE, "payload": payload,
            "headers": { "type": "object", "required": [header::CONTENT_TYPE, header::SCHEMA_VERSION], "properties": headers },
            "bindings": { "kafka": { "key": { "type": "string", "description": "The chat's id." } } },
        })
    };
    messages.insert("chatMessage".into(), record("One message.", &headers));
    for (name, says) in [
        (header::DLQ_REASON, "Why it could not be stored."),
        (header::DLQ_TOPIC, "The topic that it came from."),
        (header::DLQ_PARTITION, "The partition."),
        (header::DLQ_OFFSET, "The offset."),
        (header::DLQ_TIME, "When, in Unix epoch milliseconds."),
    ] {
        headers[name] = text(says);
    }
    messages.insert("deadLetter".into(), record("A record that can't be stored, as it was.", &headers));
    for (operation, action, channel, name, says) in [
        ("publish", "send", "persist", "chatMessage", "A gateway makes a message durable."),
        ("store", "receive", "persist", "chatMessage", "A worker stores it."),
        ("giveUp", "send", "deadLetters", "deadLetter", "A worker keeps what can't be stored."),
    ] {
        let reference = format!("#/channels/{channel}/messages/{name}");
        operations.insert(
            operation.into(),
            json!({
                "action": action, "title": operation, "summary": says, "channel": { "$ref": format!("#/channels/{channel}") },
                "messages": [{ "$ref": reference }],
            }),
        );
    }
}
