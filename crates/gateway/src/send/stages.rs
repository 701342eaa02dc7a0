//! The stages of a send: limit, permission, recent list and fan-out, local delivery, durability, answer.
//!
//! [`super::pipeline`] calls them in this order, a batch at a time up to durability.
//!
//! See `docs/decisions/refused-resends.md` and `docs/decisions/slow-cache.md`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::event::Position as StreamPosition;
use holdfast_cache::recent::{Added, Attempt};
use holdfast_message::json::Position;
use holdfast_message::{Message, UserId};
use holdfast_redis::RedisError;
use holdfast_service::trace::TraceParent;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::outcome::{Accepted, Answer};
use super::pace::Pace;
use super::publish::{NotDurable, Publish};
use super::recent_retry::RecentRetryQueue;
use crate::access::activity::GroupActivity;
use crate::access::authorize::Admission;
use crate::config::DeliveryMode;
use crate::deliver::sockets::Sockets;
use crate::inbox::unread::UnreadNotifier;
use crate::inbox::updates::InboxUpdates;
use crate::limits::slots::Slot;
use crate::metrics::{Metrics, Outcome};
use crate::refusal::{Code, Refusal};
use crate::wire::responses::Durability;

/// What the stages use.
pub(crate) struct Stages {
    /// Permissions and limits.
    pub(crate) admission: Admission,
    /// The recent list.
    pub(crate) recent: RecentList,
    /// In front of the recent list.
    pub(crate) cache_breaker: Breaker,
    /// The time that the cache has for a batch.
    pub(crate) cache_budget: Duration,
    /// How long a send may take until the cache is done with it, if making it durable takes its longest.
    pub(crate) cache_deadline: Duration,
    /// Before or after durability.
    pub(crate) mode: DeliveryMode,
    /// This gateway's sockets.
    pub(crate) sockets: Sockets,
    /// Kafka, else the failed queue.
    pub(crate) publish: Publish,
    /// Repeats calls to recent lists in the background.
    pub(crate) recent_retry: RecentRetryQueue,
    /// Updates cached inboxes with what is newly listed.
    pub(crate) updates: InboxUpdates,
    /// Notifies the sockets here of unread counts.
    pub(crate) unread_notifier: UnreadNotifier,
    /// Records in which groups users act.
    pub(crate) activity: GroupActivity,
    /// The gateway's metrics.
    pub(crate) metrics: Metrics,
}

/// One send on its way.
pub(super) struct Send {
    pub(super) message: Arc<Message>,
    pub(super) trace: TraceParent,
    pub(super) attempt: Attempt,
    pub(super) received: Instant,
    /// Since when it waits for the cache: since it was received, or since the store said whether it is permitted.
    pub(super) waits_since: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
    /// Held until the answer: it bounds the memory of all sends in progress, and this sender's share of it.
    pub(super) slot: (OwnedSemaphorePermit, Slot<UserId>),
}

/// What became of a message in the recent list.
pub(super) enum Shown {
    /// It is new there, and was announced to other gateways.
    Listed(StreamPosition),
    /// It was listed already.
    Repeat { epoch: Arc<str>, seq: Option<u64> },
    /// The cache did not answer: it may or may not have been announced, and will be.
    Unlisted,
    /// It is shown once it is durable. Whether it is a repeat is known already: by then the worker may have listed it.
    Later { repeat: bool },
}

impl Stages {
    /// Applies the rate limit. Every send counts once, whatever becomes of it; in a late batch, in this process alone.
    pub(super) async fn within_limits(&self, batch: Vec<Send>, pace: &Pace) -> Vec<Send> {
        let users: Vec<_> = batch.iter().map(|send| &send.message.sender).collect();
        // The list is still to be asked.
        let limits = match pace.is_late(batch.iter().map(|send| send.waits_since), Instant::now(), 2) {
            true => self.admission.limit_here(&users),
            false => self.admission.limit(&users).await,
        };
        let mut within = Vec::with_capacity(batch.len());
        for (send, limit) in batch.into_iter().zip(limits) {
            match limit {
                Ok(()) => within.push(send),
                Err(refusal) => self.answer(send, Err(refusal), Outcome::Rejected),
            }
        }
        within
    }

    /// Applies verdicts: refuses what must not go on, before anybody sees it.
    ///
    /// A resend keeps its original timestamp, whether or not the cache knows it. If its sender may no longer send, the resend of a
    /// durable message ends here: it is answered as durable, and is not listed, announced, counted or published.
    pub(super) fn admit(&self, batch: impl Iterator<Item = (Send, Result<(), Refusal>)>) -> Vec<Send> {
        let mut admitted = Vec::new();
        for (mut send, verdict) in batch {
            let durable = self.publish.durable(&send.message);
            if let Some(durable) = durable {
                Arc::make_mut(&mut send.message).timestamp = durable.timestamp;
            }
            match (verdict, durable) {
                (Ok(()), _) => admitted.push(send),
                (Err(_), Some(durable)) => self.answer_as_durable(send, durable.by),
                (Err(refusal), None) => self.answer(send, Err(refusal), Outcome::Rejected),
            }
        }
        admitted
    }

    /// The answer to a resend that this gateway need not handle any further; its position is not known here.
    fn answer_as_durable(&self, send: Send, durability: Durability) {
        let accepted = Accepted { message: send.message.clone(), position: None, durability, duplicate: true };
        self.answer(send, Ok(accepted), Outcome::Duplicate);
    }

    /// Lists a batch and announces it to other gateways, in one call to the cache.
    pub(super) async fn place(&self, batch: Vec<Send>, pace: &mut Pace) -> Vec<(Send, Shown)> {
        let added = self.list(&batch, pace).await;
        let place = |(mut send, added): (Send, Option<Added>)| {
            let shown = match added {
                Some(Added::New(position) | Added::Own(position)) => Shown::Listed(position),
                Some(Added::Repeat { timestamp, epoch, seq }) => {
                    Arc::make_mut(&mut send.message).timestamp = timestamp;
                    Shown::Repeat { epoch, seq }
                }
                None => Shown::Unlisted,
            };
            (send, shown)
        };
        batch.into_iter().zip(added).map(place).collect()
    }

    /// Adds a batch to the recent lists; `None` where the cache did not answer or was not asked.
    async fn list(&self, batch: &[Send], pace: &mut Pace) -> Vec<Option<Added>> {
        let adds: Vec<_> = batch.iter().map(|send| (&*send.message, send.attempt)).collect();
        let ask = async {
            let added = self.recent.add_batch(&adds, self.cache_budget).await;
            if let Some(error) = added.iter().find_map(|added| added.as_ref().err()) {
                let messages = batch.len();
                tracing::warn!(%error, messages, "the recent list did not take messages; delivering without it");
            }
            added
        };
        self.ask_in_time(batch, pace, 1, ask).await
    }

    /// In durable-first mode nothing is shown yet, but a repeat must keep its first timestamp.
    pub(super) async fn recognise(&self, batch: Vec<Send>, pace: &mut Pace) -> Vec<(Send, Shown)> {
        let original = |send: &Send| {
            let (recent, message, budget) = (self.recent.clone(), send.message.clone(), self.cache_budget);
            async move { recent.original_timestamp(&message.chat, message.id, budget).await }
        };
        // Once it is durable, the list is still to be asked to take it.
        let originals = self.ask_in_time(&batch, pace, 2, join_all(batch.iter().map(original))).await;
        let recognised = |(mut send, original): (Send, Option<Option<i64>>)| {
            let original = original.flatten();
            if let Some(original) = original {
                Arc::make_mut(&mut send.message).timestamp = original;
            }
            (send, Shown::Later { repeat: original.is_some() })
        };
        batch.into_iter().zip(originals).map(recognised).collect()
    }

    /// Asks the cache about a batch, unless the breaker is open or the batch is too late for so many calls. That it is late counts as
    /// a failure: the cache is too slow for everybody.
    async fn ask_in_time<T>(
        &self,
        batch: &[Send],
        pace: &mut Pace,
        calls: u32,
        ask: impl Future<Output = Vec<Result<T, RedisError>>>,
    ) -> Vec<Option<T>> {
        if batch.is_empty() {
            return Vec::new();
        }
        let begun = Instant::now();
        let late = pace.is_late(batch.iter().map(|send| send.waits_since), begun, calls);
        let asked = self.cache_breaker.call_batch(async {
            if late {
                tracing::warn!(messages = batch.len(), "the cache is too slow for all sends; going on without it");
                return batch.iter().map(|_| Err(too_slow())).collect();
            }
            let answers = ask.await;
            pace.answered(begun, Instant::now());
            answers
        });
        match asked.await {
            Ok(answers) => answers.into_iter().map(Result::ok).collect(),
            Err(_) => batch.iter().map(|_| None).collect(),
        }
    }

    /// Gives a message to the sockets of this gateway. Returns for how many users.
    pub(super) fn deliver(&self, send: &Send, shown: &Shown) -> usize {
        let position = match shown {
            Shown::Listed(position) => {
                self.updates.arrived(&send.message, position);
                Position::At { epoch: &position.epoch, seq: position.seq }
            }
            Shown::Unlisted => Position::Unknown,
            Shown::Repeat { .. } | Shown::Later { .. } => return 0,
        };
        let audience = self.sockets.audience(&send.message.chat);
        self.sockets.message(&audience, &send.message, position);
        self.unread_notifier.message_given(&audience, &send.message);
        self.metrics.delivery.observe(send.received.elapsed().as_secs_f64());
        audience.len()
    }

    /// Hands the message to Kafka's client now, in order, and waits for durability in a task of its own.
    pub(super) fn make_durable(self: Arc<Self>, send: Send, shown: Shown) {
        // A repeat is marked too: if its first attempt is retracted, the worker lists it again.
        let uncached = !matches!(shown, Shown::Listed(_));
        let repeat = matches!(shown, Shown::Repeat { .. });
        let pending = self.publish.begin(&send.message, send.trace, uncached, repeat);
        tokio::spawn(async move {
            match pending.durable().await {
                Ok(durability) => self.accept(send, shown, durability).await,
                Err(cause) => self.refuse(send, shown, cause).await,
            }
        });
    }

    /// The message is durable: what the recent list missed is repeated, and the sender gets the answer.
    async fn accept(&self, mut send: Send, shown: Shown, durability: Durability) {
        // The worker may have listed it since it came.
        let may_be_repeat = !matches!(shown, Shown::Later { repeat: false });
        let shown = match shown {
            Shown::Later { .. } => match self.place(vec![send], &mut Pace::unhurried(self.cache_budget)).await.pop() {
                Some((placed, shown)) => {
                    send = placed;
                    self.deliver(&send, &shown);
                    shown
                }
                None => return,
            },
            shown => shown,
        };
        let (position, duplicate) = match shown {
            Shown::Listed(position) => {
                self.updates.durable(&send.message, &position);
                (Some(position), false)
            }
            Shown::Repeat { epoch, seq } => {
                // The attempt that has listed it may fail, and must not retract it.
                self.recent_retry.keep_listed(send.message.clone());
                (seq.map(|seq| StreamPosition { epoch, seq }), may_be_repeat)
            }
            Shown::Unlisted | Shown::Later { .. } => {
                self.metrics.recent_skipped.inc();
                self.recent_retry.add(send.message.clone());
                (None, false)
            }
        };
        let outcome = match durability {
            _ if duplicate => Outcome::Duplicate,
            Durability::Kafka => Outcome::Kafka,
            Durability::FailedQueue => Outcome::FailedQueue,
        };
        self.activity.record(&send.message.sender, &send.message.chat);
        let accepted = Accepted { message: send.message.clone(), position, durability, duplicate };
        self.answer(send, Ok(accepted), outcome);
    }

    /// Nothing durable took it: retracts what this attempt has shown.
    async fn refuse(&self, send: Send, shown: Shown, cause: NotDurable) {
        if let Some(durable) = self.publish.durable(&send.message) {
            // A concurrent repeat of it became durable.
            return self.answer_as_durable(send, durable.by);
        }
        tracing::warn!(
            message_id = %send.message.id, chat_id = %send.message.chat, trace_id = send.trace.trace_id(), %cause,
            "a message could not be made durable; refused"
        );
        let refusal = match cause {
            NotDurable::TooLarge => Refusal::new(Code::TooLarge, "the message is too large to be stored"),
            NotDurable::Unavailable(_) => Refusal::unavailable("the message could not be made durable; send it again"),
        };
        if matches!(shown, Shown::Listed(_) | Shown::Unlisted) {
            let message = &send.message;
            let audience = self.sockets.audience(&message.chat);
            self.sockets.failed(&audience, message.id, message.temp_id.as_deref(), &message.chat);
            self.recent_retry.retract(message.clone(), send.attempt);
        }
        self.answer(send, Err(refusal), Outcome::Refused);
    }

    fn answer(&self, send: Send, answer: Answer, outcome: Outcome) {
        self.metrics.ended(outcome);
        self.metrics.ack.observe(send.received.elapsed().as_secs_f64());
        self.metrics.in_flight.dec();
        // The sender may be gone.
        let _ = send.answer.send(answer);
        drop(send.slot);
    }
}

fn too_slow() -> RedisError {
    RedisError::Unavailable { maybe_applied: false, reason: "too slow for all sends".to_owned() }
}
