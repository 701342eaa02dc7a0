//! Stores batches. Takes due messages from the buffer; marks stored ones as done in the ledger, passes those that can't be stored to the
//! dead letters, and puts back those that must be retried.
//!
//! One flush is in flight at a time, on a task of its own, and its batch comes back with its outcomes, so no failure in between loses a
//! message. When the store is away the wait between attempts grows, for ever: there is no number of
//! attempts after which a message is dropped.
//!
//! A message that MongoDB refuses while it stores others is set aside and retried together with others. After
//! [`LONE_REFUSAL`] of this it is a dead letter.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_message::Message;
use holdfast_service::clock::unix_ms;
use holdfast_store::{BatchFailed, Store, StoreError, Touched, Written, is_passing};

use crate::backoff::Backoff;
use crate::buffer::{Batch, Buffer};
use crate::dead_letter::Letter;
use crate::decode::Original;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::report::{Report, Reports};

/// How long MongoDB may refuse a message alone, for a reason not known as lasting, while it takes others.
pub const LONE_REFUSAL: Duration = Duration::from_secs(600);

/// The shortest interval between retries of messages that are set aside, while a drain or a revocation hurries.
const HURRIED: Duration = Duration::from_millis(500);

/// The store that messages are flushed to.
pub trait Sink: Send + Sync + 'static {
    /// Stores the absent messages; one outcome per message, in order. Has its own time limit.
    fn insert(&self, messages: &[Message]) -> impl Future<Output = Result<Vec<Written>, BatchFailed>> + Send;
    /// Updates the conversations' view with the latest message of each chat.
    fn touch_conversations(&self, messages: &[Message]) -> impl Future<Output = Result<Touched, StoreError>> + Send;
}

impl Sink for Store {
    fn insert(&self, messages: &[Message]) -> impl Future<Output = Result<Vec<Written>, BatchFailed>> + Send {
        Store::insert(self, messages)
    }
    fn touch_conversations(&self, messages: &[Message]) -> impl Future<Output = Result<Touched, StoreError>> + Send {
        Store::touch_conversations(self, messages)
    }
}

/// A flush that ended.
#[derive(Debug)]
pub struct Flushed {
    batch: Batch,
    result: Result<Vec<Written>, BatchFailed>,
    took: Duration,
}

/// The result of a flush, for the loop and for health.
#[derive(Debug, Default)]
pub struct Settled {
    /// Messages that are dead letters now.
    pub letters: Vec<Letter>,
    /// Messages that are stored: for the conversations.
    pub stored: Vec<Message>,
}

/// Decides when a batch is due, and runs flushes.
#[derive(Debug)]
pub struct Flusher {
    threshold: usize,
    interval: Duration,
    in_flight: bool,
    backoff: Backoff,
    aside: Backoff,
    aside_at: Option<Instant>,
    lone_refusal: Duration,
    last_success: Option<Instant>,
}

impl Flusher {
    /// A batch is due at `threshold` messages or when the oldest has waited for `interval`.
    pub fn new(threshold: usize, interval: Duration, lone_refusal: Duration) -> Self {
        Self {
            threshold,
            interval,
            in_flight: false,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
            aside: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            aside_at: None,
            lone_refusal,
            last_success: None,
        }
    }

    /// Whether a flush is in flight.
    pub fn is_busy(&self) -> bool {
        self.in_flight
    }

    /// Whether the last attempt stored nothing.
    pub fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// Begins a flush if one is due; with `hurry`, if any message waits.
    pub fn begin<S: Sink>(&mut self, now: Instant, hurry: bool, buffer: &mut Buffer, sink: &Arc<S>, reports: &Reports) {
        if self.in_flight || !self.backoff.is_over(now) {
            return;
        }
        let rested = self.aside_at.is_none_or(|last| now.duration_since(last) >= HURRIED);
        let with_aside = buffer.aside() > 0 && (self.aside.is_over(now) || (hurry && rested));
        let fresh = buffer.len() > buffer.aside();
        if !((hurry && fresh) || with_aside || buffer.is_due(now, self.threshold, self.interval)) {
            return;
        }
        let batch = buffer.take(self.threshold, with_aside);
        if batch.messages.is_empty() {
            return;
        }
        self.in_flight = true;
        if with_aside {
            self.aside_at = Some(now);
        }
        let sink = Arc::clone(sink);
        reports.run(async move {
            let started = Instant::now();
            let result = sink.insert(&batch.messages).await;
            Report::Flushed(Flushed { batch, result, took: started.elapsed() })
        });
    }

    /// Takes a flush's outcomes.
    pub fn settle(
        &mut self,
        now: Instant,
        flushed: Flushed,
        buffer: &mut Buffer,
        ledger: &mut Ledger,
        metrics: &Metrics,
    ) -> Settled {
        self.in_flight = false;
        metrics.flush_seconds.observe(flushed.took.as_secs_f64());
        let Flushed { batch, result, .. } = flushed;
        match result {
            Ok(outcomes) if outcomes.len() == batch.messages.len() => {
                self.judge(now, batch, outcomes, buffer, ledger, metrics)
            }
            Ok(outcomes) => {
                let error = format!("{} outcomes for {} messages", outcomes.len(), batch.messages.len());
                self.fail(now, batch, &error, buffer, ledger, metrics);
                Settled::default()
            }
            Err(error) => {
                self.fail(now, batch, &error.to_string(), buffer, ledger, metrics);
                Settled::default()
            }
        }
    }

    /// Returns the whole batch to the front of the buffer, in order.
    fn fail(
        &mut self,
        now: Instant,
        batch: Batch,
        error: &str,
        buffer: &mut Buffer,
        ledger: &Ledger,
        metrics: &Metrics,
    ) {
        self.backoff.fail(now, fastrand::f64());
        let (attempts, messages) = (self.backoff.failures(), batch.messages.len());
        // Logs the first failure and then ever fewer: an outage is one event.
        if attempts.is_power_of_two() {
            tracing::warn!(attempts, messages, error, "flush failed, keeping the batch");
        }
        metrics.retried.inc_by(messages as u64);
        for (message, mut meta) in batch.messages.into_iter().zip(batch.metas).rev() {
            // The patience with a message refused alone starts anew after an outage: no other message was stored meanwhile.
            meta.refused_since = None;
            if ledger.is_current(meta.partition, meta.generation) {
                buffer.give_back(message, meta);
            } else {
                buffer.settle(&message);
            }
        }
    }

    fn judge(
        &mut self,
        now: Instant,
        batch: Batch,
        outcomes: Vec<Written>,
        buffer: &mut Buffer,
        ledger: &mut Ledger,
        metrics: &Metrics,
    ) -> Settled {
        let taken = |outcome: &Written| matches!(outcome, Written::Stored | Written::Duplicate);
        let any_taken = outcomes.iter().any(taken);
        if any_taken {
            self.last_success = Some(now);
        }
        // A refusal shows that the server works; a batch of nothing but retries shows that it does not.
        if outcomes.iter().all(|outcome| matches!(outcome, Written::Retry { .. })) && !self.others_succeed(now) {
            let Some(Written::Retry { code, reason }) = outcomes.first() else { return Settled::default() };
            let error = format!("{reason} (code {code})");
            self.fail(now, batch, &error, buffer, ledger, metrics);
            return Settled::default();
        }
        if self.backoff.is_failing() {
            tracing::info!("the store takes messages again");
        }
        self.backoff.reset();
        let stamp = unix_ms();
        let mut settled = Settled { stored: Vec::with_capacity(batch.messages.len()), ..Settled::default() };
        let mut refused_again = false;
        for ((message, mut meta), outcome) in batch.messages.into_iter().zip(batch.metas).zip(outcomes) {
            match outcome {
                Written::Stored | Written::Duplicate => {
                    ledger.done(meta.partition, meta.generation, meta.offset);
                    buffer.settle(&message);
                    if outcome == Written::Stored {
                        metrics.stored.inc();
                        metrics.persist_latency.observe((stamp - message.timestamp).max(0) as f64 / 1000.0);
                        settled.stored.push(message);
                    } else {
                        // It may be a repeat with another timestamp than the stored copy, which is the one to show.
                        metrics.duplicates.inc();
                    }
                }
                _ if !ledger.is_current(meta.partition, meta.generation) => buffer.settle(&message),
                Written::Refused { code, reason } => {
                    buffer.settle(&message);
                    let detail = format!("mongodb refuses the document: {reason} (code {code})");
                    settled.letters.push(letter(&message, meta, "refused", detail));
                }
                Written::Retry { code, reason } if is_passing(code) => {
                    // Its shard or primary is away, which says nothing about the message.
                    tracing::debug!(message_id = %message.id, code, reason, "a message was put off, trying on");
                    meta.refused_since = None;
                    metrics.retried.inc();
                    refused_again = true;
                    buffer.set_aside(message, meta);
                }
                Written::Retry { code, reason } => {
                    let since = *meta.refused_since.get_or_insert(now);
                    if now.duration_since(since) >= self.lone_refusal && self.others_succeeded_since(since, now) {
                        buffer.settle(&message);
                        let detail = format!("mongodb keeps refusing this document alone: {reason} (code {code})");
                        settled.letters.push(letter(&message, meta, "refused_alone", detail));
                        continue;
                    }
                    if since == now {
                        tracing::warn!(message_id = %message.id, chat_id = %message.chat, code, reason, "a message was refused alone, trying on");
                    }
                    metrics.retried.inc();
                    refused_again = true;
                    buffer.set_aside(message, meta);
                }
            }
        }
        if refused_again {
            self.aside.fail(now, fastrand::f64());
        } else if buffer.aside() == 0 {
            self.aside.reset();
        }
        settled
    }

    fn others_succeed(&self, now: Instant) -> bool {
        self.last_success.is_some_and(|last| now.duration_since(last) < Duration::from_secs(60))
    }

    fn others_succeeded_since(&self, since: Instant, now: Instant) -> bool {
        self.last_success.is_some_and(|last| last > since && now.duration_since(last) <= self.lone_refusal)
    }
}

fn letter(message: &Message, meta: crate::buffer::RecordMeta, reason: &'static str, detail: String) -> Letter {
    tracing::error!(
        message_id = %message.id, chat_id = %message.chat, trace_id = meta.trace.map(|trace| trace.trace_id()),
        partition = meta.partition, offset = meta.offset, reason, detail, "mongodb does not take a message"
    );
    let original = Original::of(message, meta.trace);
    Letter::new(meta.partition, meta.generation, meta.offset, reason, detail, original)
}

#[cfg(test)]
mod tests;
