//! What the store said of chats, kept in this process for as long as it may be trusted.
//!
//! A decision is *fresh* for a moment and then asked for anew; while the store is away, one that is up to five minutes old still
//! holds. What has been forgotten because it changed is never filled in by a reading that began before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_message::ChatId;
use holdfast_store::StoreError;
use moka::sync::Cache;

/// How long a decision is taken for granted.
const FRESH: Duration = Duration::from_secs(2);
/// How long it holds while the store is away.
const HOLDS: Duration = Duration::from_secs(300);

/// Decisions by chat. Cheap to clone.
#[derive(Clone)]
pub struct Decisions<T: Clone + Send + Sync + 'static> {
    kept: Cache<ChatId, Kept<T>>,
    /// Rises whenever something is forgotten.
    forgotten: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Kept<T> {
    value: T,
    read_at: Instant,
}

impl<T: Clone + Send + Sync + 'static> Decisions<T> {
    /// Keeps decisions up to a total weight; those that were not asked for lately go first.
    pub fn new(capacity: u64, weigh: fn(&T) -> u32) -> Self {
        let kept = Cache::builder()
            .max_capacity(capacity)
            .weigher(move |_, kept: &Kept<T>| weigh(&kept.value))
            .time_to_live(HOLDS)
            .build();
        Self { kept, forgotten: Arc::default() }
    }

    /// The decision, if it is fresh.
    pub fn fresh(&self, chat: &ChatId) -> Option<T> {
        self.kept.get(chat).filter(|kept| kept.read_at.elapsed() < FRESH).map(|kept| kept.value)
    }

    /// The decision: a fresh one, else what `load` reads, else, while the store is away, the last one.
    pub async fn get(&self, chat: &ChatId, load: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if let Some(fresh) = self.fresh(chat) {
            return Ok(fresh);
        }
        let (before, read_at) = (self.forgotten.load(Ordering::Acquire), Instant::now());
        match load.await {
            Ok(value) => {
                self.kept.insert(chat.clone(), Kept { value: value.clone(), read_at });
                if self.forgotten.load(Ordering::Acquire) != before {
                    // It may be this one that has changed meanwhile.
                    self.kept.invalidate(chat);
                }
                Ok(value)
            }
            Err(error @ StoreError::Unavailable(_)) => self.kept.get(chat).map(|kept| kept.value).ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Something has changed: what is known of it holds no longer.
    pub fn forget(&self, chat: &ChatId) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.kept.invalidate(chat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat() -> ChatId {
        ChatId::parse("alice:bob").unwrap()
    }

    fn away() -> Result<u32, StoreError> {
        Err(StoreError::Unavailable("away".into()))
    }

    #[tokio::test]
    async fn a_decision_is_read_once_and_holds_while_the_store_is_away() {
        let decisions = Decisions::new(100, |_| 1);
        assert_eq!(decisions.get(&chat(), async { away() }).await, away());
        assert_eq!(decisions.get(&chat(), async { Ok(1) }).await, Ok(1));
        assert_eq!(decisions.get(&chat(), async { Ok(2) }).await, Ok(1), "it is fresh");
        decisions.kept.insert(chat(), Kept { value: 1, read_at: Instant::now().checked_sub(FRESH).unwrap() });
        assert_eq!(decisions.fresh(&chat()), None);
        assert_eq!(decisions.get(&chat(), async { away() }).await, Ok(1), "the last one holds");
        assert_eq!(decisions.get(&chat(), async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_filled_in_by_an_older_reading() {
        let decisions = Decisions::new(100, |_| 1);
        let reading = async {
            decisions.forget(&chat());
            Ok(1)
        };
        assert_eq!(decisions.get(&chat(), reading).await, Ok(1));
        assert_eq!(decisions.fresh(&chat()), None);
        assert_eq!(decisions.get(&chat(), async { away() }).await, away());
    }
}
