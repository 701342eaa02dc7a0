//! The retry service: replays the failed queue into Kafka.
//!
//! Takes due chats by lease, one or more gateways at once, and replays each chat's entries in order ([`replay`]). Two retriers, or one
//! that was frozen and thawed, can only publish a message twice, which its id absorbs.
//!
//! `FAILED_QUEUE_REPLAY_RATE` bounds the replay, and nothing else does: while leases come back full, the next chats are leased as soon as
//! one is finished ([`dispatch`]). Live traffic comes first: every batch waits for its share of the rate, and while Kafka's client has
//! much to do. Meanwhile [`index_repair`](crate::failed_queue::index_repair) mends the index that names the chats.

use std::sync::Arc;
use std::time::Duration;

use holdfast_failed_queue::{FailedQueue, FinishAs, Lease};
use holdfast_kafka::Publisher;
use holdfast_message::ChatId;
use holdfast_service::clock::unix_ms;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::dispatch::{self, Concurrency, Pace};
use crate::metrics::Metrics;
use holdfast_failed_queue::replay::{self, Trouble};
use holdfast_failed_queue::{BUDGET, IndexRepair, RepairPace};

/// Chats that are replayed at once, at most.
const CHATS: usize = 128;
/// Entries of one chat that are published at once, at most.
const BATCH: usize = 64;
/// How long a chat is taken for.
const LEASE: Duration = Duration::from_secs(30);
/// How long it is worked on at most, so that the lease outlives the last publish.
const WORK: Duration = Duration::from_secs(20);
/// Records in Kafka's client above which replays wait, and how long before they look again.
const BUSY: (usize, Duration) = (2000, Duration::from_millis(50));
/// The shortest and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the index's repair goes on.
const REPAIR: Duration = Duration::from_secs(5);
/// How often the gauges are set, and how many chats are counted at most.
const STATS: (Duration, usize) = (Duration::from_secs(5), 5000);

/// Replays the failed queue. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Retry {
    queue: FailedQueue,
    publisher: Publisher,
    pace: Arc<Pace>,
    concurrency: Arc<Concurrency>,
    rounds: Arc<Mutex<Rounds>>,
    metrics: Metrics,
}

/// Failures since the last success.
#[derive(Default)]
struct Rounds {
    wait: Duration,
    ends_at: Option<Instant>,
}

impl Retry {
    /// Replays at most `per_second` messages from this gateway.
    pub(crate) fn new(queue: FailedQueue, publisher: Publisher, per_second: u32, metrics: Metrics) -> Self {
        let per_second = per_second.max(1);
        // With one message each, they are all replayed within a second: a lease outlives the wait for a share of the rate.
        let concurrency = Concurrency::up_to(CHATS.min(per_second as usize));
        let pace = Pace::new(per_second);
        Self { queue, publisher, pace: pace.into(), concurrency: concurrency.into(), rounds: Arc::default(), metrics }
    }

    /// Works until the token is cancelled; then lets what it has in hand come to an end.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut beside = JoinSet::new();
        beside.spawn(self.clone().count(stop.clone()));
        beside.spawn(repair_index(self.queue.clone(), stop.clone()));
        let lease = |most| self.clone().lease(most);
        dispatch::run(self.concurrency.clone(), lease, |lease| self.clone().work_on(lease), stop).await;
        while beside.join_next().await.is_some() {}
    }

    /// Due chats, at most so many; none while live traffic comes first.
    async fn lease(self, most: usize) -> Vec<Lease> {
        match self.is_busy() {
            true => Vec::new(),
            // An error is shown by the health report, which asks the same server.
            false => self.queue.lease(most, LEASE, BUDGET).await.unwrap_or_default(),
        }
    }

    /// Whether live traffic has so much in Kafka's client that replays wait.
    fn is_busy(&self) -> bool {
        self.publisher.in_flight() > BUSY.0
    }

    async fn work_on(self, lease: Lease) {
        let finish = match self.drain(&lease.chat).await {
            Ok(true) => FinishAs::Empty,
            Ok(false) => FinishAs::NextAttempt(Duration::ZERO),
            Err(trouble) => {
                if let Trouble::Kafka(_) = trouble {
                    self.concurrency.shrink();
                }
                let delay = self.backoff().await;
                tracing::warn!(chat_id = %lease.chat, %trouble, ?delay, "a replay failed");
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
        let at_work = self.pace.join();
        // The head goes alone first: it learns whether Kafka is back, and is not judged by what travels with it.
        let mut batch = 1;
        while Instant::now() < end {
            let heads = self.queue.heads(chat, batch, BUDGET).await.map_err(Trouble::Queue)?;
            batch = at_work.share().min(BATCH);
            if heads.is_empty() {
                return Ok(true);
            }
            self.pace.take(replay::readable(&heads).len()).await;
            while self.is_busy() && Instant::now() < end {
                sleep(BUSY.1).await;
            }
            if Instant::now() >= end {
                break;
            }
            let step = replay::step(&self.queue, &self.publisher, chat, &heads).await;
            self.metrics.replayed.inc_by(step.removed as u64);
            if step.removed > 0 {
                *self.rounds.lock().await = Rounds::default();
                self.concurrency.grow();
            }
            if let Some(reason) = step.buried {
                self.metrics.dead.inc();
                tracing::error!(chat_id = %chat, reason, "a failed-queue entry can never be replayed; it lies in the dead list");
            }
            if let Some(trouble) = step.trouble {
                return Err(trouble);
            }
        }
        Ok(false)
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

    /// Sets the gauges.
    async fn count(self, stop: CancellationToken) {
        let mut tick = interval(STATS.0);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            if let Ok(stats) = self.queue.stats(STATS.1, BUDGET).await {
                let age = stats.oldest_queued_at.map_or(0, |at| (unix_ms() - at).max(0) / 1000);
                self.metrics.failed_messages.set(i64::try_from(stats.messages).unwrap_or(i64::MAX));
                self.metrics.failed_age.set(age);
            }
        }
    }
}

/// Compares the index with the queues, until the token is cancelled.
async fn repair_index(queue: FailedQueue, stop: CancellationToken) {
    let mut repair = IndexRepair::new(queue, RepairPace::default());
    let work = async {
        let mut tick = interval(REPAIR);
        loop {
            tick.tick().await;
            if let Err(error) = repair.run().await {
                tracing::debug!(%error, "a server's queues can't be compared with the failed queue's index, trying on");
            }
        }
    };
    stop.run_until_cancelled(work).await;
}
