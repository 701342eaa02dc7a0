//! How much waits in the queue, and the newest entries of one chat for its history.

use std::time::Duration;

use bytes::Bytes;
use holdfast_message::{ChatId, Message, MessageId};
use holdfast_redis::{Call, RedisError, parse};
use tokio::time::Instant;

use crate::entry::{QueueEntry, message_of};
use crate::queue::FailedQueue;

/// How many lists are read with one call.
const STATS_CHUNK: usize = 500;

/// The newest messages of a chat's queue, for its history.
#[derive(Debug, Clone, Default)]
pub struct Peeked {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// Whether the queue has older entries.
    pub more: bool,
    /// How many entries among them this build can't decode.
    pub undecodable: usize,
    /// Messages that were published in the last ten minutes, oldest first: at most the last 64. The log has them, and the store may not.
    pub replayed: Vec<MessageId>,
}

/// How much waits in all queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// The number of chats in the index.
    pub chats: usize,
    /// The number of entries in their queues.
    pub messages: u64,
    /// When the oldest head was queued, in Unix epoch milliseconds.
    pub oldest_queued_at: Option<i64>,
    /// Whether there are more chats than were counted.
    pub partial: bool,
}

impl FailedQueue {
    /// The newest messages of a chat's queue, at most `limit`.
    pub async fn peek(&self, chat: &ChatId, limit: usize, budget: Duration) -> Result<Peeked, RedisError> {
        let key = self.keys.failed(chat);
        let from = -i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
        // In this order: what is removed between the two is seen in both.
        let calls = vec![
            Call::new("LRANGE").key(&key).arg(from).arg(-1),
            Call::new("LRANGE").key(&self.keys.failed_replayed(chat)).arg(0).arg(-1),
        ];
        let mut answers = self.connection.run("failed_peek", calls, budget).await?.into_iter();
        let mut next = || answers.next().unwrap_or_else(|| Err(RedisError::unexpected("no answer")));
        let mut entries: Vec<Bytes> = parse(next()?)?;
        let replayed: Vec<Vec<u8>> = parse(next()?)?;
        let more = entries.len() > limit;
        entries.drain(..entries.len().saturating_sub(limit));
        let messages: Vec<_> = entries.iter().filter_map(|bytes| message_of(bytes)).collect();
        let undecodable = entries.len() - messages.len();
        self.connection.metrics().undecodable("failed", undecodable);
        let id = |bytes: Vec<u8>| Some(MessageId::from_bytes(bytes.try_into().ok()?));
        Ok(Peeked { messages, more, undecodable, replayed: replayed.into_iter().filter_map(id).collect() })
    }

    /// How much waits, counting at most `max_chats` chats. Sends one command for the index and two for each chat, in pipelines of a
    /// thousand commands; `budget` is the time for all of them.
    pub async fn stats(&self, max_chats: usize, budget: Duration) -> Result<QueueStats, RedisError> {
        let deadline = Instant::now() + budget;
        let left = || deadline.saturating_duration_since(Instant::now());
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
}
