//! Who belongs to a chat.
//!
//! A direct chat's id names its two users. A group's members are stored in MongoDB; what was read of them is cached for all gateways
//! ([`holdfast_redis::aside`]), and every gateway forgets it when they change. While the store is away, cached members count for some minutes.
//!
//! See `docs/decisions/cached-permissions.md` and `docs/decisions/slow-store.md`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_keys::{Cached, Keys};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::aside::{Answer, Aside, AsideError, BOUND, Backend, Freshness, Patience, Policy, Source};
use holdfast_store::StoreError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::time::timeout;

use crate::config::STALE_WAIT;
use crate::guarded_store::GuardedStore;
use crate::refusal::{Code, Refusal};

/// The most members of a group.
pub(crate) const MAX_MEMBERS: usize = 1000;
/// The most groups of a user, and so the most channels that their sockets subscribe to.
pub(crate) const MAX_GROUPS: u32 = 1000;
/// The time that the store has to name the members of a chat. A send to a group of which nothing is known waits for it, and is refused
/// without an answer.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(1);
const PATIENCE: Patience = Patience { stale: STALE_WAIT, nothing: LOAD_TIMEOUT };
/// What the members of groups may take in a gateway's memory, as they are cached: some 20,000 small groups. Large ones take several
/// times as much there.
const MEMORY: u64 = 8 << 20;
/// Groups that one query reads.
const TOGETHER: usize = 100;

/// How permissions are cached. A change invalidates them; the short time for which one counts as fresh bounds the harm of an invalidation
/// that Redis lost or never got. A permission that is five minutes old is still better than none.
///
/// Redis has little time: the store answers as fast, and a request that can do without either waits [`STALE_WAIT`] for both.
pub(crate) const fn decisions(memory_bytes: u64) -> Policy {
    Policy {
        fresh: Duration::from_secs(10),
        ttl: Duration::from_secs(300),
        negative: Duration::from_secs(10),
        jitter: 0.1,
        memory_bytes,
        patience: Duration::from_millis(10),
        unsubscribed_ttl: BOUND,
    }
}

/// Membership, as the store has it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Membership {
    stored: GuardedStore,
    cached: Aside<StoredRosters>,
}

/// The members of a chat. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Roster {
    /// The members, sorted.
    pub(crate) members: Arc<[UserId]>,
    /// False: the store did not answer in time, and somebody may have joined or left since.
    pub(crate) current: bool,
}

/// Loads the members of groups from the store.
pub(crate) struct StoredRosters(GuardedStore);

/// The members of a group as they are cached, sorted.
pub(crate) struct CachedRoster(Arc<[UserId]>);

impl Source for StoredRosters {
    type Key = ChatId;
    type Value = CachedRoster;
    type Error = StoreError;
    type Names = Keys;
    const NAME: &'static str = "members";
    const SHAPE: u8 = 1;

    fn cached(&self, group: &ChatId) -> Cached {
        Cached::Members(group.clone())
    }

    async fn load(&self, groups: &[ChatId]) -> Result<HashMap<ChatId, CachedRoster>, StoreError> {
        let found = self.0.call_within(LOAD_TIMEOUT, async |store| store.rosters(groups).await).await?;
        Ok(found.into_iter().map(|(group, members)| (group, CachedRoster::of(members))).collect())
    }
}

impl Membership {
    /// Membership in this store.
    pub(crate) fn new(backend: &Backend<Keys>, stored: GuardedStore) -> Self {
        Self { cached: Aside::new(backend, StoredRosters(stored.clone()), decisions(MEMORY)), stored }
    }

    /// The members of a chat, sorted: the two users of a direct chat, or those of a group.
    pub(crate) async fn of(&self, chat: &ChatId) -> Result<Arc<[UserId]>, Refusal> {
        self.roster(chat).await.map(|roster| roster.members)
    }

    /// The members of a chat, and whether they may have changed since.
    pub(crate) async fn roster(&self, chat: &ChatId) -> Result<Roster, Refusal> {
        match chat.members() {
            Members::Direct(first, second) => Ok(Roster::of_two(first, second)),
            Members::Group => roster(chat, self.cached.get_fresh(chat, PATIENCE).await),
        }
    }

    /// [`Membership::roster`] of each of these chats, in their order.
    pub(crate) async fn rosters(&self, chats: &[ChatId]) -> Vec<Result<Roster, Refusal>> {
        let mut all = Vec::with_capacity(chats.len());
        for chats in chats.chunks(TOGETHER) {
            let groups: Vec<_> = chats.iter().filter(|chat| chat.is_group()).cloned().collect();
            let mut found = self.cached.get_many_fresh(&groups, PATIENCE).await.into_iter();
            all.extend(chats.iter().map(|chat| match chat.members() {
                Members::Direct(first, second) => Ok(Roster::of_two(first, second)),
                Members::Group => roster(chat, found.next().unwrap_or(Err(AsideError::Unanswered))),
            }));
        }
        all
    }

    /// The members of a chat, if this process knows them.
    pub(crate) fn known(&self, chat: &ChatId) -> Option<Result<Roster, Refusal>> {
        match chat.members() {
            Members::Direct(first, second) => Some(Ok(Roster::of_two(first, second))),
            Members::Group => {
                let found = self.cached.peek(chat).filter(|found| found.freshness == Freshness::Fresh)?;
                Some(roster(chat, Ok(found)))
            }
        }
    }

    /// The groups that a user belongs to now.
    pub(crate) async fn groups_of(&self, user: &UserId) -> Result<Vec<ChatId>, Refusal> {
        let groups = self.stored.call_within(LOAD_TIMEOUT, async |store| store.groups_of(user, MAX_GROUPS).await).await;
        groups.map_err(|error| {
            tracing::debug!(%user, %error, "a user's groups can't be read");
            Refusal::unavailable("the groups can't be read now")
        })
    }

    /// A group was changed by this gateway, or may have been: every gateway forgets its members.
    pub(crate) async fn forget(&self, group: &ChatId) {
        if let Err(error) = self.cached.invalidate(std::slice::from_ref(group)).await {
            tracing::warn!(chat_id = %group, %error, "the invalidation of a group's members waits for the cache");
        }
    }

    /// Loads the members of a group into the cache, where a gateway whose store is slow or away finds them.
    pub(crate) async fn learn(&self, group: &ChatId) {
        if timeout(LOAD_TIMEOUT, self.cached.warm(std::slice::from_ref(group))).await.is_err() {
            tracing::debug!(chat_id = %group, "the members of a group are not known yet");
        }
    }

    /// A group was changed by another gateway: this one forgets its members, since the invalidation may arrive after the announcement.
    pub(crate) fn forget_here(&self, group: &ChatId) {
        self.cached.forget_here(std::slice::from_ref(group));
    }
}

fn roster(chat: &ChatId, answer: Answer<StoredRosters>) -> Result<Roster, Refusal> {
    let found = answer.map_err(|error| {
        tracing::debug!(chat_id = %chat, %error, "the members of a group can't be read");
        unknown()
    })?;
    let current = found.freshness == Freshness::Fresh;
    match found.value {
        Some(cached) => Ok(Roster { members: cached.0.clone(), current }),
        None if current => Err(no_such_chat()),
        None => Err(unknown()),
    }
}

impl Roster {
    fn of_two(first: UserId, second: UserId) -> Self {
        Self { members: [first, second].into(), current: true }
    }

    /// Whether a user belongs to them. Only a current roster can say that a user does not.
    pub(crate) fn includes(&self, user: &UserId) -> Result<(), Refusal> {
        match self.members.binary_search(user) {
            Ok(_) => Ok(()),
            Err(_) if self.current => Err(no_such_chat()),
            Err(_) => Err(unknown()),
        }
    }
}

fn unknown() -> Refusal {
    Refusal::unavailable("the members of the group can't be read now")
}

/// The answer for a group that does not exist, and to whoever does not belong to one: nobody learns which groups there are.
pub(crate) fn no_such_chat() -> Refusal {
    Refusal::new(Code::NotFound, "no such chat")
}

impl CachedRoster {
    fn of(mut members: Vec<UserId>) -> Self {
        members.sort_unstable();
        Self(members.into())
    }
}

impl Serialize for CachedRoster {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(UserId::as_str))
    }
}

impl<'de> Deserialize<'de> for CachedRoster {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let members = Vec::<String>::deserialize(deserializer)?;
        let members: Result<_, _> = members.iter().map(|member| UserId::parse(member)).collect();
        members.map(Self::of).map_err(de::Error::custom)
    }
}
