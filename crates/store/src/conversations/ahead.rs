//! Conversations whose `lastTimestamp` lies far ahead of the clock: a gateway's or a worker's clock was wrong, or another tool wrote it.
//!
//! No newer conversation would be listed above them until that time. A reader that finds one replaces its time, in the store too, by that of
//! its newest message that does not lie ahead; or, if there is none, once by the present.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_message::{ChatId, HistoryKey, MessageId, recency};
use mongodb::bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use tokio::time::Instant;

use super::Conversation;
use crate::{Store, StoreError, server_limit};

/// How often one reading corrects what it finds, and reads again.
pub(super) const CORRECTIONS: usize = 3;

/// Conversations that are corrected together; of more, the next correction or the next reading takes care.
const CORRECTED_AT_ONCE: usize = 100;

/// Unix epoch milliseconds.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// For what can't be corrected in the store now.
pub(super) fn at_most_now(mut found: Vec<Conversation>) -> Vec<Conversation> {
    let now = now_ms();
    for conversation in &mut found {
        conversation.last_timestamp = recency::of_arrival(conversation.last_timestamp, now);
    }
    found.sort_by(|one, other| (other.last_timestamp, &other.chat).cmp(&(one.last_timestamp, &one.chat)));
    found
}

impl Store {
    /// Corrects those of these conversations that lie ahead, up to a bound, and returns their times.
    pub(super) async fn bring_back(
        &self,
        found: &[Conversation],
        deadline: Instant,
    ) -> Result<HashMap<ChatId, i64>, StoreError> {
        let now = now_ms();
        let ahead = found.iter().filter(|conversation| recency::is_ahead(conversation.last_timestamp, now));
        let ahead: Vec<_> = ahead.take(CORRECTED_AT_ONCE).map(|conversation| conversation.chat.clone()).collect();
        if ahead.is_empty() {
            return Ok(HashMap::new());
        }
        let mut corrected = HashMap::new();
        let latest =
            HistoryKey { timestamp: recency::latest(now).saturating_add(1), id: MessageId::from_bytes([0; 16]) };
        for chat in ahead {
            let newest = self.page_within(&chat, Some(latest), 1, deadline).await?.messages.pop();
            corrected.insert(chat, newest.map_or(now, |message| message.timestamp));
        }
        tracing::warn!(conversations = corrected.len(), "conversations were listed as of a time far ahead; corrected");
        let update = |(chat, timestamp): (&ChatId, &i64)| {
            // As a number or, by another tool, as a date.
            let latest = recency::latest(now);
            let still = [Bson::Int64(latest), Bson::DateTime(DateTime::from_millis(latest))];
            let still = still.map(|latest| doc! { "lastTimestamp": { "$gt": latest } });
            let still = doc! { "_id": chat.as_str(), "$or": still.to_vec() };
            doc! { "q": still, "u": { "$set": { "lastTimestamp": timestamp } } }
        };
        let updates: Vec<Document> = corrected.iter().map(update).collect();
        let limit = server_limit(deadline.saturating_duration_since(Instant::now()));
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        let command = doc! { "update": "conversations", "ordered": false, "maxTimeMS": limit, "updates": updates };
        let command = RawDocumentBuf::try_from(&command).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        self.run(command, deadline).await?;
        Ok(corrected)
    }
}
