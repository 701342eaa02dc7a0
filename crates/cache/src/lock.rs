//! Locks over all processes: an optimisation, not a safety device.
//!
//! A lock says who should do something, so that a thousand processes do not do the same; nothing may break when two of them do.
//! Two owners at once are possible: the first was stopped, or cut off, for longer than its lock lived; its request was delayed by
//! as long; the cache was emptied, failed over to a replica that did not have the lock, or its clock was moved. A guard tells its
//! owner as soon as it can't be sure any more ([`LockGuard::lost`]), by this process's own clock, and for the rest there is expiry.
//!
//! A lock is a key with its owner's random token, set if absent and with a life of `ttl`. While its guard lives, the life is begun anew
//! three times in each `ttl`; dropping the guard gives the lock up. Only the owner can do either: scripts compare the token first.
//!
//! Several locks are taken all or none, one after the other in byte order. So of those who want the same ones somebody always
//! gets the first of them and goes on; who finds one held gives up what he has before he waits.

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

use crate::CacheError;
use crate::client::Client;
use crate::keys::{Keys, LockName};
use crate::metrics::CacheMetrics;

use claim::Claim;
pub use server::LockServer;

/// How long locks live, and how they are waited for.
#[derive(Debug, Clone, Copy)]
pub struct LockSettings {
    /// How long a lock outlives an owner that says nothing any more.
    pub ttl: Duration,
    /// How long to wait before trying again, give or take half of it.
    pub retry_delay: Duration,
    /// How often to try again.
    pub max_retries: u32,
}

impl Default for LockSettings {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(30), retry_delay: Duration::from_millis(100), max_retries: 3 }
    }
}

/// Takes locks. Cheap to clone.
#[derive(Clone)]
pub struct Locks<S = Client> {
    server: S,
    keys: Keys,
    settings: LockSettings,
    active: IntGauge,
}

impl<S: LockServer> Locks<S> {
    /// Locks on this server.
    pub fn new(server: S, keys: Keys, settings: LockSettings, metrics: &CacheMetrics) -> Self {
        Self { server, keys, settings, active: metrics.locks.clone() }
    }

    /// Takes all of these locks, trying again for a while; `None`: somebody else holds one of them.
    ///
    /// # Errors
    /// The cache did not help, so nobody can say who holds them.
    pub async fn acquire(&self, names: &[LockName]) -> Result<Option<LockGuard<S>>, CacheError> {
        for attempt in 0..=self.settings.max_retries {
            if attempt > 0 {
                sleep(self.settings.retry_delay.mul_f64(0.5 + fastrand::f64())).await;
            }
            if let Some(guard) = self.try_acquire(names).await? {
                return Ok(Some(guard));
            }
        }
        Ok(None)
    }

    /// As [`Locks::acquire`], without waiting for anybody.
    ///
    /// # Errors
    /// As there.
    pub async fn try_acquire(&self, names: &[LockName]) -> Result<Option<LockGuard<S>>, CacheError> {
        let mut wanted: Vec<&LockName> = names.iter().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let asked = Instant::now();
        // Whatever ends this early, a cancellation too, drops the claim and so gives up what was taken.
        let mut claim = Claim::new(self.server.clone(), self.settings.ttl);
        for name in &wanted {
            if !claim.take(self.keys.lock(name)).await? {
                return Ok(None);
            }
        }
        // The server counts from when it took the first of them, which was later than this. If that took a whole life, others have it.
        let belief = Belief::until(asked + believed(self.settings.ttl));
        Ok(belief.is_held().then(|| LockGuard::new(claim, belief, Active::new(&self.active, wanted.len()))))
    }
}

/// How long an owner may believe in a lock of this life, counted from before it asked: a hundredth less, for clocks that do not go
/// at the same speed.
fn believed(ttl: Duration) -> Duration {
    ttl - ttl / 100
}

/// Holds locks, and renews them until it is dropped.
#[must_use = "a guard that is dropped gives its locks up"]
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

    /// Whether the locks are this guard's, as far as anybody can know. Once they are not, they never are again.
    pub fn is_held(&self) -> bool {
        self.belief.is_held()
    }

    /// Waits until the locks are no longer known to be this guard's: they expired or were taken away, or the cache did not answer
    /// for as long as they live. Whoever does under a lock what must not be done twice stops here.
    pub async fn lost(&self) {
        self.belief.lost.cancelled().await;
    }

    /// Gives the locks up, and says whether they were this guard's until now. A guard that is dropped does so in the background.
    ///
    /// # Errors
    /// The cache did not answer; the locks expire.
    pub async fn release(mut self) -> Result<bool, CacheError> {
        self.renewal.abort();
        self.claim.release().await
    }
}

impl<S: LockServer> Drop for LockGuard<S> {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

/// Until when an owner may believe that its locks are its own. Cheap to clone; clones are the same belief.
#[derive(Clone)]
struct Belief {
    until: Arc<Mutex<Instant>>,
    lost: CancellationToken,
}

impl Belief {
    fn until(until: Instant) -> Self {
        Self { until: Arc::new(Mutex::new(until)), lost: CancellationToken::new() }
    }

    /// Looks at the clock too: a process that was stopped asks before its renewal has noticed.
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

/// Begins the life of locks anew again and again, until that fails for as long as they live.
async fn renew<S: LockServer>(owner: claim::Owner<S>, belief: Belief, active: Active) {
    let mut wait = owner.ttl / 3;
    loop {
        let end = belief.end();
        sleep_until((Instant::now() + wait).min(end)).await;
        let asked = Instant::now();
        match timeout_at(end, owner.extend()).await {
            // An answer that comes when the belief has ended is late: nobody is told that what was lost is held again.
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

/// Counts locks as held.
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
