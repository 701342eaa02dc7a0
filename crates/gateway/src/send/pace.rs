//! Which sends are too late for the cache.
//!
//! Batches go to the cache one after the other, so a cache that is slow but answers delays every send behind them. What a send may spend on
//! the cache is its deadline less the longest that durability takes. While the cache is slow, a batch with a send for which that would not
//! suffice is late: it goes on without the cache, and is listed in the background. While the cache is quick, waiting has another
//! cause, and skipping the cache would not help.

use std::time::{Duration, Instant};

/// What is known of the cache's speed, and how much time sends have for it. Takes the time as an argument.
#[derive(Debug)]
pub(super) struct Pace {
    deadline: Duration,
    budget: Duration,
    slow: bool,
}

impl Pace {
    /// `deadline` counts from when a send begins to wait; `budget` is the most that one call takes.
    pub(super) fn new(deadline: Duration, budget: Duration) -> Self {
        Self { deadline, budget, slow: false }
    }

    /// For a send that waits behind no other.
    pub(super) fn unhurried(budget: Duration) -> Self {
        Self::new(Duration::MAX, budget)
    }

    /// The cache has answered, or failed to, within this time. Beyond half the budget it is slow.
    pub(super) fn answered_within(&mut self, took: Duration) {
        self.slow = took > self.budget / 2;
    }

    /// Whether a batch of sends that have waited since these times has too little time left for so many calls.
    pub(super) fn is_late(&self, since: impl Iterator<Item = Instant>, now: Instant, calls: u32) -> bool {
        let waited = since.map(|since| now.saturating_duration_since(since)).max();
        self.slow && waited.is_some_and(|waited| waited.saturating_add(self.budget * calls) > self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(took: u64) -> Pace {
        let mut pace = Pace::new(Duration::from_millis(150), Duration::from_millis(50));
        pace.answered_within(Duration::from_millis(took));
        pace
    }

    #[test]
    fn behind_a_slow_cache_a_send_is_late_when_its_calls_no_longer_fit() {
        let since = Instant::now();
        let is_late = |waited, calls| {
            let now = since + Duration::from_millis(waited);
            pace(45).is_late([now, since].into_iter(), now, calls)
        };
        assert!(!is_late(50, 2) && is_late(51, 2));
        assert!(!is_late(100, 1) && is_late(101, 1));
    }

    #[test]
    fn behind_a_quick_cache_nobody_is_late() {
        let since = Instant::now();
        let mut pace = pace(45);
        pace.answered_within(Duration::from_millis(5));
        assert!(!pace.is_late([since].into_iter(), since + Duration::from_secs(60), 2));
    }

    #[test]
    fn who_waits_behind_nobody_is_never_late() {
        let since = Instant::now();
        let mut pace = Pace::unhurried(Duration::from_millis(50));
        pace.answered_within(Duration::from_millis(50));
        assert!(!pace.is_late([since].into_iter(), since + Duration::from_secs(60), 2));
    }
}
