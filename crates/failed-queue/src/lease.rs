//! Leases: the retry service takes chats for a while, replays their entries in order, and gives the chats back.
//!
//! See `docs/decisions/clock-steps.md`.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_message::ChatId;
use holdfast_redis::{Call, RedisError, Script, parse};

use crate::entry::{DeadEntry, EntryError, QueueEntry, message_of};
use crate::queue::FailedQueue;

static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lease.lua")));
static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/finish.lua")));
static POP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/pop.lua")));
static REPLAYED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/replayed.lua")));
static BURY: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/bury.lua")));

/// The longest lease, and the longest wait for the next attempt; longer ones are shortened to it. A score further in the future was set
/// before the server's clock went back, and is due. A clock that goes back therefore delays a replay by no more than this.
pub const FURTHEST: Duration = Duration::from_secs(120);

/// For how long, and of how many messages, a chat's failed queue remembers that it replayed them. A worker stores a message within the flush
/// interval as a rule, and after the time that a lost worker's partitions take to move.
const REPLAYED_LATELY: (Duration, usize) = (Duration::from_secs(600), 64);

/// A chat that one retrier has taken for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The chat.
    pub chat: ChatId,
    /// When the lease ends, in Unix epoch milliseconds by the server's clock. It also identifies the lease.
    pub until: i64,
}

/// An entry at the head of a chat's queue.
#[derive(Debug, Clone)]
pub struct Head {
    /// The entry's bytes, by which it is removed.
    pub bytes: Bytes,
    /// The decoded entry.
    pub entry: Result<QueueEntry, EntryError>,
}

/// The result of removing entries from the head of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many entries were removed. Fewer than given, if the head was another entry.
    pub removed: usize,
    /// How many are left.
    pub left: usize,
}

/// How a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishAs {
    /// The list was seen empty: remove the chat from the index, unless something was pushed meanwhile.
    Empty,
    /// Entries are left: the chat is due after this time, at most [`FURTHEST`], or earlier if its score says so.
    NextAttempt(Duration),
}

impl FailedQueue {
    /// Leases at most `max` due chats for `length`, at most [`FURTHEST`].
    pub async fn lease(&self, max: usize, length: Duration, budget: Duration) -> Result<Vec<Lease>, RedisError> {
        let length = length.min(FURTHEST).as_millis() as u64;
        let call = LEASE.call(&[&self.keys.failed_index()]).arg(max).arg(length).arg(FURTHEST.as_millis() as u64);
        let answer: Vec<String> = parse(self.connection.run_one("failed_lease", call, budget).await?)?;
        let Some((until, chats)) = answer.split_first() else { return Ok(Vec::new()) };
        let until = until.parse().map_err(|_| RedisError::unexpected("a lease end that is no number"))?;
        let mut leases = Vec::with_capacity(chats.len());
        for chat in chats {
            match ChatId::parse(chat) {
                Ok(chat) => leases.push(Lease { chat, until }),
                Err(_) => self.connection.metrics().undecodable("failed", 1),
            }
        }
        Ok(leases)
    }

    /// The oldest entries of a chat's queue, at most `max`.
    pub async fn heads(&self, chat: &ChatId, max: usize, budget: Duration) -> Result<Vec<Head>, RedisError> {
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

    /// Removes entries that Kafka has acknowledged, in this order, for as long as the head has the same bytes. That they were replayed is
    /// remembered first, so that nobody finds them in neither place.
    pub async fn pop_published(
        &self,
        chat: &ChatId,
        published: &[Bytes],
        budget: Duration,
    ) -> Result<Taken, RedisError> {
        let (time, most) = REPLAYED_LATELY;
        let mut replayed = REPLAYED.call(&[&self.keys.failed_replayed(chat)]).arg(time.as_millis() as u64).arg(most);
        let mut pop = POP.call(&[&self.keys.failed(chat)]);
        for bytes in published {
            if let Some(message) = message_of(bytes) {
                replayed = replayed.arg(message.id.as_bytes());
            }
            pop = pop.arg(&**bytes);
        }
        let answers = self.connection.run("failed_pop", vec![replayed, pop], budget).await?;
        let [remembered, popped] = <[_; 2]>::try_from(answers).map_err(|_| RedisError::unexpected("no answer"))?;
        remembered?;
        let (removed, left) = parse(popped?)?;
        Ok(Taken { removed, left })
    }

    /// Moves the head to the dead list, if it has these bytes. `now` is in Unix epoch milliseconds.
    pub async fn bury(
        &self,
        chat: &ChatId,
        bytes: &Bytes,
        reason: &str,
        now: i64,
        budget: Duration,
    ) -> Result<Taken, RedisError> {
        let dead = DeadEntry { buried_at: now, reason: reason.into(), entry: bytes.clone() };
        let call = BURY.call(&[&self.keys.failed(chat), &self.keys.failed_dead(chat)]);
        let call = call.arg(&**bytes).arg(&*dead.encode());
        let (removed, left) = parse(self.connection.run_one("failed_bury", call, budget).await?)?;
        Ok(Taken { removed, left })
    }

    /// Ends a lease. Returns whether it was still held.
    pub async fn finish(&self, lease: &Lease, how: FinishAs, budget: Duration) -> Result<bool, RedisError> {
        let call = FINISH.call(&[&self.keys.failed_index()]).arg(lease.chat.as_str()).arg(lease.until);
        let call = match how {
            FinishAs::Empty => call.arg(""),
            FinishAs::NextAttempt(delay) => call.arg(delay.min(FURTHEST).as_millis() as u64),
        };
        let held: u8 = parse(self.connection.run_one("failed_finish", call, budget).await?)?;
        Ok(held == 1)
    }
}
