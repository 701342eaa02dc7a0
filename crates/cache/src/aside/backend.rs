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
//! In a cluster the same holds for each master, which sends what it takes to the others in order: the beacon goes through all of
//! them, and the oldest of the last ones heard counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::lease::{Entries, Fill, Read, Token, Wish};
use super::{AsideMetrics, listen};
use crate::breaker::BreakerState;
use crate::client::Client;
use crate::keys::{Cached, Keys};
use crate::{CacheError, CacheMetrics};

/// How often the beacon is sent.
pub const BEACON: Duration = Duration::from_millis(500);
/// How long after an invalidation the memory of another process may serve the old value.
pub const BOUND: Duration = Duration::from_secs(2);
/// How long a lease lasts unless told otherwise: a load, and the calls around it.
pub const LEASE: Duration = Duration::from_secs(5);

/// Keys whose invalidation a process may owe, which bounds its memory for them: about 1 MiB. Of more, the invalidations are given up
/// (`cache_aside_lost_invalidations_total`), and old values live until they expire.
pub const MAX_OWED: usize = 10_000;
/// Keys that are invalidated, and owed, together.
const BATCH: usize = 100;

/// What the aside caches of one process share. Cheap to clone; it stops hearing with the last clone.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) metrics: AsideMetrics,
    entries: Entries,
    lease: Duration,
    start: Instant,
    /// When the last beacon heard was sent, in milliseconds since the start; 0: none is known.
    heard: AtomicU64,
    /// The same for each master.
    beacons: Mutex<HashMap<Box<str>, u64>>,
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
    /// Starts listening in the background. A lease should last longer than a load may take ([`LOAD`](super::LOAD)), or what was
    /// loaded slowly is not cached. Must be called within a Tokio runtime.
    pub fn start(client: Client, keys: Keys, lease: Duration) -> Self {
        let shared = Arc::new(Shared {
            entries: Entries::new(client.clone(), keys.clone()),
            metrics: client.metrics().aside.clone(),
            client,
            keys,
            lease,
            start: Instant::now(),
            heard: AtomicU64::new(0),
            beacons: Mutex::default(),
            listeners: RwLock::default(),
            owed: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen::run(shared.clone())));
        Self { shared, _stop: Arc::new(stop.drop_guard()) }
    }

    /// Whether the first level is in use: every invalidation that is older than [`BOUND`] has been heard.
    pub fn hears(&self) -> bool {
        self.hears_at(Instant::now())
    }

    /// Invalidations that Redis has yet to take.
    pub fn owed(&self) -> usize {
        self.shared.owed().names.len()
    }

    pub(super) fn name(&self, cached: &Cached) -> String {
        self.shared.keys.value(cached)
    }

    pub(super) fn cache_metrics(&self) -> &CacheMetrics {
        self.shared.client.metrics()
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
        // What Redis holds of a key whose invalidation it has not taken is no answer.
        let owed: Vec<bool> = {
            let owed = self.shared.owed();
            wishes.iter().map(|(name, _)| owed.names.contains_key(*name)).collect()
        };
        let asked: Vec<_> = wishes.iter().zip(&owed).filter(|(_, owed)| !**owed).map(|(wish, _)| *wish).collect();
        let mut reads = told(self.shared.entries.read(&asked, self.shared.lease).await);
        owed.into_iter().map(|owed| if owed { None } else { reads.next().flatten() }).collect()
    }

    /// Says of each of these whether Redis has taken it.
    pub(super) async fn fill(&self, fills: &[Fill]) -> Vec<bool> {
        told(self.shared.entries.fill(fills).await).map(|filled| filled == Some(true)).collect()
    }

    /// Gives leases back; those that Redis does not take back expire.
    pub(super) async fn release(&self, leases: &[(&str, Token)], rest: Duration) {
        self.shared.entries.release(leases, rest).await;
    }

    /// Forgets everywhere; what Redis does not take at once is owed.
    pub(super) async fn invalidate(&self, names: &[Arc<str>]) -> Result<(), CacheError> {
        let mut result = Ok(());
        for names in names.chunks(BATCH) {
            // Owed before it is forgotten: whoever reads from now on does without Redis until it has taken this.
            let ticket = self.shared.owe(names);
            names.iter().for_each(|name| self.shared.forget(name));
            let owed: Vec<_> = names.iter().map(|name| (name.clone(), ticket)).collect();
            if let Err(error) = self.shared.repay(&owed, &self.shared.entries).await {
                result = Err(error);
            }
        }
        result
    }
}

/// What Redis answered. Nobody waits for an error to be told why the cache was of no help, but who looks for the reason finds it.
fn told<T>(answers: Vec<Result<T, CacheError>>) -> impl Iterator<Item = Option<T>> {
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        tracing::debug!(%error, "the cache did not help");
    }
    answers.into_iter().map(Result::ok)
}

impl Shared {
    /// Milliseconds since the start, never 0.
    pub(super) fn now(&self) -> u64 {
        self.millis(Instant::now()).max(1)
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }

    pub(super) fn hears(&self, now: Instant) -> bool {
        let heard = self.heard.load(Ordering::Acquire);
        heard > 0 && self.millis(now) < heard + BOUND.as_millis() as u64
    }

    /// Heard the beacon that was sent then through this node, one of so many masters.
    pub(super) fn heard(&self, node: &str, sent: u64, masters: u64) {
        let mut beacons = self.beacons.lock().unwrap_or_else(PoisonError::into_inner);
        beacons.insert(node.into(), sent);
        // Whoever is no master any more says nothing.
        beacons.retain(|_, last| *last + BOUND.as_millis() as u64 > sent);
        if beacons.len() as u64 >= masters {
            self.heard.store(beacons.values().copied().min().unwrap_or_default(), Ordering::Release);
        }
    }

    /// Hears nothing from now on.
    pub(super) fn deaf(&self) {
        self.beacons.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        let (ticket, mut lost) = (owed.last, 0);
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
            tracing::warn!(lost, "too many invalidations are owed: some old values may stay cached until they expire");
        }
        ticket
    }

    /// Has Redis take invalidations; those that it took are owed no more.
    async fn repay(&self, names: &[(Arc<str>, u64)], entries: &Entries) -> Result<(), CacheError> {
        let taken = entries.drop(names.iter().map(|(name, _)| &**name)).await;
        let mut owed = self.owed();
        let mut result = Ok(());
        for ((name, ticket), taken) in names.iter().zip(taken) {
            match taken {
                Ok(_) if owed.names.get(name) == Some(ticket) => drop(owed.names.remove(name)),
                Ok(_) => {}
                Err(error) => result = Err(error),
            }
        }
        self.metrics.owed.set(owed.names.len() as i64);
        result
    }

    /// Repays some of what is owed, if anything; an error says that Redis is still away.
    pub(super) async fn repay_some(&self, budget: Duration) -> Result<(), CacheError> {
        let some = |owed: &Owed| owed.names.iter().take(BATCH).map(|(name, ticket)| (name.clone(), *ticket)).collect();
        let some: Vec<_> = some(&self.owed());
        if some.is_empty() {
            return Ok(());
        }
        let breaker = self.client.breaker();
        if breaker.state() != BreakerState::Closed {
            // Not after the breaker's minute: nobody else mends this.
            self.client.connection().ping_all(budget).await?;
            breaker.answered();
        }
        self.repay(&some, &self.entries.within(budget)).await?;
        tracing::info!(invalidations = some.len(), "redis has taken invalidations that were owed");
        Ok(())
    }
}
