//! Local delivery: the sockets of this gateway.
//!
//! Takes a message from the pipeline, or an event that another gateway announced; gives it to every socket of the users it is for.
//! Emits go socket by socket, so that a full buffer is seen and is one client's own: that socket is marked as lagging, and told to
//! `resync` once its buffer drains. Which users a group's messages are for, [`room_index`](crate::deliver::room_index) knows.
//!
//! `messages` gives each connection a message once, by what `sent_window` remembers.

mod messages;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use dashmap::mapref::multiple::RefMulti;
use holdfast_cache::channels::Subscription;
use holdfast_cache::event::LiveEvent;
use holdfast_cache::keys::Channel;
use holdfast_message::{ChatId, UserId, id::Members};
use holdfast_service::clock::unix_ms;
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use socketioxide::extract::SocketRef;
use socketioxide::socket::Sid;
use tokio_util::sync::CancellationToken;

use self::messages::Answered;
use crate::auth::Identity;
use crate::deliver::emit;
use crate::deliver::room_index::Hearers;
use crate::deliver::sent_window::{ConnectionNumber, SentWindow};
use crate::metrics::{Metrics, Packet};
use crate::wire::events::server::{CHAT_UPDATED, RESYNC};

/// The sockets of this gateway, by user.
#[derive(Clone)]
pub struct Sockets {
    users: Arc<DashMap<UserId, Vec<Arc<Connected>>>>,
    hearers: Hearers,
    sent: SentWindow,
    /// How many connections there have been.
    connections: Arc<AtomicU64>,
    metrics: Metrics,
}

struct Connected {
    socket: SocketRef,
    number: ConnectionNumber,
    /// When its token ends, in Unix epoch milliseconds.
    until: i64,
    /// Its buffer was full: it has missed something and is to be told.
    lagging: AtomicBool,
    /// Events that wait behind an answer to `resume`.
    held: Mutex<Held>,
    subscription: Subscription,
}

#[derive(Default)]
struct Held {
    /// Answers that are being made.
    holders: usize,
    events: Vec<(&'static str, Box<RawValue>)>,
    answered: Answered,
}

/// Events that wait for one socket; more make it a lagging one.
const MAX_HELD: usize = 1000;

/// How often, and how many times, a socket with a full buffer is asked to close: for the heartbeat's 45 seconds.
const DISCONNECT_AGAIN: Duration = Duration::from_millis(250);
const DISCONNECT_ATTEMPTS: u32 = 180;
/// Users of whom one is picked.
const ANY_OF: usize = 64;

/// While it lives, a socket's events wait behind an answer.
pub(crate) struct Holding {
    connected: Arc<Connected>,
    sent: SentWindow,
    metrics: Metrics,
}

impl Holding {
    /// Waits until what other gateways announce reaches the socket's user.
    pub(crate) async fn subscribed(&self) {
        self.connected.subscription.confirmed().await;
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut lost = Vec::new();
        {
            let mut held = self.connected.held();
            held.holders -= 1;
            if held.holders == 0 {
                let Held { events, mut answered, .. } = std::mem::take(&mut *held);
                for (event, payload) in events {
                    if !answered.give(&self.connected.socket, event, &payload) {
                        self.connected.missed(&self.metrics);
                        lost.extend(messages::received(event, &payload));
                    }
                }
            }
        }
        // Behind the lock, which is taken within the window's elsewhere.
        self.sent.lost(self.connected.number, lost);
    }
}

impl Connected {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an event to the socket, or puts it behind the answer that it waits for; false if it was dropped.
    fn give(&self, event: &'static str, payload: &RawValue) -> bool {
        let mut held = self.held();
        if held.holders == 0 {
            // Within the lock, so that what was held before is out before.
            return emit::event(&self.socket, event, payload);
        }
        let fits = held.events.len() < MAX_HELD && emit::keep(&self.socket, event, payload);
        if fits {
            held.events.push((event, payload.to_owned()));
        }
        fits
    }

    fn missed(&self, metrics: &Metrics) {
        metrics.outgoing_dropped(Packet::Event);
        if !self.lagging.swap(true, Ordering::Relaxed) {
            metrics.lagging.inc();
        }
    }
}

impl Sockets {
    /// No sockets yet.
    pub fn new(metrics: Metrics) -> Self {
        let (hearers, sent) = (Hearers::new(metrics.rooms.clone()), SentWindow::new(metrics.sent_window.clone()));
        Self { users: Arc::default(), hearers, sent, connections: Arc::default(), metrics }
    }

    /// Adds a socket, and the subscription by which it hears of what other gateways do.
    pub(crate) fn add(&self, identity: &Identity, socket: SocketRef, subscription: Subscription) {
        let Identity { user, expires_at: until } = identity;
        let (lagging, held) = (AtomicBool::new(false), Mutex::default());
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connected = Connected { socket, number, until: *until, lagging, held, subscription };
        let mut sockets = self.users.entry(user.clone()).or_default();
        sockets.push(Arc::new(connected));
        // Within the lock, as its counterpart.
        self.hearers.appear(user);
        self.metrics.sockets.inc();
    }

    /// Removes a socket, if it is there.
    pub(crate) fn remove(&self, user: &UserId, socket: Sid) {
        let Entry::Occupied(mut sockets) = self.users.entry(user.clone()) else { return };
        let before = sockets.get().len();
        sockets.get_mut().retain(|connected| connected.socket.id != socket);
        self.metrics.sockets.sub((before - sockets.get().len()) as i64);
        if sockets.get().is_empty() {
            self.hearers.vanish(user);
            sockets.remove();
        }
    }

    /// Whether a user has sockets here.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// Which users here hear which groups.
    pub(crate) fn hearers(&self) -> &Hearers {
        &self.hearers
    }

    /// `chatUpdated` to a user's devices here.
    pub(crate) fn chat_updated(&self, user: &UserId, chat: &ChatId) {
        self.emit(user, CHAT_UPDATED, &json!({ "chatId": chat.as_str() }));
    }

    /// A live event to the sockets here of whoever hears the channel, but for those of `except`.
    pub(crate) fn live(&self, channel: &Channel, except: Option<&UserId>, event: LiveEvent, payload: &RawValue) {
        for user in self.hearing(channel).iter().filter(|user| except != Some(*user)) {
            self.emit(user, event.name(), payload);
        }
    }

    /// An event to every socket of one user here.
    pub(crate) fn emit(&self, user: &UserId, event: &'static str, payload: &(impl Serialize + ?Sized)) {
        let Some(sockets) = self.users.get(user) else { return };
        // What is JSON already is only copied.
        let Ok(payload) = to_raw_value(payload) else { return };
        for connected in sockets.iter() {
            self.give(connected, event, &payload);
        }
    }

    /// An event to one socket; false if it was dropped, which marks the socket as lagging.
    fn give(&self, connected: &Connected, event: &'static str, payload: &RawValue) -> bool {
        let given = connected.give(event, payload);
        if !given {
            connected.missed(&self.metrics);
        }
        given
    }

    /// One socket of a user, if it is here.
    pub(crate) fn socket(&self, user: &UserId, socket: Sid) -> Option<SocketRef> {
        let sockets = self.users.get(user)?;
        sockets.iter().find(|connected| connected.socket.id == socket).map(|connected| connected.socket.clone())
    }

    /// Every socket here, and whose it is.
    pub(crate) fn all(&self) -> Vec<(UserId, Sid)> {
        let of_user = |entry: RefMulti<'_, UserId, Vec<Arc<Connected>>>| {
            let sockets = entry.value().iter().map(|connected| (entry.key().clone(), connected.socket.id));
            sockets.collect::<Vec<_>>()
        };
        self.users.iter().flat_map(of_user).collect()
    }

    /// Some socket here, another one each time, and whose it is.
    pub(crate) fn any(&self) -> Option<(UserId, Sid)> {
        let nth = fastrand::usize(..self.users.len().clamp(1, ANY_OF));
        let of_user = |entry: RefMulti<'_, UserId, Vec<Arc<Connected>>>| {
            let connected = fastrand::choice(entry.value().iter())?;
            Some((entry.key().clone(), connected.socket.id))
        };
        self.users.iter().nth(nth).and_then(of_user)
    }

    /// Closes every socket that the user has here now. One whose buffer is full takes the news as soon as there is room, and is
    /// left to its heartbeat when there is none for long.
    pub(crate) fn disconnect(&self, user: &UserId) {
        let Some(sockets) = self.users.get(user) else { return };
        for connected in sockets.iter().cloned() {
            tokio::spawn(async move {
                for _ in 0..DISCONNECT_ATTEMPTS {
                    if connected.socket.clone().disconnect().is_ok() {
                        break;
                    }
                    tokio::time::sleep(DISCONNECT_AGAIN).await;
                }
            });
        }
    }

    /// Waits until what other gateways announce to the user reaches a socket.
    pub(crate) async fn subscribed(&self, user: &UserId, socket: Sid) {
        let confirmation = self.users.get(user).and_then(|sockets| {
            let connected = sockets.iter().find(|connected| connected.socket.id == socket)?;
            Some(connected.subscription.confirmation())
        });
        if let Some(confirmation) = confirmation {
            confirmation.await;
        }
    }

    /// Lets a socket's events wait until the guard is dropped; `None` if the socket is not (or no more) there.
    pub(crate) fn hold(&self, user: &UserId, socket: Sid) -> Option<Holding> {
        let connected = self.users.get(user)?.iter().find(|connected| connected.socket.id == socket)?.clone();
        connected.held().holders += 1;
        Some(Holding { connected, sent: self.sent.clone(), metrics: self.metrics.clone() })
    }

    /// Who of a chat's members may have sockets here.
    pub(crate) fn audience(&self, chat: &ChatId) -> Vec<UserId> {
        match chat.members() {
            Members::Direct(first, second) => vec![first, second],
            Members::Group => self.hearers.in_room(chat),
        }
    }

    /// Who hears what is published on a channel, of those who may have sockets here.
    pub(crate) fn hearing(&self, channel: &Channel) -> Vec<UserId> {
        match channel {
            Channel::User(user) => vec![user.clone()],
            Channel::Group(chat) => self.hearers.in_room(chat),
        }
    }

    /// Tells a user's sockets here that they may have missed something.
    pub(crate) fn resync(&self, user: &UserId) {
        self.emit(user, RESYNC, &json!({}));
    }

    /// Every second: tells sockets whose buffer was full that they may have missed something, once there is room again, and closes
    /// those whose token has ended.
    pub(crate) async fn look_after(self, stop: CancellationToken) {
        let Ok(resync) = to_raw_value(&json!({})) else { return };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let (now, mut ended) = (unix_ms(), Vec::new());
            for sockets in self.users.iter() {
                for connected in sockets.iter() {
                    if connected.until <= now {
                        ended.push(connected.socket.clone());
                    } else if connected.lagging.load(Ordering::Relaxed) {
                        // Cleared first: what is dropped from here on marks it anew.
                        connected.lagging.store(false, Ordering::Relaxed);
                        if !connected.give(RESYNC, &resync) {
                            connected.lagging.store(true, Ordering::Relaxed);
                        }
                    }
                }
            }
            for socket in ended {
                tracing::debug!(socket = %socket.id, "a socket's token has ended");
                // With a full buffer it is tried again.
                let _ = socket.disconnect();
            }
        }
    }

    /// Tells every socket that it may have missed something, spread over a while so that not all come back at once.
    pub(crate) async fn resync_all(&self, spread: Duration) {
        let users: Vec<_> = self.users.iter().map(|entry| entry.key().clone()).collect();
        let pause = spread / u32::try_from(users.len().max(1)).unwrap_or(u32::MAX);
        for user in users {
            self.resync(&user);
            tokio::time::sleep(pause).await;
        }
    }
}
