//! Updates cached unread counts and lists of conversations with what is newly listed.
//!
//! Takes messages from the pipeline right after the recent list took them, beside their way to Kafka: no send waits for it. A repeat, a replay or what
//! heals a list is no update, because a message counts once. A message that was listed later than it was sent, or retracted, drops what is cached
//! instead ([`InboxUpdates::changed`]).
//!
//! Batches go to the cache in order. The queue is bounded: an update that finds it full is dropped and counted, and counts and lists are
//! wrong until they expire. If the cache does not take a batch, for all users or those on one node, what is cached of these users is dropped once
//! it answers again.
//!
//! See `docs/decisions/unread-counts.md`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::event::Position;
use holdfast_cache::inbox::{Arrival, Inboxes};
use holdfast_message::{ChatId, Message, UserId, recency};
use holdfast_redis::RedisError;
use holdfast_service::clock::unix_ms;
use holdfast_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::access::membership::Membership;
use crate::metrics::Metrics;

/// Updates that may wait.
const CAPACITY: usize = 10_000;
/// Updates of one batch.
const BATCH: usize = 256;
/// Users in one round trip.
pub(super) const USERS_AT_ONCE: usize = 256;
/// The time that the cache has for one round trip in the background.
const BUDGET: Duration = Duration::from_millis(500);
/// Users whose cached inbox is still to be dropped; those of more users expire.
const MAX_DIRTY: usize = 10_000;
/// How often that is attempted.
const AGAIN: Duration = Duration::from_secs(1);
/// First messages of chats that may wait, and those of one call to the store.
const FIRSTS: usize = 1000;

enum Update {
    Arrived { chat: ChatId, sender: UserId, timestamp: i64, position: Position },
    Changed(ChatId),
    Moved(Vec<UserId>),
}

/// Takes updates. Cheap to clone.
#[derive(Clone)]
pub struct InboxUpdates {
    updates: mpsc::Sender<Update>,
    firsts: mpsc::Sender<Arc<Message>>,
    metrics: Metrics,
}

/// Applies updates: the other end of the queues.
pub struct InboxUpdater {
    updates: mpsc::Receiver<Update>,
    firsts: mpsc::Receiver<Arc<Message>>,
    metrics: Metrics,
}

/// What the updater uses.
pub(crate) struct UpdaterParts {
    /// What is cached.
    pub(crate) cached: Inboxes,
    /// The breaker in front of it.
    pub(crate) breaker: Breaker,
    /// Who belongs to which chats.
    pub(crate) membership: Membership,
    /// Stores a chat's conversation as soon as it has a message.
    pub(crate) store: Store,
}

impl InboxUpdates {
    /// Empty queues; [`InboxUpdater::run`] works them off.
    pub fn new(metrics: Metrics) -> (Self, InboxUpdater) {
        let (updates, next_update) = mpsc::channel(CAPACITY);
        let (firsts, next_first) = mpsc::channel(FIRSTS);
        let updater = InboxUpdater { updates: next_update, firsts: next_first, metrics: metrics.clone() };
        (Self { updates, firsts, metrics }, updater)
    }

    /// A message was newly listed, at this position. Never waits.
    pub(crate) fn arrived(&self, message: &Message, position: &Position) {
        let Message { chat, sender, timestamp, .. } = message;
        let (chat, sender, position) = (chat.clone(), sender.clone(), position.clone());
        let timestamp = recency::of_arrival(*timestamp, unix_ms());
        self.push(Update::Arrived { chat, sender, timestamp, position });
    }

    /// A chat's messages have changed otherwise than by arrivals. Never waits.
    pub(crate) fn changed(&self, chat: &ChatId) {
        self.push(Update::Changed(chat.clone()));
    }

    /// These users belong to other chats than before. Never waits.
    pub(crate) fn moved(&self, users: Vec<UserId>) {
        self.push(Update::Moved(users));
    }

    /// A message is durable that may be its chat's first. The worker stores the conversation too, but minutes later perhaps; and the cache
    /// can't find a chat by its members.
    pub(crate) fn durable(&self, message: &Arc<Message>, position: &Position) {
        if position.seq == 1 && self.firsts.try_send(message.clone()).is_err() {
            self.metrics.inbox_dropped.inc();
        }
    }

    fn push(&self, update: Update) {
        match self.updates.try_send(update) {
            Ok(()) => self.metrics.inbox_waiting.inc(),
            Err(_) => self.metrics.inbox_dropped.inc(),
        }
    }
}

impl InboxUpdater {
    /// Works the queues off until the token is cancelled.
    pub(crate) async fn run(self, parts: UpdaterParts, stop: CancellationToken) {
        let Self { mut updates, mut firsts, metrics } = self;
        let apply = async {
            let (mut batch, mut dirty) = (Vec::with_capacity(BATCH), HashSet::new());
            let mut again = tokio::time::interval(AGAIN);
            loop {
                tokio::select! {
                    biased;
                    _ = again.tick(), if !dirty.is_empty() => parts.drop_dirty(&mut dirty).await,
                    count = updates.recv_many(&mut batch, BATCH) => {
                        if count == 0 {
                            return;
                        }
                        metrics.inbox_waiting.sub(count as i64);
                        parts.apply(batch.drain(..), &mut dirty, &metrics).await;
                    }
                }
            }
        };
        let begin = async {
            let mut batch = Vec::with_capacity(FIRSTS);
            while firsts.recv_many(&mut batch, FIRSTS).await > 0 {
                let messages: Vec<_> = batch.drain(..).map(Arc::unwrap_or_clone).collect();
                if let Err(error) = parts.store.begin_conversations(&messages).await {
                    tracing::debug!(%error, chats = messages.len(), "new conversations were not stored; the worker stores them");
                }
            }
        };
        stop.run_until_cancelled(async { tokio::join!(apply, begin) }).await;
    }
}

impl UpdaterParts {
    async fn apply(&self, updates: impl Iterator<Item = Update>, dirty: &mut HashSet<UserId>, metrics: &Metrics) {
        let (mut arrivals, mut changed): (HashMap<UserId, Vec<Arrival>>, Vec<ChatId>) = Default::default();
        for update in updates {
            match update {
                Update::Changed(chat) => changed.push(chat),
                Update::Moved(users) => mark_dirty(dirty, users.iter(), metrics),
                Update::Arrived { chat, sender, timestamp, position } => {
                    // Cached as a rule: the sender's permission was checked a moment ago.
                    let Ok(members) = self.membership.of(&chat).await else {
                        metrics.inbox_dropped.inc();
                        continue;
                    };
                    for user in members.iter() {
                        let unread = (*user != sender).then(|| position.clone());
                        let arrival = Arrival { chat: chat.clone(), timestamp, unread };
                        arrivals.entry(user.clone()).or_default().push(arrival);
                    }
                }
            }
        }
        for chat in changed {
            match self.membership.of(&chat).await {
                Ok(members) => mark_dirty(dirty, members.iter(), metrics),
                Err(_) => metrics.inbox_dropped.inc(),
            }
        }
        // First: an inbox that is not cached records new chats all the same.
        self.drop_dirty(dirty).await;
        let arrivals: Vec<_> = arrivals.into_iter().collect();
        for some in arrivals.chunks(USERS_AT_ONCE) {
            let done = self.asked(self.cached.arrived(some, BUDGET)).await.unwrap_or_else(|| vec![false; some.len()]);
            let missed = some.iter().zip(done).filter(|(_, done)| !done).map(|((user, _), _)| user);
            mark_dirty(dirty, missed, metrics);
        }
    }

    /// Drops what is cached of the dirty users, as far as the cache answers.
    async fn drop_dirty(&self, dirty: &mut HashSet<UserId>) {
        let users: Vec<_> = dirty.iter().cloned().collect();
        for some in users.chunks(USERS_AT_ONCE) {
            let Some(done) = self.asked(self.cached.forget(some, BUDGET)).await else { return };
            for (user, _) in some.iter().zip(done).filter(|(_, done)| *done) {
                dirty.remove(user);
            }
        }
    }

    /// Whether the cache applied a call, for each of several users; `None`: it is away as a whole.
    async fn asked(&self, call: impl Future<Output = Vec<Result<(), RedisError>>>) -> Option<Vec<bool>> {
        let results = self.breaker.call_batch(call).await.ok()?;
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            tracing::debug!(%error, "cached unread counts and lists of conversations were not updated");
        }
        let away = results.iter().any(|result| matches!(result, Err(error) if error.is_unavailable()));
        (!away).then(|| results.iter().map(Result::is_ok).collect())
    }
}

fn mark_dirty<'a>(dirty: &mut HashSet<UserId>, users: impl Iterator<Item = &'a UserId>, metrics: &Metrics) {
    for user in users {
        if dirty.len() < MAX_DIRTY {
            dirty.insert(user.clone());
        } else {
            metrics.inbox_dropped.inc();
        }
    }
}
