//! Timestamps: in the order of arrival, strictly rising per sender and per chat on this gateway, and never far ahead of the clock.
//!
//! A timestamp is the clock's time, or one millisecond more than the last one of its sender or chat, whichever is latest. So it runs
//! ahead of the clock while a chat gets more than a message each millisecond, and after the clock was set back. Both are bounded by
//! [`MAX_AHEAD_MS`]:
//!
//! * A message that would be stamped further ahead is refused as `RATE_LIMITED`, and may come a few milliseconds later.
//! * When the clock is set back by no more than that, timestamps go on rising, by a millisecond each, until it has caught up.
//! * When it is set back by more, timestamps that lie further ahead of its new time no longer count: senders and chats with such a timestamp
//!   continue with the clock's time. Once, between two messages, timestamps of a sender or chat then do not rise. Otherwise the effect of a
//!   wrong clock would last until the clock has caught up.
//!
//! Senders and chats are forgotten once their last timestamp lies further in the past than that, and so matters only if the clock is set back
//! by more: those of a whole period at once, in constant time.
//!
//! See `docs/decisions/timestamps.md`.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::unix_ms;

/// How far a timestamp may lie ahead of the clock, in milliseconds. So many messages more than one a millisecond fit into a burst.
pub(crate) const MAX_AHEAD_MS: i64 = 10_000;

/// How long senders and chats are remembered, at least.
const PERIOD_MS: i64 = 2 * MAX_AHEAD_MS;

/// Gives messages their timestamps.
pub(crate) struct TimestampAllocator {
    clock: Box<dyn Fn() -> i64 + Send + Sync>,
    /// Two senders or chats with the same hash push each other ahead by a millisecond, and no more comes of it.
    hasher: RandomState,
    last: Mutex<Last>,
}

/// The last timestamps, by the hash of their sender or chat.
#[derive(Default)]
struct Last {
    /// What the clock said when it was asked last.
    clock: i64,
    /// When `young` was begun; what is in `old` was stamped before.
    begun: i64,
    young: HashMap<u64, i64>,
    old: HashMap<u64, i64>,
}

/// A timestamp would run too far ahead of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFarAhead {
    /// When the next one may be asked for.
    pub(crate) retry_after: Duration,
}

impl Default for TimestampAllocator {
    /// By the system's clock.
    fn default() -> Self {
        Self::new(unix_ms)
    }
}

impl TimestampAllocator {
    /// By this clock, in Unix epoch milliseconds. It may be set back.
    pub(crate) fn new(clock: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), hasher: RandomState::new(), last: Mutex::default() }
    }

    /// The next timestamp, in Unix epoch milliseconds: now, or one more than the sender's and the chat's last. The chat's counts too, or
    /// an answer to many messages of one millisecond would stand before the last of them.
    pub(crate) fn next(&self, sender: &UserId, chat: &ChatId) -> Result<i64, TooFarAhead> {
        let keys = [self.key(0, sender), self.key(1, chat)];
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Read with the lock held: who waits for it has not read an older time.
        let now = (self.clock)();
        last.turn(now);
        let stamp = last.of(keys).map_or(now, |last| now.max(last + 1));
        let ahead = stamp - now - MAX_AHEAD_MS;
        if ahead > 0 {
            return Err(TooFarAhead { retry_after: Duration::from_millis(ahead.unsigned_abs()) });
        }
        for key in keys {
            last.old.remove(&key);
            last.young.insert(key, stamp);
        }
        Ok(stamp)
    }

    fn key(&self, kind: u8, of: impl Hash) -> u64 {
        self.hasher.hash_one((kind, of))
    }
}

impl Last {
    fn of(&self, keys: [u64; 2]) -> Option<i64> {
        keys.iter().flat_map(|key| [self.young.get(key), self.old.get(key)]).flatten().max().copied()
    }

    /// The clock has gone on, or was set back.
    fn turn(&mut self, now: i64) {
        if now < self.clock {
            // Rare, so it may take as long as there are entries.
            for last in [&mut self.young, &mut self.old] {
                last.retain(|_, last| *last <= now + MAX_AHEAD_MS);
            }
            self.begun = self.begun.min(now);
        }
        self.clock = now;
        if now - self.begun > PERIOD_MS {
            // What is dropped was stamped before `begun`, at most so far ahead, and lies as far in the past.
            self.old = std::mem::take(&mut self.young);
            self.begun = now;
        }
    }
}

#[cfg(test)]
mod tests;
