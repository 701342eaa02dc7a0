//! What users see of their chats: how many messages are unread, and which chats were written to last.
//!
//! The watermarks in the store are the truth about what is read, and the messages about what there is; counts and lists are derived. They are cached
//! for a while ([`holdfast_cache::inbox`]) and updated there with what is newly listed ([`updates`]). The first reader that finds them missing counts
//! again ([`count`]), from the recent lists, which hold what is durable but not stored yet, and the store, *read in that order*.
//! [`watermark`] moves a watermark, [`list`] makes a page of conversations, [`unread`] and [`receipts`] notify clients.
//!
//! While the store is away, counts and lists are those that are cached, or unknown.

pub(crate) mod count;
pub(crate) mod list;
pub(crate) mod receipts;
pub(crate) mod unread;
pub mod updates;
pub(crate) mod watermark;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::inbox::{Committed, Inboxes, UnreadCounts};
use holdfast_message::{ChatId, UserId};
use holdfast_redis::RedisError;
use holdfast_store::StoreError;
use holdfast_store::unread::MAX_UNREAD;
use tokio::sync::Mutex;

use self::count::Counted;
use self::receipts::Receipts;
use crate::access::activity::GroupActivity;
use crate::access::membership::Membership;
use crate::access::relationships::Relations;
use crate::deliver::ephemeral::EphemeralEvents;
use crate::guarded_store::{self, GuardedStore};
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::read::history::History;
use crate::refusal::Refusal;
use crate::wire::responses::UnreadMessages;

/// The time that the cache has for one round trip of a read, as for a page of history.
const BUDGET: Duration = Duration::from_millis(250);
/// Locks for counting, by the hash of the user: a user's unread messages are counted once at a time, so that a storm of requests counts once.
const STRIPES: usize = 256;
/// How often a count is repeated because messages arrived meanwhile.
const ATTEMPTS: usize = 3;

/// What users see of their chats. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Inbox {
    parts: Arc<Parts>,
    turns: Arc<Vec<Mutex<()>>>,
    hasher: RandomState,
}

/// What it uses.
pub(crate) struct Parts {
    /// What is cached.
    pub(crate) cached: Inboxes,
    /// What is listed.
    pub(crate) recent: RecentList,
    /// In front of both.
    pub(crate) cache_breaker: Breaker,
    /// What is stored.
    pub(crate) store: GuardedStore,
    /// Locates the messages that are marked as read.
    pub(crate) history: History,
    /// Who belongs to which chats.
    pub(crate) membership: Membership,
    /// Blocks between users.
    pub(crate) relations: Relations,
    /// Who is online.
    pub(crate) presence: Presence,
    /// Sends `unreadCount` to other devices.
    pub(crate) ephemeral: EphemeralEvents,
    /// Sends read receipts to other members.
    pub(crate) receipts: Receipts,
    /// In which groups users act.
    pub(crate) activity: GroupActivity,
    /// The gateway's metrics.
    pub(crate) metrics: Metrics,
}

/// Unread messages, each count at most [`MAX_UNREAD`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    /// By chat, where there are any.
    pub(crate) counts: Vec<(ChatId, usize)>,
    /// Of all chats.
    pub(crate) total: usize,
}

impl Unread {
    fn of(counts: impl Iterator<Item = (ChatId, usize)>) -> Self {
        let mut counts: Vec<_> = counts.map(|(chat, count)| (chat, count.min(MAX_UNREAD))).collect();
        counts.retain(|(_, count)| *count > 0);
        counts.sort_unstable();
        let total = counts.iter().map(|(_, count)| count).sum::<usize>().min(MAX_UNREAD);
        Self { counts, total }
    }

    /// Of one chat.
    pub(crate) fn of_chat(&self, chat: &ChatId) -> usize {
        self.counts.iter().find(|(other, _)| other == chat).map_or(0, |(_, count)| *count)
    }
}

impl From<&UnreadCounts> for Unread {
    fn from(counts: &UnreadCounts) -> Self {
        Self::of(counts.iter().map(|(chat, count)| (chat.clone(), count)))
    }
}

impl From<&Counted> for Unread {
    fn from(counted: &Counted) -> Self {
        Self::of(counted.chats.iter().map(|chat| (chat.chat.clone(), chat.count.unread)))
    }
}

impl<'a> From<&'a Unread> for UnreadMessages<'a> {
    fn from(unread: &'a Unread) -> Self {
        let counts = unread.counts.iter().map(|(chat, count)| (chat.as_str(), *count)).collect();
        Self { counts, total: unread.total }
    }
}

impl Inbox {
    /// Of these parts.
    pub(crate) fn new(parts: Parts) -> Self {
        let turns = (0..STRIPES).map(|_| Mutex::default()).collect();
        Self { parts: Arc::new(parts), turns: Arc::new(turns), hasher: RandomState::new() }
    }

    /// What a user has not read.
    pub(crate) async fn unread(&self, user: &UserId) -> Result<Unread, Refusal> {
        for _ in 0..ATTEMPTS {
            if let Some(Some(counts)) = self.cache(self.parts.cached.unread(user, BUDGET)).await {
                return Ok(Unread::from(&counts));
            }
            if let Some(counted) = self.count_anew(user).await? {
                return Ok(Unread::from(&counted));
            }
        }
        Ok(Unread::from(&self.count_all(user).await?))
    }

    /// Drops what is cached of these users: it has changed otherwise than by a message or a watermark.
    pub(crate) async fn forget(&self, users: &[UserId]) {
        for users in users.chunks(updates::USERS_AT_ONCE) {
            self.cache_batch(self.parts.cached.forget(users, BUDGET)).await;
        }
    }

    /// Counts all of a user's chats and caches the counts; `None`: another request just has.
    async fn count_anew(&self, user: &UserId) -> Result<Option<Counted>, Refusal> {
        let _turn = self.turns[self.hasher.hash_one(user) as usize % STRIPES].lock().await;
        let cached = &self.parts.cached;
        // From here on the cache records arrivals. Without the cache the count is as of now, and is not cached.
        let counting = match self.cache(cached.begin(user, BUDGET)).await {
            Some(None) => return Ok(None),
            Some(counting) => counting,
            None => None,
        };
        self.parts.metrics.inboxes_counted.inc();
        let mut counted = self.count_all(user).await?;
        let Some(counting) = counting else { return Ok(Some(counted)) };
        for _ in 0..ATTEMPTS {
            let commit = cached.commit(user, &counting, &counted.chats, counted.older_stored, BUDGET);
            match self.cache(commit).await {
                // Chats, or their lists, that are newer than what was read.
                Some(Committed::Unknown(chats)) => {
                    let (again, mut unchanged): (Vec<_>, _) =
                        counted.chats.into_iter().partition(|known| chats.contains(&known.chat));
                    let known: HashMap<_, _> = again.into_iter().map(|chat| (chat.chat, chat.last_timestamp)).collect();
                    let last = |chat: ChatId| {
                        let last_timestamp = known.get(&chat).copied().unwrap_or_default();
                        (chat, last_timestamp)
                    };
                    let chats: Vec<_> = chats.into_iter().map(last).collect();
                    unchanged.extend(self.count(user, &chats).await?);
                    counted.chats = unchanged;
                }
                Some(Committed::Done | Committed::Overtaken) | None => break,
            }
        }
        Ok(Some(counted))
    }

    /// Calls the cache, unless its breaker is open.
    async fn cache<T>(&self, call: impl Future<Output = Result<T, RedisError>>) -> Option<T> {
        let one = self.cache_batch(async { vec![call.await] });
        one.await.pop().flatten()
    }

    /// Makes several calls to the cache at once, unless its breaker is open: then there are no answers.
    async fn cache_batch<T>(&self, call: impl Future<Output = Vec<Result<T, RedisError>>>) -> Vec<Option<T>> {
        let Ok(answers) = self.parts.cache_breaker.call_batch(call).await else { return Vec::new() };
        if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
            tracing::debug!(%error, "going on without what is cached of a user's chats");
        }
        answers.into_iter().map(Result::ok).collect()
    }
}

fn unavailable(error: StoreError) -> Refusal {
    guarded_store::refusal_of(&error, "the store can't be asked now")
}
