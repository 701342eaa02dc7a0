//! The `update` command that writes the last messages of chats to `conversations`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use holdfast_message::{ChatId, Message, id::Members, recency};
use mongodb::bson::RawDocumentBuf;
use tokio::time::Instant;

use super::ahead::now_ms;
use crate::bson::Writer;
use crate::{StoreError, document, server_limit};

/// The latest message of each chat.
pub(super) fn latest(messages: &[Message]) -> Vec<&Message> {
    let mut latest: HashMap<&ChatId, &Message> = HashMap::new();
    for message in messages {
        match latest.entry(&message.chat) {
            Entry::Vacant(entry) => drop(entry.insert(message)),
            Entry::Occupied(mut entry) if entry.get().key() < message.key() => drop(entry.insert(message)),
            Entry::Occupied(_) => {}
        }
    }
    latest.into_values().collect()
}

/// How the command changes a conversation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It shows the message, unless it shows a later one.
    Touch,
    /// It shows the message, unless the conversation exists already.
    Begin,
}

pub(super) fn command(chats: &[&Message], change: Change, deadline: Instant) -> Result<RawDocumentBuf, StoreError> {
    let limit = server_limit(deadline.saturating_duration_since(Instant::now()));
    let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1);
    let now = now_ms();
    let mut writer = Writer::new(1024 * chats.len());
    writer.string("update", "conversations");
    writer.bool("ordered", false);
    writer.begin_document("writeConcern");
    writer.string("w", "majority");
    writer.bool("j", true);
    writer.int64("wtimeout", limit);
    writer.end();
    writer.int64("maxTimeMS", limit);
    writer.begin_array("updates");
    for (index, message) in chats.iter().enumerate() {
        writer.begin_element(index);
        writer.begin_document("q");
        writer.string("_id", message.chat.as_str());
        if change == Change::Touch {
            older_than(message, now, &mut writer);
        }
        writer.end();
        writer.begin_document("u");
        writer.begin_document(if change == Change::Touch { "$set" } else { "$setOnInsert" });
        if let Members::Direct(one, other) = message.chat.members() {
            writer.begin_array("members");
            writer.string("0", one.as_str());
            writer.string("1", other.as_str());
            writer.end();
        }
        writer.begin_document("lastMessage");
        document::encode(message, &mut writer);
        writer.end();
        writer.int64("lastTimestamp", recency::of_arrival(message.timestamp, now));
        writer.end();
        writer.end();
        writer.bool("upsert", true);
        writer.end();
    }
    writer.finish()
}

/// Matches a conversation whose last message is older than this one, by timestamp, then by id, so that every order of arrival ends with the
/// same last message. A conversation without a message, as a new group's, is older than any, and so is one whose time lies far ahead. A
/// message whose timestamp lies far ahead counts as of its first update of the view.
fn older_than(message: &Message, now: i64, writer: &mut Writer) {
    let timestamp = recency::of_arrival(message.timestamp, now);
    if timestamp != message.timestamp {
        writer.begin_document("lastMessage._id");
        writer.display("$ne", message.id);
        writer.end();
    }
    writer.begin_array("$or");
    writer.begin_element(0);
    writer.begin_document("lastTimestamp");
    writer.int64("$lt", timestamp);
    writer.end();
    writer.end();
    writer.begin_element(1);
    writer.int64("lastTimestamp", timestamp);
    writer.begin_document("lastMessage._id");
    writer.display("$lt", message.id);
    writer.end();
    writer.end();
    writer.begin_element(2);
    writer.begin_document("lastMessage");
    writer.bool("$exists", false);
    writer.end();
    writer.end();
    // A date, as other tools store times.
    writer.begin_element(3);
    writer.begin_document("lastTimestamp");
    writer.date("$lt", timestamp);
    writer.end();
    writer.end();
    // A value that cannot be decoded is never shown, and counts as older than any.
    writer.begin_element(4);
    writer.begin_document("lastTimestamp");
    writer.begin_document("$not");
    writer.begin_array("$type");
    writer.string("0", "number");
    writer.string("1", "date");
    writer.end();
    writer.end();
    writer.end();
    writer.end();
    // A time far ahead was not written by this command.
    writer.begin_element(5);
    writer.begin_document("lastTimestamp");
    writer.int64("$gt", recency::latest(now));
    writer.end();
    writer.end();
    writer.begin_element(6);
    writer.begin_document("lastTimestamp");
    writer.date("$gt", recency::latest(now));
    writer.end();
    writer.end();
    writer.end();
}
