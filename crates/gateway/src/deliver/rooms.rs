//! Keeps what the sockets here hear in step with who belongs to which groups.
//!
//! A user's groups are read from the store when their first socket connects, when another gateway or a request here says that
//! something has changed, after a gap in what this gateway heard, and every five minutes. While the store is away they are asked for
//! again and again, and then the user's clients are told to `resync`. Who is removed from a group ceases to hear it at once, whatever
//! the store says later.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cache::Channels;
use holdfast_cache::channels::Subscription;
use holdfast_cache::groups::{GroupChange, GroupChanges};
use holdfast_cache::keys::Channel;
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
/// How long the cache may take to confirm a subscription before one goes on without.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
/// Between attempts to read a user's groups: the first pause and the longest, of which a part is chance.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Changes that wait to be told to the other gateways. Beyond them the oldest is left to the others' next recheck.
const MAX_UNTOLD: usize = 1000;
/// What the cache has for one round trip in the background, and between attempts.
const TELL_BUDGET: Duration = Duration::from_secs(1);
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// The rooms of this gateway's users. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rooms(Arc<Inner>);

struct Inner {
    sockets: Sockets,
    channels: Channels,
    membership: Membership,
    reads: Semaphore,
    untold: Mutex<VecDeque<GroupChange>>,
    told: Notify,
    metrics: Metrics,
}

impl Rooms {
    /// Rooms for these sockets.
    pub(crate) fn new(sockets: Sockets, channels: Channels, membership: Membership, metrics: Metrics) -> Self {
        let reads = Semaphore::new(MAX_READS);
        let (untold, told) = (Mutex::default(), Notify::new());
        Self(Arc::new(Inner { sockets, channels, membership, reads, untold, told, metrics }))
    }

    /// A socket has connected: lets it hear its user's groups. `own` is the subscription by which changes of them become known.
    pub(crate) fn connected(&self, user: &UserId, own: impl Future<Output = ()> + Send + 'static) {
        // A second device shares what the first one has.
        if self.0.sockets.hearers().unasked(user) && self.0.sockets.hearers().news(user) {
            let (rooms, user) = (self.clone(), user.clone());
            tokio::spawn(async move {
                // Or a change between the reading and the subscription would pass unnoticed.
                let _ = timeout(CONFIRMED_WITHIN, own).await;
                rooms.look(&user).await;
            });
        }
    }

    /// Waits until a user's sockets hear what other gateways announce to their groups, as far as these are known.
    pub(crate) async fn ready(&self, user: &UserId) {
        self.0.sockets.hearers().ready(user).await;
    }

    /// A user was found to belong to a group: should their sockets not hear it, something was missed.
    pub(crate) fn belongs(&self, user: &UserId, chat: &ChatId) {
        if chat.is_group() && self.0.sockets.hearers().lacks(user, chat) {
            self.news(user);
        }
    }

    /// This gateway has changed a group, and nobody decides by what it was any more. Whoever is concerned here is told at once, the
    /// other gateways in the background.
    pub(crate) fn changed(&self, change: GroupChange) {
        for user in &change.left {
            self.removed(user, &change.chat);
        }
        self.tell_room(&change.chat);
        for user in change.joined.iter().chain(&change.left) {
            self.news(user);
        }
        let mut untold = self.0.untold.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.len() >= MAX_UNTOLD {
            untold.pop_front();
            self.0.metrics.group_changes_untold.inc();
        }
        untold.push_back(change);
        self.0.told.notify_one();
    }

    /// Another gateway has changed a group, and said so on this channel.
    pub(crate) fn heard(&self, channel: &Channel, chat: &ChatId, left: Option<&UserId>) {
        self.0.membership.forget_here(chat);
        if let Some(user) = left {
            self.removed(user, chat);
        }
        match channel {
            Channel::Group(_) => self.tell_room(chat),
            Channel::User(user) => self.news(user),
        }
    }

    /// Reads the groups of everybody here anew.
    pub(crate) async fn recheck(&self) {
        for user in self.0.sockets.hearers().users() {
            // Not all at once: each reading takes its turn.
            let _turn = self.0.reads.acquire().await;
            self.news(&user);
        }
    }

    /// Rechecks now and then, and tells other gateways what has changed, until the token is cancelled.
    pub(crate) async fn run(self, changes: GroupChanges, stop: CancellationToken) {
        let recheck = async {
            loop {
                tokio::time::sleep(RECHECK).await;
                self.recheck().await;
            }
        };
        let work = async { tokio::join!(recheck, self.tell_others(changes)) };
        stop.run_until_cancelled(work).await;
    }

    async fn tell_others(&self, changes: GroupChanges) {
        loop {
            let next = self.0.untold.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(change) = next else {
                self.0.told.notified().await;
                continue;
            };
            while let Err(error) = changes.publish(&change, TELL_BUDGET).await {
                tracing::debug!(chat_id = %change.chat, %error, "a group's change could not be told yet");
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
    }

    /// A user's groups may have changed: reads them, unless somebody is about to.
    fn news(&self, user: &UserId) {
        if self.0.sockets.hearers().news(user) {
            let (rooms, user) = (self.clone(), user.clone());
            tokio::spawn(async move { rooms.look(&user).await });
        }
    }

    fn removed(&self, user: &UserId, chat: &ChatId) {
        if self.0.sockets.hearers().leave(user, chat) {
            self.0.sockets.chat_updated(user, chat);
        }
    }

    fn tell_room(&self, chat: &ChatId) {
        for user in self.0.sockets.hearers().in_room(chat) {
            self.0.sockets.chat_updated(&user, chat);
        }
    }

    /// Reads a user's groups until that succeeds or the user is gone.
    async fn look(&self, user: &UserId) {
        let groups = self.0.sockets.hearers();
        let mut pause = AGAIN.0;
        while let Some(mark) = groups.ask(user) {
            let read = {
                let _turn = self.0.reads.acquire().await;
                self.0.membership.groups_of(user).await
            };
            let Ok(read) = read else {
                groups.in_vain(user);
                tokio::time::sleep(pause.mul_f32(0.5 + fastrand::f32())).await;
                pause = (pause * 2).min(AGAIN.1);
                continue;
            };
            match groups.settle(user, mark, read, |chat| self.subscribe(chat)) {
                Settled::Moved(moved) => return self.tell(user, moved).await,
                Settled::Overtaken => {}
                Settled::Gone => return,
            }
        }
    }

    /// A client that hears of a group reads its history: only once nothing new would pass it by.
    async fn tell(&self, user: &UserId, Moved { joined, left, first, missed }: Moved) {
        left.iter().for_each(|chat| self.0.sockets.chat_updated(user, chat));
        if !joined.is_empty() && (missed || !first) {
            let _ = timeout(CONFIRMED_WITHIN, self.0.sockets.hearers().heard(&joined)).await;
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
