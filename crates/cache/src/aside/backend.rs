//! What the aside caches of one process share: Redis behind its breaker, and hearing what is invalidated.
//!
//! # When memory may be used
//!
//! Every invalidation is published in the step in which Redis takes it. Each process publishes a beacon every [`BEACON`], which says
//! when it was sent, and hears it on the connection on which it hears the invalidations. Redis delivers in order; so whoever has
//! heard a beacon has heard everything that Redis took before that beacon was sent. Memory is used while the last beacon heard is
//! younger than [`BOUND`], and a hit is therefore never older than what Redis held [`BOUND`] ago. Nothing rests on noticing that
//! a connection broke. A new subscription empties memory before it can hear its first beacon.
//!
//! With Redis Cluster a publication travels between nodes, and may come later than a beacon from another node by as much as the
//! nodes' bus is behind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::lease::{Entries, Fill, Read, Token, Wish};
use super::{AsideMetrics, listen};
use crate::breaker::Breaker;
use crate::connection::Connection;
use crate::keys::Keys;
use crate::{CacheError, CacheMetrics};

/// How often the beacon is sent.
pub const BEACON: Duration = Duration::from_millis(500);
/// How long after an invalidation the memory of another process may serve the old value.
pub const BOUND: Duration = Duration::from_secs(2);

/// How long a lease lasts: a load, and the calls around it.
const LEASE: Duration = Duration::from_secs(5);
/// Invalidations that may be owed; more are given up, and old values live until they expire.
const MAX_OWED: usize = 10_000;

/// What a backend is told.
#[derive(Debug, Clone, Copy)]
pub struct BackendSettings {
    /// What Redis has for one call on a reader's path.
    pub budget: Duration,
    /// Keys in one round trip, and in one load when warming.
    pub batch: usize,
}

impl Default for BackendSettings {
    fn default() -> Self {
        Self { budget: Duration::from_millis(50), batch: 100 }
    }
}

/// What the aside caches of one process share. Cheap to clone; it stops hearing with the last clone.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

pub(super) struct Shared {
    pub(super) connection: Connection,
    pub(super) entries: Entries,
    pub(super) metrics: AsideMetrics,
    /// Where invalidations are published, and the beacon.
    pub(super) channel: String,
    pub(super) beacon: String,
    breaker: Breaker,
    settings: BackendSettings,
    start: Instant,
    /// When the last beacon heard was sent, in milliseconds since the start; 0: none is known.
    heard: AtomicU64,
    listeners: RwLock<Vec<Weak<dyn Listener>>>,
    owed: Mutex<Owed>,
}

/// Keys whose invalidation Redis has not taken yet. The number tells one invalidation of a key from a later one.
#[derive(Default)]
struct Owed {
    names: HashMap<Arc<str>, u64>,
    last: u64,
}

/// Who has something to forget.
pub(super) trait Listener: Send + Sync {
    fn forget(&self, name: &str);
    fn forget_all(&self);
    /// Called now and then, to say in the metrics how large it is.
    fn measure(&self);
}

impl Backend {
    /// Starts listening in the background. Must be called within a Tokio runtime.
    pub fn start(connection: Connection, breaker: Breaker, keys: &Keys, settings: BackendSettings) -> Self {
        let channel = keys.invalidations();
        let shared = Arc::new(Shared {
            entries: Entries::new(connection.clone(), channel.clone()),
            metrics: connection.metrics().aside.clone(),
            beacon: keys.beacon(&format!("aside-{:016x}", fastrand::u64(..))),
            connection,
            channel,
            breaker,
            settings: BackendSettings { batch: settings.batch.max(1), ..settings },
            start: Instant::now(),
            heard: AtomicU64::new(0),
            listeners: RwLock::default(),
            owed: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen::run(shared.clone())));
        Self { shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Whether the first level is in use: every invalidation that is older than [`BOUND`] has been heard.
    pub fn hears(&self) -> bool {
        self.shared.hears(Instant::now())
    }

    /// Invalidations that Redis has yet to take.
    pub fn owed(&self) -> usize {
        self.shared.owed().names.len()
    }

    pub(super) fn batch(&self) -> usize {
        self.shared.settings.batch
    }

    pub(super) fn cache_metrics(&self) -> &CacheMetrics {
        self.shared.connection.metrics()
    }

    pub(super) fn metrics(&self) -> &AsideMetrics {
        &self.shared.metrics
    }

    pub(super) fn hears_at(&self, now: Instant) -> bool {
        self.shared.hears(now)
    }

    pub(super) fn listen(&self, listener: Arc<impl Listener + 'static>) {
        let listener: Arc<dyn Listener> = listener;
        let mut listeners = self.shared.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
    }

    /// What Redis holds; `None` where it can't be asked.
    pub(super) async fn read(&self, wishes: &[(&str, Wish)]) -> Vec<Option<Read>> {
        let mut reads = Vec::with_capacity(wishes.len());
        for chunk in wishes.chunks(self.shared.settings.batch) {
            // What Redis holds of a key whose invalidation it has not taken is no answer.
            let owed: Vec<_> = {
                let owed = self.shared.owed();
                chunk.iter().map(|(name, _)| owed.names.contains_key(*name)).collect()
            };
            let asked: Vec<_> = chunk.iter().zip(&owed).filter(|(_, owed)| !**owed).map(|(wish, _)| *wish).collect();
            let answers =
                self.guarded(self.shared.entries.read(&asked, LEASE, self.shared.settings.budget), asked.len()).await;
            let mut answers = answers.into_iter();
            reads.extend(owed.into_iter().map(|owed| if owed { None } else { answers.next().flatten() }));
        }
        reads
    }

    /// Gives how many of these Redis has taken.
    pub(super) async fn fill(&self, fills: &[Fill]) -> usize {
        let mut taken = 0;
        for chunk in fills.chunks(self.shared.settings.batch) {
            let filled = self.guarded(self.shared.entries.fill(chunk, self.shared.settings.budget), chunk.len()).await;
            taken += filled.into_iter().filter(|filled| *filled == Some(true)).count();
        }
        taken
    }

    /// Gives leases back; those that Redis does not take back expire.
    pub(super) async fn release(&self, leases: &[(&str, Token)], rest: Duration) {
        for chunk in leases.chunks(self.shared.settings.batch) {
            self.guarded(self.shared.entries.release(chunk, rest, self.shared.settings.budget), chunk.len()).await;
        }
    }

    /// Forgets everywhere; what Redis does not take at once is owed.
    pub(super) async fn invalidate(&self, names: &[Arc<str>]) -> Result<(), CacheError> {
        let mut result = Ok(());
        for chunk in names.chunks(self.shared.settings.batch) {
            // Owed before it is forgotten: whoever reads from now on does without Redis until it has taken this.
            let ticket = self.shared.owe(chunk);
            chunk.iter().for_each(|name| self.shared.forget(name));
            let Ok(permit) = self.shared.breaker.acquire(Instant::now()) else {
                result = Err(CacheError::Unavailable { maybe_applied: false, reason: "its breaker is open".into() });
                continue;
            };
            match self.shared.repay(chunk.iter().map(|name| (name, ticket)), self.shared.settings.budget).await {
                Ok(()) => permit.success(),
                Err(error) => {
                    judge(permit, &error);
                    result = Err(error);
                }
            }
        }
        result
    }

    async fn guarded<T>(
        &self,
        call: impl Future<Output = Result<Vec<Result<T, CacheError>>, CacheError>>,
        count: usize,
    ) -> Vec<Option<T>> {
        let none = || (0..count).map(|_| None).collect();
        if count == 0 {
            return Vec::new();
        }
        let Ok(permit) = self.shared.breaker.acquire(Instant::now()) else { return none() };
        match call.await {
            Ok(answers) => {
                permit.success();
                answers.into_iter().map(Result::ok).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "cache-aside without redis");
                judge(permit, &error);
                none()
            }
        }
    }
}

fn judge(permit: crate::breaker::Permit, error: &CacheError) {
    if error.is_unavailable() {
        permit.failure(Instant::now());
    } else {
        permit.success();
    }
}

impl Shared {
    /// Milliseconds since the start, never 0.
    pub(super) fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn hears_now(&self) -> bool {
        self.hears(Instant::now())
    }

    fn hears(&self, now: Instant) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        let now = now.saturating_duration_since(self.start).as_millis() as u64;
        heard > 0 && now < heard + BOUND.as_millis() as u64
    }

    /// Heard the beacon that was sent then.
    pub(super) fn heard(&self, sent: u64) {
        self.heard.store(sent, Ordering::Release);
    }

    /// Hears nothing from now on.
    pub(super) fn deaf(&self) {
        self.heard.store(0, Ordering::Release);
        self.metrics.hearing.set(0);
    }

    pub(super) fn forget(&self, name: &str) {
        self.listeners().iter().for_each(|listener| listener.forget(name));
    }

    pub(super) fn forget_all(&self) {
        self.listeners().iter().for_each(|listener| listener.forget_all());
    }

    pub(super) fn measure(&self) {
        self.listeners().iter().for_each(|listener| listener.measure());
        self.metrics.hearing.set(self.hears(Instant::now()).into());
    }

    fn listeners(&self) -> Vec<Arc<dyn Listener>> {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(Weak::upgrade).collect()
    }

    fn owed(&self) -> MutexGuard<'_, Owed> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, names: &[Arc<str>]) -> u64 {
        let mut owed = self.owed();
        owed.last += 1;
        let ticket = owed.last;
        let mut lost = 0;
        for name in names {
            if owed.names.len() < MAX_OWED || owed.names.contains_key(name) {
                owed.names.insert(name.clone(), ticket);
            } else {
                lost += 1;
            }
        }
        self.metrics.owed.set(owed.names.len() as i64);
        if lost > 0 {
            self.metrics.lost.inc_by(lost);
            tracing::warn!(lost, "too many invalidations are owed: some old values stay cached until they expire");
        }
        ticket
    }

    /// Has Redis take invalidations; those that it took are owed no more.
    async fn repay<'a>(
        &self,
        names: impl Iterator<Item = (&'a Arc<str>, u64)> + Clone,
        budget: Duration,
    ) -> Result<(), CacheError> {
        let taken = self.entries.drop(names.clone().map(|(name, _)| &**name), |name| listen::news(Some(name)), budget);
        let mut result = Ok(());
        let taken = taken.await?;
        let mut owed = self.owed();
        for ((name, ticket), taken) in names.zip(taken) {
            match taken {
                Ok(_) if owed.names.get(name) == Some(&ticket) => drop(owed.names.remove(name)),
                Ok(_) => {}
                Err(error) => result = Err(error),
            }
        }
        self.metrics.owed.set(owed.names.len() as i64);
        result
    }

    /// Repays what is owed, if anything; an error says that Redis is still away.
    pub(super) async fn repay_some(&self, budget: Duration) -> Result<(), CacheError> {
        let some: Vec<_> =
            self.owed().names.iter().take(self.settings.batch).map(|(name, ticket)| (name.clone(), *ticket)).collect();
        if some.is_empty() {
            return Ok(());
        }
        self.repay(some.iter().map(|(name, ticket)| (name, *ticket)), budget).await?;
        tracing::info!(invalidations = some.len(), "redis has taken invalidations that were owed");
        self.breaker.answered();
        Ok(())
    }
}
