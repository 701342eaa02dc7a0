//! The task that owns the subscribing connection: publishes beacons, subscribes, and reconnects.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_keys::{Channel, Keys};
use holdfast_redis::{Call, Connection, Node, RedisMetrics, Subscriber, SubscriptionError};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::beacon::Beacons;
use super::interests::{ChannelEvent, ChannelSettings, Interests};
use crate::event::Event;

/// How many channels one command subscribes.
const CHUNK: usize = 500;

pub(super) struct Runner {
    pub(super) interests: Arc<Interests>,
    pub(super) connection: Connection,
    pub(super) beacon: String,
    pub(super) beacons: Arc<Beacons>,
    pub(super) settings: ChannelSettings,
    pub(super) events: mpsc::Sender<ChannelEvent>,
}

/// What the connection's reader task shares with the session.
struct Receiver {
    keys: Keys,
    beacon: String,
    beacons: Arc<Beacons>,
    events: mpsc::Sender<ChannelEvent>,
    metrics: RedisMetrics,
    heard: watch::Sender<Instant>,
    /// Events are being dropped until the queue has room for [`ChannelEvent::Resubscribed`].
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
        // A beacon that is not published is not received either.
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
            self.interests.healthy.store(false, Ordering::Relaxed);
            self.interests.take_all();
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

    async fn session(&self) -> Result<Infallible, SubscriptionError> {
        let receiver = Arc::new(Receiver {
            keys: self.interests.keys.clone(),
            beacon: self.beacon.clone(),
            beacons: self.beacons.clone(),
            events: self.events.clone(),
            metrics: self.connection.metrics().clone(),
            heard: watch::channel(Instant::now()).0,
            lossy: AtomicBool::new(false),
            dropped: Notify::new(),
        });
        let reader = receiver.clone();
        let receive = move |channel: &[u8], payload: &[u8]| reader.receive(channel, payload);
        let mut subscriber = Subscriber::connect(&self.connection, receive).await?;

        let wanted = self.interests.take_all();
        subscriber.subscribe(&self.beacon).await?;
        self.subscribe(&mut subscriber, &wanted).await?;
        let mut resubscribed = !wanted.is_empty();
        receiver.heard.send_replace(Instant::now());
        self.beacons.listen_anew();
        self.interests.healthy.store(true, Ordering::Relaxed);

        let mut ticks = interval(self.settings.beacon_interval / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let lossy = receiver.lossy.load(Ordering::Acquire);
            tokio::select! {
                biased;
                () = subscriber.ended() => return Err(SubscriptionError::Ended),
                () = self.interests.changed.notified() => {
                    let (subscribe, unsubscribe) = self.interests.take_changed();
                    self.subscribe(&mut subscriber, &subscribe).await?;
                    for chunk in unsubscribe.chunks(CHUNK) {
                        subscriber.unsubscribe(self.names(chunk)).await?;
                    }
                }
                Ok(room) = self.events.reserve(), if lossy || resubscribed => {
                    // In this order: later events are queued, and every dropped event was dropped before this one.
                    receiver.lossy.store(false, Ordering::Release);
                    room.send(ChannelEvent::Resubscribed);
                    resubscribed = false;
                }
                () = receiver.dropped.notified(), if !lossy => {
                    self.connection.metrics().channel_breaks.inc();
                    tracing::warn!("events are not taken fast enough and are dropped");
                }
                () = self.beacons.lost.notified() => {
                    self.connection.metrics().channel_breaks.inc();
                    tracing::warn!("a node of the cluster was lost, and perhaps events with it");
                    resubscribed = true;
                }
                _ = ticks.tick() => {
                    let unheard = receiver.heard.borrow().elapsed() > self.settings.silence;
                    if unheard || self.beacons.is_silent(self.settings.silence) {
                        return Err(SubscriptionError::Silent);
                    }
                }
            }
        }
    }

    async fn subscribe(&self, subscriber: &mut Subscriber, channels: &[Channel]) -> Result<(), SubscriptionError> {
        for chunk in channels.chunks(CHUNK) {
            subscriber.subscribe(self.names(chunk)).await?;
            self.interests.confirm(chunk);
        }
        Ok(())
    }

    fn names(&self, channels: &[Channel]) -> Vec<String> {
        channels.iter().map(|channel| self.interests.keys.channel(channel)).collect()
    }
}

impl Receiver {
    /// Queues a publication. The connection's reader task calls it, so it must not block.
    fn receive(&self, name: &[u8], payload: &[u8]) {
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
