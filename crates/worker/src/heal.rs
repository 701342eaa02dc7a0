//! Heals the recent lists. Takes messages that they may lack, on receipt; adds those that are absent, which also announces them to their
//! recipients. Those that are present are no longer subject to retraction by a gateway whose own attempt failed.
//!
//! A list may lack a message that the gateway could not add (its record is marked `uncached`), and whatever the cache lost when
//! it restarted: then every message stamped within [`AROUND_A_CHANGE`] of that moment is offered, whether it is received after that or was
//! received shortly before: a client may have read history while neither the cache nor the store had it. A restart shows in the epoch
//! of a list without messages: the cache begins a new one for every list when its run id has changed, and also when it was
//! flushed, which the run id alone would not show. Each master of a cluster has such a list, and a slot that gets another master counts
//! as a restart.
//!
//! Healing delays neither flush nor commit: messages go through a queue that is bounded in messages and in bytes, and one that does not fit
//! is counted and skipped. Verification on read adds what this misses.
//!
//! See `docs/decisions/cache-restarts.md` and `docs/decisions/retraction.md`.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_cache::RecentList;
use holdfast_cache::recent::{Added, Attempt};
use holdfast_message::Message;
use holdfast_service::clock::unix_ms;
use tokio_util::sync::CancellationToken;

use crate::bounded_queue::{self, Offered, Offers, Taken};
use crate::health::State;
use crate::metrics::Metrics;

/// Messages stamped within this many milliseconds of a restart of the cache are offered.
pub const AROUND_A_CHANGE: i64 = 60_000;
/// Messages that may wait.
const WAITING: usize = 10_000;
/// What they may take together, in bytes of memory.
const WAITING_BYTES: usize = 16 << 20;
/// Messages that are remembered in case the cache turns out to have lost them; the oldest make room.
const LATELY: usize = 5000;
/// What they may take together, in bytes of memory.
const LATELY_BYTES: usize = 8 << 20;
/// Messages in one round trip.
const BATCH: usize = 100;
/// The time limit for one batch; then it is dropped.
const GIVE_UP: Duration = Duration::from_secs(30);
const BUDGET: Duration = Duration::from_millis(500);

/// The operations on recent lists that healing needs.
pub trait Recent: Send + Sync + 'static {
    /// The cache's data generation: a new one means that the cache may have lost everything.
    fn data_generation(&self) -> impl Future<Output = Result<String, String>> + Send;
    /// Adds messages that are absent (`true`); those that are present are no longer subject to retraction.
    fn add(&self, messages: &[Message]) -> impl Future<Output = Vec<Result<bool, String>>> + Send;
}

/// The recent lists in the cache.
#[derive(Clone)]
pub struct CachedLists(pub RecentList);

impl Recent for CachedLists {
    async fn data_generation(&self) -> Result<String, String> {
        self.0.data_generation(BUDGET).await.map_err(|error| error.to_string())
    }

    async fn add(&self, messages: &[Message]) -> Vec<Result<bool, String>> {
        let adds: Vec<_> = messages.iter().map(|message| (message, Attempt::DURABLE)).collect();
        let added = self.0.add_batch(&adds, BUDGET).await;
        let is_new = |added| matches!(added, Added::New(_));
        added.into_iter().map(|added| added.map(is_new).map_err(|error| error.to_string())).collect()
    }
}

/// Offers messages to the healing tasks.
#[derive(Debug, Clone)]
pub struct Healer {
    offers: Offers<Message>,
    changed_at: Arc<AtomicI64>,
    lately: Arc<Mutex<Lately>>,
    metrics: Metrics,
}

/// Messages that were received lately and not offered.
#[derive(Debug, Default)]
struct Lately {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl Lately {
    fn remember(&mut self, message: Message) {
        self.bytes += message.size();
        self.messages.push_back(message);
        while self.messages.len() > LATELY || self.bytes > LATELY_BYTES {
            self.bytes -= self.messages.pop_front().map_or(self.bytes, |oldest| oldest.size());
        }
    }
}

impl Healer {
    /// Starts the tasks: one adds, one watches for restarts. They end with `stop`.
    pub fn start<R: Recent>(recent: Arc<R>, state: Arc<State>, metrics: Metrics, stop: CancellationToken) -> Self {
        let (offers, taken) = bounded_queue::channel(WAITING, WAITING_BYTES);
        let changed_at = Arc::new(AtomicI64::new(i64::MIN));
        let healer = Self { offers, changed_at, lately: Arc::default(), metrics: metrics.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch(Arc::clone(&recent), state, healer.clone())));
        tokio::spawn(stop.run_until_cancelled_owned(add(recent, taken, metrics)));
        healer
    }

    /// Offers a message if a list may lack it; otherwise remembers it for a while, in case a restart of the cache is noticed. Never waits.
    pub fn offer(&self, message: &Message, uncached: bool) {
        // Held, so that a change is noticed before this message or finds it remembered.
        let mut lately = self.lately();
        if uncached || self.is_around_a_change(message) {
            drop(lately);
            self.put(message.clone());
        } else {
            lately.remember(message.clone());
        }
    }

    /// Handles a loss of the cache's data: offers the remembered messages, and from now on each that is received.
    fn changed(&self) {
        let messages = {
            let mut lately = self.lately();
            self.changed_at.store(unix_ms(), Ordering::Relaxed);
            std::mem::take(&mut *lately).messages
        };
        messages.into_iter().filter(|message| self.is_around_a_change(message)).for_each(|message| self.put(message));
    }

    fn is_around_a_change(&self, message: &Message) -> bool {
        let changed_at = self.changed_at.load(Ordering::Relaxed);
        message.timestamp.checked_sub(changed_at).is_some_and(|apart| apart.abs() <= AROUND_A_CHANGE)
    }

    fn put(&self, message: Message) {
        let size = message.size();
        if !self.offers.offer(message, size) {
            self.metrics.heal_skipped.inc();
        }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch<R: Recent>(recent: Arc<R>, state: Arc<State>, healer: Healer) {
    let mut known: Option<String> = None;
    loop {
        let answer = recent.data_generation().await;
        state.redis(answer.is_ok());
        if let Ok(data_generation) = answer {
            if known.as_ref().is_some_and(|known| *known != data_generation) {
                tracing::warn!("the cache restarted or was flushed: healing its lists");
                healer.changed();
            }
            known = Some(data_generation);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn add<R: Recent>(recent: Arc<R>, mut taken: Taken<Message>, metrics: Metrics) {
    let mut offered = Vec::with_capacity(BATCH);
    while taken.recv_many(&mut offered, BATCH).await > 0 {
        let (mut batch, _room): (Vec<_>, Vec<_>) = offered.drain(..).map(Offered::into_parts).unzip();
        let (started, mut wait) = (Instant::now(), Duration::from_millis(200));
        loop {
            let mut failed = Vec::new();
            let added = recent.add(&batch).await;
            for (message, added) in batch.drain(..).zip(added) {
                match added {
                    Ok(true) => metrics.healed.inc(),
                    Ok(false) => metrics.heal_present.inc(),
                    Err(error) => failed.push((message, error)),
                }
            }
            let Some((_, error)) = failed.first() else { break };
            if started.elapsed() > GIVE_UP {
                tracing::warn!(messages = failed.len(), error, "the recent lists were not healed");
                metrics.heal_skipped.inc_by(failed.len() as u64);
                break;
            }
            batch.extend(failed.into_iter().map(|(message, _)| message));
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }
}

#[cfg(test)]
mod tests;
