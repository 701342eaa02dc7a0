//! The functions that read bytes from outside, each as a fuzz target that accepts any bytes. Development only.
//!
//! Each target reads as the services do, and panics if the result violates an invariant of the services; refusing bytes is fine. `fuzz/` runs
//! them with a fuzzer (`scripts/fuzz`); the test here replays the inputs stored in `fuzz/corpus/<target>/`.

#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a broken promise is to end a fuzzer's run")]

use std::sync::LazyLock;

use holdfast_cache::entry::Listed;
use holdfast_cache::{Event, entry};
use holdfast_failed_queue::{DeadEntry, QueueEntry};
use holdfast_gateway::Config;
use holdfast_gateway::auth::Verifier;
use holdfast_gateway::history::{MAX_LIMIT, read_cursor, write_cursor};
use holdfast_gateway::ingress::{Handshake, HistoryRequest, SendRequest};
use holdfast_gateway::resume::{self, MAX_CHATS, ResumeRequest};
use holdfast_keys::Keys;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Message, UserId, record};
use holdfast_redis::{Codec, RedisMetrics};
use holdfast_service::settings::Source;
use prometheus::Registry;

/// A fuzz target.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also that of its corpus and of its binary in `fuzz/`.
pub const TARGETS: [(&str, Target); 11] = [
    ("handshake", handshake),
    ("send_message", send_message),
    ("history", history),
    ("resume", resume),
    ("record", record),
    ("recent_entry", recent_entry),
    ("queue_entry", queue_entry),
    ("dead_entry", dead_entry),
    ("channel_event", channel_event),
    ("cached_value", cached_value),
    ("key_name", key_name),
];

static ALICE: LazyLock<UserId> = LazyLock::new(|| UserId::parse("alice").expect("a user"));

/// The secret of the tokens in the corpus.
const SECRET: &str = "a-secret-of-32-bytes-for-fuzzing";

static TOKENS: LazyLock<Verifier> = LazyLock::new(|| {
    let source = Source::new([("JWT_SECRET".to_owned(), SECRET.to_owned())]);
    let config = Config::read(source).expect("settings");
    Verifier::new(&config.value.own).expect("a verifier")
});

/// A value with parts of every kind.
type Parts = (String, Option<String>, Vec<i64>);

static VALUES: LazyLock<Codec<Parts>> = LazyLock::new(|| {
    let metrics = RedisMetrics::register(&Registry::new()).expect("metrics");
    Codec::new("fuzzed", 1, &metrics)
});

/// A client's handshake: who it is, if its token is valid, and what it has.
pub fn handshake(bytes: &[u8]) {
    let Ok(handshake) = serde_json::from_slice::<Handshake>(bytes) else { return };
    let (token, offsets) = handshake.into_parts();
    let _ = TOKENS.verify(&token);
    assert!(resume::wanted(&offsets.unwrap_or_default()).count() <= MAX_CHATS);
}

/// `sendMessage`: what passes is a message that every reader takes, and whose sender is who sent it.
pub fn send_message(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<SendRequest>(bytes) else { return };
    let Ok(draft) = request.draft(&ALICE) else { return };
    // The next step, permission, refuses senders who are not members.
    if !draft.chat().is_group() && draft.chat().other(&ALICE).is_none() {
        return;
    }
    let message = draft.stamp(1);
    assert_eq!(message.sender, *ALICE);
    assert_eq!(record::decode(&record::encode(&message)).as_ref(), Ok(&message));
    shown(&message);
}

/// `history`: what passes is a page within the limit.
pub fn history(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<HistoryRequest>(bytes) else { return };
    let Ok((_, before, limit)) = request.read(&ALICE, 20) else { return };
    assert!((1..=MAX_LIMIT).contains(&limit));
    if let Some(before) = before {
        assert_eq!(read_cursor(&write_cursor(&before)), Ok(before));
    }
}

/// `resume`: no more chats than one request may name.
pub fn resume(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<ResumeRequest>(bytes) else { return };
    assert!(resume::wanted(&request.offsets).count() <= MAX_CHATS);
}

/// A record of the topic, or what the failed queue holds of one: what passes can be written again, and shown.
pub fn record(bytes: &[u8]) {
    let Ok(message) = record::decode(bytes) else { return };
    assert_eq!(record::decode(&record::encode(&message)).as_ref(), Ok(&message));
    shown(&message);
}

/// An entry of a recent list, of a direct chat and of a group.
pub fn recent_entry(bytes: &[u8]) {
    for chat in ["alice:bob", "g_00000000-0000-0000-0000-0000000000ab"] {
        let chat = ChatId::parse(chat).expect("a chat");
        if let Some(entry) = entry::decode(&chat, bytes)
            && let Listed::Message(message) = entry.item
        {
            assert_eq!(message.chat, chat);
            shown(&message);
        }
    }
}

/// An entry of a failed queue: what passes can be written again, and so removed by its bytes.
pub fn queue_entry(bytes: &[u8]) {
    let Ok(entry) = QueueEntry::decode(bytes) else { return };
    assert_eq!(QueueEntry::decode(&entry.encode()).as_ref(), Ok(&entry));
    record(&entry.record);
}

/// An entry of a dead list.
pub fn dead_entry(bytes: &[u8]) {
    let Ok(entry) = DeadEntry::decode(bytes) else { return };
    assert_eq!(DeadEntry::decode(&entry.encode()).as_ref(), Ok(&entry));
    queue_entry(&entry.entry);
}

/// An event that gateways and workers publish to each other.
pub fn channel_event(bytes: &[u8]) {
    if let Some(Event::Message { message, .. }) = Event::decode(bytes) {
        shown(&message);
    }
}

/// A value of the cache: what passes can be written again.
pub fn cached_value(bytes: &[u8]) {
    if let Some(value) = VALUES.decode(bytes) {
        assert_eq!(VALUES.decode(&VALUES.encode(&value).expect("as small as it was")), Some(value));
    }
}

/// The name of a key or channel: what passes has this name and no other.
pub fn key_name(bytes: &[u8]) {
    let keys = Keys::default();
    if let Ok(name) = std::str::from_utf8(bytes)
        && let Some(kind) = keys.parse(name)
    {
        assert_eq!(keys.key(&kind), name);
    }
}

/// The members follow from the chat, and the message can be serialized for clients.
fn shown(message: &Message) {
    assert_eq!(message.receiver, message.chat.other(&message.sender));
    assert!(message.chat.is_group() || message.receiver.is_some());
    serde_json::to_string(&MessageJson { message, position: Position::Unknown }).expect("JSON");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_fuzzing_has_kept_is_read_or_refused() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let files: Vec<_> =
                std::fs::read_dir(corpus.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
            assert!((3..100).contains(&files.len()), "{name} has {} files", files.len());
            for file in files {
                eprintln!("{}", file.display());
                target(&std::fs::read(file).unwrap());
            }
        }
    }

    #[test]
    fn every_corpus_begins_with_something_that_is_read() {
        let of = |target: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target).join("valid");
            std::fs::read(path).unwrap()
        };
        let handshake: Handshake = serde_json::from_slice(&of("handshake")).unwrap();
        assert_eq!(TOKENS.verify(&handshake.into_parts().0).unwrap().user, *ALICE);
        let request: SendRequest = serde_json::from_slice(&of("send_message")).unwrap();
        assert!(request.draft(&ALICE).is_ok());
        let request: HistoryRequest = serde_json::from_slice(&of("history")).unwrap();
        assert!(matches!(request.read(&ALICE, 20), Ok((_, Some(_), 50))));
        let request: ResumeRequest = serde_json::from_slice(&of("resume")).unwrap();
        assert_eq!(resume::wanted(&request.offsets).count(), 2);
        assert!(record::decode(&of("record")).is_ok());
        let chat = ChatId::parse("alice:bob").unwrap();
        assert!(matches!(entry::decode(&chat, &of("recent_entry")).unwrap().item, Listed::Message(_)));
        assert!(record::decode(&QueueEntry::decode(&of("queue_entry")).unwrap().record).is_ok());
        assert!(QueueEntry::decode(&DeadEntry::decode(&of("dead_entry")).unwrap().entry).is_ok());
        assert!(matches!(Event::decode(&of("channel_event")), Some(Event::Message { .. })));
        assert!(VALUES.decode(&of("cached_value")).is_some());
        assert!(Keys::default().parse(&String::from_utf8(of("key_name")).unwrap()).is_some());
    }
}
