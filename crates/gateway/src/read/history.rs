//! The read path: a page of a chat's history.
//!
//! Takes a chat, a cursor and a limit; gives a [`Page`], newest first, and mends the recent list by what the store said.
//!
//! The recent list answers alone only if it is complete down to the page's end and was verified within `RECENT_VERIFY_SECS`.
//! Otherwise the page is merged, by message id, from the chat's failed queue, the list and MongoDB, *read in that order*: a message
//! moves from the failed queue through Kafka into MongoDB, never back, and while Kafka alone has it the list does; unless the worker is
//! so far behind that the list had to let it go, or the list never had it. A page that this may concern says that it is not complete.
//!
//! See `docs/decisions/recent-list-floor.md` and `docs/decisions/listed-and-stored-times.md`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::recent::{RecentPage, Repair, Repaired};
use holdfast_failed_queue::{FailedQueue, Peeked};
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};
use tokio::sync::Semaphore;

use super::merge::{Merge, Shown};
use crate::guarded_store::GuardedStore;
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::wire::cursor;
use crate::wire::responses::{HistoryPage, Source};

/// The most messages of one chat's failed queue that a page looks at.
const MAX_FAILED: usize = 1000;
/// What cache and failed queue have for a reading. A page may take longer than a step of a send.
pub(super) const BUDGET: Duration = Duration::from_millis(250);
/// Repairs under way at once; more are left to the next reader.
const MAX_REPAIRS: usize = 64;

/// A part of a chat's history.
#[derive(Debug)]
pub(crate) struct Page {
    /// Newest first.
    pub(crate) messages: Vec<Shown>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<HistoryKey>,
    /// Where it came from.
    pub(crate) source: Source,
    /// False: the store could not be asked, or has yet to take what the list had to let go or what was replayed last, or the failed queue
    /// could not be asked although it held something a moment before; older or missed messages may be absent.
    pub(crate) complete: bool,
    /// The live stream's position, read before the messages; `None` without the cache.
    pub(crate) position: Option<holdfast_cache::event::Position>,
    /// Who types now; `None` without the cache, and on later pages.
    pub(crate) typing: Option<Vec<UserId>>,
}

/// Reads history. Cheap to clone.
#[derive(Clone)]
pub(crate) struct History {
    pub(super) sources: Arc<Sources>,
}

/// Where history is read from.
pub(crate) struct Sources {
    /// The recent list. Its repairs are announced to this gateway's own sockets too, so its origin is not the gateway's.
    pub(crate) recent: RecentList,
    /// In front of it.
    pub(crate) cache_breaker: Breaker,
    /// What Kafka has not taken yet.
    pub(crate) failed: FailedQueue,
    /// MongoDB.
    pub(crate) store: GuardedStore,
    /// How long a verification holds.
    pub(crate) verify_after: Duration,
    /// How many messages a list holds.
    pub(crate) recent_max: usize,
    /// Bounds repairs.
    pub(crate) repairs: Arc<Semaphore>,
    /// The gateway's metrics.
    pub(crate) metrics: Metrics,
}

impl Sources {
    /// The number of repairs that may be under way at once.
    pub(crate) fn repair_slots() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MAX_REPAIRS))
    }
}

impl History {
    /// History from these sources.
    pub(crate) fn new(sources: Sources) -> Self {
        Self { sources: Arc::new(sources) }
    }

    /// The newest `limit` messages before the cursor, or the newest of all.
    pub(crate) async fn page(&self, chat: &ChatId, before: Option<HistoryKey>, limit: usize) -> Result<Page, Refusal> {
        let page = self.read(chat, before, limit).await?;
        self.sources.metrics.page(page.source.as_str());
        Ok(page)
    }

    /// A message of this chat that may not be stored yet: it is looked for where it is until then.
    pub(crate) async fn unstored(&self, chat: &ChatId, id: MessageId) -> Option<Message> {
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
        if !failed.replayed.is_empty() {
            // Read again: what left the failed queue before it was asked may be in the list only since.
            listed = sources.listed(chat).await.or(listed);
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
        let asked = sources.store.call(async |store| {
            let stored = store.page(chat, before, wanted).await?;
            let elsewhere = merge.not_in(&stored, before);
            // Most are on their way into the store. A repeat that got a new timestamp is stored with that of its first copy.
            let elsewhere = if elsewhere.is_empty() { HashMap::new() } else { store.get(&elsewhere).await? };
            // A message may have been replayed more than once.
            let mut replayed: HashSet<_> = failed.replayed.iter().copied().collect();
            for message in &stored.messages {
                replayed.remove(&message.id);
            }
            let replayed: Vec<_> = replayed.into_iter().collect();
            let replayed_are_stored = replayed.is_empty() || store.get(&replayed).await?.len() == replayed.len();
            let newest = match before {
                Some(_) if let_go.is_some() => store.page(chat, None, 1).await?.messages.first().map(Message::key),
                _ => stored.messages.first().map(Message::key),
            };
            Ok((stored, elsewhere.into_values().collect::<Vec<_>>(), newest, replayed_are_stored))
        });
        match asked.await {
            Ok((stored, elsewhere, newest, replayed_are_stored)) => {
                let source = if merge.is_empty() { Source::Store } else { Source::Merged };
                merge.stored_wins(&stored.messages);
                merge.stored_wins(&elsewhere);
                let whole = failed.whole && replayed_are_stored;
                if let Some(listed) = verified.filter(|_| whole) {
                    self.repair(chat, listed, &stored, elsewhere, failed.messages);
                }
                let (messages, more) = merge.newest(before, limit);
                let next = (more || stored.more).then(|| messages.last().map(|shown| shown.message.key())).flatten();
                // Messages are stored in about their order: what is missing lies between the newest stored and what was let go.
                let behind =
                    let_go.is_some_and(|key| newest < Some(key)) && before.is_none_or(|key| Some(key) > newest);
                Ok(Page { messages, next, source, complete: whole && !behind, position, typing: None })
            }
            Err(error) => {
                tracing::debug!(chat_id = %chat, %error, "a page of history without the store");
                if before.is_some() || position.is_none() {
                    return Err(Refusal::unavailable("the store can't be read now"));
                }
                let (messages, _) = merge.newest(None, limit);
                let next = messages.last().map(|shown| shown.message.key());
                Ok(Page { messages, next, source: Source::Cache, complete: false, position, typing: None })
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

impl<'a> From<&'a Page> for HistoryPage<'a> {
    fn from(page: &'a Page) -> Self {
        let epoch = page.position.as_ref().map(|position| &*position.epoch);
        let shown = |shown: &'a Shown| MessageJson {
            message: &shown.message,
            position: match (epoch, shown.seq) {
                (Some(epoch), Some(seq)) => Position::At { epoch, seq },
                _ => Position::Absent,
            },
        };
        Self {
            messages: page.messages.iter().map(shown).collect(),
            next_cursor: page.next.as_ref().map(cursor::write),
            source: page.source,
            complete: page.complete,
            epoch,
            seq: page.position.as_ref().map(|position| position.seq),
            typing: page.typing.as_ref().map(|users| users.iter().map(UserId::as_str).collect()),
        }
    }
}

/// What a chat's failed queue holds.
pub(super) struct Failed {
    pub(super) messages: Vec<Message>,
    /// Whether these are all.
    whole: bool,
    /// What left it last, a short while ago.
    replayed: Vec<MessageId>,
}

impl Sources {
    async fn listed(&self, chat: &ChatId) -> Option<RecentPage> {
        let listed = self.cache_breaker.call(self.recent.read(chat, BUDGET)).await;
        listed.inspect_err(|error| tracing::debug!(chat_id = %chat, %error, "history without the recent list")).ok()
    }

    /// The page that the list can answer on its own.
    fn alone(&self, listed: &RecentPage, before: Option<HistoryKey>, limit: usize) -> Option<Page> {
        let alone = listed.alone(before, limit, self.verify_after)?;
        let shown = |(seq, message): &(_, &Message)| Shown { message: (*message).clone(), seq: *seq };
        let messages: Vec<_> = alone.messages.iter().map(shown).collect();
        let next = messages.last().filter(|_| alone.more).map(|shown| shown.message.key());
        let position = Some(listed.position.clone());
        Some(Page { messages, next, source: Source::Cache, complete: true, position, typing: None })
    }

    pub(super) async fn failed(&self, chat: &ChatId) -> Failed {
        match self.failed.peek(chat, MAX_FAILED, BUDGET).await {
            Ok(Peeked { messages, more, undecodable, replayed }) => {
                Failed { messages, whole: !more && undecodable == 0, replayed }
            }
            // What it holds is in the list as a rule, and turns up in any case when the server is back.
            Err(_) => Failed { messages: Vec::new(), whole: !self.failed_holds(), replayed: Vec::new() },
        }
    }

    /// Whether anything was in the failed queue when the retry service last could ask, every few seconds.
    fn failed_holds(&self) -> bool {
        self.metrics.failed_messages.get() > 0
    }
}
