//! Records in which groups users act. A group in which its member acted does not give way to others ([`crate::groups::allowance`]).
//!
//! One record an hour for each user and group is enough. Best effort: an act that could not be recorded is recorded with the next one.
//!
//! See `docs/decisions/group-allowance.md`.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::unix_ms;
use tokio::sync::Semaphore;

use crate::guarded_store::GuardedStore;

/// Records under way at once; an act that finds no slot among them is not recorded.
const MAX_RECORDS: usize = 32;
/// How long a record is known to have been made, at least; twice as long at most.
const KNOWN_FOR: Duration = Duration::from_secs(1800);
/// Records that are known for that long.
const MAX_KNOWN: usize = 100_000;

/// Records acts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct GroupActivity {
    stored: GuardedStore,
    hasher: RandomState,
    known: Arc<Mutex<Known>>,
    slots: Arc<Semaphore>,
}

/// Which records were made, by the hash of user and group: in this period, and in the one before.
struct Known {
    begun: Instant,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl GroupActivity {
    /// Records acts in this store.
    pub(crate) fn new(stored: GuardedStore) -> Self {
        let known = Known { begun: Instant::now(), young: HashSet::new(), old: HashSet::new() };
        Self {
            stored,
            hasher: RandomState::new(),
            known: Arc::new(Mutex::new(known)),
            slots: Arc::new(Semaphore::new(MAX_RECORDS)),
        }
    }

    /// A member has acted in a chat. Only groups matter.
    pub(crate) fn record(&self, user: &UserId, chat: &ChatId) {
        if !chat.is_group() || !self.is_new(self.key(user, chat), Instant::now()) {
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return self.forget(user, chat) };
        let (activity, user, chat) = (self.clone(), user.clone(), chat.clone());
        tokio::spawn(async move {
            let recorded = activity.stored.call(async |store| store.note_act(&user, &chat, unix_ms()).await).await;
            if let Err(error) = recorded {
                tracing::debug!(chat_id = %chat, %error, "an act in a group is not recorded yet");
                activity.forget(&user, &chat);
            }
            drop(slot);
        });
    }

    /// A user has joined this group or left it: what they did there before does not count.
    pub(crate) fn forget(&self, user: &UserId, chat: &ChatId) {
        let key = self.key(user, chat);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.young.remove(&key);
        known.old.remove(&key);
    }

    fn is_new(&self, key: u64, now: Instant) -> bool {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.young.len() >= MAX_KNOWN || now.saturating_duration_since(known.begun) > KNOWN_FOR {
            known.old = std::mem::take(&mut known.young);
            known.begun = now;
        }
        !known.old.contains(&key) && known.young.insert(key)
    }

    fn key(&self, user: &UserId, chat: &ChatId) -> u64 {
        self.hasher.hash_one((user, chat))
    }
}
