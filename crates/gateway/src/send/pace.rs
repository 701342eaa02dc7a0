//! Which sends are too late for the cache.
//!
//! Batches go to the cache one after the other, so a cache that is slow but answers delays every send behind them. What a send may spend on
//! the cache is its deadline less the longest that durability takes. While the cache is slow, a batch with a send for which that would not
//! suffice is late: it goes on without the cache, and is listed in the background. While the cache is quick, waiting has another
//! cause, and skipping the cache would not help. Late batches learn nothing of the cache, so what a slow call has shown counts for a second
//! only: then a batch asks again, late or not. Otherwise one slow call on a busy gateway would make every batch after it late.

use std::time::{Duration, Instant};

/// For how many budgets a slow call counts: a second, as shipped.
const SLOW_FOR: u32 = 20;

/// What is known of the cache's speed, and how much time sends have for it. Takes the time as an argument.
#[derive(Debug)]
pub(super) struct Pace {
    deadline: Duration,
    budget: Duration,
    slow_until: Option<Instant>,
}

impl Pace {
    /// `deadline` counts from when a send begins to wait; `budget` is the most that one call takes.
    pub(super) fn new(deadline: Duration, budget: Duration) -> Self {
        Self { deadline, budget, slow_until: None }
    }

    /// For a send that waits behind no other.
    pub(super) fn unhurried(budget: Duration) -> Self {
        Self::new(Duration::MAX, budget)
    }

    /// A call that began at `begun` has been answered, or has failed. Beyond half the budget the cache is slow.
    pub(super) fn answered(&mut self, begun: Instant, now: Instant) {
        let slow = now.saturating_duration_since(begun) > self.budget / 2;
        self.slow_until = slow.then(|| now + self.budget * SLOW_FOR);
    }

    /// Whether a batch of sends that have waited since these times has too little time left for so many calls.
    pub(super) fn is_late(&self, since: impl Iterator<Item = Instant>, now: Instant, calls: u32) -> bool {
        let slow = self.slow_until.is_some_and(|until| now < until);
        let waited = since.map(|since| now.saturating_duration_since(since)).max();
        slow && waited.is_some_and(|waited| waited.saturating_add(self.budget * calls) > self.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(50);

    /// After a call that was answered at `now`.
    fn pace(now: Instant, took: u64) -> Pace {
        let mut pace = Pace::new(Duration::from_millis(150), BUDGET);
        pace.answered(now - Duration::from_millis(took), now);
        pace
    }

    #[test]
    fn behind_a_slow_cache_a_send_is_late_when_its_calls_no_longer_fit() {
        let since = Instant::now() + Duration::from_secs(1);
        let is_late = |waited, calls| {
            let now = since + Duration::from_millis(waited);
            pace(since, 45).is_late([now, since].into_iter(), now, calls)
        };
        assert!(!is_late(50, 2) && is_late(51, 2));
        assert!(!is_late(100, 1) && is_late(101, 1));
    }

    #[test]
    fn behind_a_quick_cache_nobody_is_late() {
        let since = Instant::now() + Duration::from_secs(1);
        let mut pace = pace(since, 45);
        pace.answered(since, since + Duration::from_millis(5));
        assert!(!pace.is_late([since].into_iter(), since + Duration::from_millis(900), 2));
    }

    #[test]
    fn a_slow_call_counts_for_a_second_although_late_batches_ask_nothing() {
        let answered = Instant::now() + Duration::from_secs(1);
        let pace = pace(answered, 45);
        let is_late = |after| {
            let now = answered + Duration::from_millis(after);
            pace.is_late([answered].into_iter(), now, 2)
        };
        assert!(is_late(999));
        assert!(!is_late(1000));
    }

    #[test]
    fn who_waits_behind_nobody_is_never_late() {
        let since = Instant::now() + Duration::from_secs(1);
        let mut pace = Pace::unhurried(BUDGET);
        pace.answered(since - BUDGET, since);
        assert!(!pace.is_late([since].into_iter(), since + Duration::from_millis(900), 2));
    }
}
