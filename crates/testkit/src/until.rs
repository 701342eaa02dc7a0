//! Waiting for what happens soon, unless it never does.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What has not happened by then never happens, however busy the machine is.
pub const LIVENESS: Duration = Duration::from_secs(120);
/// The pause between two looks.
const POLL: Duration = Duration::from_millis(10);

/// Waits until something is so.
///
/// # Panics
/// It is not so within [`LIVENESS`].
pub async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is().await {
        assert!(started.elapsed() < LIVENESS, "not within {LIVENESS:?}: {what}");
        sleep(POLL).await;
    }
}

/// The same, by asking something that a question changes.
///
/// # Panics
/// As [`until`].
pub async fn until_with<T>(what: &str, of: &mut T, is: impl AsyncFn(&mut T) -> bool) {
    let started = Instant::now();
    while !is(of).await {
        assert!(started.elapsed() < LIVENESS, "not within {LIVENESS:?}: {what}");
        sleep(POLL).await;
    }
}
