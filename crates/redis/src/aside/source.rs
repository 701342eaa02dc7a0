//! What an aside cache caches: where its values come from, how long they live, and how answers look.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::names::Names;

/// The time for one load from a source.
pub const LOAD: Duration = Duration::from_secs(3);
/// How long a reader without the lease waits for the lease's holder, unless a [`Policy`] says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a source is not asked again for a key for which it has failed.
pub const RETRY: Duration = Duration::from_millis(500);
/// Concurrent refreshes in the background, for one [`Aside`](super::Aside); beyond it, later readers refresh.
pub const REFRESHES: usize = 64;
/// Concurrent loads, for one [`Aside`](super::Aside); more wait for their turn, and their time begins with it.
pub const LOADS: usize = 64;

/// Where the values of one kind come from.
pub trait Source: Send + Sync + 'static {
    /// What identifies a value for callers.
    type Key: Clone + Eq + Hash + Send + Sync + 'static;
    /// What is cached.
    type Value: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Why a load failed.
    type Error: Display + Send + Sync + 'static;

    /// How Redis names the values.
    type Names: Names;

    /// The `kind` label of the metrics.
    const NAME: &'static str;
    /// The version of the value's fields. It changes whenever a field is added, removed or moved.
    const SHAPE: u8;

    /// What identifies the value in Redis.
    fn cached(&self, key: &Self::Key) -> <Self::Names as Names>::Value;

    /// Loads values. Keys without a value are left out of the result.
    fn load(
        &self,
        keys: &[Self::Key],
    ) -> impl Future<Output = Result<HashMap<Self::Key, Self::Value>, Self::Error>> + Send;
}

/// How long entries live, and how much memory they may use. There is no default, because only the caller knows how old a value may be.
/// The README lists the policies of Holdfast's own kinds with their reasons.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// How long a value is fresh, that is, answered without a refresh. A change that bypasses [`Aside::invalidate`](super::Aside::invalidate) is seen after
    /// this time.
    pub fresh: Duration,
    /// The time to live of a value: after `fresh` it is stale, and answered only until a newer one is loaded. A value whose invalidation was given up, or was
    /// pending in a process that ended, may be wrong for this long.
    pub ttl: Duration,
    /// How long it is cached that the source has no value; zero: not at all.
    pub negative: Duration,
    /// The share of these times, 0 to 1, by up to which they are randomly shortened for each entry, so that entries that were loaded
    /// together do not expire together.
    pub jitter: f64,
    /// The approximate size of the first level (memory) in this process, in bytes; 0: no first level.
    pub memory_bytes: u64,
    /// How long a reader waits for Redis and for the holder of the lease before it loads by itself. A value that is loaded without a lease
    /// is cached in memory only.
    pub patience: Duration,
    /// How long after its load a value in memory is used even while this process may miss invalidations. Up to [`BOUND`](super::BOUND) this
    /// does not lengthen the time for which an invalidated value is served.
    pub unsubscribed_ttl: Duration,
}

/// How long a caller waits for a fresh value.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// If a stale value is known, which is the answer after this time.
    pub stale: Duration,
    /// If no value is known.
    pub nothing: Duration,
}

/// The answer to one key.
#[derive(Debug)]
pub struct Found<V> {
    /// The value; `None`: the source has none.
    pub value: Option<Arc<V>>,
    /// Whether the source may have a newer value.
    pub freshness: Freshness,
}

/// How current an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It was loaded less than [`Policy::fresh`] ago.
    Fresh,
    /// It is older: a refresh is in progress, or the source can't be asked.
    Stale {
        /// The time since it was loaded.
        age: Duration,
    },
}

/// Why there is no answer: nothing is cached, and the source did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AsideError<E> {
    /// The source failed, now or less than [`RETRY`] ago.
    #[error("{0}")]
    Source(Arc<E>),
    /// The source did not answer within [`LOAD`], or within the caller's [`Patience`].
    #[error("the source did not answer in time")]
    Unanswered,
}

/// The result of a warm-up. Every key counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Warmed {
    /// Keys whose values are in Redis now.
    pub warm: usize,
    /// Keys for which the source has no value; this is cached, too, for [`Policy::negative`].
    pub absent: usize,
    /// Keys that were loaded and are not in Redis: it did not take them, another process held the lease and did not fill them, they were
    /// invalidated meanwhile, or the policy caches nothing.
    pub unfilled: usize,
    /// Keys that could not be loaded.
    pub failed: usize,
}

/// The answer to one key, or why there is none.
pub type Answer<S> = Result<Found<<S as Source>::Value>, AsideError<<S as Source>::Error>>;

impl AddAssign for Warmed {
    fn add_assign(&mut self, more: Self) {
        self.warm += more.warm;
        self.absent += more.absent;
        self.unfilled += more.unfilled;
        self.failed += more.failed;
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
    /// How long an entry that is filled now is fresh, and its time to live; `None`: it is not cached.
    pub(super) fn life(&self, absent: bool) -> Option<(Duration, Duration)> {
        let shorter = |length: Duration| length.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * fastrand::f64());
        let (fresh, ttl) = if absent {
            let negative = shorter(self.negative);
            (negative, negative)
        } else {
            (shorter(self.fresh), shorter(self.ttl))
        };
        (!ttl.is_zero()).then_some((fresh.min(ttl), ttl))
    }
}
