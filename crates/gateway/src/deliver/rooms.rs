//! Keeps the [`room_index`](crate::deliver::room_index) in step with who belongs to which groups.
//!
//! A user's groups are read from the store when their first socket connects, when another gateway or a request here announces a change, after a gap in
//! the subscriptions, and every five minutes. While the store is away the reading is repeated, and then the user's clients get `resync`. A user who
//! is removed from a group stops getting its events at once, whatever the store returns later.
//!
//! See `docs/decisions/group-subscriptions.md`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cache::Channels;
use holdfast_cache::channels::Subscription;
use holdfast_cache::groups::{GroupChange, GroupChanges};
use holdfast_keys::Channel;
use holdfast_message::{ChatId, UserId};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::access::membership::Membership;
use crate::deliver::room_index::{Moved, Settled};
use crate::deliver::sockets::Sockets;
use crate::metrics::Metrics;

/// How often every user's groups are read again.
const RECHECK: Duration = Duration::from_secs(300);
/// Users whose groups are read at once.
const MAX_READS: usize = 32;
/// How long a confirmation of a subscription is waited for.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// Between attempts to read a user's groups: the first pause and the longest, with jitter.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Changes that wait to be published to the other gateways. When there are more, the oldest is dropped; the others notice it at their
/// next recheck.
const MAX_UNPUBLISHED: usize = 1000;
/// What the cache has for one round trip in the background, and between attempts.
const PUBLISH_BUDGET: Duration = Duration::from_secs(1);
const PUBLISH_AGAIN: Duration = Duration::from_millis(500);

/// The rooms of this gateway's users. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rooms(Arc<Inner>);

struct Inner {
    sockets: Sockets,
    channels: Channels,
    membership: Membership,
    reads: Semaphore,
    unpublished: Mutex<VecDeque<GroupChange>>,
    pending: Notify,
    metrics: Metrics,
}

impl Rooms {
    /// Rooms for these sockets.
    pub(crate) fn new(sockets: Sockets, channels: Channels, membership: Membership, metrics: Metrics) -> Self {
        let reads = Semaphore::new(MAX_READS);
        let (unpublished, pending) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { sockets, channels, membership, reads, unpublished, pending, metrics }))
    }

    /// A socket has connected: reads its user's groups. `own` is the confirmation of the subscription by which their changes become known.
    pub(crate) fn connected(&self, user: &UserId, own: impl Future<Output = ()> + Send + 'static) {
        // A second device shares what the first one has.
        if self.0.sockets.room_index().is_unread(user) && self.0.sockets.room_index().mark_dirty(user) {
            let (rooms, user) = (self.clone(), user.clone());
            tokio::spawn(async move {
                // Before the read: a change between the read and the subscription would be missed.
                let _ = timeout(CONFIRMED_WITHIN, own).await;
                rooms.refresh(&user).await;
            });
        }
    }

    /// Waits until a user's sockets get what other gateways announce to their groups, as far as these are known.
    pub(crate) async fn ready(&self, user: &UserId) {
        self.0.sockets.room_index().ready(user).await;
    }

    /// A user was found to belong to a group. If their sockets do not get its events, a change was missed.
    pub(crate) fn belongs(&self, user: &UserId, chat: &ChatId) {
        if chat.is_group() && self.0.sockets.room_index().lacks(user, chat) {
            self.mark_dirty(user);
        }
    }

    /// This gateway has changed a group, and its cached members were invalidated. Notifies the sockets here at once, and the other gateways in the
    /// background.
    pub(crate) fn changed(&self, change: GroupChange) {
        for user in &change.left {
            self.removed(user, &change.chat);
        }
        self.notify_room(&change.chat);
        for user in change.joined.iter().chain(&change.left) {
            self.mark_dirty(user);
        }
        let mut unpublished = self.0.unpublished.lock().unwrap_or_else(PoisonError::into_inner);
        if unpublished.len() >= MAX_UNPUBLISHED {
            unpublished.pop_front();
            self.0.metrics.group_changes_untold.inc();
        }
        unpublished.push_back(change);
        self.0.pending.notify_one();
    }

    /// Another gateway has changed a group, and announced it on this channel.
    pub(crate) fn heard(&self, channel: &Channel, chat: &ChatId, left: Option<&UserId>) {
        self.0.membership.forget_here(chat);
        if let Some(user) = left {
            self.removed(user, chat);
        }
        match channel {
            Channel::Group(_) => self.notify_room(chat),
            Channel::User(user) => self.mark_dirty(user),
        }
    }

    /// Reads the groups of all users here again.
    pub(crate) async fn recheck(&self) {
        for user in self.0.sockets.room_index().users() {
            // Not all at once: each read needs a permit.
            let _turn = self.0.reads.acquire().await;
            self.mark_dirty(&user);
        }
    }

    /// Rechecks every five minutes, and publishes changes to other gateways, until the token is cancelled.
    pub(crate) async fn run(self, changes: GroupChanges, stop: CancellationToken) {
        let recheck = async {
            loop {
                tokio::time::sleep(RECHECK).await;
                self.recheck().await;
            }
        };
        let work = async { tokio::join!(recheck, self.publish_changes(changes)) };
        stop.run_until_cancelled(work).await;
    }

    async fn publish_changes(&self, changes: GroupChanges) {
        loop {
            let next = self.0.unpublished.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(change) = next else {
                self.0.pending.notified().await;
                continue;
            };
            while let Err(error) = changes.publish(&change, PUBLISH_BUDGET).await {
                tracing::debug!(chat_id = %change.chat, %error, "a group's change is not published yet");
                tokio::time::sleep(PUBLISH_AGAIN).await;
            }
        }
    }

    /// A user's groups may have changed: reads them, unless another task is about to.
    fn mark_dirty(&self, user: &UserId) {
        if self.0.sockets.room_index().mark_dirty(user) {
            let (rooms, user) = (self.clone(), user.clone());
            tokio::spawn(async move { rooms.refresh(&user).await });
        }
    }

    fn removed(&self, user: &UserId, chat: &ChatId) {
        if self.0.sockets.room_index().leave(user, chat) {
            self.0.sockets.chat_updated(user, chat);
        }
    }

    fn notify_room(&self, chat: &ChatId) {
        for user in self.0.sockets.room_index().in_room(chat) {
            self.0.sockets.chat_updated(&user, chat);
        }
    }

    /// Reads a user's groups until that succeeds or the user is gone.
    async fn refresh(&self, user: &UserId) {
        let groups = self.0.sockets.room_index();
        let mut pause = AGAIN.0;
        while let Some(version) = groups.version_of(user) {
            let read = {
                let _turn = self.0.reads.acquire().await;
                self.0.membership.groups_of(user).await
            };
            let Ok(read) = read else {
                groups.load_failed(user);
                tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32())).await;
                pause = (pause * 2).min(AGAIN.1);
                continue;
            };
            match groups.settle(user, version, read, |chat| self.subscribe(chat)) {
                Settled::Moved(moved) => return self.notify(user, moved).await,
                Settled::Overtaken => {}
                Settled::Gone => return,
            }
        }
    }

    /// Notifies a user's clients of their changed groups. A client that learns of a group reads its history, so it is notified only once it gets what
    /// comes after.
    async fn notify(&self, user: &UserId, Moved { joined, left, first, missed }: Moved) {
        left.iter().for_each(|chat| self.0.sockets.chat_updated(user, chat));
        if !joined.is_empty() && (missed || !first) {
            let _ = timeout(CONFIRMED_WITHIN, self.0.sockets.room_index().subscribed(&joined)).await;
        }
        if missed {
            self.0.sockets.resync(user);
        } else if !first {
            joined.iter().for_each(|chat| self.0.sockets.chat_updated(user, chat));
        }
    }

    fn subscribe(&self, chat: &ChatId) -> Subscription {
        self.0.channels.subscribe(Channel::Group(chat.clone()))
    }
}
