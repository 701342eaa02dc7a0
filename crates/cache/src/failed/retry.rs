//! The retry service's side of the failed queue, and what others may look at.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_message::{ChatId, Message, record};

use super::entry::{DeadEntry, EntryError, QueueEntry};
use super::{Cursor, FailedQueue, Refusal};
use crate::CacheError;
use crate::script::{Call, Script, parse};

static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_lease.lua")));
static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_finish.lua")));
static POP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_pop.lua")));
static BURY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_bury.lua")));
static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_restore.lua")));

/// The longest lease and the longest wait for a next attempt; longer ones are cut. A score that lies further ahead dates from before
/// the queue server's clock went back, and is due: so a step back delays a replay by no more than this.
pub const FURTHEST: Duration = Duration::from_secs(120);

/// How many lists are asked for their lengths at once.
const STATS_CHUNK: usize = 500;

/// A chat taken by one retrier for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The chat.
    pub chat: ChatId,
    /// When the lease ends, in Unix epoch milliseconds, by the queue server's clock. Names the lease, too.
    pub until: i64,
}

/// An entry at the head of a chat's queue.
#[derive(Debug, Clone)]
pub struct Head {
    /// Its bytes, by which it is removed.
    pub bytes: Bytes,
    /// What they say.
    pub entry: Result<QueueEntry, EntryError>,
}

/// What removing from the head did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many entries it removed: fewer than asked for if the head was another's.
    pub removed: usize,
    /// How many are left.
    pub left: usize,
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishAs {
    /// The list was seen empty: forget the chat, unless something was pushed meanwhile.
    Empty,
    /// Something is left: try again after this long, [`FURTHEST`] at most, or sooner if another had that in mind.
    NextAttempt(Duration),
}

/// The newest entries of a chat's queue, for histories.
#[derive(Debug, Clone, Default)]
pub struct Peeked {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// There are older ones.
    pub more: bool,
    /// Entries among them that this build can't read.
    pub undecodable: usize,
}

/// How much waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Chats in the index.
    pub chats: usize,
    /// Entries in their queues.
    pub messages: u64,
    /// When the oldest head was queued, in Unix epoch milliseconds.
    pub oldest_queued_at: Option<i64>,
    /// There are more chats than were looked at.
    pub partial: bool,
}

/// One bounded step of mending the index.
#[derive(Debug, Clone)]
pub struct RepairStep {
    /// Where to go on; `None`: the whole server has been seen.
    pub next: Option<Cursor>,
    /// Chats that had a queue and were not in the index.
    pub added: usize,
}

impl FailedQueue {
    /// Takes due chats, at most so many, for so long, [`FURTHEST`] at most.
    pub async fn lease(&self, max: usize, length: Duration, budget: Duration) -> Result<Vec<Lease>, CacheError> {
        let length = length.min(FURTHEST).as_millis() as u64;
        let call = LEASE.call(&[&self.keys.failed_index()]).arg(max).arg(length).arg(FURTHEST.as_millis() as u64);
        let answer: Vec<String> = parse(self.connection.run_one("failed_lease", call, budget).await?)?;
        let Some((until, chats)) = answer.split_first() else { return Ok(Vec::new()) };
        let until = until.parse().map_err(|_| CacheError::unexpected("a lease end that is no number"))?;
        let mut leases = Vec::with_capacity(chats.len());
        for chat in chats {
            match ChatId::parse(chat) {
                Ok(chat) => leases.push(Lease { chat, until }),
                Err(_) => self.connection.metrics().undecodable("failed", 1),
            }
        }
        Ok(leases)
    }

    /// The oldest entries of a chat's queue, at most so many.
    pub async fn heads(&self, chat: &ChatId, max: usize, budget: Duration) -> Result<Vec<Head>, CacheError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let call = Call::new("LRANGE").key(&self.keys.failed(chat)).arg(0).arg(max - 1);
        let entries: Vec<Bytes> = parse(self.connection.run_one("failed_heads", call, budget).await?)?;
        let head = |bytes: Bytes| Head { entry: QueueEntry::decode(&bytes), bytes };
        let heads: Vec<_> = entries.into_iter().map(head).collect();
        self.connection.metrics().undecodable("failed", heads.iter().filter(|head| head.entry.is_err()).count());
        Ok(heads)
    }

    /// Removes entries that Kafka has acknowledged, as long as each is the head by its bytes.
    pub async fn pop_published(
        &self,
        chat: &ChatId,
        published: &[Bytes],
        budget: Duration,
    ) -> Result<Taken, CacheError> {
        let mut call = POP.call(&[&self.keys.failed(chat)]);
        for bytes in published {
            call = call.arg(&**bytes);
        }
        self.taken("failed_pop", call, budget).await
    }

    /// Moves the head to the dead list, if it has these bytes. `now` is Unix epoch milliseconds.
    pub async fn bury(
        &self,
        chat: &ChatId,
        bytes: &Bytes,
        reason: &str,
        now: i64,
        budget: Duration,
    ) -> Result<Taken, CacheError> {
        let dead = DeadEntry { buried_at: now, reason: reason.into(), entry: bytes.clone() };
        let call = BURY.call(&[&self.keys.failed(chat), &self.keys.failed_dead(chat)]);
        self.taken("failed_bury", call.arg(&**bytes).arg(&*dead.encode()), budget).await
    }

    /// Ends a lease; says whether it was still held.
    pub async fn finish(&self, lease: &Lease, how: FinishAs, budget: Duration) -> Result<bool, CacheError> {
        let call = FINISH.call(&[&self.keys.failed_index()]).arg(lease.chat.as_str()).arg(lease.until);
        let call = match how {
            FinishAs::Empty => call.arg(""),
            FinishAs::NextAttempt(delay) => call.arg(delay.min(FURTHEST).as_millis() as u64),
        };
        let held: u8 = parse(self.connection.run_one("failed_finish", call, budget).await?)?;
        Ok(held == 1)
    }

    /// The newest entries of a chat's queue, at most so many.
    pub async fn peek(&self, chat: &ChatId, limit: usize, budget: Duration) -> Result<Peeked, CacheError> {
        let key = self.keys.failed(chat);
        let from = -i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        let call = Call::new("LRANGE").key(&key).arg(from).arg(-1);
        let mut entries: Vec<Bytes> = parse(self.connection.run_one("failed_peek", call, budget).await?)?;
        let more = entries.len() > limit;
        entries.drain(..entries.len().saturating_sub(limit));
        let decode = |bytes: &Bytes| record::decode(&QueueEntry::decode(bytes).ok()?.record).ok();
        let messages: Vec<_> = entries.iter().filter_map(decode).collect();
        let undecodable = entries.len() - messages.len();
        self.connection.metrics().undecodable("failed", undecodable);
        Ok(Peeked { messages, more, undecodable })
    }

    /// Whether no chat has anything queued. A push that has not been answered yet may be under way.
    pub async fn index_is_empty(&self, budget: Duration) -> Result<bool, CacheError> {
        let call = Call::new("EXISTS").key(&self.keys.failed_index());
        let exists: u8 = parse(self.connection.run_one("failed_index", call, budget).await?)?;
        Ok(exists == 0)
    }

    /// How much waits, looking at no more than so many chats. Costs a command for the index and two for each chat, in pipelines of
    /// a thousand commands, the whole within the budget.
    pub async fn stats(&self, max_chats: usize, budget: Duration) -> Result<QueueStats, CacheError> {
        let deadline = tokio::time::Instant::now() + budget;
        let left = || deadline.saturating_duration_since(tokio::time::Instant::now());
        let index = self.keys.failed_index();
        let members = Call::new("ZRANGE").key(&index).arg(0).arg(max_chats);
        let mut members: Vec<String> = parse(self.connection.run_one("failed_stats", members, budget).await?)?;
        let partial = members.len() > max_chats;
        members.truncate(max_chats);
        let mut stats = QueueStats { chats: members.len(), partial, ..QueueStats::default() };
        let chats: Vec<_> = members.iter().filter_map(|member| ChatId::parse(member).ok()).collect();
        for chunk in chats.chunks(STATS_CHUNK) {
            let calls = chunk
                .iter()
                .map(|chat| self.keys.failed(chat))
                .flat_map(|key| [Call::new("LLEN").key(&key), Call::new("LINDEX").key(&key).arg(0)]);
            let mut answers = self.connection.run("failed_stats", calls.collect(), left()).await?.into_iter();
            while let (Some(len), Some(head)) = (answers.next(), answers.next()) {
                stats.messages += parse::<u64>(len?)?;
                let head = parse::<Option<Bytes>>(head?)?.and_then(|bytes| QueueEntry::decode(&bytes).ok());
                let queued_at = head.map(|entry| entry.queued_at);
                stats.oldest_queued_at = [stats.oldest_queued_at, queued_at].into_iter().flatten().min();
            }
        }
        Ok(stats)
    }

    /// Looks at about so many of a server's keys from `cursor` (at first one of [`FailedQueue::cursors`]), and adds queues that the
    /// index lacks: those whose gateway died between the two steps of a push.
    pub async fn repair_index(&self, cursor: Cursor, keys: usize, budget: Duration) -> Result<RepairStep, CacheError> {
        let deadline = tokio::time::Instant::now() + budget;
        let (next, found) = self.scan(cursor, keys, deadline).await?;
        let chats: Vec<_> = found.iter().filter_map(|key| self.keys.chat_of_failed(key)).collect();
        let mut added = 0;
        if !chats.is_empty() {
            let mut call = RESTORE.call(&[&self.keys.failed_index()]);
            for chat in &chats {
                call = call.arg(chat.as_str());
            }
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            added = parse(self.connection.run_one("failed_restore", call, left).await?)?;
        }
        Ok(RepairStep { next, added })
    }

    /// Entries of a chat's dead list, oldest first, from an index on, at most so many.
    pub async fn dead(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Result<DeadEntry, EntryError>>, CacheError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let call = Call::new("LRANGE").key(&self.keys.failed_dead(chat)).arg(from).arg(from.saturating_add(max - 1));
        let entries: Vec<Bytes> = parse(self.connection.run_one("failed_dead", call, budget).await?)?;
        Ok(entries.iter().map(|bytes| DeadEntry::decode(bytes)).collect())
    }

    async fn taken(&self, op: &'static str, call: Call, budget: Duration) -> Result<Taken, CacheError> {
        let (removed, left) = parse(self.connection.run_one(op, call, budget).await?)?;
        Ok(Taken { removed, left })
    }
}

impl Refusal {
    /// The server's settings are the reason, and will be until an operator has changed them.
    pub fn is_by_settings(&self) -> bool {
        matches!(self, Self::NoAppendOnlyFile | Self::NeverSynced | Self::Evicts(_) | Self::Unreadable(_))
    }

    /// A short word for a metric's label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoAppendOnlyFile => "no_aof",
            Self::FirstRewrite => "first_rewrite",
            Self::WritesFail => "writes_fail",
            Self::SyncSuspended => "sync_suspended",
            Self::NeverSynced => "never_synced",
            Self::Evicts(_) => "evicts",
            Self::Unreadable(_) => "unreadable",
            Self::Replica => "replica",
            Self::TooFewReplicas { .. } | Self::Replicas { .. } => "replicas",
            Self::NotSynced => "not_synced",
            Self::Server(_) => "server",
            Self::Unreachable(_) => "unreachable",
        }
    }
}
