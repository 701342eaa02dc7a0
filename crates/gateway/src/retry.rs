//! The retry service: replays the failed queue into Kafka.
//!
//! Takes due chats by lease, one or more gateways at once; publishes each chat's entries in order, and removes an entry only after
//! Kafka's acknowledgement and only if it is still the head by its bytes. Two retriers, or one that was frozen and thawed, can only
//! publish a message twice, which its id absorbs. Replays are marked `uncached`, so that the worker lists what the list has missed.
//!
//! Live traffic comes first: replays are paced, and wait while Kafka's client has much to do.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::join_all;
use holdfast_cache::failed::{EntryError, FinishAs, Head, Lease};
use holdfast_cache::{CacheError, FailedQueue};
use holdfast_kafka::{PublishError, PublishRecord, Publisher};
use holdfast_message::ChatId;
use holdfast_service::clock::unix_ms;
use holdfast_service::sabotage;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often due chats are looked for.
const POLL: Duration = Duration::from_millis(250);
/// Chats that are worked on at once.
const CHATS: usize = 8;
/// Entries of one chat that are published at once.
const BATCH: usize = 64;
/// How long a chat is taken for.
const LEASE: Duration = Duration::from_secs(30);
/// How long it is worked on at most, so that the lease outlives the last publish.
const WORK: Duration = Duration::from_secs(20);
/// What the queue's server has for a call.
const BUDGET: Duration = Duration::from_secs(2);
/// Records in Kafka's client above which replays wait.
const BUSY: usize = 2000;
/// The shortest and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the index is compared with the queues.
const REPAIR: Duration = Duration::from_secs(600);
/// Keys that one step of that looks at, and steps at most.
const REPAIR_STEP: (usize, usize) = (500, 2000);
/// How often the gauges are set, and how many chats are counted at most.
const STATS: (Duration, usize) = (Duration::from_secs(5), 5000);

/// Replays the failed queue. Cheap to clone.
#[derive(Clone)]
pub struct Retry {
    queue: FailedQueue,
    publisher: Publisher,
    pace: Arc<Pace>,
    rounds: Arc<Mutex<Rounds>>,
    metrics: Metrics,
}

/// Failures since the last success.
#[derive(Default)]
struct Rounds {
    wait: Duration,
    ends_at: Option<Instant>,
}

/// Why work on a chat stopped early.
enum Trouble {
    Kafka(String),
    Queue(CacheError),
    /// An entry that only a newer gateway can read.
    Newer,
}

impl Retry {
    /// Replays at most `per_second` messages from this gateway.
    pub fn new(queue: FailedQueue, publisher: Publisher, per_second: u32, metrics: Metrics) -> Self {
        let pace =
            Arc::new(Pace { each: Duration::from_secs(1) / per_second.max(1), free_at: Mutex::new(Instant::now()) });
        Self { queue, publisher, pace, rounds: Arc::default(), metrics }
    }

    /// Works until the token is cancelled; then lets what it has in hand come to an end.
    pub async fn run(self, stop: CancellationToken) {
        let upkeep = tokio::spawn(self.clone().upkeep(stop.clone()));
        let mut tick = interval(POLL);
        let mut at_work = JoinSet::new();
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            while at_work.try_join_next().is_some() {}
            let places = CHATS - at_work.len().min(CHATS);
            if places == 0 || self.publisher.in_flight() > BUSY {
                continue;
            }
            // An error is shown by the health report, which asks the same server.
            let Ok(leases) = self.queue.lease(places, LEASE, BUDGET).await else { continue };
            for lease in leases {
                at_work.spawn(self.clone().work_on(lease));
            }
        }
        while at_work.join_next().await.is_some() {}
        let _ = upkeep.await;
    }

    async fn work_on(self, lease: Lease) {
        let finish = match self.drain(&lease.chat).await {
            Ok(true) => FinishAs::Empty,
            Ok(false) => FinishAs::NextAttempt(Duration::ZERO),
            Err(trouble) => {
                let delay = self.backoff().await;
                match trouble {
                    Trouble::Kafka(reason) => tracing::warn!(chat_id = %lease.chat, reason, ?delay, "a replay failed"),
                    Trouble::Queue(error) => tracing::warn!(chat_id = %lease.chat, %error, ?delay, "a replay failed"),
                    Trouble::Newer => {
                        tracing::warn!(chat_id = %lease.chat, ?delay, "the failed queue holds an entry of a newer version; it waits");
                    }
                }
                FinishAs::NextAttempt(delay)
            }
        };
        // Without an answer the lease ends by itself.
        match self.queue.finish(&lease, finish, BUDGET).await {
            // Something was pushed after the list was seen empty: it need not wait for the lease's end.
            Ok(false) if finish == FinishAs::Empty => {
                let _ = self.queue.finish(&lease, FinishAs::NextAttempt(Duration::ZERO), BUDGET).await;
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(chat_id = %lease.chat, %error, "a lease was left to end by itself"),
        }
    }

    /// Replays a chat's queue; true if it was seen empty, false if time is up.
    async fn drain(&self, chat: &ChatId) -> Result<bool, Trouble> {
        let end = Instant::now() + WORK;
        // The head goes alone first: it learns whether Kafka is back, and is not judged by what travels with it.
        let mut batch = 1;
        while Instant::now() < end {
            let heads = self.queue.heads(chat, batch, BUDGET).await.map_err(Trouble::Queue)?;
            batch = BATCH;
            let Some(first) = heads.first() else { return Ok(true) };
            match &first.entry {
                Err(EntryError::Newer) => return Err(Trouble::Newer),
                Err(error) => self.bury(chat, &first.bytes, &error.to_string()).await?,
                Ok(_) => self.replay(chat, &heads).await?,
            }
        }
        Ok(false)
    }

    /// Publishes the entries up to the first that can't be read, and removes those that Kafka acknowledged before any it did not.
    async fn replay(&self, chat: &ChatId, heads: &[Head]) -> Result<(), Trouble> {
        let entries: Vec<_> = heads.iter().map_while(|head| Some((&head.bytes, head.entry.as_ref().ok()?))).collect();
        self.pace.take(entries.len()).await;
        if sabotage::is(sabotage::POP_FIRST) {
            let heads: Vec<Bytes> = entries.iter().map(|(bytes, _)| (*bytes).clone()).collect();
            self.queue.pop_published(chat, &heads, BUDGET).await.map_err(Trouble::Queue)?;
        }
        let reports: Vec<_> = entries
            .iter()
            .map(|(_, entry)| {
                let traceparent = entry.traceparent.as_deref();
                self.publisher.publish(PublishRecord {
                    chat: chat.as_str(),
                    value: &entry.record,
                    traceparent,
                    uncached: true,
                })
            })
            .collect();
        let reports = join_all(reports).await;
        let acknowledged = reports.iter().take_while(|report| report.is_ok()).count();
        let done: Vec<Bytes> = entries[..acknowledged].iter().map(|(bytes, _)| (*bytes).clone()).collect();
        if !done.is_empty() {
            let taken = self.queue.pop_published(chat, &done, BUDGET).await.map_err(Trouble::Queue)?;
            self.metrics.replayed.inc_by(taken.removed as u64);
            *self.rounds.lock().await = Rounds::default();
        }
        match reports.into_iter().nth(acknowledged) {
            Some(Err(PublishError::TooLarge(reason))) => self.bury(chat, entries[acknowledged].0, &reason).await,
            Some(Err(PublishError::Unavailable(failure))) => Err(Trouble::Kafka(failure.to_string())),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    async fn bury(&self, chat: &ChatId, bytes: &Bytes, reason: &str) -> Result<(), Trouble> {
        let taken = self.queue.bury(chat, bytes, reason, unix_ms(), BUDGET).await.map_err(Trouble::Queue)?;
        if taken.removed > 0 {
            self.metrics.dead.inc();
            tracing::error!(chat_id = %chat, reason, "a failed-queue entry can never be replayed; it lies in the dead list");
        }
        Ok(())
    }

    /// Doubling with every round of failures, with jitter. Chats that fail within one wait are one round: what fails is Kafka.
    async fn backoff(&self) -> Duration {
        let mut rounds = self.rounds.lock().await;
        if rounds.ends_at.is_none_or(|end| Instant::now() >= end) {
            rounds.wait = (rounds.wait * 2).clamp(BACKOFF.0, BACKOFF.1);
            rounds.ends_at = Some(Instant::now() + rounds.wait);
        }
        rounds.wait.mul_f64(0.5 + fastrand::f64() / 2.0).max(BACKOFF.0)
    }

    /// Gauges and the index's repair.
    async fn upkeep(self, stop: CancellationToken) {
        let mut stats = interval(STATS.0);
        let mut repaired: Option<Instant> = None;
        while stop.run_until_cancelled(stats.tick()).await.is_some() {
            if repaired.is_none_or(|at| at.elapsed() >= REPAIR) && self.repair_index().await.is_ok() {
                repaired = Some(Instant::now());
            }
            if let Ok(stats) = self.queue.stats(STATS.1, BUDGET).await {
                let age = stats.oldest_queued_at.map_or(0, |at| (unix_ms() - at).max(0) / 1000);
                self.metrics.failed_messages.set(i64::try_from(stats.messages).unwrap_or(i64::MAX));
                self.metrics.failed_age.set(age);
            }
        }
    }

    async fn repair_index(&self) -> Result<(), CacheError> {
        let mut cursor = 0;
        for _ in 0..REPAIR_STEP.1 {
            let step = self.queue.repair_index(cursor, REPAIR_STEP.0, BUDGET).await?;
            if step.added > 0 {
                tracing::warn!(chats = step.added, "the failed queue's index had lost chats; they are back");
            }
            match step.next {
                Some(next) => cursor = next,
                None => break,
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// At most so many a second, whoever takes them.
struct Pace {
    each: Duration,
    free_at: Mutex<Instant>,
}

impl Pace {
    async fn take(&self, count: usize) {
        let start = {
            let mut free_at = self.free_at.lock().await;
            let start = (*free_at).max(Instant::now());
            *free_at = start + self.each * u32::try_from(count).unwrap_or(u32::MAX);
            start
        };
        sleep_until(start).await;
    }
}
