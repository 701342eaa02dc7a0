//! Which users with sockets here belong to which groups.
//!
//! A group with such users is a *room*, which keeps the group's channel subscribed. A user's groups are replaced as a whole by what the store returned
//! ([`crate::deliver::rooms`] reads it). Each change of a user's groups gives the user a new version, and what was read for an older version is
//! discarded, so an old read never overrules a newer change.
//!
//! Locks are taken in one order: a user's, then a room's.
//!
//! See `docs/decisions/group-subscriptions.md`.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use futures_util::future::join_all;
use holdfast_cache::channels::Subscription;
use holdfast_message::{ChatId, UserId};
use prometheus::IntGauge;
use tokio::sync::watch;

/// The rooms of this gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RoomIndex {
    users: Arc<DashMap<UserId, LocalUser>>,
    rooms: Arc<DashMap<ChatId, Room>>,
    /// The last version, so that none is used twice.
    versions: Arc<AtomicU64>,
    count: IntGauge,
}

/// A user with sockets here.
struct LocalUser {
    groups: HashSet<ChatId>,
    /// Changes with every change of the user's groups.
    version: u64,
    /// A task is reading the store.
    loading: bool,
    state: watch::Sender<LoadState>,
}

/// Whether a user's groups were read from the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadState {
    /// Not yet.
    Pending,
    /// The store did not answer; it is read again.
    Failed,
    /// They were.
    Loaded,
}

struct Room {
    users: HashSet<UserId>,
    subscription: Subscription,
}

/// What became of a read of the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It was applied.
    Moved(Moved),
    /// The groups have changed since: read again.
    Overtaken,
    /// The user no longer has a socket here.
    Gone,
}

/// How a user's rooms have changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Rooms that the user is in now and was not before.
    pub(crate) joined: Vec<ChatId>,
    /// Rooms that the user is not in any more.
    pub(crate) left: Vec<ChatId>,
    /// The user's groups had not been loaded before.
    pub(crate) first: bool,
    /// An earlier read failed, and the user's sockets missed what was sent to their groups meanwhile.
    pub(crate) missed: bool,
}

impl RoomIndex {
    /// No users yet; `count` is the number of rooms.
    pub(crate) fn new(count: IntGauge) -> Self {
        Self { users: Arc::default(), rooms: Arc::default(), versions: Arc::default(), count }
    }

    /// A user has a socket here.
    pub(crate) fn add_user(&self, user: &UserId) {
        self.users.entry(user.clone()).or_insert_with(|| LocalUser {
            groups: HashSet::new(),
            version: self.version(),
            loading: false,
            state: watch::channel(LoadState::Pending).0,
        });
    }

    /// A user's last socket here is gone.
    pub(crate) fn remove_user(&self, user: &UserId) {
        let Entry::Occupied(local) = self.users.entry(user.clone()) else { return };
        local.get().groups.iter().for_each(|chat| self.leave_room(user, chat));
        local.remove();
    }

    /// The users of a room.
    pub(crate) fn in_room(&self, chat: &ChatId) -> Vec<UserId> {
        self.rooms.get(chat).map(|room| room.users.iter().cloned().collect()).unwrap_or_default()
    }

    /// All users with sockets here.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.users.iter().map(|local| local.key().clone()).collect()
    }

    /// Whether this user's groups were not read yet, and no task is reading them.
    pub(crate) fn is_unread(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|local| !local.loading && *local.state.borrow() == LoadState::Pending)
    }

    /// A user's groups have changed. True if the caller is to read the store; otherwise another task does, or the user is not here.
    pub(crate) fn mark_dirty(&self, user: &UserId) -> bool {
        let Some(mut local) = self.users.get_mut(user) else { return false };
        local.version = self.version();
        !std::mem::replace(&mut local.loading, true)
    }

    /// The version to settle a read with; `None` if the user is no longer here, which ends the reading.
    pub(crate) fn version_of(&self, user: &UserId) -> Option<u64> {
        self.users.get(user).map(|local| local.version)
    }

    /// Whether a user has sockets here and their loaded groups lack this one.
    pub(crate) fn lacks(&self, user: &UserId, chat: &ChatId) -> bool {
        self.users
            .get(user)
            .is_some_and(|local| *local.state.borrow() == LoadState::Loaded && !local.groups.contains(chat))
    }

    /// The store did not answer; the caller reads it again.
    pub(crate) fn load_failed(&self, user: &UserId) {
        if let Some(local) = self.users.get(user) {
            local.state.send_if_modified(|state| {
                let first = *state == LoadState::Pending;
                if first {
                    *state = LoadState::Failed;
                }
                first
            });
        }
    }

    /// The user belongs to these groups, as of `version`. Ends the reading, unless the version has changed.
    pub(crate) fn settle(
        &self,
        user: &UserId,
        version: u64,
        groups: Vec<ChatId>,
        subscribe: impl Fn(&ChatId) -> Subscription,
    ) -> Settled {
        let Some(mut local) = self.users.get_mut(user) else { return Settled::Gone };
        if local.version != version {
            return Settled::Overtaken;
        }
        let groups: HashSet<_> = groups.into_iter().collect();
        let left: Vec<_> = local.groups.difference(&groups).cloned().collect();
        let joined: Vec<_> = groups.difference(&local.groups).cloned().collect();
        left.iter().for_each(|chat| self.leave_room(user, chat));
        for chat in &joined {
            let mut room = self.rooms.entry(chat.clone()).or_insert_with(|| {
                self.count.inc();
                Room { users: HashSet::new(), subscription: subscribe(chat) }
            });
            room.users.insert(user.clone());
        }
        local.groups = groups;
        local.version = self.version();
        local.loading = false;
        let before = local.state.send_replace(LoadState::Loaded);
        Settled::Moved(Moved { joined, left, first: before != LoadState::Loaded, missed: before == LoadState::Failed })
    }

    /// Takes a user out of a room at once; false if they were not in it.
    pub(crate) fn leave(&self, user: &UserId, chat: &ChatId) -> bool {
        let Some(mut local) = self.users.get_mut(user) else { return false };
        local.version = self.version();
        let left = local.groups.remove(chat);
        if left {
            self.leave_room(user, chat);
        }
        left
    }

    /// Waits until the user's groups were read, and the subscriptions to them are confirmed.
    pub(crate) async fn ready(&self, user: &UserId) {
        let Some(mut state) = self.users.get(user).map(|local| local.state.subscribe()) else { return };
        // An error: the user is gone.
        let _ = state.wait_for(|state| *state != LoadState::Pending).await;
        let groups: Vec<_> =
            self.users.get(user).map(|local| local.groups.iter().cloned().collect()).unwrap_or_default();
        self.subscribed(&groups).await;
    }

    /// Waits until the subscriptions to these rooms are confirmed.
    pub(crate) async fn subscribed(&self, rooms: &[ChatId]) {
        let confirmations: Vec<_> =
            rooms.iter().filter_map(|chat| Some(self.rooms.get(chat)?.subscription.confirmation())).collect();
        join_all(confirmations).await;
    }

    fn leave_room(&self, user: &UserId, chat: &ChatId) {
        let Entry::Occupied(mut room) = self.rooms.entry(chat.clone()) else { return };
        room.get_mut().users.remove(user);
        if room.get().users.is_empty() {
            room.remove();
            self.count.dec();
        }
    }

    fn version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::Relaxed)
    }
}
