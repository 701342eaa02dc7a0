//! How many of something one owner may hold at once: connections of a user or an address, sends of a sender.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// Counts the slots that each owner holds. Its memory is bounded by the slots that are held.
pub(crate) struct ConcurrencyLimit<K> {
    held: Arc<DashMap<K, usize>>,
    /// 0 for no limit.
    most: usize,
}

/// One slot, given back when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct Slot<K: Eq + Hash>(#[expect(dead_code, reason = "held for its drop")] Arc<Held<K>>);

struct Held<K: Eq + Hash> {
    counts: Arc<DashMap<K, usize>>,
    owner: K,
}

impl<K: Clone + Eq + Hash> ConcurrencyLimit<K> {
    /// `most` slots for each owner; 0 for no limit.
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// A slot, unless the owner holds all of theirs.
    pub(crate) fn acquire(&self, owner: &K) -> Option<Slot<K>> {
        let mut count = self.held.entry(owner.clone()).or_insert(0);
        if self.most > 0 && *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Slot(Arc::new(Held { counts: self.held.clone(), owner: owner.clone() })))
    }
}

impl<K: Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        // An owner that holds something has an entry.
        if let Some(mut count) = self.counts.get_mut(&self.owner) {
            *count -= 1;
        }
        self.counts.remove_if(&self.owner, |_, count| *count == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_it_is_dropped_and_nobody_is_remembered_then() {
        let limit = ConcurrencyLimit::new(2);
        let first = limit.acquire(&"alice");
        let second = limit.acquire(&"alice").map(|slot| [slot.clone(), slot]);
        assert!(first.is_some() && second.is_some());
        assert!(limit.acquire(&"alice").is_none());
        assert!(limit.acquire(&"bob").is_some());
        drop(first);
        let third = limit.acquire(&"alice");
        assert!(third.is_some() && limit.acquire(&"alice").is_none());
        drop((second, third));
        assert!(limit.held.is_empty());
    }

    #[test]
    fn many_at_once_never_hold_more_than_allowed() {
        let limit = Arc::new(ConcurrencyLimit::new(5));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _slot = limit.acquire(&0);
                        assert!(limit.held.get(&0).is_none_or(|count| *count <= 5));
                    }
                });
            }
        });
        assert!(limit.held.is_empty());
    }
}
