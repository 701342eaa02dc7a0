//! What is stored: pages of a chat's history, and messages by id.
//!
//! All of it is asked of the primary, with read concern `local`. A primary that has been elected has every write that a majority
//! acknowledged before, so what [`Store::insert`] reported is seen at once; `majority` would be behind for a moment after an
//! election, a secondary for longer. The reverse does not hold: what is seen may still be waiting for its majority. Where that
//! matters, [`Store::stored`] asks with read concern `majority`.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, HistoryKey, Message, MessageId};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

use crate::query::batch;
use crate::time::{self, Newest, Range, Timed};
use crate::{Store, StoreError, document, server_limit, within};

/// The name of the index that pages are read by.
pub(crate) const INDEX: &str = "chatId_1_timestamp_-1__id_-1";
/// The most ids in one query.
pub(crate) const MAX_IDS: usize = 10_000;

/// A part of a chat's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Newest first, by timestamp and then id.
    pub messages: Vec<Message>,
    /// Whether older ones than these are stored. A short page is not always the last: documents that cannot be read are left out, but
    /// never make this false.
    pub more: bool,
}

impl Store {
    /// The newest `limit` messages of the chat that are older than `before`, which itself is not among them.
    pub async fn page(&self, chat: &ChatId, before: Option<HistoryKey>, limit: usize) -> Result<Page, StoreError> {
        self.page_within(chat, before, limit, Instant::now() + self.read_timeout).await
    }

    pub(crate) async fn page_within(
        &self,
        chat: &ChatId,
        before: Option<HistoryKey>,
        limit: usize,
        deadline: Instant,
    ) -> Result<Page, StoreError> {
        let query = Newest {
            collection: &self.messages,
            range: Range {
                of: ("chatId", chat.as_str().to_owned()),
                time: "timestamp",
                before: before.map(|key| (key.timestamp, key.id.to_string())),
            },
            fields: None,
            read: |stored: &RawDocumentBuf| self.decode(stored),
            deadline,
        };
        // One more than the page, to know whether there is a next page.
        let mut messages = query.get(limit.saturating_add(1)).await?;
        let more = messages.len() > limit;
        messages.truncate(limit);
        Ok(Page { messages, more })
    }

    /// The stored messages among `ids`.
    pub async fn get(&self, ids: &[MessageId]) -> Result<HashMap<MessageId, Message>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let query =
                self.messages.find(among(ids)).batch_size(batch(ids.len())).max_time(server_limit(self.read_timeout));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(stored) = cursor.try_next().await? {
                    if let Some(message) = self.decode(&stored) {
                        found.insert(message.id, message);
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    /// Which of `ids` are stored for good: a majority has them, and no election can take them back.
    pub async fn stored(&self, ids: &[MessageId]) -> Result<HashSet<MessageId>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let mut found = HashSet::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let query = self
                .messages
                .find(among(ids))
                .projection(doc! { "_id": 1 })
                .read_concern(ReadConcern::majority())
                .batch_size(batch(ids.len()))
                .max_time(server_limit(self.read_timeout));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(stored) = cursor.try_next().await? {
                    found.extend(stored.get_str("_id").ok().and_then(MessageId::parse));
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    /// As of when those of `ids` are stored that are.
    pub async fn timestamps(&self, ids: &[MessageId]) -> Result<HashMap<MessageId, i64>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let mut found = HashMap::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS) {
            let query = self
                .messages
                .find(among(ids))
                .projection(doc! { "timestamp": 1 })
                .batch_size(batch(ids.len()))
                .max_time(server_limit(self.read_timeout));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(stored) = cursor.try_next().await? {
                    let id = stored.get_str("_id").ok().and_then(MessageId::parse);
                    match (id, time::millis_of(&stored, "timestamp")) {
                        (Some(id), Some(timestamp)) => drop(found.insert(id, timestamp)),
                        (_, None) => self.unreadable(&stored, "timestamp"),
                        (None, _) => {}
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    pub(crate) fn decode(&self, stored: &RawDocumentBuf) -> Option<Message> {
        document::decode(stored).map_err(|field| self.unreadable(stored, field)).ok()
    }
}

impl Timed for Message {
    fn time(&self) -> i64 {
        self.timestamp
    }

    fn compare(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

pub(crate) fn among(ids: &[MessageId]) -> Document {
    doc! { "_id": { "$in": ids.iter().map(ToString::to_string).collect::<Vec<_>>() } }
}
