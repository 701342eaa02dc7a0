//! The subscription to the events that other gateways publish. It notices when events may have been missed.
//!
//! One connection carries all subscriptions of the process; in a cluster it is one to any node, because every node delivers what is published
//! on any other. The subscription counts as broken in three cases: the connection ends; the server does not confirm a subscription; or the
//! process no longer receives its own beacon, which it publishes every second on the ordinary connection. The last rule finds subscriptions
//! that look alive and deliver nothing. A broken subscription is replaced with back-off, and when everything is subscribed again
//! [`ChannelEvent::Resubscribed`] reports that events may have been missed.
//!
//! Events go to a bounded queue. When it is full, events are dropped and counted, and the queue's reader gets
//! [`ChannelEvent::Resubscribed`] as soon as there is room: no event is lost silently. A process also receives its own events; the reader
//! skips them by their origin.

mod beacon;
mod interests;
mod session;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_keys::{Channel, Keys};
use holdfast_redis::Connection;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use interests::Interests;
pub use interests::{ChannelEvent, ChannelSettings};

/// The subscriptions of the process. Cheap to clone; dropping the last clone closes the connection.
#[derive(Clone)]
pub struct Channels {
    interests: Arc<Interests>,
    _stop: Arc<DropGuard>,
}

/// A subscription to a channel; it ends when it is dropped. The last one to end unsubscribes the channel.
pub struct Subscription {
    interests: Arc<Interests>,
    channel: Channel,
    confirmed: watch::Receiver<bool>,
}

impl Channels {
    /// Starts the subscription in the background, and returns the queue of its events. `gateway` names the beacon of this process and must be
    /// unique; `connection` is the ordinary connection to the same server or cluster. Must be called within a Tokio runtime.
    pub fn start(
        connection: Connection,
        keys: Keys,
        gateway: &str,
        settings: ChannelSettings,
    ) -> (Self, mpsc::Receiver<ChannelEvent>) {
        let (events, queue) = mpsc::channel(settings.capacity.max(1));
        let interests = Arc::new(Interests::new(keys));
        let stop = CancellationToken::new();
        let session = session::Runner {
            interests: interests.clone(),
            connection,
            beacon: interests.keys.beacon(gateway),
            beacons: Arc::default(),
            settings,
            events,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(session.run()));
        (Self { interests, _stop: Arc::new(stop.drop_guard()) }, queue)
    }

    /// Subscribes to a channel. [`Subscription::confirmed`] waits until the server has confirmed it.
    pub fn subscribe(&self, channel: Channel) -> Subscription {
        let confirmed = self.interests.add(&channel);
        Subscription { interests: self.interests.clone(), channel, confirmed }
    }

    /// Whether everything is subscribed and the beacon is received.
    pub fn is_healthy(&self) -> bool {
        self.interests.healthy.load(Ordering::Relaxed)
    }
}

impl Subscription {
    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Waits until the server has confirmed the subscription. Every later publication is received, or followed by
    /// [`ChannelEvent::Resubscribed`]. While the server is away this waits.
    pub async fn confirmed(&self) {
        // The sender lives as long as this subscription.
        let _ = self.confirmed.clone().wait_for(|confirmed| *confirmed).await;
    }

    /// As [`Subscription::confirmed`], without borrowing the subscription.
    pub fn confirmation(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut confirmed = self.confirmed.clone();
        async move {
            // An error means that the subscription has ended meanwhile.
            let _ = confirmed.wait_for(|confirmed| *confirmed).await;
        }
    }

    /// Whether the channel is subscribed now.
    pub fn is_confirmed(&self) -> bool {
        *self.confirmed.borrow()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.interests.remove(&self.channel);
    }
}
