//! What is stored: pages of a chat's history, and messages by id.
//!
//! All of it is asked of the primary, with read concern `local`. A primary that has been elected has every write that a majority
//! acknowledged before, so what [`Store::insert`] reported is seen at once; `majority` would be behind for a moment after an
//! election, a secondary for longer. The reverse does not hold: what is seen may still be waiting for its majority. Where that
//! matters, [`Store::stored`] asks with read concern `majority`.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, HistoryKey, Message, MessageId};
use mongodb::bson::{Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::ReadConcern;
use tokio::time::Instant;

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
    /// Whether older ones than these are stored. A short page is not always the last: documents that are no messages are left
    /// out, but never make this false.
    pub more: bool,
}

impl Store {
    /// The newest `limit` messages of the chat that are older than `before`, which itself is not among them.
    pub async fn page(&self, chat: &ChatId, before: Option<HistoryKey>, limit: usize) -> Result<Page, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        // Bounds of one index range. `$lte` compares numbers with numbers only, so a timestamp of another type is never met.
        let mut filter =
            doc! { "chatId": chat.as_str(), "timestamp": { "$lte": before.map_or(i64::MAX, |key| key.timestamp) } };
        if let Some(key) = before {
            filter.insert(
                "$or",
                vec![doc! { "timestamp": { "$lt": key.timestamp } }, doc! { "_id": { "$lt": key.id.to_string() } }],
            );
        }
        // One more than asked for tells whether there are more.
        let wanted = limit.saturating_add(1);
        let (mut messages, met) = self.newest(&filter, wanted, Some(wanted), deadline).await?;
        if messages.len() < wanted && met == wanted {
            // Some were no messages: read on past them, however many they are.
            messages = self.newest(&filter, wanted, None, deadline).await?.0;
        }
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
                    if let (Some(id), Ok(timestamp)) = (id, stored.get_i64("timestamp")) {
                        found.insert(id, timestamp);
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(found)
    }

    /// The first `wanted` messages that the filter meets, and how many documents were met on the way.
    async fn newest(
        &self,
        filter: &Document,
        wanted: usize,
        limit: Option<usize>,
        deadline: Instant,
    ) -> Result<(Vec<Message>, usize), StoreError> {
        let query = self
            .messages
            .find(filter.clone())
            .sort(doc! { "timestamp": -1, "_id": -1 })
            .batch_size(batch(wanted))
            .max_time(server_limit(deadline.saturating_duration_since(Instant::now())));
        // A query with a limit is answered in one batch and leaves no cursor behind.
        let query = match limit.and_then(|limit| i64::try_from(limit).ok()) {
            Some(limit) => query.limit(limit),
            None => query,
        };
        within(deadline, async {
            let (mut messages, mut met) = (Vec::with_capacity(wanted.min(1000)), 0);
            let mut cursor = query.await?;
            while messages.len() < wanted
                && let Some(stored) = cursor.try_next().await?
            {
                met += 1;
                messages.extend(self.decode(&stored));
            }
            Ok((messages, met))
        })
        .await
    }

    pub(crate) fn decode(&self, stored: &RawDocumentBuf) -> Option<Message> {
        let document: &RawDocument = stored;
        match document::decode(document) {
            Ok(message) => Some(message),
            Err(field) => {
                self.undecodable.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(id = ?document.get("_id").ok().flatten(), field, "stored document is no message, left out");
                None
            }
        }
    }
}

pub(crate) fn among(ids: &[MessageId]) -> Document {
    doc! { "_id": { "$in": ids.iter().map(ToString::to_string).collect::<Vec<_>>() } }
}

pub(crate) fn batch(size: usize) -> u32 {
    // A batch of exactly the limit's size would leave the cursor open for one more round trip.
    u32::try_from(size).unwrap_or(u32::MAX).saturating_add(1)
}
