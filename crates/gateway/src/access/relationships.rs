//! Friends and blocks, and what they allow.
//!
//! The relationship of two users is stored in MongoDB under the id of their chat; what was read of it is cached as membership is
//! ([`crate::access::membership`]), and every gateway forgets it when it changes. A block works both ways: neither writes to the other, sees the
//! other type or be online, asks for friendship, or adds the other to a group. Its refusal is the same as the one for missing friendship. In a group
//! that both belong to a block stops nothing: the group is everybody's.
//!
//! While the store is away, or slower than a send may wait, and nothing is known of two users, `PERMISSIONS=open` lets them write and counts it;
//! `friends` does not.
//!
//! See `docs/decisions/blocks.md` and `docs/decisions/cached-permissions.md`.

use std::collections::{HashMap, HashSet};

use holdfast_keys::{Cached, Keys, Pair};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::aside::{Aside, AsideError, Backend, Found, Freshness, Patience, Source};
use holdfast_store::{Relationship, StoreError};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::access::membership::{LOAD_TIMEOUT, decisions};
use crate::config::{Permissions, STALE_WAIT};
use crate::guarded_store::{self, GuardedStore};
use crate::metrics::Metrics;
use crate::refusal::{Code, Refusal};
use crate::wire::responses::Friendship;

/// Bytes that relationships may take in a gateway's memory: some 80,000 of them.
const MEMORY: u64 = 24 << 20;
/// The most relationships that are looked up in the cache together. More cost the store less than the cache.
const TOGETHER: usize = 100;

/// The relationship of two users, as far as permissions go.
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

/// What is known of a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KnownRelation {
    /// As it is now.
    Current(Relation),
    /// As it was some minutes ago at most: the store did not answer in time.
    Stale(Relation),
    /// Nothing is known.
    Unknown,
}

impl Relation {
    fn permits(self, permissions: Permissions) -> bool {
        !self.blocked && (self.friends || permissions == Permissions::Open)
    }
}

impl KnownRelation {
    fn of(found: &Found<Relation>) -> Self {
        let relation = found.value.as_deref().copied().unwrap_or_default();
        if found.freshness == Freshness::Fresh { Self::Current(relation) } else { Self::Stale(relation) }
    }
}

/// Friends and blocks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Relations {
    stored: GuardedStore,
    cached: Aside<StoredRelations>,
    permissions: Permissions,
    metrics: Metrics,
}

/// Loads relationships from the store.
pub(crate) struct StoredRelations(GuardedStore);

/// How a user changes their relationship with another.
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
    type Names = Keys;
    const NAME: &'static str = "rel";
    const SHAPE: u8 = 1;

    fn cached(&self, pair: &Pair) -> Cached {
        Cached::Relationship(pair.clone())
    }

    /// Every pair has a relationship, if only an empty one.
    async fn load(&self, pairs: &[Pair]) -> Result<HashMap<Pair, Relation>, StoreError> {
        let chats: Vec<_> = pairs.iter().filter_map(|pair| chat(pair).map(|chat| (pair.clone(), chat))).collect();
        let ids: Vec<_> = chats.iter().map(|(_, chat)| chat.clone()).collect();
        let found = self.0.call_within(LOAD_TIMEOUT, async |store| store.relationships(&ids).await).await?;
        let relation = |chat| found.get(chat).map(Relation::from).unwrap_or_default();
        Ok(chats.iter().map(|(pair, chat)| (pair.clone(), relation(chat))).collect())
    }
}

impl Relations {
    /// Relations in this store.
    pub(crate) fn new(
        backend: &Backend<Keys>,
        stored: GuardedStore,
        permissions: Permissions,
        metrics: Metrics,
    ) -> Self {
        let cached = Aside::new(backend, StoredRelations(stored.clone()), decisions(MEMORY));
        Self { stored, cached, permissions, metrics }
    }

    /// The relationship of the two users of a direct chat, if this process knows it.
    pub(crate) fn known(&self, chat: &ChatId) -> Option<KnownRelation> {
        let found = self.cached.peek(&pair_of(chat)?).filter(|found| found.freshness == Freshness::Fresh)?;
        Some(KnownRelation::of(&found))
    }

    /// The relationship of the two users of a direct chat.
    pub(crate) async fn between(&self, chat: &ChatId) -> KnownRelation {
        let nothing = match self.permissions {
            Permissions::Open => STALE_WAIT,
            Permissions::Friends => LOAD_TIMEOUT,
        };
        let Some(pair) = pair_of(chat) else { return KnownRelation::Unknown };
        match self.cached.get_fresh(&pair, Patience { stale: STALE_WAIT, nothing }).await {
            Ok(found) => KnownRelation::of(&found),
            Err(error) => {
                tracing::debug!(chat_id = %chat, %error, "a relationship is not known");
                KnownRelation::Unknown
            }
        }
    }

    /// Whether two users with this relationship may write to each other. Only a current one can say that they may not.
    pub(crate) fn permits(&self, between: KnownRelation) -> Result<(), Refusal> {
        let unknown = || Refusal::unavailable("the permission can't be read now");
        match (between, self.permissions) {
            (KnownRelation::Current(relation) | KnownRelation::Stale(relation), permissions)
                if relation.permits(permissions) =>
            {
                Ok(())
            }
            (KnownRelation::Current(_), _) => Err(refused()),
            (KnownRelation::Unknown, Permissions::Open) => {
                self.metrics.permitted_unknown.inc();
                Ok(())
            }
            (KnownRelation::Stale(_), _) | (KnownRelation::Unknown, Permissions::Friends) => Err(unknown()),
        }
    }

    /// Whether a user may add others to a group. Reads the store, because whoever is added stays.
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

    /// Which of these users must not see a user, nor be seen by them, because one of the two blocks the other.
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
                AsideError::Unanswered => Refusal::unavailable(AWAY),
            })?;
            if found.value.is_some_and(|relation| relation.blocked) {
                hidden.insert(other.clone());
            }
        }
        Ok(hidden)
    }

    /// The friendship of a user with another. While one blocks the other there is none.
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

    /// A user stops blocking another.
    pub(crate) async fn unblock(&self, user: &UserId, other: &UserId) -> Result<(), Refusal> {
        self.change(user, other, Change::Unblock).await.map(drop)
    }

    async fn read(&self, chats: &[ChatId]) -> Result<HashMap<ChatId, Relationship>, Refusal> {
        self.stored.call(async |store| store.relationships(chats).await).await.map_err(|error| unavailable(&error))
    }

    async fn change(&self, user: &UserId, other: &UserId, change: Change) -> Result<Option<Relationship>, Refusal> {
        let chat = direct(user, other)?;
        let (relations, user, pair) = (self.clone(), user.clone(), Pair::of(user, other));
        guarded_store::run_detached(async move { relations.write(&chat, pair, &user, change).await }).await
    }

    async fn write(
        &self,
        chat: &ChatId,
        pair: Pair,
        user: &UserId,
        change: Change,
    ) -> Result<Option<Relationship>, Refusal> {
        let written = self.stored.call(async |store| match change {
            Change::Ask => store.ask_friend(chat, user).await,
            Change::End => store.end_friendship(chat).await,
            Change::Block => store.block(chat, user).await,
            Change::Unblock => store.unblock(chat, user).await,
        });
        let written = written.await.map_err(|error| unavailable(&error));
        // After an error too: the change may be written.
        if let Err(error) = self.cached.invalidate(std::slice::from_ref(&pair)).await {
            tracing::warn!(chat_id = %chat, %error, "the invalidation of a relationship waits for the cache");
        }
        // Loaded at once, so that no gateway whose store is slow or away lacks it.
        if written.is_ok() && timeout(LOAD_TIMEOUT, self.cached.warm(std::slice::from_ref(&pair))).await.is_err() {
            tracing::debug!(chat_id = %chat, "a relationship is not known yet");
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

/// The refusal of a block and of missing friendship alike.
fn refused() -> Refusal {
    Refusal::new(Code::Forbidden, "you and this user can't write to each other")
}

const AWAY: &str = "relations can't be read or written now";

fn unavailable(error: &StoreError) -> Refusal {
    guarded_store::refusal_of(error, AWAY)
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
