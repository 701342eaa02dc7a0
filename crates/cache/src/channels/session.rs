//! The life of the subscribing connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, RedisError, Value};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::beacon::Beacons;
use super::{ChannelEvent, ChannelSettings, Shared};
use crate::CacheError;
use crate::connection::{Connection, Node, connection_config};
use crate::event::Event;
use crate::keys::{Channel, Keys};
use crate::metrics::CacheMetrics;
use crate::script::Call;

/// Channels that are subscribed in one command.
const CHUNK: usize = 500;
/// How long the server may take to confirm one such command.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Runner {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) beacon: String,
    pub(super) beacons: Arc<Beacons>,
    pub(super) settings: ChannelSettings,
    pub(super) events: mpsc::Sender<ChannelEvent>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("{0}")]
    Cache(#[from] CacheError),
    #[error("a subscription was not confirmed in time")]
    Unconfirmed,
    #[error("the stream ended")]
    Ended,
    #[error("the beacon is not heard")]
    Silent,
}

/// What the connection's reader leaves for the session.
struct Ear {
    keys: Keys,
    beacon: String,
    beacons: Arc<Beacons>,
    events: mpsc::Sender<ChannelEvent>,
    metrics: CacheMetrics,
    heard: watch::Sender<Instant>,
    ended: Notify,
    /// Events are being dropped until the queue has room for the news of it.
    lossy: AtomicBool,
    dropped: Notify,
}

impl Runner {
    pub(super) async fn run(self) {
        tokio::join!(self.publish_beacons(), self.keep_subscribed());
    }

    async fn publish_beacons(&self) {
        let mut ticks = interval(self.settings.beacon_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let deadline = Instant::now() + self.settings.beacon_interval;
            let Ok(servers) = self.connection.masters(deadline).await else { continue };
            if self.connection.is_cluster() {
                self.beacons.retain(|name| servers.iter().any(|server| &**server.name() == name));
            }
            join_all(servers.iter().map(|server| self.publish_beacon(server, deadline))).await;
        }
    }

    async fn publish_beacon(&self, server: &Node, deadline: Instant) {
        let call = Call::new("PUBLISH").arg(&self.beacon).arg(&**server.name());
        // A beacon that does not get out is one that is not heard.
        if self.connection.run_at("beacon", server, call, deadline).await.is_ok()
            && self.connection.is_cluster()
            && let Some(generation) = server.generation()
        {
            self.beacons.taken(server.name(), generation);
        }
    }

    async fn keep_subscribed(&self) {
        let mut attempt = 0_u32;
        loop {
            let started = Instant::now();
            let Err(broken) = self.session().await;
            self.shared.healthy.store(false, Ordering::Relaxed);
            self.shared.take_all();
            self.connection.metrics().channel_breaks.inc();
            if started.elapsed() > Duration::from_secs(10) {
                attempt = 0;
            }
            if attempt == 0 {
                tracing::warn!(error = %broken, "the subscription is broken, trying on");
            }
            let most = 200_u64.saturating_mul(1 << attempt.min(4)).min(2000);
            tokio::time::sleep(Duration::from_millis(fastrand::u64(most / 2..=most))).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn session(&self) -> Result<std::convert::Infallible, Broken> {
        let ear = Arc::new(Ear {
            keys: self.shared.keys.clone(),
            beacon: self.beacon.clone(),
            beacons: self.beacons.clone(),
            events: self.events.clone(),
            metrics: self.connection.metrics().clone(),
            heard: watch::channel(Instant::now()).0,
            ended: Notify::new(),
            lossy: AtomicBool::new(false),
            dropped: Notify::new(),
        });
        let listener = ear.clone();
        let config = connection_config().set_push_sender(move |info: PushInfo| {
            listener.hear(info);
            Ok::<(), redis::aio::SendError>(())
        });
        let server = self.connection.any(Instant::now() + CONFIRM_TIMEOUT).await?;
        let mut subscriber = server.client().get_multiplexed_async_connection_with_config(&config).await?;

        let wanted = self.shared.take_all();
        confirmed(subscriber.subscribe(&self.beacon)).await?;
        self.subscribe(&mut subscriber, &wanted).await?;
        let mut news = !wanted.is_empty();
        ear.heard.send_replace(Instant::now());
        self.beacons.listen_anew();
        self.shared.healthy.store(true, Ordering::Relaxed);

        let mut ticks = interval(self.settings.beacon_interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let lossy = ear.lossy.load(Ordering::Acquire);
            tokio::select! {
                biased;
                () = ear.ended.notified() => return Err(Broken::Ended),
                () = self.shared.wake.notified() => {
                    let (subscribe, unsubscribe) = self.shared.take_changed();
                    self.subscribe(&mut subscriber, &subscribe).await?;
                    for chunk in unsubscribe.chunks(CHUNK) {
                        confirmed(subscriber.unsubscribe(self.names(chunk))).await?;
                    }
                }
                Ok(room) = self.events.reserve(), if lossy || news => {
                    // In this order: what is heard from here on is queued, and what was dropped was dropped before the news.
                    ear.lossy.store(false, Ordering::Release);
                    room.send(ChannelEvent::Resubscribed);
                    news = false;
                }
                () = ear.dropped.notified(), if !lossy => {
                    self.connection.metrics().channel_breaks.inc();
                    tracing::warn!("events are not taken fast enough and are dropped");
                }
                () = self.beacons.lost.notified() => {
                    self.connection.metrics().channel_breaks.inc();
                    tracing::warn!("a node of the cluster was lost, and perhaps events with it");
                    news = true;
                }
                _ = ticks.tick() => {
                    let unheard = ear.heard.borrow().elapsed() > self.settings.silence;
                    if unheard || self.beacons.is_silent(self.settings.silence) {
                        return Err(Broken::Silent);
                    }
                }
            }
        }
    }

    async fn subscribe(&self, subscriber: &mut MultiplexedConnection, channels: &[Channel]) -> Result<(), Broken> {
        for chunk in channels.chunks(CHUNK) {
            confirmed(subscriber.subscribe(self.names(chunk))).await?;
            self.shared.confirm(chunk);
        }
        Ok(())
    }

    fn names(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.shared.keys.channel(channel)).collect()
    }
}

async fn confirmed(command: impl Future<Output = Result<(), RedisError>>) -> Result<(), Broken> {
    Ok(timeout(CONFIRM_TIMEOUT, command).await.map_err(|_| Broken::Unconfirmed)??)
}

impl Ear {
    /// Called by the connection's reader, which it must not hold up.
    fn hear(&self, info: PushInfo) {
        match info.kind {
            PushKind::Disconnection => self.ended.notify_one(),
            PushKind::Message => {
                let mut parts = info.data.into_iter();
                if let (Some(Value::BulkString(name)), Some(Value::BulkString(payload))) = (parts.next(), parts.next())
                {
                    self.message(&name, &payload);
                }
            }
            _ => {}
        }
    }

    fn message(&self, name: &[u8], payload: &[u8]) {
        if name == self.beacon.as_bytes() {
            self.heard.send_replace(Instant::now());
            self.beacons.heard(payload);
            return;
        }
        let channel = std::str::from_utf8(name).ok().and_then(|name| self.keys.parse_channel(name));
        let (Some(channel), Some(event)) = (channel, Event::decode(payload)) else {
            self.metrics.undecodable("channel", 1);
            return;
        };
        let full =
            self.lossy.load(Ordering::Acquire) || self.events.try_send(ChannelEvent::Heard { channel, event }).is_err();
        if full {
            self.metrics.channel_dropped.inc();
            if !self.lossy.swap(true, Ordering::AcqRel) {
                self.dropped.notify_one();
            }
        }
    }
}
