//! The encodings that never change, against the fixtures in `proto/`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

use holdfast_message::json::{MessageJson, Position};
use holdfast_message::record::{self, DecodeError};
use holdfast_message::{ChatId, Draft, Message, MessageId, UserId};
use proptest::prelude::*;
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../../proto/message-id-vectors.json");
const GOLDEN_RECORD: &str = include_str!("../../../proto/record-v1.hex");

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

fn golden() -> Message {
    let chat = ChatId::direct(&user("alice"), &user("bob")).unwrap();
    Draft::new(
        user("bob"),
        chat,
        Some("t-1".into()),
        "Grüße, 世界 👋".into(),
        Some("https://images.example.org/a.png".into()),
        Some("images/a".into()),
    )
    .unwrap()
    .stamp(1_700_000_000_123)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn message_ids_are_those_of_the_published_vectors() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() >= 5);
    for vector in vectors {
        let text = |field: &str| vector[field].as_str();
        let id = MessageId::of_send(
            &user(text("senderId").unwrap()),
            &ChatId::parse(text("chatId").unwrap()).unwrap(),
            text("tempId").unwrap(),
            text("content").unwrap(),
            text("imageUrl"),
            text("publicId"),
        );
        assert_eq!(id.to_string(), text("messageId").unwrap(), "{vector}");
    }
}

#[test]
fn a_record_of_version_1_is_the_golden_bytes() {
    let bytes = record::encode(&golden());
    assert_eq!(hex(&bytes), GOLDEN_RECORD.trim());
    assert_eq!(record::decode(&bytes), Ok(golden()));
}

#[test]
fn a_record_that_no_gateway_wrote_is_refused_with_its_field() {
    let field = |change: fn(&mut Message)| {
        let mut message = golden();
        change(&mut message);
        record::decode(&record::encode(&message)).unwrap_err()
    };
    assert_eq!(field(|m| m.timestamp = 0), DecodeError::Field("timestamp_ms"));
    assert_eq!(field(|m| m.receiver = None), DecodeError::Field("receiver_id"));
    assert_eq!(field(|m| m.sender = user("mallory")), DecodeError::Field("sender_id"));
    assert!(matches!(record::decode(b"\xff\xff"), Err(DecodeError::Malformed(_))));
    assert_eq!(record::decode(b""), Err(DecodeError::Field("chat_id")));
}

#[test]
fn json_leaves_out_what_is_absent_and_nulls_an_unknown_position() {
    let message = Message { temp_id: None, image_url: None, public_id: None, ..golden() };
    let shown = |position| serde_json::to_value(MessageJson { message: &message, position }).unwrap();
    let bare = json!({
        "messageId": message.id.to_string(), "chatId": "alice:bob", "senderId": "bob", "receiverId": "alice",
        "content": "Grüße, 世界 👋", "timestamp": 1_700_000_000_123_i64,
    });
    assert_eq!(shown(Position::Absent), bare);
    let unknown = shown(Position::Unknown);
    assert!(unknown["seq"].is_null() && unknown.as_object().unwrap().contains_key("seq"));
    assert_eq!(shown(Position::At { epoch: "e", seq: 7 })["seq"], 7);
}

proptest! {
    #[test]
    fn a_record_survives_the_journey(content in "\\PC{1,200}", temp_id in proptest::option::of("[a-z]{1,20}"), time in 1..i64::MAX) {
        prop_assume!(!content.trim().is_empty());
        let chat = ChatId::parse("alice:bob").unwrap();
        let message = Draft::new(user("alice"), chat, temp_id, content, None, None).unwrap().stamp(time);
        prop_assert_eq!(record::decode(&record::encode(&message)), Ok(message));
    }

    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = record::decode(&bytes);
    }
}
