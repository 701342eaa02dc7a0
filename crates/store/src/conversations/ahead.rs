//! Conversations whose `lastTimestamp` lies far ahead of the clock: a gateway's or a worker's clock was wrong, or another tool wrote it.
//!
//! Nothing newer would come above them until that time. Whoever reads one gives it the time of its newest message that does not lie
//! ahead, in the store too; or, if there is none, the present, once.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_message::{ChatId, recency};
use mongodb::bson::{Document, RawDocumentBuf, doc};
use tokio::time::Instant;

use super::{Conversation, MAX_CHATS};
use crate::{Store, StoreError, server_limit};

/// How often one reading corrects what it finds, and reads again.
pub(super) const CORRECTIONS: usize = 3;

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
    /// Corrects those of these conversations that lie ahead, and returns their times.
    pub(super) async fn bring_back(
        &self,
        found: &[Conversation],
        deadline: Instant,
    ) -> Result<HashMap<ChatId, i64>, StoreError> {
        let now = now_ms();
        let ahead = found.iter().filter(|conversation| recency::is_ahead(conversation.last_timestamp, now));
        let ahead: Vec<_> = ahead.map(|conversation| conversation.chat.clone()).collect();
        if ahead.is_empty() {
            return Ok(HashMap::new());
        }
        let newest = self.newest_until(&ahead, recency::latest(now), deadline).await?;
        let time = |chat: ChatId| {
            let timestamp = newest.get(&chat).map_or(now, |message| message.timestamp);
            (chat, timestamp)
        };
        let corrected: HashMap<_, _> = ahead.into_iter().map(time).collect();
        tracing::warn!(conversations = corrected.len(), "conversations were listed as of a time far ahead; corrected");
        let update = |(chat, timestamp): (&ChatId, &i64)| {
            let still = doc! { "_id": chat.as_str(), "lastTimestamp": { "$gt": recency::latest(now) } };
            doc! { "q": still, "u": { "$set": { "lastTimestamp": timestamp } } }
        };
        let updates: Vec<Document> = corrected.iter().map(update).collect();
        for updates in updates.chunks(MAX_CHATS) {
            let limit = server_limit(deadline.saturating_duration_since(Instant::now()));
            let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
            let command = doc! { "update": "conversations", "ordered": false, "maxTimeMS": limit, "updates": updates };
            let command =
                RawDocumentBuf::try_from(&command).map_err(|error| StoreError::Unavailable(error.to_string()))?;
            self.run(command, deadline).await?;
        }
        Ok(corrected)
    }
}
