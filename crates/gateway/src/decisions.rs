//! What the store said of chats, kept in this process for as long as it may be trusted.
//!
//! A decision is *fresh* for a moment and then asked for anew. One that is up to five minutes old is better than waiting: a store that
//! is away or slow holds nobody up for longer than [`BRIEFLY`], and its answer, should it come, is kept for the next one to ask. What
//! has been forgotten because it changed is never filled in by a reading that began before, and never falls back to what it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_message::ChatId;
use holdfast_store::StoreError;
use moka::sync::Cache;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long a decision is taken for granted.
const FRESH: Duration = Duration::from_secs(2);
/// How long it holds while the store is away.
const HOLDS: Duration = Duration::from_secs(300);
/// How long somebody waits for the store who can do without.
pub const BRIEFLY: Duration = Duration::from_millis(50);
/// Readings under way at once. Beyond them, who has an old decision uses it, and who has none waits.
const MAX_READINGS: usize = 64;

/// Decisions by chat. Cheap to clone.
#[derive(Clone)]
pub struct Decisions<T: Clone + Send + Sync + 'static> {
    kept: Cache<ChatId, Kept<T>>,
    /// Rises whenever something is forgotten.
    forgotten: Arc<AtomicU64>,
    readings: Arc<Semaphore>,
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
        Self { kept, forgotten: Arc::default(), readings: Arc::new(Semaphore::new(MAX_READINGS)) }
    }

    /// The decision, if it is fresh.
    pub fn fresh(&self, chat: &ChatId) -> Option<T> {
        self.kept.get(chat).filter(|kept| kept.read_at.elapsed() < FRESH).map(|kept| kept.value)
    }

    /// The decision: a fresh one, else what `load` reads, else the last one. Where there is none, it waits with `patience` for
    /// `load`, which goes on beyond that.
    pub async fn get(
        &self,
        chat: &ChatId,
        patience: Duration,
        load: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        if let Some(fresh) = self.fresh(chat) {
            return Ok(fresh);
        }
        let patience = if self.kept.contains_key(chat) { BRIEFLY } else { patience };
        let read = timeout(patience, self.read(chat, load)).await;
        match read.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".into()))) {
            Err(error @ StoreError::Unavailable(_)) => self.kept.get(chat).map(|kept| kept.value).ok_or(error),
            answer => answer,
        }
    }

    async fn read(
        &self,
        chat: &ChatId,
        load: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let away = |_| StoreError::Unavailable("the reading was given up".into());
        let turn = self
            .readings
            .clone()
            .acquire_owned()
            .await
            .map_err(|closed| StoreError::Unavailable(closed.to_string()))?;
        let (decisions, chat) = (self.clone(), chat.clone());
        let reading = tokio::spawn(async move {
            let (before, read_at) = (decisions.forgotten.load(Ordering::Acquire), Instant::now());
            let value = load.await?;
            decisions.kept.insert(chat.clone(), Kept { value: value.clone(), read_at });
            if decisions.forgotten.load(Ordering::Acquire) != before {
                // It may be this one that has changed meanwhile.
                decisions.kept.invalidate(&chat);
            }
            drop(turn);
            Ok::<_, StoreError>(value)
        });
        reading.await.map_err(away)?
    }

    /// Something has changed: what is known of it holds no longer.
    pub fn forget(&self, chat: &ChatId) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.kept.invalidate(chat);
    }

    /// Something has changed, and this is what it is now.
    pub fn learn(&self, chat: &ChatId, value: T) {
        self.forgotten.fetch_add(1, Ordering::AcqRel);
        self.kept.insert(chat.clone(), Kept { value, read_at: Instant::now() });
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const PATIENTLY: Duration = Duration::from_secs(10);

    fn chat() -> ChatId {
        ChatId::parse("alice:bob").unwrap()
    }

    fn away() -> Result<u32, StoreError> {
        Err(StoreError::Unavailable("away".into()))
    }

    fn old(decisions: &Decisions<u32>, value: u32) {
        decisions.kept.insert(chat(), Kept { value, read_at: Instant::now().checked_sub(FRESH).unwrap() });
    }

    #[tokio::test]
    async fn a_decision_is_read_once_and_holds_while_the_store_is_away() {
        let decisions = Decisions::new(100, |_| 1);
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { away() }).await, away());
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { Ok(1) }).await, Ok(1));
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { Ok(2) }).await, Ok(1), "it is fresh");
        old(&decisions, 1);
        assert_eq!(decisions.fresh(&chat()), None);
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { away() }).await, Ok(1), "the last one holds");
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { Ok(2) }).await, Ok(2));
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_filled_in_by_an_older_reading() {
        let decisions = Decisions::new(100, |_| 1);
        let other = decisions.clone();
        let reading = async move {
            other.forget(&chat());
            Ok(1)
        };
        assert_eq!(decisions.get(&chat(), PATIENTLY, reading).await, Ok(1));
        assert_eq!(decisions.fresh(&chat()), None);
        assert_eq!(decisions.get(&chat(), PATIENTLY, async { away() }).await, away());
        decisions.learn(&chat(), 3);
        assert_eq!(decisions.fresh(&chat()), Some(3));
    }

    #[tokio::test]
    async fn a_slow_store_holds_up_nobody_who_has_an_old_decision_and_its_answer_is_kept() {
        let decisions = Decisions::new(100, |_| 1);
        old(&decisions, 1);
        for _ in 0..MAX_READINGS + 1 {
            // The turns are all taken in the end, too.
            assert_eq!(decisions.get(&chat(), PATIENTLY, pending()).await, Ok(1));
        }
        let decisions = Decisions::new(100, |_| 1);
        let (answer, answered) = tokio::sync::oneshot::channel();
        let reading = async { Ok(answered.await.unwrap()) };
        assert!(decisions.get(&chat(), BRIEFLY, reading).await.is_err());
        answer.send(7).unwrap();
        while decisions.fresh(&chat()).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(decisions.fresh(&chat()), Some(7));
    }
}
