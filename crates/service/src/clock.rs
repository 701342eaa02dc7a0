//! The wall clock, as stamps need it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix epoch milliseconds that never go back within one process, even when the system's clock does.
#[derive(Debug, Default)]
pub struct Clock(AtomicI64);

impl Clock {
    /// Now.
    pub fn now_ms(&self) -> i64 {
        let now = unix_ms();
        self.0.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

/// Unix epoch milliseconds by the system's clock.
pub fn unix_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
