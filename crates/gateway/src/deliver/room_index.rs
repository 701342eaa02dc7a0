//! Which users with sockets here belong to which groups.
//!
//! A group with such users is a *room*, which keeps the group's channel subscribed. Who belongs where is settled as a whole for each
//! user, from what the store said ([`crate::deliver::rooms`] asks it); what has changed since the store was asked makes its answer void, so that
//! an old answer never overrules newer news.
//!
//! Locks are taken in one order: a user's, then a room's.

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
pub(crate) struct Hearers {
    users: Arc<DashMap<UserId, Here>>,
    rooms: Arc<DashMap<ChatId, Room>>,
    /// Makes the marks, so that none is given twice.
    marks: Arc<AtomicU64>,
    count: IntGauge,
}

/// A user with sockets here.
struct Here {
    groups: HashSet<ChatId>,
    /// Changes with every news of the user's groups.
    mark: u64,
    /// Somebody is asking the store.
    looking: bool,
    looked: watch::Sender<Looked>,
}

/// How far the store has been asked for a user's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    NotYet,
    /// It could not be read, and will be asked again.
    InVain,
    Done,
}

struct Room {
    users: HashSet<UserId>,
    subscription: Subscription,
}

/// What became of the store's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It holds.
    Moved(Moved),
    /// There is newer news: ask again.
    Overtaken,
    /// The user has no socket here any more.
    Gone,
}

/// How a user's rooms have changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Rooms that the user is in now and was not before.
    pub(crate) joined: Vec<ChatId>,
    /// Rooms that the user is not in any more.
    pub(crate) left: Vec<ChatId>,
    /// Nothing was known of the user's groups before.
    pub(crate) first: bool,
    /// The store has been asked in vain before, while the user's sockets missed what their groups were told.
    pub(crate) missed: bool,
}

impl Hearers {
    /// No users yet; `count` is the number of rooms.
    pub(crate) fn new(count: IntGauge) -> Self {
        Self { users: Arc::default(), rooms: Arc::default(), marks: Arc::default(), count }
    }

    /// A user has a socket here.
    pub(crate) fn appear(&self, user: &UserId) {
        self.users.entry(user.clone()).or_insert_with(|| Here {
            groups: HashSet::new(),
            mark: self.mark(),
            looking: false,
            looked: watch::channel(Looked::NotYet).0,
        });
    }

    /// A user's last socket here is gone.
    pub(crate) fn vanish(&self, user: &UserId) {
        let Entry::Occupied(here) = self.users.entry(user.clone()) else { return };
        here.get().groups.iter().for_each(|chat| self.leave_room(user, chat));
        here.remove();
    }

    /// The users of a room.
    pub(crate) fn in_room(&self, chat: &ChatId) -> Vec<UserId> {
        self.rooms.get(chat).map(|room| room.users.iter().cloned().collect()).unwrap_or_default()
    }

    /// Everybody with sockets here.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.users.iter().map(|here| here.key().clone()).collect()
    }

    /// Whether nobody has asked for this user's groups yet, nor is about to.
    pub(crate) fn unasked(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(|here| !here.looking && *here.looked.borrow() == Looked::NotYet)
    }

    /// There is news of a user's groups. True if the caller is now the one to ask the store; otherwise somebody else is, or there
    /// is no need to.
    pub(crate) fn news(&self, user: &UserId) -> bool {
        let Some(mut here) = self.users.get_mut(user) else { return false };
        here.mark = self.mark();
        !std::mem::replace(&mut here.looking, true)
    }

    /// What to settle a later answer with; `None` if the user is not here any more, which ends the asking.
    pub(crate) fn ask(&self, user: &UserId) -> Option<u64> {
        self.users.get(user).map(|here| here.mark)
    }

    /// Whether a user has sockets here that should hear a group and don't, although the store was asked.
    pub(crate) fn lacks(&self, user: &UserId, chat: &ChatId) -> bool {
        self.users.get(user).is_some_and(|here| *here.looked.borrow() == Looked::Done && !here.groups.contains(chat))
    }

    /// The store did not answer; it will be asked again.
    pub(crate) fn in_vain(&self, user: &UserId) {
        if let Some(here) = self.users.get(user) {
            here.looked.send_if_modified(|looked| {
                let first = *looked == Looked::NotYet;
                if first {
                    *looked = Looked::InVain;
                }
                first
            });
        }
    }

    /// The user belongs to these groups, as of `mark`. Ends the asking, unless it was overtaken.
    pub(crate) fn settle(
        &self,
        user: &UserId,
        mark: u64,
        groups: Vec<ChatId>,
        subscribe: impl Fn(&ChatId) -> Subscription,
    ) -> Settled {
        let Some(mut here) = self.users.get_mut(user) else { return Settled::Gone };
        if here.mark != mark {
            return Settled::Overtaken;
        }
        let groups: HashSet<_> = groups.into_iter().collect();
        let left: Vec<_> = here.groups.difference(&groups).cloned().collect();
        let joined: Vec<_> = groups.difference(&here.groups).cloned().collect();
        left.iter().for_each(|chat| self.leave_room(user, chat));
        for chat in &joined {
            let mut room = self.rooms.entry(chat.clone()).or_insert_with(|| {
                self.count.inc();
                Room { users: HashSet::new(), subscription: subscribe(chat) }
            });
            room.users.insert(user.clone());
        }
        here.groups = groups;
        here.mark = self.mark();
        here.looking = false;
        let before = here.looked.send_replace(Looked::Done);
        Settled::Moved(Moved { joined, left, first: before != Looked::Done, missed: before == Looked::InVain })
    }

    /// Takes a user out of a room at once; false if they were not in it.
    pub(crate) fn leave(&self, user: &UserId, chat: &ChatId) -> bool {
        let Some(mut here) = self.users.get_mut(user) else { return false };
        here.mark = self.mark();
        let left = here.groups.remove(chat);
        if left {
            self.leave_room(user, chat);
        }
        left
    }

    /// Waits until the store was asked for the user's groups, and what other gateways announce to them is heard.
    pub(crate) async fn ready(&self, user: &UserId) {
        let Some(mut looked) = self.users.get(user).map(|here| here.looked.subscribe()) else { return };
        // An error: the user is gone.
        let _ = looked.wait_for(|looked| *looked != Looked::NotYet).await;
        let groups: Vec<_> = self.users.get(user).map(|here| here.groups.iter().cloned().collect()).unwrap_or_default();
        self.heard(&groups).await;
    }

    /// Waits until what other gateways announce to these rooms is heard.
    pub(crate) async fn heard(&self, rooms: &[ChatId]) {
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

    fn mark(&self) -> u64 {
        self.marks.fetch_add(1, Ordering::Relaxed)
    }
}
