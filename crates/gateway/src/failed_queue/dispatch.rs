//! Which chats are replayed when: as many at once as Kafka takes, as fast as the rate allows.
//!
//! The only clock is tokio's, so that the tests have one of their own.
//!
//! See `docs/decisions/replay-rate.md`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// How often due chats are looked for while there are fewer than could be replayed.
const POLL: Duration = Duration::from_millis(250);

/// Leases chats and works on them until the token is cancelled; then waits for those under way.
///
/// `lease` gives at most as many chats as it is asked for. As long as it gives that many there may be more, and the next is leased as
/// soon as one is finished.
pub(super) async fn run<Chat, Leased, Work>(
    concurrency: Arc<Concurrency>,
    lease: impl Fn(usize) -> Leased,
    work: impl Fn(Chat) -> Work,
    stop: CancellationToken,
) where
    Leased: Future<Output = Vec<Chat>>,
    Work: Future<Output = ()> + Send + 'static,
{
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut at_work = JoinSet::new();
    while !stop.is_cancelled() {
        while at_work.try_join_next().is_some() {}
        let free = concurrency.now().saturating_sub(at_work.len());
        let mut full = true;
        if free > 0 {
            let chats = lease(free).await;
            // With Kafka away a chat may fail at once: then the next one waits for the clock.
            full = chats.len() >= free && !concurrency.is_least();
            for chat in chats {
                at_work.spawn(work(chat));
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            Some(_) = at_work.join_next(), if full => {}
            _ = poll.tick() => {}
        }
    }
    while at_work.join_next().await.is_some() {}
}

/// How many chats may be replayed at once. It doubles with each success and halves with each failure, down to one: while Kafka takes
/// nothing a single chat at a time asks whether it is back, and the others stay due; while one partition of many is away, the chats of
/// the others go on.
pub(super) struct Concurrency {
    most: usize,
    now: AtomicUsize,
}

impl Concurrency {
    /// Begins with one.
    pub(super) fn up_to(most: usize) -> Self {
        Self { most: most.max(1), now: AtomicUsize::new(1) }
    }

    fn now(&self) -> usize {
        self.now.load(Ordering::Relaxed)
    }

    /// Kafka has taken nothing lately, or was never asked.
    fn is_least(&self) -> bool {
        self.now() == 1
    }

    /// Kafka took something.
    pub(super) fn grow(&self) {
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some((now * 2).min(self.most)));
    }

    /// Kafka did not.
    pub(super) fn shrink(&self) {
        let _ = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some((now / 2).max(1)));
    }
}

/// A rate of messages a second, shared by all chats that are replayed.
pub(super) struct Pace {
    per_second: u32,
    free_at: Mutex<Instant>,
    chats: AtomicUsize,
}

/// A chat that takes its share of the rate.
pub(super) struct AtWork<'a>(&'a Pace);

impl Pace {
    /// `per_second` is above 0.
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, free_at: Mutex::new(Instant::now()), chats: AtomicUsize::new(0) }
    }

    /// One more chat shares the rate.
    pub(super) fn join(&self) -> AtWork<'_> {
        self.chats.fetch_add(1, Ordering::Relaxed);
        AtWork(self)
    }

    /// Waits until so many messages may go.
    pub(super) async fn take(&self, count: usize) {
        let start = {
            let mut free_at = self.free_at.lock().await;
            let start = (*free_at).max(Instant::now());
            *free_at = start + Duration::from_secs(1).mul_f64(count as f64 / f64::from(self.per_second));
            start
        };
        sleep_until(start).await;
    }
}

impl AtWork<'_> {
    /// How many messages to take at once, so that everybody's turn comes within about a second.
    pub(super) fn share(&self) -> usize {
        (self.0.per_second as usize / self.0.chats.load(Ordering::Relaxed).max(1)).max(1)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.chats.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use super::*;

    /// What a chat's replay waits for besides the rate: the queue's server four times, Kafka once.
    const ROUND_TRIPS: Duration = Duration::from_millis(12);

    /// Replays so many chats of one message each, in the time of a clock that moves only while everybody waits.
    async fn replay(chats: usize, per_second: u32) -> Duration {
        let started = Instant::now();
        let (due, stop) = (Cell::new(chats), CancellationToken::new());
        let (pace, concurrency) = (Arc::new(Pace::new(per_second)), Arc::new(Concurrency::up_to(128)));
        let done = Arc::new(AtomicUsize::new(0));
        let lease = |most: usize| {
            let given = most.min(due.get());
            due.set(due.get() - given);
            ready(vec![(); given])
        };
        let works_on = concurrency.clone();
        let work = |()| {
            let (pace, concurrency, done, stop) = (pace.clone(), works_on.clone(), done.clone(), stop.clone());
            async move {
                pace.take(1).await;
                tokio::time::sleep(ROUND_TRIPS).await;
                concurrency.grow();
                if done.fetch_add(1, Ordering::Relaxed) + 1 == chats {
                    stop.cancel();
                }
            }
        };
        run(concurrency, lease, work, stop.clone()).await;
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_thousand_chats_are_replayed_at_the_configured_rate() {
        for (per_second, expected) in [(1000, 20), (2000, 10), (5000, 4)] {
            let took = replay(20_000, per_second).await;
            let (least, most) = (Duration::from_secs(expected) - POLL, Duration::from_secs(expected) + POLL);
            assert!((least..=most).contains(&took), "20,000 chats at {per_second}/s took {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_kafka_takes_nothing_one_chat_at_a_time_asks() {
        // It times out, or it refuses at once.
        for fails_after in [Duration::from_millis(2500), Duration::ZERO] {
            fail(fails_after).await;
        }
    }

    async fn fail(fails_after: Duration) {
        let (concurrency, stop) = (Arc::new(Concurrency::up_to(128)), CancellationToken::new());
        (0..7).for_each(|_| concurrency.grow());
        let [at_work, tried, beside] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let work = |()| {
            let (concurrency, at_work, tried, beside, stop) =
                (concurrency.clone(), at_work.clone(), tried.clone(), beside.clone(), stop.clone());
            async move {
                let others = at_work.fetch_add(1, Ordering::Relaxed);
                let tries = tried.fetch_add(1, Ordering::Relaxed);
                if tries >= 128 {
                    beside.fetch_max(others, Ordering::Relaxed);
                }
                tokio::time::sleep(fails_after).await;
                at_work.fetch_sub(1, Ordering::Relaxed);
                concurrency.shrink();
                if tries == 140 {
                    stop.cancel();
                }
            }
        };
        let started = Instant::now();
        run(concurrency.clone(), |most| ready(vec![(); most]), work, stop.clone()).await;
        assert_eq!(tried.load(Ordering::Relaxed), 141);
        assert_eq!(beside.load(Ordering::Relaxed), 0, "after the first failures each is alone");
        assert!(started.elapsed() >= 10 * POLL, "the queue's server is not asked without end");
        assert_eq!(concurrency.now(), 1);
        concurrency.grow();
        assert_eq!(concurrency.now(), 2, "and more as soon as Kafka is back");
    }

    #[tokio::test(start_paused = true)]
    async fn chats_share_the_rate_so_that_none_waits_longer_than_its_lease() {
        let pace = Pace::new(1000);
        let one = pace.join();
        assert_eq!(one.share(), 1000);
        let all: Vec<_> = (0..127).map(|_| pace.join()).collect();
        assert_eq!(one.share(), 7);
        drop(all);
        assert_eq!(one.share(), 1000);
    }
}
