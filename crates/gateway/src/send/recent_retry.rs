//! Calls to recent lists that are made later: additions that a list missed, and retractions.
//!
//! Takes durable messages from the pipeline when the cache was slow or away, or when another attempt had listed them, so that they are no longer
//! subject to retraction; and refused ones, which are to be retracted unless they became durable elsewhere ([`crate::send::reinstate`]). Makes the calls
//! once the cache answers a probe. Probes come every second, however long the breaker in front of live sends stays open. A call that failed goes
//! to the back, and with it what waits for the same chat: while one master of a cluster is away, the others' chats go on.
//!
//! The queue is bounded: when it is full the oldest addition is dropped and counted, and the worker or the next verification repairs the list instead. What
//! still waits when the gateway has to end is counted as dropped too; a message that was not retracted by then stays listed, and is logged.
//!
//! See `docs/decisions/retraction.md` and `docs/decisions/breakers.md`.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::event::Position;
use holdfast_cache::recent::{Added, Attempt, RecentList, Retraction};
use holdfast_message::{ChatId, Message, json};
use holdfast_redis::{Connection, RedisError};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::deliver::sockets::Sockets;
use crate::inbox::updates::InboxUpdates;
use crate::metrics::Metrics;
use crate::send::reinstate::Reinstater;

/// Calls that may wait.
const CAPACITY: usize = 10_000;
/// Calls of one kind per round trip. Few: a live call waits behind them at the server, and one that misses its budget adds to what waits here.
const BATCH: usize = 16;
/// How long the cache has for one round trip in the background.
const BUDGET: Duration = Duration::from_millis(1000);
/// How often an unreachable cache is asked for a sign of life, and how long a call that failed alone is left in peace.
const PROBE: Duration = Duration::from_secs(1);

/// The recent lists, as the two kinds of calls use them.
pub struct RecentLists {
    /// Retracts. Its origin is the gateway's: its own sockets got `messageFailed` when the message was refused.
    pub retract: RecentList,
    /// Adds. Its origin is another: an addition is new to the gateway's own sockets too, which have no position for it, or had it retracted.
    pub add: RecentList,
    /// Both change cached inboxes.
    pub updates: InboxUpdates,
    /// Takes what could not be retracted.
    pub reinstater: Reinstater,
    /// Those that were given a message without its position get the position.
    pub sockets: Sockets,
}

#[derive(Clone)]
struct Call {
    message: Arc<Message>,
    /// The attempt that is to be retracted; `None`: an addition.
    retract: Option<Attempt>,
    /// Whether cached inboxes were updated with the message if it is listed already.
    counted: bool,
    /// When it failed last.
    failed_at: Option<Instant>,
}

impl Call {
    /// When it may be repeated, if it failed lately.
    fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.failed_at.map(|at| at + PROBE).filter(|until| *until > now)
    }
}

/// What became of a round trip.
enum Pass {
    Done,
    /// There was nothing to do.
    Idle,
    /// There was nothing to do but what failed lately.
    Resting(Instant),
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    /// Those of the round trip that is under way.
    under_way: Vec<Call>,
}

impl RecentLists {
    /// A message was added or found listed. Sends the position of one that was listed already to this gateway's sockets; the addition of any other is
    /// announced to them. Updates cached inboxes, unless that was done when the message was listed.
    fn listed(&self, call: &Call, added: Added) {
        if let Added::Own(Position { epoch, seq }) | Added::Repeat { epoch, seq: Some(seq), .. } = &added {
            self.sockets.positioned(&call.message, json::Position::At { epoch, seq: *seq });
        }
        let position = match added {
            Added::New(position) => Some(position),
            Added::Own(_) | Added::Repeat { .. } if call.counted => return,
            Added::Own(position) => Some(position),
            Added::Repeat { epoch, seq, .. } => seq.map(|seq| Position { epoch, seq }),
        };
        self.updates.changed(&call.message.chat);
        if let Some(position) = position {
            if position.seq == 1 {
                // The chat may be new to everybody.
                self.updates.arrived(&call.message, &position);
            }
            self.updates.durable(&call.message, &position);
        }
    }
}

/// The queue of calls. Cheap to clone.
#[derive(Clone)]
pub struct RecentRetryQueue {
    waiting: Arc<Mutex<Waiting>>,
    arrived: Arc<Notify>,
    metrics: Metrics,
}

impl RecentRetryQueue {
    /// An empty queue; [`RecentRetryQueue::run`] works it off.
    pub fn new(metrics: Metrics) -> Self {
        Self { waiting: Arc::default(), arrived: Arc::default(), metrics }
    }

    /// Adds a durable message to its list, unless the first call was applied although it was not answered. From then on no attempt may retract it.
    pub fn add(&self, message: Arc<Message>) {
        self.push(Call { message, retract: None, counted: false, failed_at: None });
    }

    /// [`RecentRetryQueue::add`] for a message that another attempt had listed and updated inboxes with.
    pub fn keep_listed(&self, message: Arc<Message>) {
        self.push(Call { message, retract: None, counted: true, failed_at: None });
    }

    /// Retracts what this attempt has listed, if anything: it becomes a tombstone.
    pub fn retract(&self, message: Arc<Message>, attempt: Attempt) {
        self.push(Call { message, retract: Some(attempt), counted: true, failed_at: None });
    }

    /// Works the queue off until the token is cancelled.
    pub async fn run(self, lists: RecentLists, cache: Connection, breaker: Breaker, stop: CancellationToken) {
        let work = async {
            let mut failure = None;
            loop {
                match self.pass(&lists).await {
                    // The cache answers: live sends need not wait for the breaker either.
                    Ok(Pass::Done) => breaker.answered(),
                    Ok(Pass::Idle) => self.arrived.notified().await,
                    Ok(Pass::Resting(until)) => {
                        if let Some(error) = failure.take() {
                            tracing::warn!(%error, "some recent lists do not take what they missed; repeating");
                        }
                        sleep_until(until).await;
                    }
                    Err(error) if error.is_unavailable() => {
                        tracing::warn!(%error, "recent lists do not take what they missed; probing the cache");
                        sleep(PROBE).await;
                        while cache.ping(BUDGET).await.is_err() {
                            sleep(PROBE).await;
                        }
                    }
                    // Not the cache as a whole: the others go on.
                    Err(error) => failure = Some(error),
                }
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// Waits until nothing waits any more.
    pub async fn emptied(&self) {
        while self.metrics.relist_waiting.get() > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the repeats. Counts what still waits, and logs what stays listed although it was refused.
    pub fn give_up(&self) {
        let lost: Vec<_> = self.change(|waiting| waiting.under_way.drain(..).chain(waiting.calls.drain(..)).collect());
        if !lost.is_empty() {
            tracing::warn!(calls = lost.len(), "recent lists did not take everything that they had missed");
        }
        self.lost(lost);
    }

    fn lost(&self, calls: impl IntoIterator<Item = Call>) {
        for Call { message, retract, .. } in calls {
            self.metrics.relist_dropped.inc();
            if retract.is_some() {
                tracing::warn!(message_id = %message.id, chat_id = %message.chat, "a refused message may stay listed");
            }
        }
    }

    /// One round trip. What failed in it waits again.
    async fn pass(&self, lists: &RecentLists) -> Result<Pass, RedisError> {
        let now = Instant::now();
        let calls = match self.change(|waiting| waiting.next_of_a_kind(now)) {
            Ok(calls) => calls,
            Err(nothing) => return Ok(nothing),
        };
        let attempts = calls.iter().map(|call| (&*call.message, call.retract.unwrap_or(Attempt::DURABLE)));
        let attempts: Vec<_> = attempts.collect();
        let results: Vec<Result<(), RedisError>> = if calls[0].retract.is_some() {
            let results = lists.retract.tombstone_batch(&attempts, BUDGET).await;
            let mut absent = Vec::new();
            for ((message, _), taken_back) in attempts.iter().zip(results.iter().flatten()) {
                match taken_back {
                    Retraction::Done => lists.updates.changed(&message.chat),
                    Retraction::Durable { position, timestamp } => {
                        lists.reinstater.listed(message, position.as_ref(), *timestamp);
                    }
                    Retraction::Absent => absent.push(message.id),
                }
            }
            if !absent.is_empty() {
                lists.reinstater.if_stored(absent);
            }
            results.into_iter().map(|done| done.map(drop)).collect()
        } else {
            let added = lists.add.add_batch(&attempts, BUDGET).await;
            added.into_iter().zip(&calls).map(|(added, call)| added.map(|added| lists.listed(call, added))).collect()
        };
        let (mut failure, mut failed): (Option<RedisError>, _) = (None, Vec::new());
        let now = Instant::now();
        for (call, result) in calls.into_iter().zip(results) {
            match result {
                Ok(()) => {}
                // A message that is not retracted stays listed: that is repeated for ever.
                Err(error) if error.is_transient() || call.retract.is_some() => {
                    // If this call was applied, the next one finds the message listed, and inboxes were not updated.
                    let counted = call.counted && !error.maybe_applied();
                    failed.push(Call { counted, failed_at: Some(now), ..call });
                    failure = failure.filter(RedisError::is_unavailable).or(Some(error));
                }
                Err(error) => {
                    self.metrics.relist_dropped.inc();
                    tracing::warn!(message_id = %call.message.id, %error, "the recent list refused a message that it had missed");
                }
            }
        }
        self.change(|waiting| {
            waiting.under_way.clear();
            waiting.put_back(failed);
        });
        failure.map_or(Ok(Pass::Done), Err)
    }

    fn push(&self, call: Call) {
        self.change(|Waiting { calls, .. }| {
            if calls.len() >= CAPACITY {
                // An addition has other healers; a message that is not retracted stays listed.
                let oldest_addition = calls.iter().position(|call| call.retract.is_none());
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

impl Waiting {
    /// Takes the first retractions, wherever they wait: a refused message must not stay listed. If there are none, takes the first additions. Leaves
    /// what failed lately. What is taken is under way then.
    fn next_of_a_kind(&mut self, now: Instant) -> Result<Vec<Call>, Pass> {
        let is_ready_retraction = |call: &Call| call.retract.is_some() && call.rests_until(now).is_none();
        if self.calls.iter().any(is_ready_retraction) {
            let (mut taken, mut left) = (Vec::new(), VecDeque::new());
            for call in self.calls.drain(..) {
                match is_ready_retraction(&call) && taken.len() < BATCH {
                    true => taken.push(call),
                    false => left.push_back(call),
                }
            }
            self.calls = left;
            self.under_way.clone_from(&taken);
            return Ok(taken);
        }
        let Some(first) = self.calls.front() else { return Err(Pass::Idle) };
        if let Some(until) = first.rests_until(now) {
            return Err(Pass::Resting(until));
        }
        let is_alike = |call: &&Call| call.retract.is_none() && call.rests_until(now).is_none();
        let alike = self.calls.iter().take(BATCH).take_while(is_alike).count();
        self.under_way = self.calls.drain(..alike).collect();
        Ok(self.under_way.clone())
    }

    /// Puts failed calls behind all others, and behind them what waits for the same chats, whose calls are made in their order.
    fn put_back(&mut self, failed: Vec<Call>) {
        if failed.is_empty() {
            return;
        }
        let chats: HashSet<&ChatId> = failed.iter().map(|call| &call.message.chat).collect();
        let same = |call: &Call| chats.contains(&call.message.chat);
        let (behind, others): (VecDeque<_>, _) = self.calls.drain(..).partition(same);
        self.calls = others;
        self.calls.extend(failed.into_iter().chain(behind));
    }
}

#[cfg(test)]
mod tests {
    use holdfast_message::{MessageId, UserId};

    use super::*;

    fn call(number: u8, retract: Option<Attempt>) -> Call {
        let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
        let message = Message {
            id: MessageId::from_bytes([number; 16]),
            temp_id: None,
            chat: ChatId::direct(&alice, &bob).unwrap(),
            sender: alice,
            receiver: Some(bob),
            content: "x".into(),
            image_url: None,
            public_id: None,
            timestamp: 1,
        };
        Call { message: Arc::new(message), retract, counted: true, failed_at: None }
    }

    #[test]
    fn retractions_do_not_wait_behind_additions_and_what_failed_lately_waits() {
        let now = Instant::now();
        let resting = Call { failed_at: Some(now), ..call(2, Some(Attempt(2))) };
        let calls = [call(0, None), call(1, None), resting, call(3, Some(Attempt(3))), call(4, Some(Attempt(4)))];
        let mut waiting = Waiting { calls: calls.into(), under_way: Vec::new() };
        let mut next = |now| -> Vec<u8> {
            let taken = waiting.next_of_a_kind(now).unwrap_or_default();
            taken.iter().map(|call| call.message.id.as_bytes()[0]).collect()
        };
        assert_eq!(next(now), [3, 4]);
        assert_eq!(next(now), [0, 1]);
        assert_eq!(next(now), [0; 0], "it failed a moment ago");
        assert_eq!(next(now + PROBE), [2]);
    }
}
