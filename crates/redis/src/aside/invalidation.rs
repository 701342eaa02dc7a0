//! What the aside caches of one process share: which invalidations are pending, and whether the process receives those of others.
//!
//! # When memory may be used
//!
//! Redis publishes every invalidation in the step in which it takes it. Each process also publishes a beacon every [`BEACON`] that says
//! when it was sent, and receives it on the connection on which it receives the invalidations. Redis delivers in order, so a process that
//! has received a beacon has received every invalidation that Redis took before that beacon was sent. Memory is used while the last
//! received beacon is younger than [`BOUND`]; a hit is therefore never older than what Redis held [`BOUND`] ago. Nothing depends on
//! noticing that a connection broke. A new subscription empties memory before it can receive its first beacon.
//!
//! In a cluster the same holds for each master, which sends what it takes to the other nodes in order: the beacon goes through all
//! masters, and the oldest of the last beacons received counts.
//!
//! See `docs/decisions/memory-beacon.md`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use holdfast_breaker::BreakerState;

use super::lease::Entries;
use super::names::Names;
use crate::RedisError;
use crate::client::Client;
use crate::metrics::AsideMetrics;

/// The interval of the beacon.
pub const BEACON: Duration = Duration::from_millis(500);
/// How long after an invalidation another process may still serve the old value from memory.
pub const BOUND: Duration = Duration::from_secs(2);
/// How many keys a process may have pending invalidations of, which bounds their memory to about 1 MiB. Further invalidations are given
/// up (`cache_aside_lost_invalidations_total`), and the old values live until they expire.
pub const MAX_PENDING: usize = 10_000;
/// How many keys are invalidated with one call.
pub(super) const BATCH: usize = 100;

/// What the aside caches of one process share.
pub(super) struct Shared<N> {
    pub(super) client: Client,
    pub(super) names: N,
    pub(super) metrics: AsideMetrics,
    pub(super) entries: Entries<N>,
    start: Instant,
    /// When the beacon was sent that counts, in milliseconds since the start; 0: none was received.
    last_beacon: AtomicU64,
    /// The same for each master.
    beacons: Mutex<HashMap<Box<str>, u64>>,
    listeners: RwLock<Vec<Weak<dyn Listener>>>,
    pending_invalidations: Mutex<PendingInvalidations>,
}

/// Keys whose invalidation Redis has not taken yet. The number distinguishes an invalidation of a key from a later one.
#[derive(Default)]
pub(super) struct PendingInvalidations {
    pub(super) names: HashMap<Arc<str>, u64>,
    last: u64,
}

/// A cache that has to forget what was invalidated.
pub(super) trait Listener: Send + Sync {
    /// Forgets one key.
    fn forget(&self, name: &str);
    /// Forgets everything.
    fn forget_all(&self);
    /// Updates the metrics of its size. Called every [`BEACON`].
    fn measure(&self);
}

impl<N: Names> Shared<N> {
    pub(super) fn new(client: Client, names: N) -> Self {
        Self {
            entries: Entries::new(client.clone(), names.clone()),
            metrics: client.metrics().aside.clone(),
            client,
            names,
            start: Instant::now(),
            last_beacon: AtomicU64::new(0),
            beacons: Mutex::default(),
            listeners: RwLock::default(),
            pending_invalidations: Mutex::default(),
        }
    }

    /// Milliseconds since the start, never 0.
    pub(super) fn now(&self) -> u64 {
        self.millis(Instant::now()).max(1)
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }

    /// Whether this process has received every invalidation that is older than [`BOUND`].
    pub(super) fn is_live(&self, now: Instant) -> bool {
        let sent = self.last_beacon.load(Ordering::Acquire);
        sent > 0 && self.millis(now) < sent + BOUND.as_millis() as u64
    }

    /// Notes that the beacon was received which was sent at this time through this node, one of `masters`.
    pub(super) fn beacon_received(&self, node: &str, sent: u64, masters: u64) {
        let mut beacons = self.beacons.lock().unwrap_or_else(PoisonError::into_inner);
        beacons.insert(node.into(), sent);
        // A node that is no longer a master sends no beacons.
        beacons.retain(|_, last| *last + BOUND.as_millis() as u64 > sent);
        if beacons.len() as u64 >= masters {
            self.last_beacon.store(beacons.values().copied().min().unwrap_or_default(), Ordering::Release);
        }
    }

    /// Notes that this process may miss invalidations from now on.
    pub(super) fn reset_liveness(&self) {
        self.beacons.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.last_beacon.store(0, Ordering::Release);
        self.metrics.hearing.set(0);
    }

    pub(super) fn add_listener(&self, listener: Arc<impl Listener + 'static>) {
        let listener: Arc<dyn Listener> = listener;
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
    }

    pub(super) fn forget(&self, name: &str) {
        self.listeners().iter().for_each(|listener| listener.forget(name));
    }

    pub(super) fn forget_all(&self) {
        self.listeners().iter().for_each(|listener| listener.forget_all());
    }

    pub(super) fn measure(&self) {
        self.listeners().iter().for_each(|listener| listener.measure());
        self.metrics.hearing.set(self.is_live(Instant::now()).into());
    }

    fn listeners(&self) -> Vec<Arc<dyn Listener>> {
        let listeners = self.listeners.read().unwrap_or_else(PoisonError::into_inner);
        listeners.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn pending_invalidations(&self) -> MutexGuard<'_, PendingInvalidations> {
        self.pending_invalidations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks invalidations of these keys as pending, and returns their number.
    pub(super) fn add_pending(&self, names: &[Arc<str>]) -> u64 {
        let mut pending = self.pending_invalidations();
        pending.last += 1;
        let (ticket, mut lost) = (pending.last, 0);
        for name in names {
            if pending.names.len() < MAX_PENDING || pending.names.contains_key(name) {
                pending.names.insert(name.clone(), ticket);
            } else {
                lost += 1;
            }
        }
        self.metrics.pending_invalidations.set(pending.names.len() as i64);
        if lost > 0 {
            self.metrics.lost_invalidations.inc_by(lost);
            tracing::warn!(
                lost,
                "too many invalidations are pending: some old values may stay cached until they expire"
            );
        }
        ticket
    }

    /// Sends invalidations to Redis; those that it takes are no longer pending.
    pub(super) async fn send_pending(&self, names: &[(Arc<str>, u64)], entries: &Entries<N>) -> Result<(), RedisError> {
        let taken = entries.drop(names.iter().map(|(name, _)| &**name)).await;
        let mut pending = self.pending_invalidations();
        let mut result = Ok(());
        for ((name, ticket), taken) in names.iter().zip(taken) {
            match taken {
                Ok(_) if pending.names.get(name) == Some(ticket) => drop(pending.names.remove(name)),
                Ok(_) => {}
                Err(error) => result = Err(error),
            }
        }
        self.metrics.pending_invalidations.set(pending.names.len() as i64);
        result
    }

    /// Sends some of the pending invalidations again, if there are any. An error says that Redis is still away.
    pub(super) async fn retry(&self, budget: Duration) -> Result<(), RedisError> {
        let some = |pending: &PendingInvalidations| {
            pending.names.iter().take(BATCH).map(|(name, ticket)| (name.clone(), *ticket)).collect()
        };
        let some: Vec<_> = some(&self.pending_invalidations());
        if some.is_empty() {
            return Ok(());
        }
        let breaker = self.client.breaker();
        if breaker.state() != BreakerState::Closed {
            // Do not wait for the breaker's recovery timeout: nothing else sends these invalidations.
            self.client.connection().ping_all(budget).await?;
            breaker.answered();
        }
        self.send_pending(&some, &self.entries.within(budget)).await?;
        tracing::info!(invalidations = some.len(), "redis has taken pending invalidations");
        Ok(())
    }
}
