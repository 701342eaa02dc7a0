//! The part of the aside caches that talks to Redis. One [`Backend`] serves all aside caches of a process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

use super::invalidation::{BATCH, Listener, Shared};
use super::lease::{Fill, FillIntent, Read, Token};
use super::listen;
use super::names::Names;
use crate::metrics::AsideMetrics;
use crate::{Client, RedisError, RedisMetrics};

/// The default length of a lease: the time for a load and the calls around it.
pub const LEASE: Duration = Duration::from_secs(5);

/// What the aside caches of one process share. Cheap to clone; dropping the last clone ends the subscription to invalidations.
#[derive(Clone)]
pub struct Backend<N> {
    shared: Arc<Shared<N>>,
    lease: Duration,
    _stop: Arc<DropGuard>,
}

impl<N: Names> Backend<N> {
    /// Subscribes to invalidations in the background. A lease has to last longer than a load may take ([`LOAD`](super::LOAD)), or values
    /// that load slowly are not cached. Must be called within a Tokio runtime.
    pub fn start(client: Client, names: N, lease: Duration) -> Self {
        let shared = Arc::new(Shared::new(client, names));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(listen::run(shared.clone())));
        Self { shared, lease, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The names that it uses.
    pub fn names(&self) -> &N {
        &self.shared.names
    }

    /// Whether the first level is in use: this process has received every invalidation that is older than [`BOUND`](super::BOUND).
    pub fn is_live(&self) -> bool {
        self.is_live_at(Instant::now())
    }

    /// How many keys have an invalidation that Redis has not taken yet.
    pub fn pending_invalidations(&self) -> usize {
        self.shared.pending_invalidations().names.len()
    }

    pub(super) fn name(&self, value: &N::Value) -> String {
        self.shared.names.value(value)
    }

    pub(super) fn redis_metrics(&self) -> &RedisMetrics {
        self.shared.client.metrics()
    }

    pub(super) fn metrics(&self) -> &AsideMetrics {
        &self.shared.metrics
    }

    pub(super) fn is_live_at(&self, now: Instant) -> bool {
        self.shared.is_live(now)
    }

    pub(super) fn listen(&self, listener: Arc<impl Listener + 'static>) {
        self.shared.add_listener(listener);
    }

    /// Reads entries; `None` where Redis can't be asked.
    pub(super) async fn read(&self, reads: &[(&str, FillIntent)]) -> Vec<Option<Read>> {
        // What Redis holds of a key whose invalidation is pending is out of date.
        let pending: Vec<bool> = {
            let pending = self.shared.pending_invalidations();
            reads.iter().map(|(name, _)| pending.names.contains_key(*name)).collect()
        };
        let asked: Vec<_> =
            reads.iter().zip(&pending).filter(|(_, pending)| !**pending).map(|(read, _)| *read).collect();
        let mut answers = answers(self.shared.entries.read(&asked, self.lease).await);
        pending.into_iter().map(|pending| if pending { None } else { answers.next().flatten() }).collect()
    }

    /// Fills entries. Returns for each whether Redis has taken it.
    pub(super) async fn fill(&self, fills: &[Fill]) -> Vec<bool> {
        answers(self.shared.entries.fill(fills).await).map(|filled| filled == Some(true)).collect()
    }

    /// Releases leases; a lease whose release fails expires.
    pub(super) async fn release(&self, leases: &[(&str, Token)], rest: Duration) {
        self.shared.entries.release(leases, rest).await;
    }

    /// Removes keys from all caches of all processes. An invalidation that Redis does not take is pending.
    pub(super) async fn invalidate(&self, names: &[Arc<str>]) -> Result<(), RedisError> {
        let mut result = Ok(());
        for names in names.chunks(BATCH) {
            // Pending before memory forgets it: a reader from now on does not read Redis before it has taken this.
            let ticket = self.shared.add_pending(names);
            names.iter().for_each(|name| self.shared.forget(name));
            let pending: Vec<_> = names.iter().map(|name| (name.clone(), ticket)).collect();
            if let Err(error) = self.shared.send_pending(&pending, &self.shared.entries).await {
                result = Err(error);
            }
        }
        result
    }
}

/// Drops the errors of answers, because readers go on without Redis. The first error is logged.
fn answers<T>(answers: Vec<Result<T, RedisError>>) -> impl Iterator<Item = Option<T>> {
    if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        tracing::debug!(%error, "the cache did not help");
    }
    answers.into_iter().map(Result::ok)
}
