//! Friends and blocks, and what they allow.
//!
//! What is between two users lies in MongoDB under the id of their chat; what was read of it is cached as membership is
//! ([`crate::access::membership`]), and forgotten everywhere when it changes. A block holds both ways: neither writes to the other, sees the other
//! type or be online, asks for friendship, or adds the other to a group. It looks like any other refusal, and is not told apart from missing friendship. In a group
//! that both belong to it stops nothing: the group is everybody's.
//!
//! While the store is away, or slower than a send may wait, and nothing is known of two users, `PERMISSIONS=open` lets them write, and
//! counts it; `friends` does not.

use std::collections::{HashMap, HashSet};

use holdfast_cache::aside::backend::Backend;
use holdfast_cache::aside::{Aside, AsideError, Found, Freshness, Patience, Source};
use holdfast_cache::keys::{Cached, Pair};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};
use holdfast_store::{Relationship, StoreError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::access::membership::{LOAD_TIMEOUT, decisions};
use crate::config::{Permissions, STALE_WAIT};
use crate::guarded_store::{self, Stored};
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};
use crate::wire::responses::Friendship;

/// What relations may take in a gateway's memory: some 80,000.
const MEMORY: u64 = 24 << 20;
/// The most relations that are looked for in the cache together. Of more, one question costs the store less than it does the cache.
const TOGETHER: usize = 100;

/// What is between two users, as far as permissions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Relation {
    /// One of them blocks the other.
    pub(crate) blocked: bool,
    /// They are friends.
    pub(crate) friends: bool,
}

impl From<&Relationship> for Relation {
    fn from(relationship: &Relationship) -> Self {
        Self { blocked: relationship.blocked(), friends: relationship.friends() }
    }
}

/// What is known of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// This is what is between the two.
    Now(Relation),
    /// This was, some minutes ago at most; the store could not be asked in time.
    Lately(Relation),
    /// Nothing is known.
    Unknown,
}

impl Relation {
    fn permits(self, permissions: Permissions) -> bool {
        !self.blocked && (self.friends || permissions == Permissions::Open)
    }
}

impl Between {
    fn of(found: &Found<Relation>) -> Self {
        let relation = found.value.as_deref().copied().unwrap_or_default();
        if found.freshness == Freshness::Fresh { Self::Now(relation) } else { Self::Lately(relation) }
    }
}

/// Friends and blocks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relations {
    stored: Stored,
    cached: Aside<StoredRelations>,
    permissions: Permissions,
    metrics: Metrics,
}

/// Where relations come from.
pub(crate) struct StoredRelations(Stored);

/// What a user makes of what is between them and another.
#[derive(Debug, Clone, Copy)]
enum Change {
    Ask,
    End,
    Block,
    Unblock,
}

impl Source for StoredRelations {
    type Key = Pair;
    type Value = Relation;
    type Error = StoreError;
    const NAME: &'static str = "rel";
    const SHAPE: u8 = 1;

    fn cached(&self, pair: &Pair) -> Cached {
        Cached::Relationship(pair.clone())
    }

    /// Every pair has a relation, and be it that there is nothing between them.
    async fn load(&self, pairs: &[Pair]) -> Result<HashMap<Pair, Relation>, StoreError> {
        let chats: Vec<_> = pairs.iter().filter_map(|pair| chat(pair).map(|chat| (pair.clone(), chat))).collect();
        let ids: Vec<_> = chats.iter().map(|(_, chat)| chat.clone()).collect();
        let found = self.0.ask_within(LOAD_TIMEOUT, async |store| store.relationships(&ids).await).await?;
        let relation = |chat| found.get(chat).map(Relation::from).unwrap_or_default();
        Ok(chats.iter().map(|(pair, chat)| (pair.clone(), relation(chat))).collect())
    }
}

impl Relations {
    /// Relations in this store.
    pub(crate) fn new(backend: &Backend, stored: Stored, permissions: Permissions, metrics: Metrics) -> Self {
        let cached = Aside::new(backend, StoredRelations(stored.clone()), decisions(MEMORY));
        Self { stored, cached, permissions, metrics }
    }

    /// What is between the two users of a direct chat, if it is known without asking.
    pub(crate) fn known(&self, chat: &ChatId) -> Option<Between> {
        let found = self.cached.peek(&pair_of(chat)?).filter(|found| found.freshness == Freshness::Fresh)?;
        Some(Between::of(&found))
    }

    /// What is between the two users of a direct chat.
    pub(crate) async fn between(&self, chat: &ChatId) -> Between {
        let nothing = match self.permissions {
            Permissions::Open => STALE_WAIT,
            Permissions::Friends => LOAD_TIMEOUT,
        };
        let Some(pair) = pair_of(chat) else { return Between::Unknown };
        match self.cached.get_fresh(&pair, Patience { stale: STALE_WAIT, nothing }).await {
            Ok(found) => Between::of(&found),
            Err(error) => {
                tracing::debug!(chat_id = %chat, %error, "a relation is not known");
                Between::Unknown
            }
        }
    }

    /// Whether two users may write to each other between whom is this. That they may not is for certain only as of now.
    pub(crate) fn permits(&self, between: Between) -> Result<(), Refusal> {
        let unknown = || Refusal::unavailable("the permission can't be read now");
        match (between, self.permissions) {
            (Between::Now(relation) | Between::Lately(relation), permissions) if relation.permits(permissions) => {
                Ok(())
            }
            (Between::Now(_), _) => Err(refused()),
            (Between::Unknown, Permissions::Open) => {
                self.metrics.permitted_unknown.inc();
                Ok(())
            }
            (Between::Lately(_), _) | (Between::Unknown, Permissions::Friends) => Err(unknown()),
        }
    }

    /// Whether a user may add others to a group, by what is stored: whoever is added stays.
    pub(crate) async fn may_add(&self, user: &UserId, others: &[UserId]) -> Result<(), Refusal> {
        let chats = chats(user, others);
        let relations = self.read(&chats.iter().map(|(_, chat)| chat.clone()).collect::<Vec<_>>()).await?;
        for (other, chat) in &chats {
            let relation = relations.get(chat).map(Relation::from).unwrap_or_default();
            if !relation.permits(self.permissions) {
                return Err(Refusal::new(Code::Forbidden, format!("{other} can't be added by you")));
            }
        }
        Ok(())
    }

    /// Which of these users a user must not see, nor be seen by: one of the two blocks the other.
    pub(crate) async fn hidden_from(&self, user: &UserId, others: &[UserId]) -> Result<HashSet<UserId>, Refusal> {
        if others.len() > TOGETHER {
            let chats = chats(user, others);
            let read = self.read(&chats.iter().map(|(_, chat)| chat.clone()).collect::<Vec<_>>()).await?;
            let blocked = |chat: &ChatId| read.get(chat).is_some_and(Relationship::blocked);
            return Ok(chats.into_iter().filter(|(_, chat)| blocked(chat)).map(|(other, _)| other).collect());
        }
        let others: Vec<_> = others.iter().filter(|other| *other != user).collect();
        let pairs: Vec<_> = others.iter().map(|other| Pair::of(user, other)).collect();
        let found = self.cached.get_many_fresh(&pairs, Patience { stale: STALE_WAIT, nothing: LOAD_TIMEOUT }).await;
        let mut hidden = HashSet::new();
        for (other, found) in others.into_iter().zip(found) {
            let found = found.map_err(|error| match error {
                AsideError::Source(error) => unavailable(&error),
                AsideError::Unanswered => away(),
            })?;
            if found.value.is_some_and(|relation| relation.blocked) {
                hidden.insert(other.clone());
            }
        }
        Ok(hidden)
    }

    /// How a user stands with another. While one blocks the other there is nothing between them.
    pub(crate) async fn friendship(&self, user: &UserId, other: &UserId) -> Result<Friendship, Refusal> {
        let chat = direct(user, other)?;
        let read = self.read(std::slice::from_ref(&chat)).await?;
        Ok(read.get(&chat).map_or(Friendship::None, |relationship| friendship(relationship, user)))
    }

    /// A user asks another for friendship, or accepts it.
    pub(crate) async fn ask(&self, user: &UserId, other: &UserId) -> Result<Friendship, Refusal> {
        let asked = self.change(user, other, Change::Ask).await?;
        asked.map(|relationship| friendship(&relationship, user)).ok_or_else(refused)
    }

    /// A user ends a friendship, withdraws a request or declines one.
    pub(crate) async fn end(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        self.change(user, other, Change::End).await.map(drop)
    }

    /// A user blocks another.
    pub(crate) async fn block(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        self.change(user, other, Change::Block).await.map(drop)
    }

    /// A user blocks another no longer.
    pub(crate) async fn unblock(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        self.change(user, other, Change::Unblock).await.map(drop)
    }

    async fn read(&self, chats: &[ChatId]) -> Result<HashMap<ChatId, Relationship>, Refusal> {
        self.stored.ask(async |store| store.relationships(chats).await).await.map_err(|error| unavailable(&error))
    }

    async fn change(&self, user: &UserId, other: &UserId, change: Change) -> Result<Option<Relationship>, Refusal> {
        let chat = direct(user, other)?;
        let (relations, user, pair) = (self.clone(), user.clone(), Pair::of(user, other));
        guarded_store::to_its_end(async move { relations.write(&chat, pair, &user, change).await }).await
    }

    async fn write(
        &self,
        chat: &ChatId,
        pair: Pair,
        user: &UserId,
        change: Change,
    ) -> Result<Option<Relationship>, Refusal> {
        let written = self.stored.ask(async |store| match change {
            Change::Ask => store.ask_friend(chat, user).await,
            Change::End => store.end_friendship(chat).await,
            Change::Block => store.block(chat, user).await,
            Change::Unblock => store.unblock(chat, user).await,
        });
        let written = written.await.map_err(|error| unavailable(&error));
        // After an error, too: it may be written.
        if let Err(error) = self.cached.invalidate(std::slice::from_ref(&pair)).await {
            tracing::warn!(chat_id = %chat, %error, "the invalidation of a relation waits for the cache");
        }
        // So that no send comes upon a pair of which nothing is known, here or on a gateway whose store is slow or away.
        if written.is_ok() && timeout(LOAD_TIMEOUT, self.cached.warm(std::slice::from_ref(&pair))).await.is_err() {
            tracing::debug!(chat_id = %chat, "a relation is not known yet");
        }
        written
    }
}

fn direct(user: &UserId, other: &UserId) -> Result<ChatId, Refusal> {
    ChatId::direct(user, other).map_err(|_| Refusal::new(Code::Validation, "userId: must be another user"))
}

/// The two users of a direct chat.
fn pair_of(chat: &ChatId) -> Option<Pair> {
    match chat.members() {
        Members::Direct(one, other) => Some(Pair::of(&one, &other)),
        Members::Group => None,
    }
}

/// The chat of two users.
fn chat(pair: &Pair) -> Option<ChatId> {
    let (one, other) = pair.users();
    ChatId::direct(one, other).ok()
}

/// The others, each with the chat that they have with `user`; not `user` themselves.
fn chats(user: &UserId, others: &[UserId]) -> Vec<(UserId, ChatId)> {
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

fn away() -> Refusal {
    Refusal::unavailable("relations can't be read or written now")
}

fn unavailable(error: &StoreError) -> Refusal {
    match error {
        StoreError::Unavailable(_) => away(),
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
