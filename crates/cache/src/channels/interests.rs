//! Which channels the process subscribes to, and what it receives on them.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use tokio::sync::{Notify, watch};

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

/// The channels that have subscribers. The session makes the server's subscriptions follow it.
pub(super) struct Interests {
    pub(super) keys: Keys,
    wanted: Mutex<Wanted>,
    /// Notified when a channel has to be subscribed or unsubscribed.
    pub(super) changed: Notify,
    /// Whether everything is subscribed and the beacon is received.
    pub(super) healthy: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    channels: HashMap<Channel, Interest>,
    /// Channels that have to be subscribed or unsubscribed.
    changed: HashSet<Channel>,
}

struct Interest {
    /// The number of subscribers.
    count: usize,
    confirmed: watch::Sender<bool>,
}

impl Interests {
    pub(super) fn new(keys: Keys) -> Self {
        Self { keys, wanted: Mutex::default(), changed: Notify::new(), healthy: AtomicBool::new(false) }
    }

    /// Adds a subscriber of a channel; the receiver says whether the server has confirmed the channel.
    pub(super) fn add(&self, channel: &Channel) -> watch::Receiver<bool> {
        let mut wanted = self.lock();
        let Wanted { channels, changed } = &mut *wanted;
        let interest = channels.entry(channel.clone()).or_insert_with(|| {
            changed.insert(channel.clone());
            Interest { count: 0, confirmed: watch::channel(false).0 }
        });
        interest.count += 1;
        let confirmed = interest.confirmed.subscribe();
        drop(wanted);
        self.changed.notify_one();
        confirmed
    }

    /// Removes a subscriber of a channel.
    pub(super) fn remove(&self, channel: &Channel) {
        let mut wanted = self.lock();
        let Wanted { channels, changed } = &mut *wanted;
        let Some(interest) = channels.get_mut(channel) else { return };
        interest.count -= 1;
        if interest.count == 0 {
            channels.remove(channel);
            changed.insert(channel.clone());
            drop(wanted);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the channels to subscribe and those to unsubscribe.
    pub(super) fn take_changed(&self) -> (Vec<Channel>, Vec<Channel>) {
        let mut wanted = self.lock();
        let changed = std::mem::take(&mut wanted.changed);
        changed.into_iter().partition(|channel| wanted.channels.contains_key(channel))
    }

    /// Marks every channel as not subscribed, and returns all of them.
    pub(super) fn take_all(&self) -> Vec<Channel> {
        let mut wanted = self.lock();
        wanted.changed.clear();
        for interest in wanted.channels.values() {
            interest.confirmed.send_replace(false);
        }
        wanted.channels.keys().cloned().collect()
    }

    /// Notes that the server has confirmed these channels.
    pub(super) fn confirm(&self, channels: &[Channel]) {
        let wanted = self.lock();
        for interest in channels.iter().filter_map(|channel| wanted.channels.get(channel)) {
            interest.confirmed.send_replace(true);
        }
    }
}
