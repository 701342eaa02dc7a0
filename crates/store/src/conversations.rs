//! `conversations`: `{ _id: chatId, members?, lastMessage, lastTimestamp }`, derived from the messages.
//!
//! A list of chats by last message can't be read from `messages` cheaply, so it is kept beside them. It may lag or miss a
//! message: nothing waits for it, and whoever reads it mends it. A direct chat's `members` follow from its id; a group's are
//! written by whoever makes the group.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, Message, UserId, id::Members};
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use tokio::time::Instant;

use crate::bson::Writer;
use crate::groups::is_duplicate;
use crate::history::batch;
use crate::insert::number;
use crate::{Group, Store, StoreError, document, server_limit, within};

/// The most chats in one command.
const MAX_CHATS: usize = 1000;
const DUPLICATE_KEY: i64 = 11000;

/// What [`Store::touch_conversations`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Touched {
    /// Chats whose last message is now one of those given.
    pub moved: usize,
    /// Chats that had a later one already.
    pub later: usize,
    /// Chats that the server would not write.
    pub failed: usize,
}

impl Store {
    /// Lets each chat's conversation show the latest of these messages, unless it shows a later one. Repeating it changes nothing.
    pub async fn touch_conversations(&self, messages: &[Message]) -> Result<Touched, StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let latest = latest(messages);
        let mut touched = Touched::default();
        for chats in latest.chunks(MAX_CHATS) {
            // A conversation that shows a later message is not met by its filter, so the server tries to add one more and
            // meets the primary key; so does the loser of a race to add the first. Asked again, only the former still does.
            let refused = self.touch(chats, &mut touched, deadline).await?;
            let later = self.touch(&refused, &mut touched, deadline).await?;
            touched.later += later.len();
        }
        Ok(touched)
    }

    /// Those with whom a user has a direct chat, out of the user's newest so many conversations, newest first. What was sent a moment
    /// ago may not count yet.
    pub async fn partners(&self, user: &UserId, conversations: usize) -> Result<Vec<UserId>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let collection = self.db.collection::<Document>("conversations");
        let query = collection
            .find(doc! { "members": user.as_str() })
            .sort(doc! { "lastTimestamp": -1, "_id": -1 })
            .projection(doc! { "_id": 1 })
            .limit(i64::try_from(conversations).unwrap_or(i64::MAX))
            .batch_size(batch(conversations))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut partners = Vec::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                let chat = stored.get_str("_id").ok().and_then(|id| ChatId::parse(id).ok());
                partners.extend(chat.and_then(|chat| chat.other(user)));
            }
            Ok(partners)
        })
        .await
    }

    /// A group's conversation lists these members, unless it lists those of a later version of the group. A new group's is as new as
    /// the group, until it has a message.
    pub async fn set_members(&self, group: &Group) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let members: Vec<_> = group.members.iter().map(|member| member.user.as_str()).collect();
        let conversations = self.db.collection::<Document>("conversations");
        let older = doc! { "_id": group.chat.as_str(), "membersVersion": { "$not": { "$gte": group.version } } };
        let change = doc! {
            "$set": { "members": members, "membersVersion": group.version },
            "$setOnInsert": { "lastTimestamp": group.created_at },
        };
        within(deadline, async {
            match conversations.update_one(older, change).upsert(true).await {
                Err(error) if !is_duplicate(&error) => Err(error),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Returns those that met the primary key.
    async fn touch<'a>(
        &self,
        chats: &[&'a Message],
        touched: &mut Touched,
        deadline: Instant,
    ) -> Result<Vec<&'a Message>, StoreError> {
        if chats.is_empty() {
            return Ok(Vec::new());
        }
        let reply = self.run(command(chats, deadline)?, deadline).await?;
        if let Some(Bson::Document(error)) = reply.get("writeConcernError") {
            return Err(StoreError::Unavailable(format!("the write concern was not met: {error}")));
        }
        touched.moved += number(&reply, "n").and_then(|n| usize::try_from(n).ok()).unwrap_or_default();
        let mut refused = Vec::new();
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        for error in errors.iter().filter_map(Bson::as_document) {
            let chat = number(error, "index").and_then(|index| chats.get(usize::try_from(index).ok()?));
            match (number(error, "code"), chat) {
                (Some(DUPLICATE_KEY), Some(message)) => refused.push(*message),
                _ => touched.failed += 1,
            }
        }
        Ok(refused)
    }
}

/// The latest message of each chat.
fn latest(messages: &[Message]) -> Vec<&Message> {
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

fn command(chats: &[&Message], deadline: Instant) -> Result<RawDocumentBuf, StoreError> {
    let limit = server_limit(deadline.saturating_duration_since(Instant::now()));
    let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).max(1);
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
        older_than(message, &mut writer);
        writer.end();
        writer.begin_document("u");
        writer.begin_document("$set");
        if let Members::Direct(one, other) = message.chat.members() {
            writer.begin_array("members");
            writer.string("0", one.as_str());
            writer.string("1", other.as_str());
            writer.end();
        }
        writer.begin_document("lastMessage");
        document::encode(message, &mut writer);
        writer.end();
        writer.int64("lastTimestamp", message.timestamp);
        writer.end();
        writer.end();
        writer.bool("upsert", true);
        writer.end();
    }
    writer.finish()
}

/// By timestamp, then by id, so that every order of arrival ends with the same last message. A conversation that has none yet,
/// as a new group's, is older than any.
fn older_than(message: &Message, writer: &mut Writer) {
    writer.begin_array("$or");
    writer.begin_element(0);
    writer.begin_document("lastTimestamp");
    writer.int64("$lt", message.timestamp);
    writer.end();
    writer.end();
    writer.begin_element(1);
    writer.int64("lastTimestamp", message.timestamp);
    writer.begin_document("lastMessage._id");
    writer.display("$lt", message.id);
    writer.end();
    writer.end();
    writer.begin_element(2);
    writer.begin_document("lastTimestamp");
    writer.bool("$exists", false);
    writer.end();
    writer.end();
    writer.end();
}
