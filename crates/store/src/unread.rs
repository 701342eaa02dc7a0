//! How many messages of a chat a user has not read: those above their watermark that are not their own.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, HistoryKey, MessageId, UserId};
use mongodb::bson::{Bson, DateTime, Document, doc};
use tokio::time::Instant;

use crate::insert::number;
use crate::{Store, StoreError, server_limit, within};

/// As far as anything is counted.
pub const MAX_UNREAD: usize = 999;
/// The most of a chat's newest messages that are examined: a user who writes without reading has many own messages above the watermark.
const MAX_SCANNED: i64 = 10_000;
/// Chats in one query.
const MAX_CHATS: usize = 100;

/// A chat whose unread messages are to be counted.
#[derive(Debug, Clone, Copy)]
pub struct Unread<'a> {
    /// The chat.
    pub chat: &'a ChatId,
    /// The watermark; none: nothing is read.
    pub above: Option<HistoryKey>,
    /// Only what was sent before this time, in Unix epoch milliseconds.
    pub before: Option<i64>,
    /// Messages that are counted already.
    pub except: &'a [MessageId],
}

impl Store {
    /// Counts what of each chat the user has not read, [`MAX_UNREAD`] at most.
    pub async fn count_unread(
        &self,
        user: &UserId,
        chats: &[Unread<'_>],
    ) -> Result<HashMap<ChatId, usize>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let mut counts = HashMap::with_capacity(chats.len());
        for chats in chats.chunks(MAX_CHATS) {
            // One query for all of them: each is a range of the index that history is read by.
            let mut branches = chats.iter().map(|unread| count_one(user, unread));
            let Some(mut pipeline) = branches.next() else { break };
            pipeline.extend(
                branches.map(|branch| doc! { "$unionWith": { "coll": self.messages.name(), "pipeline": branch } }),
            );
            let left = deadline.saturating_duration_since(Instant::now());
            let query = self.messages.aggregate(pipeline).max_time(server_limit(left));
            within(deadline, async {
                let mut cursor = query.await?;
                while let Some(counted) = cursor.try_next().await? {
                    let chat = counted.get_str("_id").ok().and_then(|text| ChatId::parse(text).ok());
                    let count = number(&counted, "count").and_then(|count| usize::try_from(count).ok());
                    if let (Some(chat), Some(count)) = (chat, count) {
                        counts.insert(chat, count);
                    }
                }
                Ok(())
            })
            .await?;
        }
        Ok(counts)
    }
}

fn count_one(user: &UserId, unread: &Unread<'_>) -> Vec<Document> {
    // Numbers and Dates are ranges of the index of their own (`time`).
    let number = |time: i64| Bson::Int64(time);
    let date = |time: i64| Bson::DateTime(DateTime::from_millis(time));
    let range = doc! { "$or": [between(unread, number), between(unread, date)] };
    let mut others = doc! { "senderId": { "$ne": user.as_str() } };
    if !unread.except.is_empty() {
        let except: Vec<_> = unread.except.iter().map(ToString::to_string).collect();
        others.insert("_id", doc! { "$nin": except });
    }
    vec![
        doc! { "$match": range },
        doc! { "$sort": { "timestamp": -1, "_id": -1 } },
        doc! { "$limit": MAX_SCANNED },
        doc! { "$match": others },
        doc! { "$limit": MAX_UNREAD as i64 },
        doc! { "$group": { "_id": "$chatId", "count": { "$sum": 1_i64 } } },
    ]
}

/// What is above the watermark and before the end, of those times that compare with these.
fn between(unread: &Unread<'_>, time: impl Fn(i64) -> Bson) -> Document {
    let mut range = doc! { "chatId": unread.chat.as_str() };
    let mut sent = doc! { "$lt": time(unread.before.unwrap_or(i64::MAX)) };
    if let Some(key) = unread.above {
        sent.insert("$gte", time(key.timestamp));
        // A fraction of the watermark's millisecond belongs to it.
        let later = doc! { "timestamp": { "$gte": time(key.timestamp.saturating_add(1)) } };
        range.insert("$or", vec![later, doc! { "_id": { "$gt": key.id.to_string() } }]);
    }
    range.insert("timestamp", sent);
    range
}
