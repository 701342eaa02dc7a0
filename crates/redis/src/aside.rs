//! A cache-aside cache with two levels: values of a source are cached in Redis for all processes and in memory for this one.
//!
//! [`Aside::get`] answers a key from the first of these that has it:
//!
//! 1. *The memory of this process*, bounded in bytes ([`Policy::memory_bytes`]). It is used only while this process is known to receive
//!    every invalidation (`aside/invalidation.rs`).
//! 2. *Redis.* A fresh entry is the answer. A stale entry is the answer, too, and is marked as stale; one reader of all processes
//!    refreshes it in the background. That the source has no value is cached for a shorter time.
//! 3. *The source.* Readers of one key in one process share one load (`aside/single_flight.rs`). Across processes a lease (`aside/lease.rs`) lets one of them
//!    load, while the others wait and read again, or load by themselves when that takes too long.
//!
//! While Redis is away a read costs its time limit, or nothing once the breaker is open, and is answered from the source: one load at a
//! time for each key and process. While the source fails, cached values remain the answer, and the source is not asked again for
//! [`RETRY`].
//!
//! [`Aside::invalidate`] is called *after* the source has changed. The entry disappears from Redis and from the memory of every process,
//! and a value that was loaded before can't be filled afterwards. Another process may serve the old value from memory until it receives
//! the invalidation: about one round trip, and never longer than [`BOUND`] after Redis took it. An invalidation that Redis did not take is
//! pending and is retried; meanwhile this process does not read that key from Redis, while other processes may serve the old value until
//! it expires. At most [`MAX_PENDING`] keys can be pending; further invalidations are given up and counted.
//!
//! A read that joins a load in progress gets its result, although the load may have begun up to [`LOAD`] earlier.
//!
//! [`Aside::get_fresh`] is for callers that would rather wait a little than get a stale value: it waits for the refresh.

mod backend;
mod fresh;
mod invalidation;
mod lease;
mod listen;
mod memory;
mod names;
mod publication;
mod single_flight;
mod source;

use std::sync::Arc;

pub use backend::{Backend, LEASE};
pub use invalidation::{BEACON, BOUND, MAX_PENDING};
pub use lease::{Entries, Fill, FillIntent, Held, Read, Token};
pub use names::Names;
pub use source::{
    Answer, AsideError, Found, Freshness, LOAD, LOADS, PATIENCE, Patience, Policy, REFRESHES, RETRY, Source, Warmed,
};

use crate::RedisError;
use invalidation::Listener as _;
use single_flight::SingleFlight;

/// How many keys are warmed together.
const WARM: usize = 100;

/// Values of one kind, by key. Cheap to clone.
pub struct Aside<S: Source> {
    single_flight: Arc<SingleFlight<S>>,
}

impl<S: Source> Aside<S> {
    /// Caches the values of this source by this policy. Must be called within a Tokio runtime.
    pub fn new(backend: &Backend<S::Names>, source: S, policy: Policy) -> Self {
        let single_flight = Arc::new(SingleFlight::new(backend.clone(), source, policy));
        backend.listen(single_flight.clone());
        Self { single_flight }
    }

    /// The value of one key.
    pub async fn get(&self, key: &S::Key) -> Answer<S> {
        match self.peek(key) {
            Some(found) => Ok(found),
            None => self
                .single_flight
                .clone()
                .fetch(std::slice::from_ref(key))
                .await
                .pop()
                .unwrap_or(Err(AsideError::Unanswered)),
        }
    }

    /// The value that the memory of this process has for a key, without waiting. `None`: call [`Aside::get`].
    pub fn peek(&self, key: &S::Key) -> Option<Found<S::Value>> {
        self.single_flight.remembered(key)
    }

    /// The values of many keys, in their order. Values that are not cached are loaded together.
    pub async fn get_many(&self, keys: &[S::Key]) -> Vec<Answer<S>> {
        let mut answers: Vec<_> = keys.iter().map(|key| self.peek(key).map(Ok)).collect();
        let missing: Vec<_> =
            keys.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(key, _)| key.clone()).collect();
        let mut fetched = self.single_flight.clone().fetch(&missing).await.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
            *answer = fetched.next();
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(AsideError::Unanswered))).collect()
    }

    /// The value of one key, fresh if that is possible in time: waits for a load in progress for as long as `patience` allows. A stale
    /// value is the answer when the source fails or takes too long; if there is no other, even one in memory whose invalidation this
    /// process may have missed.
    ///
    /// No answer is older than an invalidation that this process has made or received before it answers.
    pub async fn get_fresh(&self, key: &S::Key, patience: Patience) -> Answer<S> {
        let answers = self.get_many_fresh(std::slice::from_ref(key), patience);
        answers.await.pop().unwrap_or(Err(AsideError::Unanswered))
    }

    /// [`Aside::get_fresh`] for many keys at once, in their order.
    pub async fn get_many_fresh(&self, keys: &[S::Key], patience: Patience) -> Vec<Answer<S>> {
        self.single_flight.clone().fresh(keys, patience).await
    }

    /// Loads the values of these keys that are missing or stale. Returns when Redis has them or can't take them, with the number of
    /// keys for each result.
    pub async fn warm(&self, keys: &[S::Key]) -> Warmed {
        let mut warmed = Warmed::default();
        for chunk in keys.chunks(WARM) {
            warmed += self.single_flight.clone().settle(chunk).await;
        }
        warmed
    }

    /// Removes these keys from all caches of all processes. To be called after the source has changed.
    ///
    /// # Errors
    /// Redis did not take the invalidation. The memory of this process has, and the call is retried until Redis takes it.
    pub async fn invalidate(&self, keys: &[S::Key]) -> Result<(), RedisError> {
        let names: Vec<Arc<str>> = keys.iter().map(|key| self.single_flight.name(key)).collect();
        self.single_flight.backend().invalidate(&names).await
    }

    /// Removes these keys from the memory of this process, without a call to Redis; later readers do not join a load in progress. For
    /// callers that learn of a change before this process receives the invalidation.
    pub fn forget_here(&self, keys: &[S::Key]) {
        keys.iter().for_each(|key| self.single_flight.forget(&self.single_flight.name(key)));
    }
}

impl<S: Source> Clone for Aside<S> {
    fn clone(&self) -> Self {
        Self { single_flight: self.single_flight.clone() }
    }
}
