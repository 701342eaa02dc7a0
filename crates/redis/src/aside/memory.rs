//! The first level: entries in the memory of this process.
//!
//! An entry carries the *generation* that its key had before the entry was read. Forgetting a key increases its generation, and an entry
//! of another generation is not a hit. So a value that was read before an invalidation is not served after it, in whichever order the two
//! arrive here. Keys share generations, so that the number of generations is bounded; forgetting a key may also forget others, which costs
//! a read.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::source::{Found, Freshness};

/// The number of generations.
const STRIPES: usize = 4096;
/// The approximate memory of an entry beside its key and value, in bytes.
const OVERHEAD: usize = 200;
/// The interval at which one reader of a stale entry looks for a newer one.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Entries, bounded in bytes: the least and least recently used ones are evicted.
pub(super) struct Memory<V> {
    entries: Option<moka::sync::Cache<Arc<str>, Arc<Entry<V>>>>,
    generations: Box<[AtomicU64]>,
    hasher: RandomState,
    start: Instant,
}

/// A value and how long it may be used.
pub(super) struct Known<V> {
    /// The value; `None`: the source has none.
    pub(super) value: Option<Arc<V>>,
    /// The size of the encoded value, in bytes.
    pub(super) bytes: usize,
    /// When it was loaded.
    pub(super) filled: Instant,
    /// Until when it is fresh.
    pub(super) fresh_until: Instant,
    /// Until when it may be used at all.
    pub(super) expires_at: Instant,
}

struct Entry<V> {
    known: Known<V>,
    generation: u64,
    /// When the next reader looks for a newer one, in milliseconds since the start.
    due: AtomicU64,
}

/// A usable entry.
pub(super) struct Hit<V> {
    pub(super) found: Found<V>,
    /// The time since it was loaded.
    pub(super) age: Duration,
    /// Whether this reader has to look for a newer one.
    pub(super) due: bool,
}

impl<V: Send + Sync + 'static> Memory<V> {
    /// A memory of about this many bytes, which keeps an entry for at most `ttl`; 0: it keeps nothing.
    pub(super) fn new(bytes: u64, ttl: Duration) -> Self {
        let entries = (bytes > 0).then(|| {
            moka::sync::Cache::builder()
                .max_capacity(bytes)
                .weigher(|name: &Arc<str>, entry: &Arc<Entry<V>>| {
                    u32::try_from(name.len() + entry.known.bytes + OVERHEAD).unwrap_or(u32::MAX)
                })
                .time_to_live(ttl)
                .build()
        });
        let generations = (0..STRIPES).map(|_| AtomicU64::new(0)).collect();
        Self { entries, generations, hasher: RandomState::new(), start: Instant::now() }
    }

    /// The generation of a key. Callers ask for it before they read the value that they will put here.
    pub(super) fn generation(&self, name: &str) -> u64 {
        self.stripe(name).load(Ordering::Acquire)
    }

    pub(super) fn get(&self, name: &str, now: Instant) -> Option<Hit<V>> {
        let entry = self.entries.as_ref()?.get(name)?;
        let known = &entry.known;
        if entry.generation != self.generation(name) || now >= known.expires_at {
            return None;
        }
        let (fresh, at) = (now < known.fresh_until, self.millis(now));
        let due = entry.due.load(Ordering::Relaxed);
        // Only one of many readers looks.
        let due = at >= due
            && entry
                .due
                .compare_exchange(due, at + LOOK_AGAIN.as_millis() as u64, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        Some(Hit { found: known.found(fresh, now), age: now.saturating_duration_since(known.filled), due })
    }

    /// Stores a value that was read while the key had this generation; ignores it if the key has another one by now.
    pub(super) fn put(&self, name: &Arc<str>, generation: u64, known: Known<V>, now: Instant) {
        let Some(entries) = &self.entries else { return };
        if generation != self.generation(name) {
            return;
        }
        let again = if known.fresh_until > now { known.fresh_until } else { now + LOOK_AGAIN };
        let due = AtomicU64::new(self.millis(again));
        entries.insert(name.clone(), Arc::new(Entry { known, generation, due }));
    }

    /// Stops serving what was read of this key so far.
    pub(super) fn forget(&self, name: &str) {
        self.stripe(name).fetch_add(1, Ordering::AcqRel);
        if let Some(entries) = &self.entries {
            entries.invalidate(name);
        }
    }

    /// Stops serving what was read so far.
    pub(super) fn forget_all(&self) {
        for generation in &self.generations {
            generation.fetch_add(1, Ordering::AcqRel);
        }
        if let Some(entries) = &self.entries {
            entries.invalidate_all();
        }
    }

    /// The approximate number of entries and of bytes.
    pub(super) fn size(&self) -> (u64, u64) {
        self.entries.as_ref().map_or((0, 0), |entries| (entries.entry_count(), entries.weighted_size()))
    }

    fn stripe(&self, name: &str) -> &AtomicU64 {
        &self.generations[self.hasher.hash_one(name) as usize % STRIPES]
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }
}

impl<V> Known<V> {
    pub(super) fn found(&self, fresh: bool, now: Instant) -> Found<V> {
        let age = now.saturating_duration_since(self.filled);
        let freshness = if fresh { Freshness::Fresh } else { Freshness::Stale { age } };
        Found { value: self.value.clone(), freshness }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(value: u32, now: Instant) -> Known<u32> {
        let second = Duration::from_secs(1);
        Known {
            value: Some(Arc::new(value)),
            bytes: 4,
            filled: now,
            fresh_until: now + second,
            expires_at: now + 3 * second,
        }
    }

    fn value(memory: &Memory<u32>, name: &str, now: Instant) -> Option<u32> {
        memory.get(name, now).and_then(|hit| hit.found.value.as_deref().copied())
    }

    #[test]
    fn what_was_read_before_an_invalidation_is_not_served_after_it() {
        let (memory, now) = (Memory::new(1 << 20, Duration::from_secs(9)), Instant::now());
        let name: Arc<str> = "a".into();
        let before = memory.generation("a");
        memory.put(&name, before, known(1, now), now);
        assert_eq!(value(&memory, "a", now), Some(1));
        memory.forget("a");
        assert_eq!(value(&memory, "a", now), None);
        // The fill that lost the race.
        memory.put(&name, before, known(1, now), now);
        assert_eq!(value(&memory, "a", now), None);
        memory.put(&name, memory.generation("a"), known(2, now), now);
        assert_eq!(value(&memory, "a", now), Some(2));
        memory.forget_all();
        assert_eq!(value(&memory, "a", now), None);
    }

    #[test]
    fn a_stale_entry_is_said_to_be_stale_and_one_reader_looks_for_a_newer_one() {
        let (memory, now) = (Memory::new(1 << 20, Duration::from_secs(9)), Instant::now());
        memory.put(&"a".into(), memory.generation("a"), known(1, now), now);
        let hit = memory.get("a", now + Duration::from_millis(999)).unwrap();
        assert_eq!((hit.found.freshness, hit.due), (Freshness::Fresh, false));
        let late = now + Duration::from_millis(1500);
        let due: Vec<_> = (0..9).map(|_| memory.get("a", late).unwrap().due).collect();
        assert_eq!(due.iter().filter(|due| **due).count(), 1);
        let stale = memory.get("a", late).unwrap().found.freshness;
        assert_eq!(stale, Freshness::Stale { age: Duration::from_millis(1500) });
        assert!(memory.get("a", late + LOOK_AGAIN).unwrap().due);
        assert!(memory.get("a", now + Duration::from_secs(3)).is_none());
    }

    #[test]
    fn its_size_is_bounded_in_bytes() {
        let (memory, now) = (Memory::new(10_000, Duration::from_secs(9)), Instant::now());
        for number in 0..1000 {
            let name: Arc<str> = format!("key {number}").into();
            memory.put(&name, memory.generation(&name), known(number, now), now);
        }
        memory.entries.as_ref().unwrap().run_pending_tasks();
        let (entries, bytes) = memory.size();
        assert!(bytes <= 10_000 && entries > 20, "{entries} entries of {bytes} bytes");
        let nothing = Memory::new(0, Duration::from_secs(9));
        nothing.put(&"a".into(), nothing.generation("a"), known(1, now), now);
        assert_eq!(value(&nothing, "a", now), None);
    }
}
