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
mod session;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_redis::Connection;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::event::Event;

/// An item of the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// An event was published on a channel. An event for several channels is published on each.
    Heard {
        /// The channel it was published on.
        channel: Channel,
        /// The event.
        event: Event,
    },
    /// Events may have been missed before this; everything is subscribed now.
    Resubscribed,
}

/// Settings of the subscription.
#[derive(Debug, Clone, Copy)]
pub struct ChannelSettings {
    /// The capacity of the queue, in events. When it is full, events are dropped.
    pub capacity: usize,
    /// The interval of the beacon.
    pub beacon_interval: Duration,
    /// How long the beacon may not be received before the subscription counts as broken.
    pub silence: Duration,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self { capacity: 10_000, beacon_interval: Duration::from_secs(1), silence: Duration::from_secs(3) }
    }
}

/// The subscriptions of the process. Cheap to clone; dropping the last clone closes the connection.
#[derive(Clone)]
pub struct Channels {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

struct Shared {
    keys: Keys,
    wanted: Mutex<Wanted>,
    /// `wanted` has changed.
    wake: Notify,
    healthy: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    channels: HashMap<Channel, Interest>,
    /// Channels that have to be subscribed or unsubscribed.
    changed: HashSet<Channel>,
}

struct Interest {
    count: usize,
    confirmed: watch::Sender<bool>,
}

/// A subscription to a channel; it ends when it is dropped. The last one to end unsubscribes the channel.
pub struct Subscription {
    shared: Arc<Shared>,
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
        let shared =
            Arc::new(Shared { wanted: Mutex::default(), wake: Notify::new(), healthy: AtomicBool::new(false), keys });
        let stop = CancellationToken::new();
        let session = session::Runner {
            shared: shared.clone(),
            connection,
            beacon: shared.keys.beacon(gateway),
            beacons: Arc::default(),
            settings,
            events,
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(session.run()));
        (Self { shared, _stop: Arc::new(stop.drop_guard()) }, queue)
    }

    /// Subscribes to a channel. [`Subscription::confirmed`] waits until the server has confirmed it.
    pub fn subscribe(&self, channel: Channel) -> Subscription {
        let mut wanted = self.shared.lock();
        let Wanted { channels, changed } = &mut *wanted;
        let interest = channels.entry(channel.clone()).or_insert_with(|| {
            changed.insert(channel.clone());
            Interest { count: 0, confirmed: watch::channel(false).0 }
        });
        interest.count += 1;
        let confirmed = interest.confirmed.subscribe();
        drop(wanted);
        self.shared.wake.notify_one();
        Subscription { shared: self.shared.clone(), channel, confirmed }
    }

    /// Whether everything is subscribed and the beacon is received.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Relaxed)
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
        let mut wanted = self.shared.lock();
        let Wanted { channels, changed } = &mut *wanted;
        let Some(interest) = channels.get_mut(&self.channel) else { return };
        interest.count -= 1;
        if interest.count == 0 {
            channels.remove(&self.channel);
            changed.insert(self.channel.clone());
            drop(wanted);
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the channels to subscribe and those to unsubscribe.
    fn take_changed(&self) -> (Vec<Channel>, Vec<Channel>) {
        let mut wanted = self.lock();
        let changed = std::mem::take(&mut wanted.changed);
        changed.into_iter().partition(|channel| wanted.channels.contains_key(channel))
    }

    /// Marks every channel as not subscribed, and returns all of them.
    fn take_all(&self) -> Vec<Channel> {
        let mut wanted = self.lock();
        wanted.changed.clear();
        for interest in wanted.channels.values() {
            interest.confirmed.send_replace(false);
        }
        wanted.channels.keys().cloned().collect()
    }

    fn confirm(&self, channels: &[Channel]) {
        let wanted = self.lock();
        for interest in channels.iter().filter_map(|channel| wanted.channels.get(channel)) {
            interest.confirmed.send_replace(true);
        }
    }
}
