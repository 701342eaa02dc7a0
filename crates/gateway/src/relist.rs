//! What the recent list has to hear of later: additions that it missed, and entries that have to be taken back.
//!
//! Takes messages from the pipeline when the cache was slow or away; repeats the call, with the same attempt, once the cache
//! answers a probe. Probes come every second, however long the breaker in front of live sends stays open. The queue is bounded: when
//! it is full the oldest addition is dropped and counted, and the worker or the next verification mends the list instead.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cache::recent::{Attempt, RecentList};
use holdfast_cache::{Breaker, CacheError, Connection};
use holdfast_message::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Calls that may wait.
const CAPACITY: usize = 10_000;
/// Additions per round trip.
const BATCH: usize = 128;
/// How long the cache has for one round trip in the background.
const BUDGET: Duration = Duration::from_millis(1000);
/// How often an unreachable cache is asked for a sign of life.
const PROBE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Call {
    message: Arc<Message>,
    attempt: Attempt,
    take_back: bool,
}

/// The queue of calls. Cheap to clone.
#[derive(Clone)]
pub struct Relist {
    calls: Arc<Mutex<VecDeque<Call>>>,
    arrived: Arc<Notify>,
    metrics: Metrics,
}

impl Relist {
    /// An empty queue; [`Relist::run`] works it off.
    pub fn new(metrics: Metrics) -> Self {
        Self { calls: Arc::default(), arrived: Arc::default(), metrics }
    }

    /// The list is to take this message, unless this very attempt has added it already.
    pub fn add(&self, message: Arc<Message>, attempt: Attempt) {
        self.push(Call { message, attempt, take_back: false });
    }

    /// What this attempt has listed, if anything, is to become a tombstone.
    pub fn take_back(&self, message: Arc<Message>, attempt: Attempt) {
        self.push(Call { message, attempt, take_back: true });
    }

    /// Works the queue off until the token is cancelled.
    pub async fn run(self, recent: RecentList, cache: Connection, breaker: Breaker, stop: CancellationToken) {
        let work = async {
            loop {
                match self.pass(&recent).await {
                    // Live sends need not wait for the breaker's minute either.
                    Ok(true) => breaker.answered(),
                    Ok(false) => self.arrived.notified().await,
                    Err(error) => {
                        tracing::warn!(%error, "the recent list can't be told of what it missed; probing");
                        tokio::time::sleep(PROBE).await;
                        while cache.ping(BUDGET).await.is_err() {
                            tokio::time::sleep(PROBE).await;
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Waits until nothing waits any more.
    pub async fn emptied(&self) {
        while self.metrics.relist_waiting.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One round trip; false if there was nothing to do.
    async fn pass(&self, recent: &RecentList) -> Result<bool, CacheError> {
        let calls = self.next_of_a_kind();
        let results: Vec<Result<(), CacheError>> = match calls.first() {
            None => return Ok(false),
            Some(first) if first.take_back => {
                vec![recent.tombstone(&first.message, first.attempt, BUDGET).await.map(drop)]
            }
            Some(_) => {
                let adds: Vec<_> = calls.iter().map(|call| (&*call.message, call.attempt)).collect();
                recent.add_batch(&adds, BUDGET).await.into_iter().map(|added| added.map(drop)).collect()
            }
        };
        let mut unavailable = None;
        for (call, result) in calls.into_iter().zip(results).rev() {
            match result {
                Ok(()) => {}
                // What is not taken back stays listed: that is tried for ever.
                Err(error) if error.is_unavailable() || call.take_back => {
                    self.put_back(call);
                    unavailable = Some(error);
                }
                Err(error) => {
                    self.metrics.relist_dropped.inc();
                    tracing::warn!(message_id = %call.message.id, %error, "the recent list refused a message that it had missed");
                }
            }
        }
        unavailable.map_or(Ok(true), Err)
    }

    /// The oldest call, and if that is an addition, the additions right behind it.
    fn next_of_a_kind(&self) -> Vec<Call> {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let additions = waiting.iter().take(BATCH).take_while(|call| !call.take_back).count();
        let count = additions.max(1).min(waiting.len());
        self.metrics.relist_waiting.set((waiting.len() - count) as i64);
        waiting.drain(..count).collect()
    }

    fn put_back(&self, call: Call) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_front(call);
        self.metrics.relist_waiting.set(waiting.len() as i64);
    }

    fn push(&self, call: Call) {
        let mut waiting = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= CAPACITY {
            // An addition has other healers; what is not taken back stays listed.
            let oldest_addition = waiting.iter().position(|call| !call.take_back);
            waiting.remove(oldest_addition.unwrap_or(0));
            self.metrics.relist_dropped.inc();
        }
        waiting.push_back(call);
        self.metrics.relist_waiting.set(waiting.len() as i64);
        drop(waiting);
        self.arrived.notify_one();
    }
}
