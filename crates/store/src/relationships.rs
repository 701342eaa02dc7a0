//! `relationships`: who is whose friend, and who blocks whom.
//!
//! One document per pair of users, under the id of their chat: `{ _id, asked: [userId], blockedBy: [userId] }`. Who has asked for
//! friendship is in `asked`; two who both have are friends. Every change is one atomic update and may be repeated.
//!
//! See `docs/decisions/blocks.md`.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, UserId};
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use tokio::time::Instant;

use crate::groups::is_duplicate;
use crate::query::batch;
use crate::{Store, StoreError, server_limit, within};

/// What is between two users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relationship {
    /// Who of them has asked for friendship.
    pub asked: Vec<UserId>,
    /// Who of them blocks the other.
    pub blocked_by: Vec<UserId>,
}

impl Relationship {
    /// Whether both have asked.
    pub fn friends(&self) -> bool {
        self.asked.len() > 1
    }

    /// Whether one blocks the other.
    pub fn blocked(&self) -> bool {
        !self.blocked_by.is_empty()
    }
}

impl Store {
    /// What is between each of these pairs, given by their chats. A pair that is not in the answer has nothing.
    pub async fn relationships(&self, pairs: &[ChatId]) -> Result<HashMap<ChatId, Relationship>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let ids: Vec<_> = pairs.iter().map(ChatId::as_str).collect();
        let relationships = self.relationships_collection();
        let query = relationships
            .find(doc! { "_id": { "$in": ids } })
            .batch_size(batch(pairs.len()))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut found = HashMap::new();
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                let pair = stored.get_str("_id").ok().and_then(|id| ChatId::parse(id).ok());
                found.extend(pair.map(|pair| (pair, decode(&stored))));
            }
            Ok(found)
        })
        .await
    }

    /// One of a pair asks for friendship, or accepts it. `None`: one blocks the other, and nothing has changed.
    pub async fn ask_friend(&self, pair: &ChatId, user: &UserId) -> Result<Option<Relationship>, StoreError> {
        let unblocked = doc! { "_id": pair.as_str(), "blockedBy.0": { "$exists": false } };
        self.change(unblocked, doc! { "$addToSet": { "asked": user.as_str() } }).await
    }

    /// Ends a friendship, withdraws a request or declines one. Answers what is between the two then, as do the others.
    pub async fn end_friendship(&self, pair: &ChatId) -> Result<Option<Relationship>, StoreError> {
        let nobody: [&str; 0] = [];
        self.change(doc! { "_id": pair.as_str() }, doc! { "$set": { "asked": &nobody[..] } }).await
    }

    /// One of a pair blocks the other, which ends a friendship.
    pub async fn block(&self, pair: &ChatId, user: &UserId) -> Result<Option<Relationship>, StoreError> {
        let nobody: [&str; 0] = [];
        let change = doc! { "$addToSet": { "blockedBy": user.as_str() }, "$set": { "asked": &nobody[..] } };
        self.change(doc! { "_id": pair.as_str() }, change).await
    }

    /// One of a pair blocks the other no longer.
    pub async fn unblock(&self, pair: &ChatId, user: &UserId) -> Result<Option<Relationship>, StoreError> {
        let change = doc! { "$pull": { "blockedBy": user.as_str() } };
        self.change(doc! { "_id": pair.as_str() }, change).await
    }

    /// Changes or creates a pair's document. `None`: it exists, and the filter does not match it.
    async fn change(&self, filter: Document, change: Document) -> Result<Option<Relationship>, StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let relationships = self.relationships_collection();
        within(deadline, async {
            // Two who make the same document meet at the primary key; the loser's repeat finds it.
            for _ in 0..2 {
                let update = relationships
                    .find_one_and_update(filter.clone(), change.clone())
                    .upsert(true)
                    .return_document(ReturnDocument::After);
                match update.await {
                    Err(error) if is_duplicate(&error) => {}
                    changed => return Ok(changed?.as_ref().map(decode)),
                }
            }
            Ok(None)
        })
        .await
    }

    fn relationships_collection(&self) -> Collection<Document> {
        self.db.collection("relationships")
    }
}

fn decode(stored: &Document) -> Relationship {
    let users = |field| {
        let users = stored.get_array(field).map(Vec::as_slice).unwrap_or_default().iter();
        users.filter_map(|user| UserId::parse(user.as_str()?).ok()).collect()
    };
    Relationship { asked: users("asked"), blocked_by: users("blockedBy") }
}
