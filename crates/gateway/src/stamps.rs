//! Time stamps: in the order of arrival, and strictly rising per sender on this gateway.

use dashmap::DashMap;
use holdfast_message::UserId;
use holdfast_service::clock::Clock;

/// Senders that are remembered before the ones whose last stamp lies in the past are forgotten.
const CAPACITY: usize = 100_000;

/// Stamps messages.
#[derive(Default)]
pub struct Stamps {
    clock: Clock,
    last: DashMap<UserId, i64>,
}

impl Stamps {
    /// The next stamp of a sender, in Unix epoch milliseconds: now, or one more than their last.
    pub fn next(&self, sender: &UserId) -> i64 {
        let now = self.clock.now_ms();
        if self.last.len() >= CAPACITY {
            // The clock never goes back, so a stamp of the past binds nobody.
            self.last.retain(|_, last| *last >= now);
        }
        match self.last.get_mut(sender) {
            Some(mut last) => {
                *last = now.max(*last + 1);
                *last
            }
            None => *self.last.entry(sender.clone()).and_modify(|last| *last = now.max(*last + 1)).or_insert(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_senders_stamps_rise_strictly_and_senders_do_not_push_each_other() {
        let stamps = Stamps::default();
        let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
        let before = stamps.clock.now_ms();
        let of_alice: Vec<_> = (0..10_000).map(|_| stamps.next(&alice)).collect();
        assert!(of_alice.is_sorted_by(|a, b| a < b));
        assert!(stamps.next(&bob) <= stamps.clock.now_ms());
        assert!(of_alice[0] >= before);
    }
}
