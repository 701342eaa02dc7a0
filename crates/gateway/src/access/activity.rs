//! Notes in which groups users act: those do not give way to others ([`crate::groups::allowance`]).
//!
//! One note an hour of each user and group is enough. Best effort: what could not be noted is noted with the next act.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_message::{ChatId, UserId};
use holdfast_service::clock::unix_ms;
use tokio::sync::Semaphore;

use crate::guarded_store::Stored;

/// Notes under way at once; without a place among them an act is not noted.
const MAX_NOTES: usize = 32;
/// For how long a note is known to have been made, and up to twice as long.
const KNOWN_FOR: Duration = Duration::from_secs(1800);
/// How many such notes are known for that long.
const MAX_KNOWN: usize = 100_000;

/// Notes acts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Acts {
    stored: Stored,
    hasher: RandomState,
    known: Arc<Mutex<Known>>,
    slots: Arc<Semaphore>,
}

/// Whose notes were made, by the hash of user and group: of now, and of the time before.
struct Known {
    begun: Instant,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

impl Acts {
    /// Acts, noted in this store.
    pub(crate) fn new(stored: Stored) -> Self {
        let known = Known { begun: Instant::now(), young: HashSet::new(), old: HashSet::new() };
        Self {
            stored,
            hasher: RandomState::new(),
            known: Arc::new(Mutex::new(known)),
            slots: Arc::new(Semaphore::new(MAX_NOTES)),
        }
    }

    /// A member has done something in a chat. Only groups matter.
    pub(crate) fn note(&self, user: &UserId, chat: &ChatId) {
        if !chat.is_group() || !self.is_news(self.key(user, chat), Instant::now()) {
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return self.forget(user, chat) };
        let (acts, user, chat) = (self.clone(), user.clone(), chat.clone());
        tokio::spawn(async move {
            let noted = acts.stored.ask(async |store| store.note_act(&user, &chat, unix_ms()).await).await;
            if let Err(error) = noted {
                tracing::debug!(chat_id = %chat, %error, "that a user acts in a group is not noted yet");
                acts.forget(&user, &chat);
            }
            drop(slot);
        });
    }

    /// A user has come to belong to this group, or does no more: what they did there before says nothing.
    pub(crate) fn forget(&self, user: &UserId, chat: &ChatId) {
        let key = self.key(user, chat);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.young.remove(&key);
        known.old.remove(&key);
    }

    fn is_news(&self, key: u64, now: Instant) -> bool {
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
