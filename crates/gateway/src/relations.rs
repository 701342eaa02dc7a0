//! Friends and blocks, and what they allow.
//!
//! What is between two users lies in MongoDB under the id of their chat; what was read of it is kept as membership is
//! ([`crate::decisions`]). A block holds both ways: neither writes to the other, sees the other type or be online, asks for
//! friendship, or adds the other to a group. It looks like any other refusal, and is not told apart from missing friendship. In a group
//! that both belong to it stops nothing: the group is everybody's.
//!
//! While the store is away, or slower than a send may wait, and nothing is known of two users, `PERMISSIONS=open` lets them write, and
//! counts it; `friends` does not.

use std::collections::{HashMap, HashSet};

use holdfast_message::{ChatId, UserId};
use holdfast_store::{Relationship, Store, StoreError};

use crate::config::Permissions;
use crate::decisions::{BRIEFLY, Decisions};
use crate::error::{Code, Refusal};
use crate::members;
use crate::metrics::Metrics;
use crate::stored::Stored;

/// Pairs of users whose relation is kept; about 20 MB.
const KEPT: u64 = 100_000;

/// What is between two users, as far as permissions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Relation {
    /// One of them blocks the other.
    pub blocked: bool,
    /// They are friends.
    pub friends: bool,
}

impl From<&Relationship> for Relation {
    fn from(relationship: &Relationship) -> Self {
        Self { blocked: relationship.blocked(), friends: relationship.friends() }
    }
}

/// How a user stands with another, as the user may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = FriendshipStatus)]
pub enum Friendship {
    /// Nobody has asked.
    None,
    /// The user has asked.
    Requested,
    /// The other one has asked.
    Incoming,
    /// Both have.
    Friends,
}

/// Friends and blocks. Cheap to clone.
#[derive(Clone)]
pub struct Relations {
    stored: Stored,
    kept: Decisions<Relation>,
    permissions: Permissions,
    metrics: Metrics,
}

impl Relations {
    /// Relations in this store.
    pub fn new(stored: Stored, permissions: Permissions, metrics: Metrics) -> Self {
        Self { stored, kept: Decisions::new(KEPT, |_| 1), permissions, metrics }
    }

    /// What is between the two users of a direct chat, if it is known without asking.
    pub fn known(&self, pair: &ChatId) -> Option<Relation> {
        self.kept.fresh(pair)
    }

    /// What is between the two users of a direct chat; `None` while that can't be told.
    pub async fn between(&self, pair: &ChatId) -> Option<Relation> {
        let (stored, chat) = (self.stored.clone(), pair.clone());
        let load = async move {
            let found = stored
                .ask_within(members::WITHIN, async |store| store.relationships(std::slice::from_ref(&chat)).await);
            Ok::<_, StoreError>(found.await?.get(&chat).map(Relation::from).unwrap_or_default())
        };
        let patience = match self.permissions {
            Permissions::Open => BRIEFLY,
            Permissions::Friends => members::WITHIN,
        };
        let read = self.kept.get(pair, patience, load).await;
        read.inspect_err(|error| tracing::debug!(chat_id = %pair, %error, "a relation is not known")).ok()
    }

    /// Whether two users may write to each other; what is not known is `None`.
    pub fn permits(&self, relation: Option<Relation>) -> Result<(), Refusal> {
        match (relation, self.permissions) {
            (Some(Relation { blocked: true, .. }), _) => Err(refused()),
            (Some(Relation { friends: true, .. }), _) | (Some(_), Permissions::Open) => Ok(()),
            (Some(_), Permissions::Friends) => Err(refused()),
            (None, Permissions::Open) => {
                self.metrics.permitted_unknown.inc();
                Ok(())
            }
            (None, Permissions::Friends) => Err(Refusal::unavailable("the permission can't be read now")),
        }
    }

    /// Whether a user may add others to a group.
    pub async fn may_add(&self, user: &UserId, others: &[UserId]) -> Result<(), Refusal> {
        let pairs = pairs(user, others);
        let relations = self.read(&pairs.iter().map(|(_, pair)| pair.clone()).collect::<Vec<_>>()).await?;
        for (other, pair) in &pairs {
            let relation = relations.get(pair).map(Relation::from).unwrap_or_default();
            if self.permits(Some(relation)).is_err() {
                return Err(Refusal::new(Code::Forbidden, format!("{other} can't be added by you")));
            }
        }
        Ok(())
    }

    /// Which of these users a user must not see, nor be seen by: one of the two blocks the other.
    pub async fn hidden_from(&self, user: &UserId, others: &[UserId]) -> Result<HashSet<UserId>, Refusal> {
        let (mut hidden, mut unknown) = (HashSet::new(), Vec::new());
        for (other, pair) in pairs(user, others) {
            match self.known(&pair) {
                Some(relation) if relation.blocked => drop(hidden.insert(other)),
                Some(_) => {}
                None => unknown.push((other, pair)),
            }
        }
        if unknown.is_empty() {
            return Ok(hidden);
        }
        let read = self.read(&unknown.iter().map(|(_, pair)| pair.clone()).collect::<Vec<_>>()).await?;
        let blocked = |pair: &ChatId| read.get(pair).is_some_and(Relationship::blocked);
        hidden.extend(unknown.into_iter().filter(|(_, pair)| blocked(pair)).map(|(other, _)| other));
        Ok(hidden)
    }

    /// How a user stands with another. While one blocks the other there is nothing between them.
    pub async fn friendship(&self, user: &UserId, other: &UserId) -> Result<Friendship, Refusal> {
        let pair = pair(user, other)?;
        let read = self.read(std::slice::from_ref(&pair)).await?;
        Ok(read.get(&pair).map_or(Friendship::None, |relationship| friendship(relationship, user)))
    }

    /// A user asks another for friendship, or accepts it.
    pub async fn ask(&self, user: &UserId, other: &UserId) -> Result<Friendship, Refusal> {
        let pair = pair(user, other)?;
        let asked = self.write(&pair, async |store| store.ask_friend(&pair, user).await).await?;
        asked.map(|relationship| friendship(&relationship, user)).ok_or_else(refused)
    }

    /// A user ends a friendship, withdraws a request or declines one.
    pub async fn end(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        let pair = pair(user, other)?;
        self.write(&pair, async |store| store.end_friendship(&pair).await).await.map(drop)
    }

    /// A user blocks another.
    pub async fn block(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        let pair = pair(user, other)?;
        self.write(&pair, async |store| store.block(&pair, user).await).await.map(drop)
    }

    /// A user blocks another no longer.
    pub async fn unblock(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        let pair = pair(user, other)?;
        self.write(&pair, async |store| store.unblock(&pair, user).await).await.map(drop)
    }

    async fn read(&self, pairs: &[ChatId]) -> Result<HashMap<ChatId, Relationship>, Refusal> {
        self.stored.ask(async |store| store.relationships(pairs).await).await.map_err(unavailable)
    }

    async fn write(
        &self,
        pair: &ChatId,
        call: impl AsyncFnOnce(&Store) -> Result<Option<Relationship>, StoreError>,
    ) -> Result<Option<Relationship>, Refusal> {
        let written = self.stored.ask(call).await;
        match &written {
            Ok(Some(relationship)) => self.kept.learn(pair, relationship.into()),
            // After an error, too: it may be written.
            Ok(None) | Err(_) => self.kept.forget(pair),
        }
        written.map_err(unavailable)
    }
}

fn pair(user: &UserId, other: &UserId) -> Result<ChatId, Refusal> {
    ChatId::direct(user, other).map_err(|_| Refusal::new(Code::Validation, "userId: must be another user"))
}

/// The others, each with the pair that they are with `user`; not `user` themselves.
fn pairs(user: &UserId, others: &[UserId]) -> Vec<(UserId, ChatId)> {
    others.iter().filter_map(|other| Some((other.clone(), ChatId::direct(user, other).ok()?))).collect()
}

fn friendship(relationship: &Relationship, user: &UserId) -> Friendship {
    let own = relationship.asked.contains(user);
    match relationship.asked.len() {
        _ if relationship.blocked() => Friendship::None,
        0 => Friendship::None,
        1 if own => Friendship::Requested,
        1 => Friendship::Incoming,
        _ => Friendship::Friends,
    }
}

/// The same for a block as for missing friendship.
fn refused() -> Refusal {
    Refusal::new(Code::Forbidden, "you and this user can't write to each other")
}

fn unavailable(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) => Refusal::unavailable("relations can't be read or written now"),
        StoreError::Rejected { .. } => {
            tracing::error!(%error, "the store refuses a question about relations");
            Refusal::new(Code::Internal, "a fault of the server")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn friendship_is_what_both_have_asked_for_and_nobody_blocks() {
        let [alice, bob] = ["alice", "bob"].map(|user| UserId::parse(user).unwrap());
        let of = |asked: &[&UserId], blocked_by: &[&UserId]| {
            let users = |users: &[&UserId]| users.iter().map(|user| (*user).clone()).collect();
            let relationship = Relationship { asked: users(asked), blocked_by: users(blocked_by) };
            (friendship(&relationship, &alice), friendship(&relationship, &bob))
        };
        assert_eq!(of(&[], &[]), (Friendship::None, Friendship::None));
        assert_eq!(of(&[&alice], &[]), (Friendship::Requested, Friendship::Incoming));
        assert_eq!(of(&[&bob, &alice], &[]), (Friendship::Friends, Friendship::Friends));
        assert_eq!(of(&[&bob, &alice], &[&bob]), (Friendship::None, Friendship::None));
    }
}
