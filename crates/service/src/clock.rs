//! The wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix epoch milliseconds by the system's clock.
pub fn unix_ms() -> i64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}
