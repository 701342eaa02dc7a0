//! Whether MongoDB holds what was acknowledged, exactly once. Asked of the database, past our own store.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::{Collection, Database};
use serde::Serialize;
use tokio::time::sleep;

/// How many ids one query asks for.
const IDS: usize = 10_000;
/// How often a message that is not stored yet is looked for.
const LOOK: Duration = Duration::from_secs(1);

/// The stored messages.
#[derive(Debug)]
pub struct Messages {
    database: Database,
    collection: Collection<Document>,
    /// How many there were before the load.
    before: u64,
}

/// What the database holds of a load.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// Messages with a positive answer.
    pub acknowledged: usize,
    /// Messages with a positive answer that are not stored.
    pub lost: usize,
    /// Sends that are stored more than once.
    pub duplicated: u64,
    /// Sends without a positive answer that are stored nevertheless, which is allowed.
    pub beyond: i64,
}

impl Messages {
    /// The collection `messages`, before the load.
    ///
    /// # Errors
    /// The connection string is wrong, or MongoDB does not answer.
    pub async fn of(url: &str, db: &str) -> Result<Self> {
        let client = mongodb::Client::with_uri_str(url).await.context("can't use the MongoDB URL")?;
        let database = client.database(db);
        let collection = database.collection("messages");
        let before = collection.estimated_document_count().await.context("can't count")?;
        Ok(Self { database, collection, before })
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The collection.
    pub fn collection(&self) -> &Collection<Document> {
        &self.collection
    }

    /// How many there are above those before the load.
    ///
    /// # Errors
    /// MongoDB does not answer.
    pub async fn count(&self) -> Result<u64> {
        let count = self.collection.estimated_document_count().await.context("can't count")?;
        Ok(count.saturating_sub(self.before))
    }

    /// Waits up to `limit` until there are `count` more than before the load, and returns how long that took.
    ///
    /// It asks for a count that costs the server nothing: looking for ids would be part of what is measured.
    ///
    /// # Errors
    /// MongoDB does not answer.
    pub async fn drained(&self, count: usize, limit: Duration) -> Result<Option<Duration>> {
        let started = Instant::now();
        while self.count().await? < count as u64 {
            if started.elapsed() > limit {
                return Ok(None);
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(started.elapsed()))
    }

    /// Looks for each of `acknowledged`, for up to `limit`, and for sends stored twice among those whose `tempId` begins with `prefix`.
    ///
    /// # Errors
    /// MongoDB does not answer.
    pub async fn verify(&self, acknowledged: &[String], prefix: &str, limit: Duration) -> Result<Stored> {
        let started = Instant::now();
        let mut missing = self.missing(acknowledged).await?;
        // What is stored without having been acknowledged may have been counted instead of what was.
        while !missing.is_empty() && started.elapsed() < limit {
            sleep(LOOK).await;
            missing = self.missing(&missing).await?;
        }
        let lost = missing.len();
        let (sends, duplicated) = self.sends(prefix).await?;
        Ok(Stored {
            acknowledged: acknowledged.len(),
            lost,
            duplicated,
            beyond: sends - (acknowledged.len() - lost) as i64,
        })
    }

    async fn missing(&self, ids: &[String]) -> Result<Vec<String>> {
        let mut missing = Vec::new();
        for ids in ids.chunks(IDS) {
            let query = self.collection.find(doc! { "_id": { "$in": ids } }).projection(doc! { "_id": 1 });
            let found: Vec<Document> = query.batch_size(IDS as u32).await?.try_collect().await?;
            let found: HashSet<&str> = found.iter().filter_map(|one| one.get_str("_id").ok()).collect();
            missing.extend(ids.iter().filter(|id| !found.contains(id.as_str())).cloned());
        }
        Ok(missing)
    }

    /// The sends that are stored, and those of them that are stored more than once.
    async fn sends(&self, prefix: &str) -> Result<(i64, u64)> {
        let pipeline = [
            doc! { "$match": { "tempId": { "$gte": prefix, "$lt": format!("{prefix}\u{10ffff}") } } },
            doc! { "$group": { "_id": "$tempId", "documents": { "$sum": 1 } } },
            doc! { "$group": {
                "_id": null,
                "sends": { "$sum": 1_i64 },
                "duplicated": { "$sum": { "$cond": [{ "$gt": ["$documents", 1] }, 1_i64, 0_i64] } },
            } },
        ];
        let counted =
            self.collection.aggregate(pipeline).allow_disk_use(true).await?.try_next().await?.unwrap_or_default();
        let number = |key| counted.get_i64(key).unwrap_or_default();
        Ok((number("sends"), number("duplicated").unsigned_abs()))
    }
}
