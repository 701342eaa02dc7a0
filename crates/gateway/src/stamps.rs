//! Time stamps: in the order of arrival, and strictly rising per sender and per chat on this gateway.

use std::hash::Hash;

use dashmap::DashMap;
use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::Clock;

/// Senders and chats that are remembered before those whose last stamp lies in the past are forgotten.
const CAPACITY: usize = 100_000;

/// Stamps messages.
#[derive(Default)]
pub struct Stamps {
    clock: Clock,
    senders: DashMap<UserId, i64>,
    chats: DashMap<ChatId, i64>,
}

impl Stamps {
    /// The next stamp, in Unix epoch milliseconds: now, or one more than the sender's and the chat's last. The chat's counts too, or
    /// an answer to many messages of one millisecond would stand before the last of them.
    pub fn next(&self, sender: &UserId, chat: &ChatId) -> i64 {
        let now = self.clock.now_ms();
        let stamp = later(&self.chats, chat, now, now);
        later(&self.senders, sender, stamp, now)
    }
}

/// `stamp`, or one more than the key's last; remembered as its last.
fn later<K: Hash + Eq + Clone>(last: &DashMap<K, i64>, key: &K, stamp: i64, now: i64) -> i64 {
    if last.len() >= CAPACITY {
        // The clock never goes back, so a stamp of the past binds nobody.
        last.retain(|_, last| *last >= now);
    }
    let mut entry = match last.get_mut(key) {
        Some(entry) => entry,
        None => last.entry(key.clone()).or_insert(stamp - 1),
    };
    *entry = stamp.max(*entry + 1);
    *entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_strictly_per_sender_and_per_chat_and_nobody_pushes_the_others() {
        let stamps = Stamps::default();
        let user = |text: &str| UserId::parse(text).unwrap();
        let chat = |text: &str| ChatId::parse(text).unwrap();
        let of_alice: Vec<_> = (0..1000).map(|_| stamps.next(&user("alice"), &chat("alice:bob"))).collect();
        assert!(of_alice.is_sorted_by(|a, b| a < b));
        assert!(stamps.next(&user("bob"), &chat("alice:bob")) > of_alice[999]);
        assert!(stamps.next(&user("alice"), &chat("alice:carol")) > of_alice[999]);
        assert!(stamps.next(&user("dora"), &chat("dora:emil")) <= stamps.clock.now_ms());
    }
}
