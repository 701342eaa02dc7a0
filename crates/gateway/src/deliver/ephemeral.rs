//! Ephemeral events (typing, presence, read receipts): sent to connected clients, never stored.
//!
//! Takes an event and its channels; gives it to the sockets of this gateway at once, and publishes it to other gateways in the background. Publications
//! wait in a bounded queue and go out in batches, in order, behind the cache's breaker. An event that finds the queue full, or the cache away, is
//! dropped and counted: a client that missed it learns the state when it asks for it.

use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::announce::{Announcement, Announcer};
use holdfast_cache::event::MAX_LIVE_PAYLOAD;
use holdfast_keys::Channel;
use holdfast_message::UserId;
use serde::Serialize;
use serde_json::value::to_raw_value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use holdfast_cache::event::LiveEvent;

use crate::deliver::sockets::Sockets;
use crate::metrics::{Dropped, Metrics};

/// Publications that may wait, one a channel.
const CAPACITY: usize = 10_000;
/// Publications of one round trip.
const BATCH: usize = 128;

/// Sends ephemeral events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct EphemeralEvents {
    sockets: Sockets,
    announcer: Announcer,
    queue: mpsc::Sender<(Channel, Announcement)>,
    metrics: Metrics,
}

/// The queue's other end; [`EphemeralPublisher::run`] works it off.
pub(crate) struct EphemeralPublisher {
    announcer: Announcer,
    queue: mpsc::Receiver<(Channel, Announcement)>,
    metrics: Metrics,
}

impl EphemeralEvents {
    /// For these sockets, and for the other gateways by this announcer.
    pub(crate) fn new(sockets: Sockets, announcer: Announcer, metrics: Metrics) -> (Self, EphemeralPublisher) {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let outbox = EphemeralPublisher { announcer: announcer.clone(), queue: receiver, metrics: metrics.clone() };
        (Self { sockets, announcer, queue: sender, metrics }, outbox)
    }

    /// Sends an event to the subscribers of these channels, except to the devices of `except`. Never waits.
    pub(crate) fn send(
        &self,
        to: impl IntoIterator<Item = Channel>,
        except: Option<&UserId>,
        event: LiveEvent,
        payload: &impl Serialize,
    ) {
        let Some(payload) = to_raw_value(payload).ok().filter(|json| json.get().len() <= MAX_LIVE_PAYLOAD) else {
            tracing::error!(event = event.name(), "an ephemeral event is too long or no JSON");
            return self.metrics.live_dropped(Dropped::Unfit, 1);
        };
        let announcement = self.announcer.announcement(except, event, payload.get());
        for channel in to {
            if matches!(&channel, Channel::User(user) if Some(user) == except) {
                continue;
            }
            self.sockets.live(&channel, except, event, &payload);
            match self.queue.try_send((channel, announcement.clone())) {
                Ok(()) => self.metrics.live_waiting.inc(),
                Err(_) => self.metrics.live_dropped(Dropped::Full, 1),
            }
        }
    }

    /// Waits while more than half of the queue is taken. Callers that send many events at once wait, and so leave room for others.
    pub(crate) async fn has_room(&self) {
        while self.queue.capacity() < CAPACITY / 2 && !self.queue.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl EphemeralPublisher {
    /// Publishes what waits, each batch within the budget, until the token is cancelled.
    pub(crate) async fn run(mut self, breaker: Breaker, budget: Duration, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(1..) = stop.run_until_cancelled(self.queue.recv_many(&mut batch, BATCH)).await {
            self.metrics.live_waiting.sub(batch.len() as i64);
            let lost = self.publish(&batch, &breaker, budget).await;
            if lost > 0 {
                self.metrics.live_dropped(Dropped::Unavailable, lost);
            }
            batch.clear();
        }
    }

    /// Returns how many were lost.
    async fn publish(&self, batch: &[(Channel, Announcement)], breaker: &Breaker, budget: Duration) -> usize {
        match breaker.call(self.announcer.publish(batch, budget)).await {
            Ok(refused) => refused,
            Err(error) => {
                tracing::debug!(%error, "ephemeral events did not reach other gateways");
                batch.len()
            }
        }
    }
}
