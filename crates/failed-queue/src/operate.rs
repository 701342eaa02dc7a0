//! What operators do with the failed queue: list all of it, and take a chat or a dead entry out of turn.
//!
//! Finding chats scans the servers' keys in bounded steps; nothing on the path of a request does.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_message::ChatId;
use holdfast_redis::{Call, RedisError, Script, parse};
use tokio::time::Instant;

use crate::entry::{DeadEntry, EntryError, QueueEntry};
use crate::lease::{Head, Lease};
use crate::queue::FailedQueue;
use crate::scan::Cursor;

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/take.lua")));

/// The chats that one step of a scan found. A chat may be found by several steps.
#[derive(Debug, Clone)]
pub struct Found {
    /// The next position; `None`: all keys of the server were scanned.
    pub next: Option<Cursor>,
    /// Chats that have a queue or a dead list.
    pub chats: Vec<ChatId>,
}

/// The failed queue of one chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatQueue {
    /// The chat.
    pub chat: ChatId,
    /// The number of waiting entries.
    pub waiting: u64,
    /// The number of entries in the dead list.
    pub dead: u64,
    /// When the oldest waiting entry was queued, in Unix epoch milliseconds; `None`: nothing waits, or the entry can't be decoded.
    pub oldest_queued_at: Option<i64>,
    /// Milliseconds until the next attempt or the end of a lease, by the server's clock; `None`: the chat is not in the index.
    pub due_in: Option<i64>,
}

/// An entry of a dead list.
#[derive(Debug, Clone)]
pub struct Buried {
    /// The entry's bytes, by which it is removed.
    pub bytes: Bytes,
    /// The decoded entry.
    pub entry: Result<DeadEntry, EntryError>,
}

impl FailedQueue {
    /// The chats in the index.
    pub async fn indexed_chats(&self, budget: Duration) -> Result<Vec<ChatId>, RedisError> {
        let call = Call::new("ZRANGE").key(&self.keys.failed_index()).arg(0).arg(-1);
        let members: Vec<String> = parse(self.connection.run_one("failed_index", call, budget).await?)?;
        Ok(members.iter().filter_map(|member| ChatId::parse(member).ok()).collect())
    }

    /// Examines about `keys` of a server's keys from `cursor` (first one of [`FailedQueue::cursors`]) for queues and dead lists.
    pub async fn find_chats(&self, cursor: Cursor, keys: usize, budget: Duration) -> Result<Found, RedisError> {
        let (next, found) = self.scan(cursor, keys, Instant::now() + budget).await?;
        let chat = |key: &String| self.keys.chat_of_failed(key).or_else(|| self.keys.chat_of_dead(key));
        Ok(Found { next, chats: found.iter().filter_map(chat).collect() })
    }

    /// The queues of these chats, in one round trip to each node.
    pub async fn overview(&self, chats: &[ChatId], budget: Duration) -> Result<Vec<ChatQueue>, RedisError> {
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
        let mut next = || answers.next().unwrap_or_else(|| Err(RedisError::unexpected("no answer")));
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

    /// Waiting entries of a chat, oldest first: at most `max` from index `from`.
    pub async fn queued(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Head>, RedisError> {
        let entries = self.range(self.keys.failed(chat), from, max, budget).await?;
        Ok(entries.into_iter().map(|bytes| Head { entry: QueueEntry::decode(&bytes), bytes }).collect())
    }

    /// Entries of a chat's dead list, oldest first: at most `max` from index `from`.
    pub async fn buried(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Buried>, RedisError> {
        let entries = self.range(self.keys.failed_dead(chat), from, max, budget).await?;
        Ok(entries.into_iter().map(|bytes| Buried { entry: DeadEntry::decode(&bytes), bytes }).collect())
    }

    async fn range(&self, key: String, from: usize, max: usize, budget: Duration) -> Result<Vec<Bytes>, RedisError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let call = Call::new("LRANGE").key(&key).arg(from).arg(from.saturating_add(max - 1));
        parse(self.connection.run_one("failed_range", call, budget).await?)
    }

    /// Leases one chat for `length`, whether it is due or not, even if another retrier holds it. Both can then only publish an entry twice;
    /// neither removes an entry whose publication was not acknowledged to itself.
    pub async fn take(&self, chat: &ChatId, length: Duration, budget: Duration) -> Result<Lease, RedisError> {
        let call = TAKE.call(&[&self.keys.failed_index()]).arg(chat.as_str()).arg(length.as_millis() as u64);
        let until: String = parse(self.connection.run_one("failed_take", call, budget).await?)?;
        let until = until.parse().map_err(|_| RedisError::unexpected("a lease end that is no number"))?;
        Ok(Lease { chat: chat.clone(), until })
    }

    /// Removes an entry that Kafka has acknowledged from the dead list, by its bytes. Returns whether it was still there.
    pub async fn unbury_published(&self, chat: &ChatId, bytes: &Bytes, budget: Duration) -> Result<bool, RedisError> {
        let call = Call::new("LREM").key(&self.keys.failed_dead(chat)).arg(1).arg(&**bytes);
        let removed: u64 = parse(self.connection.run_one("failed_unbury", call, budget).await?)?;
        Ok(removed > 0)
    }

    /// Entries of a chat's dead list, oldest first: at most `max` from index `from`.
    pub async fn dead(
        &self,
        chat: &ChatId,
        from: usize,
        max: usize,
        budget: Duration,
    ) -> Result<Vec<Result<DeadEntry, EntryError>>, RedisError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let call = Call::new("LRANGE").key(&self.keys.failed_dead(chat)).arg(from).arg(from.saturating_add(max - 1));
        let entries: Vec<Bytes> = parse(self.connection.run_one("failed_dead", call, budget).await?)?;
        Ok(entries.iter().map(|bytes| DeadEntry::decode(bytes)).collect())
    }
}
