//! `conversations`: `{ _id: chatId, members?, lastMessage, lastTimestamp }`, derived from the messages.
//!
//! A list of chats by last message can't be read from `messages` cheaply, so this collection holds it. It may lag or miss a message: no
//! write waits for it, and readers correct it. A direct chat's `members` follow from its id; a group's members are written when the group is
//! created, with the group's own time as `lastTimestamp` until it has a message.
//!
//! `lastTimestamp` orders the list, so it never lies far ahead of the clock ([`recency`](holdfast_message::recency)): a message whose own timestamp does counts as of
//! the time when the view is updated, and readers correct values that were written otherwise (`conversations/ahead.rs`).
//!
//! See `docs/decisions/conversation-lists.md` and `docs/decisions/messages-ahead.md`.

mod ahead;
mod command;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use command::{Change, command, latest};
use futures_util::TryStreamExt;
use holdfast_message::{ChatId, Message, UserId};
use mongodb::action::Find;
use mongodb::bson::{Bson, Document, RawDocumentBuf, doc};
use tokio::time::Instant;

use crate::groups::is_duplicate;
use crate::insert::number;
use crate::query::batch;
use crate::time::{Newest, Range, Timed, is_plain, millis_of};
use crate::{Group, Store, StoreError, document, server_limit, within};

/// The name of the index that a user's conversations are read by.
pub(crate) const INDEX: &str = "members_1_lastTimestamp_-1__id_-1";

/// The most chats in one command.
const MAX_CHATS: usize = 1000;
/// The most chats in one query.
const MAX_CHATS_READ: usize = 100;
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

/// A chat of a user's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    /// The chat.
    pub chat: ChatId,
    /// When its last message was sent, as far as the view knows; of a group without one, when it was made.
    pub last_timestamp: i64,
}

/// A cursor into a user's list: conversations are newest first, and by id where two have the same time.
pub type ConversationKey<'a> = (i64, &'a ChatId);

impl Store {
    /// The user's newest conversations before a cursor, which itself is not among them.
    pub async fn conversations(
        &self,
        user: &UserId,
        before: Option<ConversationKey<'_>>,
        limit: usize,
    ) -> Result<Vec<Conversation>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        for _ in 0..ahead::CORRECTIONS {
            let found = self.as_ordered(user, before, limit, deadline).await?;
            // Each correction moves chats within the list.
            if self.bring_back(&found, deadline).await?.is_empty() {
                return Ok(found);
            }
        }
        Ok(ahead::at_most_now(self.as_ordered(user, before, limit, deadline).await?))
    }

    async fn as_ordered(
        &self,
        user: &UserId,
        before: Option<ConversationKey<'_>>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Vec<Conversation>, StoreError> {
        let query = Newest {
            collection: &self.conversations,
            range: Range {
                of: ("members", user.as_str().to_owned()),
                time: "lastTimestamp",
                before: before.map(|(timestamp, chat)| (timestamp, chat.as_str().to_owned())),
            },
            fields: Some(doc! { "lastTimestamp": 1 }),
            read: |stored: &RawDocumentBuf| self.conversation(stored, "lastTimestamp"),
            deadline,
        };
        query.get(limit).await
    }

    /// The conversations of these groups. One that the view does not know is as new as its group.
    pub async fn conversations_of(&self, groups: &[ChatId]) -> Result<Vec<Conversation>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let ids: Vec<_> = groups.iter().map(ChatId::as_str).collect();
        let query = self.conversations.find(doc! { "_id": { "$in": ids } }).batch_size(batch(groups.len()));
        let mut found = self.found(query, "lastTimestamp", deadline).await?;
        let known: HashSet<_> = found.iter().map(|conversation| &conversation.chat).collect();
        let unknown: Vec<_> = groups.iter().filter(|group| !known.contains(group)).cloned().collect();
        if !unknown.is_empty() {
            found.extend(ahead::at_most_now(self.created(&unknown, deadline).await?));
        }
        let corrected = self.bring_back(&found, deadline).await?;
        for conversation in &mut found {
            if let Some(corrected) = corrected.get(&conversation.chat) {
                conversation.last_timestamp = *corrected;
            }
        }
        Ok(ahead::at_most_now(found))
    }

    /// These groups, each as of when it was made.
    async fn created(&self, groups: &[ChatId], deadline: Instant) -> Result<Vec<Conversation>, StoreError> {
        let ids: Vec<_> = groups.iter().map(ChatId::as_str).collect();
        let stored = self.db.collection::<RawDocumentBuf>("groups");
        let query = stored.find(doc! { "_id": { "$in": ids } }).batch_size(batch(groups.len()));
        self.found(query, "createdAt", deadline).await
    }

    /// What a query finds, each as of the time in this field.
    async fn found(
        &self,
        query: Find<'_, RawDocumentBuf>,
        time: &str,
        deadline: Instant,
    ) -> Result<Vec<Conversation>, StoreError> {
        let query = query.projection(doc! { time: 1 }).max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut found = Vec::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                found.extend(self.conversation(&stored, time));
            }
            Ok(found)
        })
        .await
    }

    fn conversation(&self, stored: &RawDocumentBuf, time: &str) -> Option<Conversation> {
        let chat = stored.get_str("_id").ok().and_then(|text| ChatId::parse(text).ok());
        match (chat, millis_of(stored, time)) {
            (Some(chat), Some(last_timestamp)) => Some(Conversation { chat, last_timestamp }),
            (chat, _) => {
                self.unreadable(stored, if chat.is_some() { time } else { "_id" });
                None
            }
        }
    }

    /// The newest message of each of these chats: of the messages themselves, for the view may lag behind them; but what the view shows where
    /// the messages are not stored yet.
    pub async fn newest_of(&self, chats: &[ChatId]) -> Result<HashMap<ChatId, Message>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        // Whatever its time is: what the server puts above numbers is met here, and looked into below.
        let newest = |chat: &ChatId| -> Vec<Document> {
            vec![
                doc! { "$match": { "chatId": chat.as_str() } },
                doc! { "$sort": { "timestamp": -1, "_id": -1 } },
                doc! { "$limit": 1_i64 },
            ]
        };
        let (mut found, mut others) = (HashMap::with_capacity(chats.len()), Vec::new());
        for chats in chats.chunks(MAX_CHATS_READ) {
            let mut branches = chats.iter().map(newest);
            let Some(mut pipeline) = branches.next() else { break };
            pipeline.extend(
                branches.map(|branch| doc! { "$unionWith": { "coll": self.messages.name(), "pipeline": branch } }),
            );
            let left = deadline.saturating_duration_since(Instant::now());
            let query = self.messages.aggregate(pipeline).max_time(server_limit(left)).with_type::<RawDocumentBuf>();
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(stored) = cursor.try_next().await? {
                    match self.decode(&stored).filter(|_| is_plain(stored.get("timestamp").ok().flatten())) {
                        Some(message) => drop(found.insert(message.chat.clone(), message)),
                        None => others.extend(stored.get_str("chatId").ok().and_then(|text| ChatId::parse(text).ok())),
                    }
                }
                Ok(())
            })
            .await?;
        }
        for chat in others {
            if let Some(message) = self.page_within(&chat, None, 1, deadline).await?.messages.pop() {
                found.insert(chat, message);
            }
        }
        let absent: Vec<_> = chats.iter().filter(|chat| !found.contains_key(*chat)).collect();
        if !absent.is_empty() {
            found.extend(self.last_shown(&absent, deadline).await?);
        }
        Ok(found)
    }

    /// The last messages that the view shows of these chats.
    async fn last_shown(&self, chats: &[&ChatId], deadline: Instant) -> Result<Vec<(ChatId, Message)>, StoreError> {
        let ids: Vec<_> = chats.iter().map(|chat| chat.as_str()).collect();
        let query = self.conversations.find(doc! { "_id": { "$in": ids } }).projection(doc! { "lastMessage": 1 });
        let left = deadline.saturating_duration_since(Instant::now());
        let query = query.batch_size(batch(chats.len())).max_time(server_limit(left));
        within(deadline, async {
            let (mut shown, mut cursor) = (Vec::new(), query.await?);
            while let Some(stored) = cursor.try_next().await? {
                let last = stored.get_document("lastMessage").ok();
                if let Some(message) = last.and_then(|last| document::decode(last).ok()) {
                    shown.push((message.chat.clone(), message));
                }
            }
            Ok(shown)
        })
        .await
    }

    /// Updates each chat's conversation to the latest of these messages, unless it shows a later one. Idempotent.
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

    /// The partners of the direct chats among the user's newest conversations (as many as given), newest first. Messages of the last moments
    /// may not count yet.
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

    /// Creates a conversation for each of these messages' chats where none exists. An existing one stays as it is.
    pub async fn begin_conversations(&self, messages: &[Message]) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let latest = latest(messages);
        for chats in latest.chunks(MAX_CHATS) {
            // The loser of a race to add one finds it added.
            self.run(command(chats, Change::Begin, deadline)?, deadline).await?;
        }
        Ok(())
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
        let reply = self.run(command(chats, Change::Touch, deadline)?, deadline).await?;
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

impl Timed for Conversation {
    fn time(&self) -> i64 {
        self.last_timestamp
    }

    fn compare(&self, other: &Self) -> Ordering {
        (self.last_timestamp, &self.chat).cmp(&(other.last_timestamp, &other.chat))
    }
}
