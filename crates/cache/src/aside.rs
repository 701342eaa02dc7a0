//! Cache-aside on two levels: what was loaded from a source, kept in Redis for all processes and in memory for this one.
//!
//! [`Aside::get`] takes a key and gives what its [`Source`] has for it, at best without asking the source:
//!
//! 1. *This process's memory*, bounded in bytes ([`Policy::memory_bytes`]). It is used only while this process is known to hear
//!    every invalidation ([`backend`]).
//! 2. *Redis.* A fresh entry is the answer. A stale one is the answer too, said to be stale, and one reader of all processes loads
//!    it anew in the background. That the source has nothing is kept as well, for a shorter time.
//! 3. *The source.* Readers of one key in one process share one flight; over all processes a [`lease`] lets one of them load, while
//!    the others wait a little and read again, or load for themselves when that takes too long.
//!
//! With Redis away a read costs its budget, and nothing once the breaker is open; it is answered from the source, one load at a
//! time for a key and process. When the source fails, what is cached stays and is the answer, and the source is left alone for
//! [`RETRY`].
//!
//! [`Aside::invalidate`] is for whoever changes the source, *after* the change: the entry goes in Redis and in every memory, and
//! what was loaded before is not filled after. In another process memory may serve the old value until it hears of it: about a
//! round trip, and never longer than [`BOUND`](backend::BOUND) after Redis took the invalidation. If Redis does not take it, it is owed
//! and repeated; meanwhile this process does without Redis for that key, while others may see the old value until it expires. As
//! many keys as [`MAX_OWED`](backend::MAX_OWED) may be owed; of more, the invalidations are given up and counted.
//!
//! A read that has joined a flight gets what the flight found, which may have begun before the read did, by [`LOAD`] at most.
//!
//! [`Aside::get_fresh`] is for whoever would rather wait a little than be told what was: it follows a stale value's flight to its end.

pub mod backend;
pub mod lease;
pub mod metrics;

mod flight;
mod fresh;
mod listen;
mod memory;

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::CacheError;
use crate::keys::Cached;
use backend::{Backend, Listener as _};
use flight::Flights;

pub(crate) use metrics::AsideMetrics;

/// How long a load may take.
pub const LOAD: Duration = Duration::from_secs(3);
/// How long those who did not get the lease wait for those who did, unless a [`Policy`] says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a source that failed for a key is not asked for it again.
pub const RETRY: Duration = Duration::from_millis(500);
/// Keys that are warmed together.
const WARM: usize = 100;
/// Refreshes in the background at once, for one [`Aside`]; more are left to later readers.
pub const REFRESHES: usize = 64;
/// Loads at once, for one [`Aside`]; more take their turn, and their time begins with it.
pub const LOADS: usize = 64;

/// Where values come from.
pub trait Source: Send + Sync + 'static {
    /// What names a value.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is cached.
    type Value: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Why it could not be loaded.
    type Error: Display + Send + Sync + 'static;

    /// The name of this kind of values in metrics.
    const NAME: &'static str;
    /// The version of the value's fields: another one for every field that comes, goes or moves.
    const SHAPE: u8;

    /// What the key names in Redis.
    fn cached(&self, key: &Self::Key) -> Cached;

    /// Loads values; keys without one are left out.
    fn load(
        &self,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Value>, Self::Error>> + Send;
}

/// How long entries live, and what memory they may take. There is no default: how old a value may be is the caller's to say. The
/// README has those of Holdfast's own kinds, with the reasons.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a value is fresh: answered without a second look. What bypasses [`Aside::invalidate`] is seen after this.
    pub fresh: Duration,
    /// How long a value is kept: beyond `fresh` it is stale, and better than nothing. It is also how long a value may be wrong whose
    /// invalidation was given up, or was owed by a process that ended.
    pub ttl: Duration,
    /// How long it is kept that the source has nothing; not at all with zero.
    pub negative: Duration,
    /// The part of these times, 0 to 1, by up to which each entry's are shorter, so that what was loaded together does not expire
    /// together.
    pub jitter: f64,
    /// What the first level may take in this process, about; with 0 there is none.
    pub memory_bytes: u64,
    /// How long Redis is waited for, and whoever holds the lease, before a reader loads for itself. What is loaded without a lease
    /// fills memory alone.
    pub patience: Duration,
    /// How long after its load a value in memory is used although invalidations may go unheard; up to [`BOUND`](backend::BOUND) no
    /// value is served for longer after its invalidation than otherwise.
    pub unheard: Duration,
}

/// How long somebody who wants a fresh value waits for it.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Where something older is known, which is the answer then.
    pub stale: Duration,
    /// Where nothing is.
    pub nothing: Duration,
}

/// An answer.
#[derive(Debug)]
pub struct Found<V> {
    /// The value; `None`: the source has nothing.
    pub value: Option<Arc<V>>,
    /// Whether the source may have something newer.
    pub freshness: Freshness,
}

/// How an answer stands to the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// As the source was within [`Policy::fresh`].
    Fresh,
    /// Older: it is being loaded anew, or the source can't be asked.
    Stale {
        /// When it was loaded.
        age: Duration,
    },
}

/// Why there is no answer: nothing is cached, and the source gave nothing either.
#[derive(Debug, thiserror::Error)]
pub enum AsideError<E> {
    /// The source failed, now or less than [`RETRY`] ago.
    #[error("{0}")]
    Source(Arc<E>),
    /// The source did not answer within [`LOAD`], or the reader's [`Patience`] was at an end.
    #[error("the source did not answer in time")]
    Unanswered,
}

/// What a warming came to. Every key counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Keys whose values are in Redis now.
    pub warm: usize,
    /// Keys that the source has nothing for; that is kept, too, for [`Policy::negative`].
    pub absent: usize,
    /// Keys that were loaded and are not in Redis: it did not take them, somebody else held the lease and did not fill them, they were
    /// invalidated meanwhile, or the policy keeps nothing.
    pub unfilled: usize,
    /// Keys that could not be loaded.
    pub failed: usize,
}

/// Values of one kind, by key. Cheap to clone.
pub struct Aside<S: Source> {
    flights: Arc<Flights<S>>,
}

/// An answer to one key.
pub type Answer<S> = Result<Found<<S as Source>::Value>, AsideError<<S as Source>::Error>>;

impl<S: Source> Aside<S> {
    /// Values of this source, cached by this policy. Must be called within a Tokio runtime.
    pub fn new(backend: &Backend, source: S, policy: Policy) -> Self {
        let flights = Arc::new(Flights::new(backend.clone(), source, policy));
        backend.listen(flights.clone());
        Self { flights }
    }

    /// The value of one key.
    pub async fn get(&self, key: &S::Key) -> Answer<S> {
        match self.peek(key) {
            Some(found) => Ok(found),
            None => {
                self.flights.clone().fetch(std::slice::from_ref(key)).await.pop().unwrap_or(Err(AsideError::Unanswered))
            }
        }
    }

    /// What this process's memory has for a key, without waiting for anything; `None`: it has to be asked for by [`Aside::get`].
    pub fn peek(&self, key: &S::Key) -> Option<Found<S::Value>> {
        self.flights.remembered(key)
    }

    /// The values of many keys, in their order. What is cached nowhere is loaded at once.
    pub async fn get_many(&self, keys: &[S::Key]) -> Vec<Answer<S>> {
        let mut answers: Vec<_> = keys.iter().map(|key| self.peek(key).map(Ok)).collect();
        let missing: Vec<_> =
            keys.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(key, _)| key.clone()).collect();
        let mut fetched = self.flights.clone().fetch(&missing).await.into_iter();
        for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
            *answer = fetched.next();
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(AsideError::Unanswered))).collect()
    }

    /// The value of one key, fresh if it can be had in time: nothing stale is answered while a load is under way that one has the
    /// patience for. What is stale is the answer when the source fails, or takes too long; then, should memory know nothing that
    /// may be used, even what it knows and may have been invalidated unheard.
    ///
    /// No answer is older than an invalidation that this process has heard of, or made, before it is given.
    pub async fn get_fresh(&self, key: &S::Key, patience: Patience) -> Answer<S> {
        let answers = self.get_many_fresh(std::slice::from_ref(key), patience);
        answers.await.pop().unwrap_or(Err(AsideError::Unanswered))
    }

    /// [`Aside::get_fresh`] for many keys at once, in their order.
    pub async fn get_many_fresh(&self, keys: &[S::Key], patience: Patience) -> Vec<Answer<S>> {
        self.flights.clone().fresh(keys, patience).await
    }

    /// Sees to it that these keys are cached: what is missing or stale is loaded. It returns when Redis has it, or can't have it, and
    /// says of how many keys which is so.
    pub async fn warm(&self, keys: &[S::Key]) -> Warmed {
        let mut warmed = Warmed::default();
        for chunk in keys.chunks(WARM) {
            warmed += self.flights.clone().settle(chunk).await;
        }
        warmed
    }

    /// Forgets what is cached for these keys, here and everywhere. To be called after the source was changed.
    ///
    /// # Errors
    /// Redis did not take it. This process has forgotten all the same, and repeats the call until Redis takes it.
    pub async fn invalidate(&self, keys: &[S::Key]) -> Result<(), CacheError> {
        let names: Vec<Arc<str>> = keys.iter().map(|key| self.flights.name(key)).collect();
        self.flights.backend().invalidate(&names).await
    }

    /// Forgets what this process's memory has for these keys, and lets nobody join what is being loaded: for who has heard of a change
    /// before the invalidation reached this process. Redis is not asked.
    pub fn forget_here(&self, keys: &[S::Key]) {
        keys.iter().for_each(|key| self.flights.forget(&self.flights.name(key)));
    }
}

impl AddAssign for Warmed {
    fn add_assign(&mut self, more: Self) {
        self.warm += more.warm;
        self.absent += more.absent;
        self.unfilled += more.unfilled;
        self.failed += more.failed;
    }
}

impl<S: Source> Clone for Aside<S> {
    fn clone(&self) -> Self {
        Self { flights: self.flights.clone() }
    }
}

impl<V> Clone for Found<V> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), freshness: self.freshness }
    }
}

impl<E> Clone for AsideError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Source(error) => Self::Source(error.clone()),
            Self::Unanswered => Self::Unanswered,
        }
    }
}

impl Policy {
    /// How long an entry filled now is fresh, and how long it is kept; `None`: not at all.
    fn life(&self, absent: bool) -> Option<(Duration, Duration)> {
        let shorter = |length: Duration| length.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * fastrand::f64());
        let (fresh, kept) = if absent {
            let negative = shorter(self.negative);
            (negative, negative)
        } else {
            (shorter(self.fresh), shorter(self.ttl))
        };
        (!kept.is_zero()).then_some((fresh.min(kept), kept))
    }
}
