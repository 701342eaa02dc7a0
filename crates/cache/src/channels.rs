//! Hearing what other gateways announce, and knowing when something may have been missed.
//!
//! One connection carries all subscriptions of the process: in a cluster to any one node, for what is published on one is heard on
//! all. It counts as broken when its stream ends, when the server does not
//! confirm a subscription, and when it no longer hears the process's own beacon, which is published every second on the ordinary
//! connection: a subscription that looks alive but delivers nothing is the worst kind. A broken one is made anew with back-off, and
//! when everything is subscribed again [`ChannelEvent::Resubscribed`] says that events may have been missed.
//!
//! Events go to a bounded queue. When it is full they are dropped and counted, and the queue's reader gets
//! [`ChannelEvent::Resubscribed`] as soon as there is room again; nothing is missed silently. Events of this process come back too:
//! whoever reads the queue skips them by their origin.

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

/// What the queue's reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// Something was published on a channel. What reaches several channels is published on each.
    Heard {
        /// Where.
        channel: Channel,
        /// What.
        event: Event,
    },
    /// Events may have been missed before this; everything is subscribed now.
    Resubscribed,
}

/// Settings of the subscription.
#[derive(Debug, Clone, Copy)]
pub struct ChannelSettings {
    /// How many events wait at most.
    pub capacity: usize,
    /// How often the beacon is published.
    pub beacon_interval: Duration,
    /// How long the beacon may stay unheard.
    pub silence: Duration,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self { capacity: 10_000, beacon_interval: Duration::from_secs(1), silence: Duration::from_secs(3) }
    }
}

/// The process's subscriptions. Cheap to clone; the connection is given up with the last clone.
#[derive(Clone)]
pub struct Channels {
    shared: Arc<Shared>,
    _stop: Arc<DropGuard>,
}

struct Shared {
    keys: Keys,
    wanted: Mutex<Wanted>,
    /// Something changed in `wanted`.
    wake: Notify,
    healthy: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    channels: HashMap<Channel, Interest>,
    /// Channels whose subscription may differ from what is wanted.
    changed: HashSet<Channel>,
}

struct Interest {
    count: usize,
    confirmed: watch::Sender<bool>,
}

/// An interest in a channel; ends when dropped. The channel is unsubscribed with the last interest in it.
pub struct Subscription {
    shared: Arc<Shared>,
    channel: Channel,
    confirmed: watch::Receiver<bool>,
}

impl Channels {
    /// Starts subscribing in the background, and gives the queue of what is heard. `gateway` names this process's beacon and must
    /// be no other's; `connection` is the ordinary connection to the same server or cluster. Must be called within a Tokio runtime.
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

    /// Takes an interest in a channel. [`Subscription::confirmed`] tells when it is heard.
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

    /// Whether everything that is wanted was subscribed and the beacon is heard.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Relaxed)
    }
}

impl Subscription {
    /// The channel.
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Waits until the server has confirmed the subscription. Whatever is published afterwards is heard, or followed by
    /// [`ChannelEvent::Resubscribed`]. With the server away it waits for as long as that lasts.
    pub async fn confirmed(&self) {
        // The sender lives in the interest, which lives as long as this subscription.
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

    /// Takes what has to be subscribed and unsubscribed since it was last asked.
    fn take_changed(&self) -> (Vec<Channel>, Vec<Channel>) {
        let mut wanted = self.lock();
        let changed = std::mem::take(&mut wanted.changed);
        changed.into_iter().partition(|channel| wanted.channels.contains_key(channel))
    }

    /// Marks everything as not subscribed, and takes all that is wanted.
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
