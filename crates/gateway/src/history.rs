//! The read path: a page of a chat's history.
//!
//! Takes a chat, a cursor and a limit; gives a [`Page`], newest first, and mends the recent list by what the store said.
//!
//! The recent list answers alone only if it is complete down to the page's end and was verified within `RECENT_VERIFY_SECS`.
//! Otherwise the page is merged, by message id, from the chat's failed queue, the list and MongoDB, *read in that order*: a message
//! moves from the failed queue through Kafka into MongoDB, never back, and while Kafka alone has it the list does; unless the worker is
//! so far behind that the list had to let it go. A page that this may concern says that it is not complete.

mod find;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::recent::{RecentPage, Repair, Repaired};
use holdfast_failed_queue::FailedQueue;
use holdfast_message::{ChatId, HistoryKey, Invalid, Message, MessageId};
use holdfast_redis::RedisError;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::error::Refusal;
use crate::metrics::Metrics;
use crate::stored::Stored;

/// The largest page.
pub const MAX_LIMIT: usize = 100;
/// The most messages of one chat's failed queue that a page looks at.
const MAX_FAILED: usize = 1000;
/// How long an answer that the failed queue is empty holds.
const EMPTY_FOR: Duration = Duration::from_secs(1);
/// What cache and failed queue have for a reading. A page may take longer than a step of a send.
const BUDGET: Duration = Duration::from_millis(250);
/// Repairs under way at once; more are left to the next reader.
const MAX_REPAIRS: usize = 64;

/// Where a page came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The recent list alone.
    Cache,
    /// MongoDB (and the failed queue), without the recent list.
    Store,
    /// All of them.
    Merged,
}

impl Source {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Store => "store",
            Self::Merged => "merged",
        }
    }
}

/// A message of a page, with its place in the live stream if it has one.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The message.
    pub message: Message,
    /// Its seq within the page's epoch.
    pub seq: Option<u64>,
}

/// A part of a chat's history.
#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub messages: Vec<Shown>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<HistoryKey>,
    /// Where it came from.
    pub source: Source,
    /// False: the store could not be asked, or has yet to take what the list had to let go, or the failed queue could not be asked although
    /// it held something a moment before; older or missed messages may be absent.
    pub complete: bool,
    /// The live stream's position, read before the messages; `None` without the cache.
    pub position: Option<holdfast_cache::event::Position>,
}

/// Reads history. Cheap to clone.
#[derive(Clone)]
pub struct History {
    sources: Arc<Sources>,
}

/// Where history is read from.
pub struct Sources {
    /// The recent list. Its repairs are announced to this gateway's own sockets too, so its origin is not the gateway's.
    pub recent: RecentList,
    /// In front of it.
    pub cache_breaker: Breaker,
    /// What Kafka has not taken yet.
    pub failed: FailedQueue,
    /// MongoDB.
    pub store: Stored,
    /// How long a verification holds.
    pub verify_after: Duration,
    /// How many messages a list holds.
    pub recent_max: usize,
    /// When the failed queue's index was last seen empty.
    pub failed_empty_at: std::sync::Mutex<Option<Instant>>,
    /// Bounds repairs.
    pub repairs: Arc<Semaphore>,
    /// Counters.
    pub metrics: Metrics,
}

impl Sources {
    /// The number of repairs that may be under way at once.
    pub fn repair_slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_REPAIRS))
    }
}

impl History {
    /// History from these sources.
    pub fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources) }
    }

    /// The newest `limit` messages before the cursor, or the newest of all.
    pub async fn page(&self, chat: &ChatId, before: Option<HistoryKey>, limit: usize) -> Result<Page, Refusal> {
        let page = self.read(chat, before, limit).await?;
        self.sources.metrics.page(page.source.as_str());
        Ok(page)
    }

    /// A message of this chat that may not be stored yet: it is looked for where it is until then.
    pub async fn unstored(&self, chat: &ChatId, id: MessageId) -> Option<Message> {
        // In this order: it moves from the failed queue to Kafka, and while Kafka alone has it the list does.
        let failed = self.sources.failed(chat).await;
        if let Some(message) = failed.messages.into_iter().find(|message| message.id == id) {
            return Some(message);
        }
        let listed = self.sources.listed(chat).await?;
        listed.messages().find(|(_, message)| message.id == id).map(|(_, message)| message.clone())
    }

    async fn read(&self, chat: &ChatId, before: Option<HistoryKey>, limit: usize) -> Result<Page, Refusal> {
        let sources = &self.sources;
        let mut listed = sources.listed(chat).await;
        if let Some(listed) = &listed
            && let Some(page) = sources.alone(listed, before, limit)
        {
            return Ok(page);
        }
        let failed = sources.failed(chat).await;
        if failed.asked {
            // Read again: what left the failed queue before it was asked may be in the list only since.
            listed = sources.listed(chat).await;
        }
        let mut merge = listed.as_ref().map(Merge::of).unwrap_or_default();
        merge.add(&failed.messages);
        let position = listed.as_ref().map(|listed| listed.position.clone());
        // What the list let go is stored, or waits in the failed queue, or else in Kafka alone.
        let let_go = listed.as_ref().and_then(|listed| listed.trimmed);
        let let_go = let_go.filter(|key| {
            merge.reaches(*key, before, limit) && !failed.messages.iter().any(|message| message.id == key.id)
        });

        // The newest page is also a verification: it reads as far as the list may reach.
        let verified = listed.filter(|_| before.is_none());
        let wanted = if verified.is_some() { limit.max(sources.recent_max + 1) } else { limit };
        let asked = sources.store.ask(async |store| {
            let stored = store.page(chat, before, wanted).await?;
            let elsewhere = merge.not_in(&stored, before);
            // Most are on their way into the store. A repeat that was stamped anew is stored where its first copy was.
            let elsewhere = if elsewhere.is_empty() { HashMap::new() } else { store.get(&elsewhere).await? };
            let newest = match before {
                Some(_) if let_go.is_some() => store.page(chat, None, 1).await?.messages.first().map(Message::key),
                _ => stored.messages.first().map(Message::key),
            };
            Ok((stored, elsewhere.into_values().collect::<Vec<_>>(), newest))
        });
        match asked.await {
            Ok((stored, elsewhere, newest)) => {
                let source = if merge.by_id.is_empty() { Source::Store } else { Source::Merged };
                merge.stored_wins(&stored.messages);
                merge.stored_wins(&elsewhere);
                if let Some(listed) = verified.filter(|_| failed.whole) {
                    self.repair(chat, listed, &stored, elsewhere, failed.messages);
                }
                let (messages, more) = merge.newest(before, limit);
                let next = (more || stored.more).then(|| messages.last().map(|shown| shown.message.key())).flatten();
                // Messages are stored in about their order: what is missing lies between the newest stored and what was let go.
                let behind =
                    let_go.is_some_and(|key| newest < Some(key)) && before.is_none_or(|key| Some(key) > newest);
                Ok(Page { messages, next, source, complete: failed.whole && !behind, position })
            }
            Err(error) => {
                tracing::debug!(chat_id = %chat, %error, "a page of history without the store");
                if before.is_some() || position.is_none() {
                    return Err(Refusal::unavailable("the store can't be read now"));
                }
                let (messages, _) = merge.newest(None, limit);
                let next = messages.last().map(|shown| shown.message.key());
                Ok(Page { messages, next, source: Source::Cache, complete: false, position })
            }
        }
    }

    /// Brings the list up to what the store said, in the background; without a free place, the next reader does it.
    fn repair(
        &self,
        chat: &ChatId,
        listed: RecentPage,
        stored: &holdfast_store::Page,
        elsewhere: Vec<Message>,
        failed: Vec<Message>,
    ) {
        let Ok(slot) = self.sources.repairs.clone().try_acquire_owned() else { return };
        let covered = if stored.more { stored.messages.last().map(Message::key) } else { None };
        let known: HashMap<_, _> = listed.messages().map(|(_, message)| (message.id, message.timestamp)).collect();
        // Absent, or listed as of another time.
        let differs = |message: &&Message| known.get(&message.id) != Some(&message.timestamp);
        let stored_at_all = stored.messages.iter().chain(&elsewhere);
        let mut messages: Vec<_> = stored_at_all.clone().filter(differs).cloned().collect();
        // Durable as well, and on its way into the store.
        messages.extend(failed.into_iter().filter(|message| {
            !known.contains_key(&message.id)
                && covered.is_none_or(|covered| message.key() > covered)
                && !stored_at_all.clone().any(|stored| stored.id == message.id)
        }));
        let (sources, chat) = (self.sources.clone(), chat.clone());
        tokio::spawn(async move {
            let repair = Repair {
                chat: &chat,
                epoch: &listed.position.epoch,
                read_at: listed.read_at,
                messages: &messages,
                covered,
            };
            match sources.recent.repair(&repair, BUDGET).await {
                Ok(Repaired::Done { late, inserted, corrected }) => {
                    sources.metrics.repaired.inc_by(late as u64);
                    if late + corrected > 0 {
                        tracing::info!(chat_id = %chat, late, inserted, corrected, "a recent list differed from the store");
                    }
                }
                Ok(Repaired::Overtaken) => {}
                Err(error) => tracing::debug!(chat_id = %chat, %error, "a recent list was not repaired"),
            }
            drop(slot);
        });
    }
}

/// What a chat's failed queue holds.
struct Failed {
    messages: Vec<Message>,
    /// Whether these are all.
    whole: bool,
    /// Whether its server was asked, rather than known to hold nothing.
    asked: bool,
}

impl Sources {
    async fn listed(&self, chat: &ChatId) -> Option<RecentPage> {
        let permit = self.cache_breaker.acquire(Instant::now()).ok()?;
        match self.recent.read(chat, BUDGET).await {
            Ok(page) => {
                permit.success();
                Some(page)
            }
            Err(error) => {
                if error.is_unavailable() {
                    permit.failure(Instant::now());
                }
                tracing::debug!(chat_id = %chat, %error, "history without the recent list");
                None
            }
        }
    }

    /// The page that the list can answer on its own.
    fn alone(&self, listed: &RecentPage, before: Option<HistoryKey>, limit: usize) -> Option<Page> {
        let alone = listed.alone(before, limit, self.verify_after)?;
        let shown = |(seq, message): &(_, &Message)| Shown { message: (*message).clone(), seq: *seq };
        let messages: Vec<_> = alone.messages.iter().map(shown).collect();
        let next = messages.last().filter(|_| alone.more).map(|shown| shown.message.key());
        let position = Some(listed.position.clone());
        Some(Page { messages, next, source: Source::Cache, complete: true, position })
    }

    async fn failed(&self, chat: &ChatId) -> Failed {
        let nothing = Failed { messages: Vec::new(), whole: true, asked: false };
        let empty_at = *self.failed_empty_at.lock().unwrap_or_else(PoisonError::into_inner);
        if empty_at.is_some_and(|at| at.elapsed() < EMPTY_FOR) {
            return nothing;
        }
        let (at, nothing) = (Instant::now(), Failed { asked: true, ..nothing });
        match self.failed.index_is_empty(BUDGET).await {
            Ok(true) => {
                *self.failed_empty_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
                nothing
            }
            Ok(false) => match self.failed.peek(chat, MAX_FAILED, BUDGET).await {
                Ok(peeked) => Failed { whole: !peeked.more, messages: peeked.messages, asked: true },
                // It holds something, and nobody knows what.
                Err(_) => Failed { whole: false, ..nothing },
            },
            // A cluster's other nodes may have what it holds of this chat.
            Err(RedisError::NodeUnavailable { .. }) => match self.failed.peek(chat, MAX_FAILED, BUDGET).await {
                Ok(peeked) => Failed { whole: !peeked.more, messages: peeked.messages, asked: true },
                Err(_) => Failed { whole: !self.failed_holds(), ..nothing },
            },
            // What it holds is in the list as a rule, and turns up in any case when the server is back.
            Err(_) => Failed { whole: !self.failed_holds(), ..nothing },
        }
    }

    /// Whether anything was in the failed queue when the retry service last could ask, every few seconds.
    fn failed_holds(&self) -> bool {
        self.metrics.failed_messages.get() > 0
    }
}

/// Messages from several sources, once each.
#[derive(Default)]
struct Merge {
    by_id: HashMap<MessageId, Shown>,
}

impl Merge {
    fn of(listed: &RecentPage) -> Self {
        let shown = |(seq, message): (_, &Message)| (message.id, Shown { message: message.clone(), seq });
        Self { by_id: listed.messages().map(shown).collect() }
    }

    fn add(&mut self, messages: &[Message]) {
        for message in messages {
            self.by_id.entry(message.id).or_insert_with(|| Shown { message: message.clone(), seq: None });
        }
    }

    /// What is said to lie where this page of the store has nothing.
    fn not_in(&self, page: &holdfast_store::Page, before: Option<HistoryKey>) -> Vec<MessageId> {
        if before.is_none() && !page.more {
            return Vec::new();
        }
        let end = page.messages.last().filter(|_| page.more).map(Message::key);
        let stored: HashSet<_> = page.messages.iter().map(|message| message.id).collect();
        let within = |key: HistoryKey| before.is_none_or(|before| key < before) && end.is_none_or(|end| key > end);
        let others = self.by_id.values().map(|shown| &shown.message);
        others
            .filter(|message| within(message.key()) && !stored.contains(&message.id))
            .map(|message| message.id)
            .collect()
    }

    /// Whether a page may reach down to this place.
    fn reaches(&self, place: HistoryKey, before: Option<HistoryKey>, limit: usize) -> bool {
        let keys = self.by_id.values().map(|shown| shown.message.key());
        keys.filter(|key| *key > place && before.is_none_or(|before| *key < before)).count() < limit
    }

    /// The stored copy replaces any other, whose place in the stream it keeps.
    fn stored_wins(&mut self, messages: &[Message]) {
        for message in messages {
            let seq = self.by_id.get(&message.id).and_then(|shown| shown.seq);
            self.by_id.insert(message.id, Shown { message: message.clone(), seq });
        }
    }

    /// The newest before the cursor, newest first, and whether there are older ones.
    fn newest(self, before: Option<HistoryKey>, limit: usize) -> (Vec<Shown>, bool) {
        let in_page = |shown: &Shown| before.is_none_or(|before| shown.message.key() < before);
        let mut messages: Vec<_> = self.by_id.into_values().filter(in_page).collect();
        messages.sort_unstable_by_key(|shown| std::cmp::Reverse(shown.message.key()));
        let more = messages.len() > limit;
        messages.truncate(limit);
        (messages, more)
    }
}

/// A cursor as clients carry it: 24 bytes, opaque to them.
pub fn write_cursor(key: &HistoryKey) -> String {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&key.timestamp.to_be_bytes());
    bytes[8..].copy_from_slice(key.id.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The place that a cursor names.
pub fn read_cursor(text: &str) -> Result<HistoryKey, Invalid> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 24]>::try_from(bytes).ok());
    let Some(bytes) = bytes else { return Err(Invalid::new("before", "must be a nextCursor of an earlier answer")) };
    let (mut timestamp, mut id) = ([0; 8], [0; 16]);
    timestamp.copy_from_slice(&bytes[..8]);
    id.copy_from_slice(&bytes[8..]);
    Ok(HistoryKey { timestamp: i64::from_be_bytes(timestamp), id: MessageId::from_bytes(id) })
}

/// The page size that a client asked for, or the default.
pub fn read_limit(limit: Option<usize>, default: usize) -> Result<usize, Invalid> {
    match limit.unwrap_or(default) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Invalid::new("limit", format!("must be from 1 to {MAX_LIMIT}"))),
    }
}
