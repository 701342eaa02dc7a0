//! What operators do with the failed queue: look at all of it, and take a chat or a dead entry out of turn.
//!
//! Finding chats walks the server's keys in bounded steps; nothing on a request's path does.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_message::ChatId;
use tokio::time::Instant;

use super::entry::{DeadEntry, EntryError, QueueEntry};
use super::{Cursor, FailedQueue, Head, Lease};
use crate::CacheError;
use crate::script::{Call, Script, parse};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/failed_take.lua")));

/// Chats met by one step through the server's keys. One may be met in more than one step.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where to go on; `None`: the whole server has been seen.
    pub next: Option<Cursor>,
    /// Chats that have a queue or a dead list.
    pub chats: Vec<ChatId>,
}

/// What one chat has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatQueue {
    /// The chat.
    pub chat: ChatId,
    /// Entries that wait.
    pub waiting: u64,
    /// Entries that were given up.
    pub dead: u64,
    /// When the oldest waiting entry was queued, in Unix epoch milliseconds; `None`: nothing waits, or it can't be read.
    pub oldest_queued_at: Option<i64>,
    /// Milliseconds until the next attempt or the end of a lease, by the server's clock; `None`: the index lacks the chat.
    pub due_in: Option<i64>,
}

/// An entry of a dead list.
#[derive(Debug, Clone)]
pub struct Buried {
    /// Its bytes, by which it is removed.
    pub bytes: Bytes,
    /// What they say.
    pub entry: Result<DeadEntry, EntryError>,
}

impl FailedQueue {
    /// The chats in the index.
    pub async fn indexed_chats(&self, budget: Duration) -> Result<Vec<ChatId>, CacheError> {
        let call = Call::new("ZRANGE").key(&self.keys.failed_index()).arg(0).arg(-1);
        let members: Vec<String> = parse(self.connection.run_one("failed_index", call, budget).await?)?;
        Ok(members.iter().filter_map(|member| ChatId::parse(member).ok()).collect())
    }

    /// Looks at about so many of a server's keys from `cursor` (at first one of [`FailedQueue::cursors`]) for queues and dead lists.
    pub async fn find_chats(&self, cursor: Cursor, keys: usize, budget: Duration) -> Result<Found, CacheError> {
        let (next, found) = self.scan(cursor, keys, Instant::now() + budget).await?;
        let chat = |key: &String| self.keys.chat_of_failed(key).or_else(|| self.keys.chat_of_dead(key));
        Ok(Found { next, chats: found.iter().filter_map(chat).collect() })
    }

    /// What each of these chats has; in one round trip, to each node of a cluster.
    pub async fn overview(&self, chats: &[ChatId], budget: Duration) -> Result<Vec<ChatQueue>, CacheError> {
        let index = self.keys.failed_index();
        let mut calls = vec![Call::new("TIME").near(&index)];
        for chat in chats {
            let queue = self.keys.failed(chat);
            calls.extend([
                Call::new("LLEN").key(&queue),
                Call::new("LINDEX").key(&queue).arg(0),
                Call::new("LLEN").key(&self.keys.failed_dead(chat)),
                Call::new("ZSCORE").key(&index).arg(chat.as_str()),
            ]);
        }
        let mut answers = self.connection.run("failed_overview", calls, budget).await?.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(CacheError::unexpected("no answer")));
        let (seconds, micros): (i64, i64) = parse(next()?)?;
        let now = seconds * 1000 + micros / 1000;
        let mut queues = Vec::with_capacity(chats.len());
        for chat in chats {
            let waiting = parse(next()?)?;
            let head = parse::<Option<Bytes>>(next()?)?.and_then(|bytes| QueueEntry::decode(&bytes).ok());
            let dead = parse(next()?)?;
            let score = parse::<Option<f64>>(next()?)?;
            queues.push(ChatQueue {
                chat: chat.clone(),
                waiting,
                dead,
                oldest_queued_at: head.map(|entry| entry.queued_at),
                due_in: score.map(|score| score as i64 - now),
            });
        }
        Ok(queues)
    }

    /// Waiting entries of a chat, oldest first, from an index on, at most so many.
    pub async fn queued(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Head>, CacheError> {
        let entries = self.range(self.keys.failed(chat), from, max, budget).await?;
        Ok(entries.into_iter().map(|bytes| Head { entry: QueueEntry::decode(&bytes), bytes }).collect())
    }

    /// Entries of a chat's dead list, oldest first, from an index on, at most so many.
    pub async fn buried(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Buried>, CacheError> {
        let entries = self.range(self.keys.failed_dead(chat), from, max, budget).await?;
        Ok(entries.into_iter().map(|bytes| Buried { entry: DeadEntry::decode(&bytes), bytes }).collect())
    }

    async fn range(&self, key: String, from: usize, max: usize, budget: Duration) -> Result<Vec<Bytes>, CacheError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let call = Call::new("LRANGE").key(&key).arg(from).arg(from.saturating_add(max - 1));
        parse(self.connection.run_one("failed_range", call, budget).await?)
    }

    /// Takes one chat for so long, due or not, even from another retrier: both can then only publish a message twice, and neither
    /// removes what the other's publish has not been acknowledged for.
    pub async fn take(&self, chat: &ChatId, length: Duration, budget: Duration) -> Result<Lease, CacheError> {
        let call = TAKE.call(&[&self.keys.failed_index()]).arg(chat.as_str()).arg(length.as_millis() as u64);
        let until: String = parse(self.connection.run_one("failed_take", call, budget).await?)?;
        let until = until.parse().map_err(|_| CacheError::unexpected("a lease end that is no number"))?;
        Ok(Lease { chat: chat.clone(), until })
    }

    /// Removes an entry of the dead list that Kafka has acknowledged, by its bytes; false if it was not there any more.
    pub async fn unbury_published(&self, chat: &ChatId, bytes: &Bytes, budget: Duration) -> Result<bool, CacheError> {
        let call = Call::new("LREM").key(&self.keys.failed_dead(chat)).arg(1).arg(&**bytes);
        let removed: u64 = parse(self.connection.run_one("failed_unbury", call, budget).await?)?;
        Ok(removed > 0)
    }
}
