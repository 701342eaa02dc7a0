//! Exponential backoff: the wait doubles with each failed attempt up to a limit, with jitter.

use std::time::{Duration, Instant};

/// When the next attempt may be made.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// The wait begins at about `first` and never exceeds `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0, until: None }
    }

    /// Records a failed attempt. `jitter` is a random number in 0..1.
    pub fn fail(&mut self, now: Instant, jitter: f64) {
        let wait = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures += 1;
        self.until = Some(now + wait.mul_f64(0.5 + jitter / 2.0));
    }

    /// Records a successful attempt: the next wait begins at `first` again.
    pub fn reset(&mut self) {
        (self.failures, self.until) = (0, None);
    }

    /// Whether an attempt may be made now.
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }

    /// Whether the last attempt failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Failed attempts since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_start_anew_after_a_success() {
        let (mut backoff, now) = (Backoff::new(Duration::from_millis(100), Duration::from_secs(1)), Instant::now());
        for millis in [100, 200, 400, 800, 1000, 1000] {
            backoff.fail(now, 1.0);
            assert!(!backoff.is_over(now + Duration::from_millis(millis - 1)));
            assert!(backoff.is_over(now + Duration::from_millis(millis)));
        }
        backoff.reset();
        assert!(backoff.is_over(now) && !backoff.is_failing());
        backoff.fail(now, 0.0);
        assert!(backoff.is_over(now + Duration::from_millis(50)));
    }
}
