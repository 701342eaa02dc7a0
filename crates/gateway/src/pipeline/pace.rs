//! How long sends may wait for the cache, and when it is too slow for them.
//!
//! Sends are given to the cache in batches, one after the other. A cache that takes its time, but answers, holds up every send behind the
//! batch that it has; with enough of them the last ones miss their deadline. So each send has a time by which the cache has to be done
//! with it: its deadline less what making it durable may take. One that can't keep it any more skips the cache: it is
//! delivered without a position, and listed in the background ([`crate::relist`]).
//!
//! A cache that is the reason for that again and again is too slow for everybody. Then its breaker opens, although each call succeeds.
//! Slowness that nobody waits behind opens nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long sends may wait for the cache. Takes the time as an argument.
#[derive(Debug)]
pub struct Pace {
    /// From when a send is received until it must be done with the cache.
    done_by: Duration,
    /// What the cache has for one call.
    budget: Duration,
    /// Slow calls that held up sends, without a quick one among them, after which the cache is too slow.
    threshold: usize,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Since the last call that the cache answered, sends that passed it over because they had waited too long.
    passed_over: usize,
    /// Slow calls with such sends, since the last quick one.
    held_up: usize,
}

impl Pace {
    /// With so much time from the reception of a send until the cache must be done with it, `budget` of it for one call. After
    /// `threshold` slow calls that held up sends the cache is too slow.
    pub fn new(done_by: Duration, budget: Duration, threshold: usize) -> Self {
        Self { done_by, budget, threshold: threshold.max(1), seen: Mutex::default() }
    }

    /// What the cache has for one call.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// Whether a call that took so long was a slow one: longer than half the budget.
    pub fn is_slow(&self, took: Duration) -> bool {
        took > self.budget / 2
    }

    /// Whether a send that got in line at `since` is in time for so many calls.
    pub fn in_time(&self, since: Instant, now: Instant, calls: u32) -> bool {
        now.saturating_duration_since(since) + self.budget * calls <= self.done_by
    }

    /// So many sends were not in time.
    pub fn passed_over(&self, sends: usize) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).passed_over += sends;
    }

    /// The cache has answered a batch within this time. Whether it is too slow for the sends that wait for it.
    pub fn is_too_slow(&self, took: Duration) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let passed_over = std::mem::take(&mut seen.passed_over);
        if !self.is_slow(took) {
            // Who had to wait has waited for something else.
            seen.held_up = 0;
        } else if passed_over > 0 {
            seen.held_up += 1;
        }
        let too_slow = seen.held_up >= self.threshold;
        if too_slow {
            seen.held_up = 0;
        }
        too_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(5);
    const SLOW: Duration = Duration::from_millis(45);

    fn pace() -> Pace {
        Pace::new(Duration::from_millis(200), Duration::from_millis(50), 5)
    }

    #[test]
    fn a_send_that_waited_too_long_for_the_calls_to_come_is_not_in_time() {
        let (pace, since) = (pace(), Instant::now());
        let in_time = |waited: u64, calls| pace.in_time(since, since + Duration::from_millis(waited), calls);
        assert!(in_time(0, 2) && in_time(100, 2) && !in_time(101, 2));
        assert!(in_time(150, 1) && !in_time(151, 1));
    }

    #[test]
    fn slow_calls_that_held_up_sends_are_a_failure_and_nothing_else_is() {
        let pace = pace();
        let call = |took, passed_over| {
            pace.passed_over(passed_over);
            pace.is_too_slow(took)
        };
        for _ in 0..100 {
            assert!(!call(SLOW, 0), "nobody waits behind it");
            assert!(!call(QUICK, 1000), "it is not what they wait for");
        }
        for _ in 0..4 {
            assert!(!call(SLOW, 1));
            assert!(!call(SLOW, 0), "those that are held up skip it, and the next call has none");
        }
        assert!(call(SLOW, 1));
        for _ in 0..4 {
            assert!(!call(SLOW, 1), "it begins anew");
        }
        assert!(!call(QUICK, 0));
        assert!(!call(SLOW, 1), "a quick call makes it good");
    }
}
