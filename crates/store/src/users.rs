//! `users`: `{ _id: userId, displayName, avatarUrl?, about?, updatedAt: int64 }`, what users say of themselves; and who of them was
//! active last.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use holdfast_message::UserId;
use mongodb::Collection;
use mongodb::bson::{Document, doc};
use tokio::time::Instant;

use crate::query::batch;
use crate::{Store, StoreError, server_limit, within};

/// What a user says of themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What the user is to be called.
    pub display_name: String,
    /// An https address of a picture.
    pub avatar_url: Option<String>,
    /// Some words.
    pub about: Option<String>,
}

impl Store {
    /// The profiles of these users; users without a profile are left out.
    pub async fn profiles(&self, users: &[UserId]) -> Result<HashMap<UserId, Profile>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let ids: Vec<_> = users.iter().map(UserId::as_str).collect();
        let collection = self.users();
        let query = collection
            .find(doc! { "_id": { "$in": ids } })
            .batch_size(batch(users.len()))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut found = HashMap::with_capacity(users.len());
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                let user = stored.get_str("_id").ok().and_then(|id| UserId::parse(id).ok());
                // A user may be stored without a profile, by others.
                found.extend(user.zip(decode(&stored)));
            }
            Ok(found)
        })
        .await
    }

    /// Stores a user's profile in the place of the one before. `at` is now, in Unix epoch milliseconds. Repeating it changes nothing.
    pub async fn put_profile(&self, user: &UserId, profile: &Profile, at: i64) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let (mut set, mut unset) = (doc! { "displayName": &profile.display_name, "updatedAt": at }, Document::new());
        for (field, value) in [("avatarUrl", &profile.avatar_url), ("about", &profile.about)] {
            match value {
                Some(value) => drop(set.insert(field, value)),
                None => drop(unset.insert(field, "")),
            }
        }
        let mut update = doc! { "$set": set };
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        let collection = self.users();
        let query = collection.update_one(doc! { "_id": user.as_str() }, update).upsert(true);
        within(deadline, query).await.map(drop)
    }

    /// Who sent the last messages that were stored: so many messages are looked at, in the order in which the server has them, the
    /// latest first.
    pub async fn last_senders(&self, messages: u32) -> Result<Vec<UserId>, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let collection = self.db.collection::<Document>("messages");
        let query = collection
            .find(doc! {})
            .sort(doc! { "$natural": -1 })
            .projection(doc! { "_id": 0, "senderId": 1 })
            .limit(messages.into())
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let (mut seen, mut senders) = (HashSet::new(), Vec::new());
            let mut cursor = query.await?;
            while let Some(stored) = cursor.try_next().await? {
                let sender = stored.get_str("senderId").ok().and_then(|id| UserId::parse(id).ok());
                senders.extend(sender.filter(|sender| seen.insert(sender.clone())));
            }
            Ok(senders)
        })
        .await
    }

    fn users(&self) -> Collection<Document> {
        self.db.collection("users")
    }
}

fn decode(stored: &Document) -> Option<Profile> {
    let text = |field| stored.get_str(field).ok().map(str::to_owned);
    Some(Profile { display_name: text("displayName")?, avatar_url: text("avatarUrl"), about: text("about") })
}
