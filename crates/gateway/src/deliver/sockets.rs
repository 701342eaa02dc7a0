//! The sockets of this gateway, by user.
//!
//! Takes a message from the pipeline, or an event that another gateway announced; gives it to every socket of the users it is for, socket by socket,
//! so that a full buffer is noticed and affects one client only: that socket is marked as lagging, and gets `resync` once its buffer drains. Which
//! users get a group's messages, [`room_index`](crate::deliver::room_index) knows.
//!
//! `messages` gives each connection a message once, by what [`sent_window`](crate::deliver::sent_window) remembers.

mod messages;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use dashmap::mapref::multiple::RefMulti;
use holdfast_cache::channels::Subscription;
use holdfast_cache::event::LiveEvent;
use holdfast_keys::Channel;
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
use crate::deliver::room_index::RoomIndex;
use crate::deliver::sent_window::{ConnectionNumber, SentWindow};
use crate::metrics::{Metrics, Packet};
use crate::wire::events::server::{CHAT_UPDATED, RESYNC};

/// The sockets of this gateway, by user.
#[derive(Clone)]
pub struct Sockets {
    users: Arc<DashMap<UserId, Vec<Arc<Connected>>>>,
    room_index: RoomIndex,
    sent: SentWindow,
    /// The number of connections so far.
    connections: Arc<AtomicU64>,
    metrics: Metrics,
}

struct Connected {
    socket: SocketRef,
    number: ConnectionNumber,
    /// When its token ends, in Unix epoch milliseconds.
    until: i64,
    /// Its buffer was full: it has missed something, and gets `resync`.
    lagging: AtomicBool,
    /// Events that wait behind an answer to `resume`.
    held: Mutex<Held>,
    subscription: Subscription,
}

#[derive(Default)]
struct Held {
    /// Answers that are being prepared.
    holders: usize,
    events: Vec<(&'static str, Box<RawValue>)>,
    answered: Answered,
}

/// Events that wait for one socket; one more marks it as lagging.
const MAX_HELD: usize = 1000;

/// How often, and how many times, a socket with a full buffer is asked to close: for the 45 seconds of a heartbeat.
const DISCONNECT_AGAIN: Duration = Duration::from_millis(250);
const DISCONNECT_ATTEMPTS: u32 = 180;
/// Users among whom one is picked at random.
const ANY_OF: usize = 64;

/// While it lives, a socket's events are held back until an answer is given.
pub(crate) struct Holding {
    connected: Arc<Connected>,
    sent: SentWindow,
    metrics: Metrics,
}

impl Holding {
    /// Waits until the subscription to what other gateways announce to the user is confirmed.
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
        // After the lock is released: elsewhere it is taken within the lock of the window.
        self.sent.lost(self.connected.number, lost);
    }
}

impl Connected {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an event to the socket, or holds it back until the answer is given; false if it was dropped.
    fn give(&self, event: &'static str, payload: &RawValue) -> bool {
        let mut held = self.held();
        if held.holders == 0 {
            // Within the lock, so that events that were held back go first.
            return emit::event(&self.socket, event, payload);
        }
        let fits = held.events.len() < MAX_HELD && emit::hold(&self.socket, event, payload);
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
        let (room_index, sent) = (RoomIndex::new(metrics.rooms.clone()), SentWindow::new(metrics.sent_window.clone()));
        Self { users: Arc::default(), room_index, sent, connections: Arc::default(), metrics }
    }

    /// Adds a socket, and the subscription to what other gateways announce to its user.
    pub(crate) fn add(&self, identity: &Identity, socket: SocketRef, subscription: Subscription) {
        let Identity { user, expires_at: until } = identity;
        let (lagging, held) = (AtomicBool::new(false), Mutex::default());
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let connected = Connected { socket, number, until: *until, lagging, held, subscription };
        let mut sockets = self.users.entry(user.clone()).or_default();
        sockets.push(Arc::new(connected));
        // Within the lock, as in `remove`.
        self.room_index.add_user(user);
        self.metrics.sockets.inc();
    }

    /// Removes a socket, if it is there.
    pub(crate) fn remove(&self, user: &UserId, socket: Sid) {
        let Entry::Occupied(mut sockets) = self.users.entry(user.clone()) else { return };
        let before = sockets.get().len();
        sockets.get_mut().retain(|connected| connected.socket.id != socket);
        self.metrics.sockets.sub((before - sockets.get().len()) as i64);
        if sockets.get().is_empty() {
            self.room_index.remove_user(user);
            sockets.remove();
        }
    }

    /// Whether a user has sockets here.
    pub(crate) fn has(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// Which users here belong to which groups.
    pub(crate) fn room_index(&self) -> &RoomIndex {
        &self.room_index
    }

    /// `chatUpdated` to a user's devices here.
    pub(crate) fn chat_updated(&self, user: &UserId, chat: &ChatId) {
        self.emit(user, CHAT_UPDATED, &json!({ "chatId": chat.as_str() }));
    }

    /// Gives an ephemeral event to the sockets here of the channel's subscribers, except those of `except`.
    pub(crate) fn live(&self, channel: &Channel, except: Option<&UserId>, event: LiveEvent, payload: &RawValue) {
        for user in self.subscribers(channel).iter().filter(|user| except != Some(*user)) {
            self.emit(user, event.name(), payload);
        }
    }

    /// Gives an event to every socket of one user here.
    pub(crate) fn emit(&self, user: &UserId, event: &'static str, payload: &(impl Serialize + ?Sized)) {
        let Some(sockets) = self.users.get(user) else { return };
        // A `RawValue` is only copied.
        let Ok(payload) = to_raw_value(payload) else { return };
        for connected in sockets.iter() {
            self.give(connected, event, &payload);
        }
    }

    /// Gives an event to one socket; false if it was dropped, which marks the socket as lagging.
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

    /// A random socket here, and whose it is.
    pub(crate) fn any(&self) -> Option<(UserId, Sid)> {
        let nth = fastrand::usize(..self.users.len().clamp(1, ANY_OF));
        let of_user = |entry: RefMulti<'_, UserId, Vec<Arc<Connected>>>| {
            let connected = fastrand::choice(entry.value().iter())?;
            Some((entry.key().clone(), connected.socket.id))
        };
        self.users.iter().nth(nth).and_then(of_user)
    }

    /// Closes every socket that the user has here now. One whose buffer is full is closed as soon as there is room, or else by its heartbeat.
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

    /// Waits until a socket's subscription to what other gateways announce to its user is confirmed.
    pub(crate) async fn subscribed(&self, user: &UserId, socket: Sid) {
        let confirmation = self.users.get(user).and_then(|sockets| {
            let connected = sockets.iter().find(|connected| connected.socket.id == socket)?;
            Some(connected.subscription.confirmation())
        });
        if let Some(confirmation) = confirmation {
            confirmation.await;
        }
    }

    /// Holds back a socket's events until the guard is dropped; `None` if the socket is not there.
    pub(crate) fn hold(&self, user: &UserId, socket: Sid) -> Option<Holding> {
        let connected = self.users.get(user)?.iter().find(|connected| connected.socket.id == socket)?.clone();
        connected.held().holders += 1;
        Some(Holding { connected, sent: self.sent.clone(), metrics: self.metrics.clone() })
    }

    /// The members of a chat who may have sockets here.
    pub(crate) fn audience(&self, chat: &ChatId) -> Vec<UserId> {
        match chat.members() {
            Members::Direct(first, second) => vec![first, second],
            Members::Group => self.room_index.in_room(chat),
        }
    }

    /// The users who get what is published on a channel and may have sockets here.
    pub(crate) fn subscribers(&self, channel: &Channel) -> Vec<UserId> {
        match channel {
            Channel::User(user) => vec![user.clone()],
            Channel::Group(chat) => self.room_index.in_room(chat),
        }
    }

    /// Sends `resync` to a user's sockets here: they may have missed something.
    pub(crate) fn resync(&self, user: &UserId) {
        self.emit(user, RESYNC, &json!({}));
    }

    /// Every second: sends `resync` to sockets whose buffer was full, once there is room again, and closes those whose token has expired.
    pub(crate) async fn maintain(self, stop: CancellationToken) {
        let Ok(resync) = to_raw_value(&json!({})) else { return };
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let (now, mut ended) = (unix_ms(), Vec::new());
            for sockets in self.users.iter() {
                for connected in sockets.iter() {
                    if connected.until <= now {
                        ended.push(connected.socket.clone());
                    } else if connected.lagging.load(Ordering::Relaxed) {
                        // Cleared first: an event that is dropped from here on marks it again.
                        connected.lagging.store(false, Ordering::Relaxed);
                        if !connected.give(RESYNC, &resync) {
                            connected.lagging.store(true, Ordering::Relaxed);
                        }
                    }
                }
            }
            for socket in ended {
                tracing::debug!(socket = %socket.id, "a socket's token has expired");
                // With a full buffer this fails, and is repeated.
                let _ = socket.disconnect();
            }
        }
    }

    /// Sends `resync` to every socket, spread over a while so that not all clients come back at once.
    pub(crate) async fn resync_all(&self, spread: Duration) {
        let users: Vec<_> = self.users.iter().map(|entry| entry.key().clone()).collect();
        let pause = spread / u32::try_from(users.len().max(1)).unwrap_or(u32::MAX);
        for user in users {
            self.resync(&user);
            tokio::time::sleep(pause).await;
        }
    }
}
