//! What the recent list has to hear of later: additions that it missed, and entries that have to be taken back.
//!
//! Takes durable messages from the pipeline when the cache was slow or away, or when another attempt had listed them, which must not
//! take them back; and refused ones, which must be, unless they became durable elsewhere ([`crate::kept`]). Makes the calls once the cache answers a probe. Probes come every second,
//! however long the breaker in front of live sends stays open. The queue is bounded: when it is full the oldest addition is dropped
//! and counted, and the worker or the next verification mends the list instead. What still waits when the gateway has to end is
//! counted as dropped too; what was not taken back by then stays listed, and is logged.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_cache::event::Position;
use holdfast_cache::recent::{Added, Attempt, RecentList, TakenBack};
use holdfast_cache::{Breaker, CacheError, Connection};
use holdfast_message::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::inbox::arrivals::Arrivals;
use crate::kept::Kept;
use crate::metrics::Metrics;

/// Calls that may wait.
const CAPACITY: usize = 10_000;
/// Calls of one kind per round trip.
const BATCH: usize = 128;
/// How long the cache has for one round trip in the background.
const BUDGET: Duration = Duration::from_millis(1000);
/// How often an unreachable cache is asked for a sign of life.
const PROBE: Duration = Duration::from_secs(1);

/// The recent lists, as the two kinds of calls use them.
pub struct Lists {
    /// Their origin is the gateway's: its own sockets were told that the message failed when it was refused.
    pub take_back: RecentList,
    /// Their origin is not: an addition is new to its own sockets too, which have no seq for it, or had it taken back.
    pub add: RecentList,
    /// Either makes other what users see of their chats.
    pub arrivals: Arrivals,
    /// Hears of what could not be taken back.
    pub kept: Kept,
}

#[derive(Clone)]
struct Call {
    message: Arc<Message>,
    /// The attempt that is to be taken back; none: an addition.
    take_back: Option<Attempt>,
    /// Whether what users see of their chats has heard of the message if it is listed already.
    told: bool,
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    /// Taken from these for the round trip that is under way.
    under_way: Vec<Call>,
}

impl Lists {
    /// Tells what users see of their chats of an addition, unless that was done when the message was listed.
    fn listed(&self, call: &Call, added: Added) {
        let position = match added {
            Added::New(position) => Some(position),
            Added::Own(_) | Added::Repeat { .. } if call.told => return,
            Added::Own(position) => Some(position),
            Added::Repeat { epoch, seq, .. } => seq.map(|seq| Position { epoch, seq }),
        };
        self.arrivals.changed(&call.message.chat);
        if let Some(position) = position {
            if position.seq == 1 {
                // Nobody else may know of the chat.
                self.arrivals.arrived(&call.message, &position);
            }
            self.arrivals.durable(&call.message, &position);
        }
    }
}

/// The queue of calls. Cheap to clone.
#[derive(Clone)]
pub struct Relist {
    waiting: Arc<Mutex<Waiting>>,
    arrived: Arc<Notify>,
    metrics: Metrics,
}

impl Relist {
    /// An empty queue; [`Relist::run`] works it off.
    pub fn new(metrics: Metrics) -> Self {
        Self { waiting: Arc::default(), arrived: Arc::default(), metrics }
    }

    /// The list is to take this message, which is durable, if it has not: its first call may have been applied although it was not
    /// answered. No attempt is to take it back any more.
    pub fn add(&self, message: Arc<Message>) {
        self.push(Call { message, take_back: None, told: false });
    }

    /// As [`Relist::add`], of a message that another attempt had listed, and told of.
    pub fn keep(&self, message: Arc<Message>) {
        self.push(Call { message, take_back: None, told: true });
    }

    /// What this attempt has listed, if anything, is to become a tombstone.
    pub fn take_back(&self, message: Arc<Message>, attempt: Attempt) {
        self.push(Call { message, take_back: Some(attempt), told: true });
    }

    /// Works the queue off until the token is cancelled.
    pub async fn run(self, lists: Lists, cache: Connection, breaker: Breaker, stop: CancellationToken) {
        let work = async {
            loop {
                match self.pass(&lists).await {
                    // Live sends need not wait for the breaker's minute either.
                    Ok(true) => breaker.answered(),
                    Ok(false) => self.arrived.notified().await,
                    Err(error) => {
                        tracing::warn!(%error, "the recent list can't be told of what it missed; probing");
                        tokio::time::sleep(PROBE).await;
                        while cache.ping(BUDGET).await.is_err() {
                            tokio::time::sleep(PROBE).await;
                        }
                    }
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Waits until nothing waits any more.
    pub async fn emptied(&self) {
        while self.metrics.relist_waiting.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end: nothing will be repeated any more. Counts what still waits, and says what stays listed although it was refused.
    pub fn give_up(&self) {
        let lost: Vec<_> = self.change(|waiting| waiting.under_way.drain(..).chain(waiting.calls.drain(..)).collect());
        if !lost.is_empty() {
            tracing::warn!(calls = lost.len(), "the recent lists were not told of everything that they had missed");
        }
        self.lost(lost);
    }

    fn lost(&self, calls: impl IntoIterator<Item = Call>) {
        for Call { message, take_back, .. } in calls {
            self.metrics.relist_dropped.inc();
            if take_back.is_some() {
                tracing::warn!(message_id = %message.id, chat_id = %message.chat, "a refused message may stay listed");
            }
        }
    }

    /// One round trip; false if there was nothing to do.
    async fn pass(&self, lists: &Lists) -> Result<bool, CacheError> {
        let calls = self.next_of_a_kind();
        if calls.is_empty() {
            return Ok(false);
        }
        let attempts = calls.iter().map(|call| (&*call.message, call.take_back.unwrap_or(Attempt::DURABLE)));
        let attempts: Vec<_> = attempts.collect();
        let results: Vec<Result<(), CacheError>> = if calls[0].take_back.is_some() {
            let results = lists.take_back.tombstone_batch(&attempts, BUDGET).await;
            let mut absent = Vec::new();
            for ((message, _), taken_back) in attempts.iter().zip(results.iter().flatten()) {
                match taken_back {
                    TakenBack::Done => lists.arrivals.changed(&message.chat),
                    TakenBack::Kept { position, timestamp } => {
                        lists.kept.listed(message, position.as_ref(), *timestamp);
                    }
                    TakenBack::Absent => absent.push(message.id),
                }
            }
            if !absent.is_empty() {
                lists.kept.perhaps(absent);
            }
            results.into_iter().map(|done| done.map(drop)).collect()
        } else {
            let added = lists.add.add_batch(&attempts, BUDGET).await;
            added.into_iter().zip(&calls).map(|(added, call)| added.map(|added| lists.listed(call, added))).collect()
        };
        let (mut unavailable, mut again) = (None, Vec::new());
        for (call, result) in calls.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                // What is not taken back stays listed: that is tried for ever.
                Err(error) if error.is_transient() || call.take_back.is_some() => {
                    // If this very call was applied, the next one finds the message listed, and nobody has told of it.
                    again.push(Call { told: call.told && !error.maybe_applied(), ..call });
                    unavailable = Some(error);
                }
                Err(error) => {
                    self.metrics.relist_dropped.inc();
                    tracing::warn!(message_id = %call.message.id, %error, "the recent list refused a message that it had missed");
                }
            }
        }
        self.change(|waiting| {
            waiting.under_way.clear();
            again.into_iter().rev().for_each(|call| waiting.calls.push_front(call));
        });
        unavailable.map_or(Ok(true), Err)
    }

    /// The oldest call and those of its kind right behind it.
    fn next_of_a_kind(&self) -> Vec<Call> {
        self.change(|Waiting { calls, under_way }| {
            let first = calls.front().map(|call| call.take_back.is_some());
            let alike = calls.iter().take(BATCH).take_while(|call| Some(call.take_back.is_some()) == first).count();
            *under_way = calls.drain(..alike).collect();
            under_way.clone()
        })
    }

    fn push(&self, call: Call) {
        self.change(|Waiting { calls, .. }| {
            if calls.len() >= CAPACITY {
                // An addition has other healers; what is not taken back stays listed.
                let oldest_addition = calls.iter().position(|call| call.take_back.is_none());
                self.lost(calls.remove(oldest_addition.unwrap_or(0)));
            }
            calls.push_back(call);
        });
        self.arrived.notify_one();
    }

    fn change<T>(&self, change: impl FnOnce(&mut Waiting) -> T) -> T {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut waiting);
        self.metrics.relist_waiting.set((waiting.calls.len() + waiting.under_way.len()) as i64);
        changed
    }
}
