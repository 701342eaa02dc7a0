//! Locks across processes: an optimisation, not a safety device.
//!
//! A lock decides which of many processes does some work, so that they do not all do it. Nothing may break when two of them do: two
//! owners at once are possible. The first owner was suspended or cut off for longer than its lock lives; its request was delayed that
//! long; the server was flushed, failed over to a replica without the lock, or its clock was changed. A guard reports as soon as it can
//! no longer be sure that the lock is its own ([`LockGuard::lost`]), by the clock of this process; otherwise the lock expires.
//!
//! A lock is a key that holds its owner's random token. It is set if absent and expires after `ttl`. While its guard lives, the time to
//! live is refreshed three times in each `ttl`; dropping the guard releases the lock. Scripts compare the token first, so only the owner
//! can do either.
//!
//! Several locks are taken all or none, one after the other in the byte order of their keys. Of several processes that want the same
//! locks, one always gets the first and goes on; a process that finds a lock held releases what it has before it waits.

mod claim;
#[cfg(test)]
mod model;
mod server;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::IntGauge;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::RedisError;
use crate::client::Client;
use crate::metrics::RedisMetrics;

use claim::Claim;
pub use server::LockServer;

/// How long locks live, and how callers wait for them.
#[derive(Debug, Clone, Copy)]
pub struct LockSettings {
    /// How long a lock outlives an owner that has stopped refreshing it.
    pub ttl: Duration,
    /// The average wait before another attempt; the jitter is half of it.
    pub retry_delay: Duration,
    /// How many further attempts there are.
    pub max_retries: u32,
}

impl Default for LockSettings {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), retry_delay: Duration::from_millis(100), max_retries: 3 }
    }
}

/// Takes locks. Cheap to clone.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::{LockSettings, Locks};
///
/// let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// let locks = Locks::new(client, LockSettings { max_retries: 0, ..LockSettings::default() }, &metrics);
/// // All of them or none.
/// let held = locks.acquire(&["lock:alice".into(), "lock:bob".into()]).await?.ok_or("somebody else holds one")?;
/// assert!(locks.acquire(&["lock:bob".into(), "lock:carol".into()]).await?.is_none());
/// assert!(locks.acquire(&["lock:carol".into()]).await?.is_some());
/// assert!(held.is_held());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Locks<S = Client> {
    server: S,
    settings: LockSettings,
    active: IntGauge,
}

impl<S: LockServer> Locks<S> {
    /// Locks on this server.
    pub fn new(server: S, settings: LockSettings, metrics: &RedisMetrics) -> Self {
        Self { server, settings, active: metrics.locks.clone() }
    }

    /// Takes all of these locks, each named by its key, with several attempts. `None`: another owner holds one of them.
    ///
    /// # Errors
    /// The server did not answer, so it is not known who holds them.
    pub async fn acquire(&self, keys: &[String]) -> Result<Option<LockGuard<S>>, RedisError> {
        for attempt in 0..=self.settings.max_retries {
            if attempt > 0 {
                sleep(self.settings.retry_delay.mul_f64(0.5 + fastrand::f64())).await;
            }
            if let Some(guard) = self.try_acquire(keys).await? {
                return Ok(Some(guard));
            }
        }
        Ok(None)
    }

    /// As [`Locks::acquire`], with one attempt.
    ///
    /// # Errors
    /// As [`Locks::acquire`].
    pub async fn try_acquire(&self, keys: &[String]) -> Result<Option<LockGuard<S>>, RedisError> {
        let mut wanted: Vec<&String> = keys.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let asked = Instant::now();
        // Whatever ends this early, a cancellation too, drops the claim and so releases what was taken.
        let mut claim = Claim::new(self.server.clone(), self.settings.ttl);
        for key in &wanted {
            if !claim.take((*key).clone()).await? {
                return Ok(None);
            }
        }
        // The server counts from when it set the first key, which is later than this. If that took a whole `ttl`, others have it.
        let belief = Belief::until(asked + believed(self.settings.ttl));
        Ok(belief.is_held().then(|| LockGuard::new(claim, belief, Active::new(&self.active, wanted.len()))))
    }
}

/// How long an owner may believe that it holds a lock, counted from before its request: 1 % less than the lock lives, because clocks
/// do not run at the same speed.
fn believed(ttl: Duration) -> Duration {
    ttl - ttl / 100
}

/// Holds locks and refreshes them until it is dropped.
#[must_use = "dropping a guard releases its locks"]
pub struct LockGuard<S: LockServer = Client> {
    claim: Claim<S>,
    belief: Belief,
    renewal: AbortHandle,
}

impl<S: LockServer> LockGuard<S> {
    fn new(claim: Claim<S>, belief: Belief, active: Active) -> Self {
        let renewal = renew(claim.owner().clone(), belief.clone(), active);
        Self { claim, belief, renewal: tokio::spawn(renewal).abort_handle() }
    }

    /// Whether this guard holds its locks, as far as this process can know. Once it does not, it never does again.
    pub fn is_held(&self) -> bool {
        self.belief.is_held()
    }

    /// Waits until the locks are no longer known to be this guard's: they expired, were taken away, or the server did not answer for as
    /// long as they live. Work that should not be done twice stops here.
    pub async fn lost(&self) {
        self.belief.lost.cancelled().await;
    }

    /// Releases the locks. Returns whether this guard held them until now. Dropping a guard releases them in the background.
    ///
    /// # Errors
    /// The server did not answer; the locks expire.
    pub async fn release(mut self) -> Result<bool, RedisError> {
        self.renewal.abort();
        self.claim.release().await
    }
}

impl<S: LockServer> Drop for LockGuard<S> {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Until when an owner may believe that it holds its locks. Cheap to clone; clones are the same belief.
#[derive(Clone)]
struct Belief {
    until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
}

impl Belief {
    fn until(until: Instant) -> Self {
        Self { until: Arc::new(Mutex::new(until)), lost: CancellationToken::new() }
    }

    /// Reads the clock, too: a process that was suspended asks before its renewal task has run again.
    fn is_held(&self) -> bool {
        !self.lost.is_cancelled() && Instant::now() < self.end()
    }

    fn end(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prolong(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Refreshes locks until that has failed for as long as they live.
async fn renew<S: LockServer>(owner: claim::Owner<S>, belief: Belief, active: Active) {
    let mut wait = owner.ttl / 3;
    loop {
        let end = belief.end();
        sleep_until((Instant::now() + wait).min(end)).await;
        let asked = Instant::now();
        match timeout_at(end, owner.extend()).await {
            // An answer after the belief has ended is too late: a lock that was reported lost stays lost.
            Ok(Ok(true)) if belief.is_held() => {
                belief.prolong(asked + believed(owner.ttl));
                wait = owner.ttl / 3;
            }
            Ok(Err(_)) if belief.is_held() => wait = owner.ttl / 20,
            _ => break,
        }
    }
    drop(active);
    belief.lost.cancel();
}

/// Counts locks as held until it is dropped.
struct Active {
    gauge: IntGauge,
    count: i64,
}

impl Active {
    fn new(gauge: &IntGauge, locks: usize) -> Self {
        let count = i64::try_from(locks).unwrap_or(i64::MAX);
        gauge.add(count);
        Self { gauge: gauge.clone(), count }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.gauge.sub(self.count);
    }
}
