//! What is newly listed, told to what is cached of those who see it.
//!
//! Takes messages from the pipeline right after the recent list took them, beside their way to Kafka: no send waits for it. A repeat,
//! a replay or what heals a list is never told: a message counts once. What was listed later than it was sent, or taken back, drops
//! what is cached instead ([`Arrivals::changed`]).
//!
//! Batches go to the cache in order. The queue is bounded: what finds it full is dropped and counted, and counts and lists are
//! wrong until their life ends. Users of whom the cache did not take a batch, all of them or those on one node, have their caches
//! dropped once it answers again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cache::event::Position;
use holdfast_cache::inbox::{Arrival, Inboxes};
use holdfast_cache::{Breaker, CacheError};
use holdfast_message::{ChatId, Message, UserId, recency};
use holdfast_service::clock::unix_ms;
use holdfast_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::access::membership::Membership;
use crate::metrics::Metrics;

/// Messages that may wait.
const CAPACITY: usize = 10_000;
/// Messages that are told together.
const BATCH: usize = 256;
/// Users in one round trip.
pub(super) const USERS_AT_ONCE: usize = 256;
/// What the cache has for one round trip in the background.
const BUDGET: Duration = Duration::from_millis(500);
/// Users whose caches are still to be dropped; of more, they are left to the end of their lives.
const MAX_OWED: usize = 10_000;
/// How often that is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// First messages of chats that may wait, and that the store is told of at once.
const FIRSTS: usize = 1000;

enum News {
    Arrived { chat: ChatId, sender: UserId, timestamp: i64, position: Position },
    Changed(ChatId),
    Moved(Vec<UserId>),
}

/// Where news enter. Cheap to clone.
#[derive(Clone)]
pub struct Arrivals {
    news: mpsc::Sender<News>,
    firsts: mpsc::Sender<Arc<Message>>,
    metrics: Metrics,
}

/// The queues' other ends.
pub struct Teller {
    news: mpsc::Receiver<News>,
    firsts: mpsc::Receiver<Arc<Message>>,
    metrics: Metrics,
}

/// Whom the teller tells, and by what.
pub(crate) struct Told {
    /// What is cached.
    pub(crate) cached: Inboxes,
    /// In front of it.
    pub(crate) breaker: Breaker,
    /// Who sees what.
    pub(crate) membership: Membership,
    /// Learns of chats as soon as they have a message.
    pub(crate) store: Store,
}

impl Arrivals {
    /// Empty queues; [`Teller::run`] works them off.
    pub fn new(metrics: Metrics) -> (Self, Teller) {
        let (news, next_news) = mpsc::channel(CAPACITY);
        let (firsts, next_first) = mpsc::channel(FIRSTS);
        let teller = Teller { news: next_news, firsts: next_first, metrics: metrics.clone() };
        (Self { news, firsts, metrics }, teller)
    }

    /// A message was newly listed, at this position. Never waits.
    pub(crate) fn arrived(&self, message: &Message, position: &Position) {
        let Message { chat, sender, timestamp, .. } = message;
        let (chat, sender, position) = (chat.clone(), sender.clone(), position.clone());
        let timestamp = recency::of_arrival(*timestamp, unix_ms());
        self.push(News::Arrived { chat, sender, timestamp, position });
    }

    /// A chat's messages are others than arrivals have told. Never waits.
    pub(crate) fn changed(&self, chat: &ChatId) {
        self.push(News::Changed(chat.clone()));
    }

    /// These users belong to other chats than before. Never waits.
    pub(crate) fn moved(&self, users: Vec<UserId>) {
        self.push(News::Moved(users));
    }

    /// A message is durable that may be its chat's first. The worker tells the store of the chat too, but minutes later perhaps; and
    /// nobody finds a chat in the cache by its members.
    pub(crate) fn durable(&self, message: &Arc<Message>, position: &Position) {
        if position.seq == 1 && self.firsts.try_send(message.clone()).is_err() {
            self.metrics.inbox_dropped.inc();
        }
    }

    fn push(&self, news: News) {
        match self.news.try_send(news) {
            Ok(()) => self.metrics.inbox_waiting.inc(),
            Err(_) => self.metrics.inbox_dropped.inc(),
        }
    }
}

impl Teller {
    /// Works the queues off until the token is cancelled.
    pub(crate) async fn run(self, told: Told, stop: CancellationToken) {
        let Self { mut news, mut firsts, metrics } = self;
        let tell = async {
            let (mut batch, mut owed) = (Vec::with_capacity(BATCH), HashSet::new());
            let mut again = tokio::time::interval(AGAIN);
            loop {
                tokio::select! {
                    biased;
                    _ = again.tick(), if !owed.is_empty() => told.pay(&mut owed).await,
                    count = news.recv_many(&mut batch, BATCH) => {
                        if count == 0 {
                            return;
                        }
                        metrics.inbox_waiting.sub(count as i64);
                        told.tell(batch.drain(..), &mut owed, &metrics).await;
                    }
                }
            }
        };
        let begin = async {
            let mut batch = Vec::with_capacity(FIRSTS);
            while firsts.recv_many(&mut batch, FIRSTS).await > 0 {
                let messages: Vec<_> = batch.drain(..).map(Arc::unwrap_or_clone).collect();
                if let Err(error) = told.store.begin_conversations(&messages).await {
                    tracing::debug!(%error, chats = messages.len(), "the store was not told of new chats; the worker does it");
                }
            }
        };
        stop.run_until_cancelled(async { tokio::join!(tell, begin) }).await;
    }
}

impl Told {
    async fn tell(&self, news: impl Iterator<Item = News>, owed: &mut HashSet<UserId>, metrics: &Metrics) {
        let (mut arrivals, mut changed): (HashMap<UserId, Vec<Arrival>>, Vec<ChatId>) = Default::default();
        for news in news {
            match news {
                News::Changed(chat) => changed.push(chat),
                News::Moved(users) => owe(owed, users.iter(), metrics),
                News::Arrived { chat, sender, timestamp, position } => {
                    // Known as a rule: the sender was permitted a moment ago.
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
                Ok(members) => owe(owed, members.iter(), metrics),
                Err(_) => metrics.inbox_dropped.inc(),
            }
        }
        // First, for what is not cached notes new chats all the same.
        self.pay(owed).await;
        let arrivals: Vec<_> = arrivals.into_iter().collect();
        for some in arrivals.chunks(USERS_AT_ONCE) {
            let done = self.asked(self.cached.arrived(some, BUDGET)).await.unwrap_or_else(|| vec![false; some.len()]);
            let missed = some.iter().zip(done).filter(|(_, done)| !done).map(|((user, _), _)| user);
            owe(owed, missed, metrics);
        }
    }

    /// Drops the caches that are owed to be dropped, as far as the cache answers.
    async fn pay(&self, owed: &mut HashSet<UserId>) {
        let users: Vec<_> = owed.iter().cloned().collect();
        for some in users.chunks(USERS_AT_ONCE) {
            let Some(done) = self.asked(self.cached.forget(some, BUDGET)).await else { return };
            for (user, _) in some.iter().zip(done).filter(|(_, done)| *done) {
                owed.remove(user);
            }
        }
    }

    /// What the cache did of a call for several users; `None`: it is away as a whole.
    async fn asked(&self, call: impl Future<Output = Vec<Result<(), CacheError>>>) -> Option<Vec<bool>> {
        let permit = self.breaker.acquire(Instant::now()).ok()?;
        let results = call.await;
        if let Some(error) = results.iter().find_map(|result| result.as_ref().err()) {
            tracing::debug!(%error, "unread counts and lists of conversations were not told of messages");
        }
        if results.iter().any(|result| matches!(result, Err(error) if error.is_unavailable())) {
            permit.failure(Instant::now());
            return None;
        }
        permit.success();
        Some(results.iter().map(Result::is_ok).collect())
    }
}

fn owe<'a>(owed: &mut HashSet<UserId>, users: impl Iterator<Item = &'a UserId>, metrics: &Metrics) {
    for user in users {
        if owed.len() < MAX_OWED {
            owed.insert(user.clone());
        } else {
            metrics.inbox_dropped.inc();
        }
    }
}
