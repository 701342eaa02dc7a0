//! How many connections somebody may have on this gateway at once.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

/// Counts what is held, by whom. Its memory is bounded by what is held.
pub(crate) struct ConcurrencyLimit<K> {
    held: Arc<DashMap<K, usize>>,
    /// 0 for no limit.
    most: usize,
}

/// One place, given back when the last copy is dropped.
#[derive(Clone)]
pub(crate) struct Slot<K: Eq + Hash>(#[expect(dead_code, reason = "held for its drop")] Arc<Held<K>>);

struct Held<K: Eq + Hash> {
    places: Arc<DashMap<K, usize>>,
    who: K,
}

impl<K: Clone + Eq + Hash> ConcurrencyLimit<K> {
    /// So many for each; 0 for no limit.
    pub(crate) fn new(most: usize) -> Self {
        Self { held: Arc::default(), most }
    }

    /// A place, unless all of theirs are taken.
    pub(crate) fn acquire(&self, who: &K) -> Option<Slot<K>> {
        let mut count = self.held.entry(who.clone()).or_insert(0);
        if self.most > 0 && *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Slot(Arc::new(Held { places: self.held.clone(), who: who.clone() })))
    }
}

impl<K: Eq + Hash> Drop for Held<K> {
    fn drop(&mut self) {
        // There is always an entry of whoever holds something.
        if let Some(mut count) = self.places.get_mut(&self.who) {
            *count -= 1;
        }
        self.places.remove_if(&self.who, |_, count| *count == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_when_it_is_dropped_and_nobody_is_remembered_then() {
        let places = ConcurrencyLimit::new(2);
        let first = places.acquire(&"alice");
        let second = places.acquire(&"alice").map(|place| [place.clone(), place]);
        assert!(first.is_some() && second.is_some());
        assert!(places.acquire(&"alice").is_none());
        assert!(places.acquire(&"bob").is_some());
        drop(first);
        let third = places.acquire(&"alice");
        assert!(third.is_some() && places.acquire(&"alice").is_none());
        drop((second, third));
        assert!(places.held.is_empty());
    }

    #[test]
    fn many_at_once_never_hold_more_than_allowed() {
        let places = Arc::new(ConcurrencyLimit::new(5));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        let _place = places.acquire(&0);
                        assert!(places.held.get(&0).is_none_or(|count| *count <= 5));
                    }
                });
            }
        });
        assert!(places.held.is_empty());
    }
}
