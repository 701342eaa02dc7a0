//! Stored documents that cannot be read: other tools wrote them, or a restore changed them.
//!
//! A reading call leaves such a document out. So that this does not go unnoticed, each is counted and logged once, and operators can list
//! them all ([`Store::find_unreadable`]).

use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{RawBsonRef, RawDocument, RawDocumentBuf, doc};
use mongodb::options::Hint;
use tokio::time::Instant;

use crate::{Store, StoreError, server_limit, time, within};

/// Documents that are remembered as named, so that a chat that is read often does not fill the log; whatever is met beyond is
/// counted each time, and not named.
const MAX_NAMED: usize = 10_000;

/// The most characters of an id that are shown.
const MAX_ID: usize = 64;
/// As `MessageId` is written.
const UUID: &str = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";

/// Called once for each unreadable document.
pub type OnUnreadable = dyn Fn() + Send + Sync;

/// Counts unreadable documents, and remembers which were logged.
#[derive(Default)]
pub(crate) struct Met {
    count: AtomicU64,
    named: Mutex<HashSet<String>>,
}

impl Met {
    /// Counts and logs a document, unless one with its id was seen before.
    pub(crate) fn meet(&self, id: Option<RawBsonRef<'_>>, field: &str, on_unreadable: Option<&OnUnreadable>) {
        let id = shown(id);
        let named = {
            let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            if named.contains(&id) {
                return;
            }
            named.len() < MAX_NAMED && named.insert(id.clone())
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(on_unreadable) = on_unreadable {
            on_unreadable();
        }
        if named {
            tracing::warn!(id, field, "a stored document cannot be read and is left out");
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableDocument {
    /// Its `_id`, as text.
    pub id: String,
    /// The field that makes it unreadable.
    pub field: &'static str,
}

impl fmt::Display for UnreadableDocument {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} ({})", self.id, self.field)
    }
}

impl Store {
    /// How many stored documents that cannot be read the reading calls have met and left out.
    pub fn unreadable_met(&self) -> u64 {
        self.unreadable.count()
    }

    /// Counts a stored document that cannot be read, and names it in the log when it is met for the first time.
    pub(crate) fn unreadable(&self, document: &RawDocumentBuf, field: &str) {
        self.unreadable.meet(document.get("_id").ok().flatten(), field, self.on_unreadable.as_deref());
    }

    /// Messages whose `_id`, `chatId` or `timestamp` is of a kind that no reading call can use, at most `limit` of them. It walks the
    /// whole index of pages and fetches nothing else. [`StoreError::Unavailable`] says that it did not end within `time_limit`.
    pub async fn find_unreadable(
        &self,
        limit: usize,
        time_limit: Duration,
    ) -> Result<Vec<UnreadableDocument>, StoreError> {
        let deadline = Instant::now() + time_limit;
        let kind = |field: &str| doc! { "$type": field };
        let not_one_of = |field: &str, kinds: &[&str]| doc! { "$not": [{ "$in": [kind(field), kinds.to_vec()] }] };
        // Beyond an int64; NaN is below all numbers here.
        let beyond =
            doc! { "$or": [{ "$gte": ["$timestamp", time::BEYOND] }, { "$lt": ["$timestamp", -time::BEYOND] }] };
        let uuid = doc! { "$regexMatch": { "input": "$_id", "regex": UUID } };
        let unreadable = doc! { "$or": [
            not_one_of("$timestamp", &["int", "long", "double", "date"]),
            { "$and": [{ "$eq": [kind("$timestamp"), "double"] }, beyond] },
            not_one_of("$chatId", &["string"]),
            { "$cond": [{ "$eq": [kind("$_id"), "string"] }, { "$not": [uuid] }, true] },
        ] };
        // A condition would have each document fetched: the server takes what it computes from the index.
        let pipeline = [
            doc! { "$project": { "chatId": 1, "timestamp": 1, "unreadable": unreadable } },
            doc! { "$match": { "unreadable": true } },
            doc! { "$limit": i64::try_from(limit).unwrap_or(i64::MAX) },
        ];
        let query = self.messages.aggregate(pipeline).max_time(server_limit(time_limit));
        let pages = doc! { "chatId": 1, "timestamp": -1, "_id": -1 };
        let query = if self.indexes().await?.pages { query.hint(Hint::Keys(pages)) } else { query };
        let query = query.with_type::<RawDocumentBuf>();
        within(deadline, async {
            let mut found = Vec::new();
            let mut cursor = query.await?;
            while let Some(document) = cursor.try_next().await? {
                found.push(UnreadableDocument {
                    id: shown(document.get("_id").ok().flatten()),
                    field: field(&document),
                });
            }
            Ok(found)
        })
        .await
    }
}

fn shown(id: Option<RawBsonRef<'_>>) -> String {
    match id {
        Some(RawBsonRef::String(text)) => text.chars().take(MAX_ID).collect(),
        Some(RawBsonRef::ObjectId(id)) => id.to_hex(),
        Some(other) => format!("an id of type {:?}", other.element_type()),
        None => "no id".into(),
    }
}

/// What makes it unreadable, as far as its index entry says.
fn field(document: &RawDocument) -> &'static str {
    if document.get_str("chatId").is_err() {
        return "chatId";
    }
    if time::millis_of(document, "timestamp").is_none() { "timestamp" } else { "_id" }
}
