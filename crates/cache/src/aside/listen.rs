//! Hearing what is invalidated: one subscribing connection a process, its beacon, and the paying back of what is owed.
//!
//! What is heard is done at once, on the connection's reader: nothing waits in a queue, so nothing can be dropped.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::backend::{BEACON, BOUND, Shared};
use crate::CacheError;
use crate::connection::connection_config;
use crate::msgpack::{Reader, Writer};
use crate::script::Call;

const VERSION: u64 = 1;
/// How long the server may take to connect, or to confirm a subscription.
const CONFIRM: Duration = Duration::from_secs(5);
/// What Redis has for the repetition of owed invalidations.
const REPAY: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Away(#[from] CacheError),
    #[error("no answer in time")]
    Unconfirmed,
    #[error("the stream ended")]
    Ended,
    #[error("the beacon is not heard")]
    Silent,
}

/// The bytes of a publication: a positional msgpack array of version and key, or nil for everything.
pub(super) fn news(name: Option<&str>) -> Vec<u8> {
    Writer::with_capacity(64).array(2).uint(VERSION).maybe_str(name).0
}

/// What a publication says to forget: `Some(None)` is everything.
fn heard(payload: &[u8]) -> Option<Option<&str>> {
    let mut reader = Reader(payload);
    reader.array()?;
    if reader.uint()? != VERSION {
        return None;
    }
    reader.maybe_str()
}

pub(super) async fn run(shared: Arc<Shared>) {
    let beacon = shared.keys.beacon(&format!("aside-{:016x}", fastrand::u64(..)));
    tokio::join!(send_beacon(&shared, &beacon), keep_listening(&shared, &beacon), repay(&shared));
}

/// Through every master, for each takes invalidations of its own and delivers them in order with its beacon.
async fn send_beacon(shared: &Shared, beacon: &str) {
    let connection = shared.client.connection();
    let mut ticks = interval(BEACON);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (sent, deadline) = (shared.now(), Instant::now() + BEACON);
        // A beacon that does not get out is one that is not heard.
        let masters = connection.masters(deadline).await.unwrap_or_default();
        let beacons = masters.iter().map(|node| {
            let call = Call::new("PUBLISH").arg(beacon).arg(format!("{sent} {} {}", masters.len(), node.name()));
            connection.run_at("beacon", node, call, deadline)
        });
        join_all(beacons).await;
        shared.measure();
    }
}

async fn repay(shared: &Shared) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Err(error) = shared.repay_some(REPAY).await {
            tracing::debug!(%error, "invalidations are still owed");
        }
    }
}

async fn keep_listening(shared: &Arc<Shared>, beacon: &str) {
    let mut attempt = 0_u32;
    loop {
        let started = Instant::now();
        let Err(broken) = session(shared, beacon).await;
        shared.deaf();
        shared.metrics.emptied.inc();
        if started.elapsed() > Duration::from_secs(10) {
            attempt = 0;
        }
        if attempt == 0 {
            tracing::warn!(error = %broken, "invalidations are not heard: the first level is off");
        }
        let most = 100_u64.saturating_mul(1 << attempt.min(4)).min(1000);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(most / 2..=most))).await;
        attempt = attempt.saturating_add(1);
    }
}

async fn session(shared: &Arc<Shared>, beacon: &str) -> Result<std::convert::Infallible, Broken> {
    let ended = Arc::new(Notify::new());
    let (told, weak, own) = (ended.clone(), Arc::downgrade(shared), beacon.to_owned());
    let config = connection_config().set_push_sender(move |info: PushInfo| {
        match (info.kind, weak.upgrade()) {
            (PushKind::Message, Some(shared)) => hear(&shared, &own, info.data),
            (PushKind::Disconnection, _) | (_, None) => told.notify_one(),
            _ => {}
        }
        Ok::<(), redis::aio::SendError>(())
    });
    let server = shared.client.connection().any(Instant::now() + CONFIRM).await?;
    let mut subscriber = within(server.client().get_multiplexed_async_connection_with_config(&config)).await?;
    // In this order: a beacon can be heard only when nothing from before this subscription is in memory.
    within(subscriber.subscribe(shared.keys.invalidations())).await?;
    shared.forget_all();
    within(subscriber.subscribe(beacon)).await?;
    let (since, mut ticks) = (Instant::now(), interval(BEACON));
    loop {
        tokio::select! {
            biased;
            () = ended.notified() => return Err(Broken::Ended),
            _ = ticks.tick() => {
                // Not in use for as long as that: it might as well be made anew.
                if since.elapsed() > 2 * BOUND && !shared.hears(std::time::Instant::now()) {
                    return Err(Broken::Silent);
                }
            }
        }
    }
}

async fn within<T>(step: impl Future<Output = Result<T, RedisError>>) -> Result<T, Broken> {
    Ok(timeout(CONFIRM, step).await.map_err(|_| Broken::Unconfirmed)??)
}

/// Called by the connection's reader.
fn hear(shared: &Shared, beacon: &str, data: Vec<Value>) {
    let mut parts = data.into_iter();
    let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (parts.next(), parts.next()) else {
        return;
    };
    if channel == beacon.as_bytes() {
        let mut words = std::str::from_utf8(&payload).unwrap_or_default().splitn(3, ' ');
        let mut number = || words.next()?.parse().ok();
        if let (Some(sent), Some(masters), Some(node)) = (number(), number(), words.next()) {
            shared.heard(node, sent, masters);
        }
        return;
    }
    match heard(&payload) {
        Some(Some(name)) => shared.forget(name),
        // A publication that this build can't read may concern anything.
        Some(None) | None => shared.forget_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_back_and_a_newer_version_concerns_everything() {
        assert_eq!(heard(&news(Some("chat:v1:x:{a}"))), Some(Some("chat:v1:x:{a}")));
        assert_eq!(heard(&news(None)), Some(None));
        let mut newer = news(Some("a"));
        newer[1] = 2;
        assert_eq!(heard(&newer), None);
        assert_eq!(heard(b""), None);
    }
}
