//! The background work of the aside caches: one subscription to invalidations for each process, its beacon, and the retries of pending
//! invalidations.
//!
//! An invalidation is applied at once, on the connection's reader task: nothing waits in a queue, so nothing can be dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::invalidation::{BEACON, BOUND, Shared};
use super::names::Names;
use super::publication;
use crate::script::Call;
use crate::subscriber::{Subscriber, SubscriptionError};

/// The time for one call that retries pending invalidations.
const RETRY: Duration = Duration::from_secs(1);

pub(super) async fn run<N: Names>(shared: Arc<Shared<N>>) {
    let beacon = shared.names.beacon(&format!("aside-{:016x}", fastrand::u64(..)));
    tokio::join!(send_beacon(&shared, &beacon), keep_listening(&shared, &beacon), retry(&shared));
}

/// Publishes the beacon through every master: each master takes invalidations of its own and delivers them in order with its beacon.
async fn send_beacon<N: Names>(shared: &Shared<N>, beacon: &str) {
    let connection = shared.client.connection();
    let mut ticks = interval(BEACON);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (sent, deadline) = (shared.now(), Instant::now() + BEACON);
        // A beacon that is not published is not received either.
        let masters = connection.masters(deadline).await.unwrap_or_default();
        let beacons = masters.iter().map(|node| {
            let call = Call::new("PUBLISH").arg(beacon).arg(format!("{sent} {} {}", masters.len(), node.name()));
            connection.run_at("beacon", node, call, deadline)
        });
        join_all(beacons).await;
        shared.measure();
    }
}

async fn retry<N: Names>(shared: &Shared<N>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = shared.retry(RETRY).await {
            tracing::debug!(%error, "invalidations are still pending");
        }
    }
}

async fn keep_listening<N: Names>(shared: &Arc<Shared<N>>, beacon: &str) {
    let mut attempt = 0_u32;
    loop {
        let started = Instant::now();
        let Err(broken) = session(shared, beacon).await;
        shared.reset_liveness();
        shared.metrics.emptied.inc();
        if started.elapsed() > Duration::from_secs(10) {
            attempt = 0;
        }
        if attempt == 0 {
            tracing::warn!(error = %broken, "invalidations are not received: the first level is off");
        }
        let most = 100_u64.saturating_mul(1 << attempt.min(4)).min(1000);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(most / 2..=most))).await;
        attempt = attempt.saturating_add(1);
    }
}

/// One subscription, until it breaks.
async fn session<N: Names>(shared: &Arc<Shared<N>>, beacon: &str) -> Result<Infallible, SubscriptionError> {
    let (weak, own) = (Arc::downgrade(shared), beacon.to_owned());
    let receive = move |channel: &[u8], payload: &[u8]| {
        if let Some(shared) = weak.upgrade() {
            apply(&shared, &own, channel, payload);
        }
    };
    let mut subscriber = Subscriber::connect(shared.client.connection(), receive).await?;
    // In this order: when the first beacon is received, nothing from before this subscription is in memory.
    subscriber.subscribe(shared.names.invalidations()).await?;
    shared.forget_all();
    subscriber.subscribe(beacon).await?;
    let (since, mut ticks) = (Instant::now(), interval(BEACON));
    loop {
        tokio::select! {
            biased;
            () = subscriber.ended() => return Err(SubscriptionError::Ended),
            _ = ticks.tick() => {
                // The first level has been off for that long: a new subscription costs nothing more.
                if since.elapsed() > 2 * BOUND && !shared.is_live(std::time::Instant::now()) {
                    return Err(SubscriptionError::Silent);
                }
            }
        }
    }
}

/// Applies a publication: an invalidation, or the process's own beacon.
fn apply<N: Names>(shared: &Shared<N>, beacon: &str, channel: &[u8], payload: &[u8]) {
    if channel == beacon.as_bytes() {
        let mut words = std::str::from_utf8(payload).unwrap_or_default().splitn(3, ' ');
        let mut number = || words.next()?.parse().ok();
        if let (Some(sent), Some(masters), Some(node)) = (number(), number(), words.next()) {
            shared.beacon_received(node, sent, masters);
        }
        return;
    }
    match publication::decode(payload) {
        Some(Some(name)) => shared.forget(name),
        // A publication that this build can't read may concern any key.
        Some(None) | None => shared.forget_all(),
    }
}
