//! How long to wait before the next attempt to connect.

use std::time::Duration;

/// The wait after a failed attempt to connect: doubles from 25-50 ms to 0.5-1 s, with jitter.
pub(super) fn connect_backoff(attempt: u32) -> Duration {
    let most = 50_u64.saturating_mul(1 << attempt.min(5)).min(1000);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}
