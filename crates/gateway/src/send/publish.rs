//! Durability: Kafka, else the failed queue, else a refusal.
//!
//! Takes a message that was shown (or, in durable-first mode, will be); gives what made it durable. Nothing else makes a positive answer.
//!
//! A message does not wait for Kafka's delivery timeout where Kafka is plainly away: it is queued meanwhile, and is in both if Kafka takes it
//! after all. Its id makes the two one.
//!
//! See `docs/decisions/early-fallback.md`.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use holdfast_breaker::{Breaker, Permit};
use holdfast_failed_queue::{FailedQueue, PushOutcome, QueueEntry};
use holdfast_kafka::{Acknowledged, PublishError, PublishRecord, Publisher};
use holdfast_message::{Message, record};
use holdfast_service::clock::unix_ms;
use holdfast_service::trace::TraceParent;

use crate::metrics::Metrics;
use crate::send::acked::{AckedMessage, AckedMessages, REMEMBERED};
use crate::wire::responses::Durability;

/// How often a message that waits for Kafka looks whether there is anything to wait for.
const LOOK: Duration = Duration::from_millis(150);

/// Why nothing durable has it, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotDurable {
    /// Kafka can never take it.
    TooLarge,
    /// Kafka did not acknowledge it, and the failed queue refused or did not answer.
    Unavailable(String),
}

impl fmt::Display for NotDurable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("too large for kafka"),
            Self::Unavailable(reason) => f.write_str(reason),
        }
    }
}

/// The two ways to durability. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publish {
    publisher: Publisher,
    breaker: Breaker,
    failed: FailedQueue,
    acked: AckedMessages,
    metrics: Metrics,
}

/// A message on its way to durability.
pub(crate) struct Pending {
    publish: Publish,
    message: Arc<Message>,
    trace: TraceParent,
    state: State,
}

enum State {
    /// This process has Kafka's acknowledgement of it already.
    Acknowledged,
    /// In Kafka's client.
    Enqueued(Enqueued),
    /// Kafka's breaker is open.
    Skipped,
}

/// A message in Kafka's client.
struct Enqueued {
    permit: Permit,
    report: BoxFuture<'static, Result<Acknowledged, PublishError>>,
    since: Instant,
}

impl Publish {
    /// Kafka behind its breaker, then the failed queue, which is behind none.
    pub(crate) fn new(publisher: Publisher, breaker: Breaker, failed: FailedQueue, metrics: Metrics) -> Self {
        Self { publisher, breaker, failed, acked: AckedMessages::new(REMEMBERED), metrics }
    }

    /// The copy of a message that this process has made durable, if it has.
    pub(crate) fn durable(&self, message: &Message) -> Option<AckedMessage> {
        self.acked.get(&message.id)
    }

    fn remember(&self, message: &Message, by: Durability) -> Durability {
        // Without a tempId there are no repeats.
        if message.temp_id.is_some() {
            self.acked.record(message.id, message.timestamp, by);
        }
        by
    }

    /// Hands a message to Kafka's client before it returns, so that the order of calls is the order in the log.
    pub(crate) fn begin(&self, message: &Arc<Message>, trace: TraceParent, uncached: bool, repeat: bool) -> Pending {
        let state = if repeat && self.durable(message).is_some_and(|durable| durable.by == Durability::Kafka) {
            State::Acknowledged
        } else if let Ok(permit) = self.breaker.acquire(Instant::now()) {
            let (value, traceparent) = (record::encode(message), trace.to_string());
            let record =
                PublishRecord { chat: message.chat.as_str(), value: &value, traceparent: Some(&traceparent), uncached };
            let report = Box::pin(self.publisher.publish(record));
            State::Enqueued(Enqueued { permit, report, since: Instant::now() })
        } else {
            State::Skipped
        };
        Pending { publish: self.clone(), message: message.clone(), trace, state }
    }
}

impl Pending {
    /// What made the message durable. Takes at most Kafka's delivery timeout and the failed queue's.
    pub(crate) async fn durable(self) -> Result<Durability, NotDurable> {
        let Self { publish, message, trace, state } = self;
        match state {
            State::Acknowledged => Ok(Durability::Kafka),
            State::Skipped => publish.queue(&message, &trace, "kafka's breaker is open").await,
            State::Enqueued(mut enqueued) => match publish.reported(&mut enqueued).await {
                Some(report) => publish.settle(enqueued.permit, enqueued.since, report, &message, &trace).await,
                None => publish.queue_meanwhile(enqueued, &message, &trace).await,
            },
        }
    }
}

impl Publish {
    /// Kafka's report; `None` once there is little hope of one soon.
    async fn reported(&self, enqueued: &mut Enqueued) -> Option<Result<Acknowledged, PublishError>> {
        loop {
            match tokio::time::timeout(LOOK, &mut enqueued.report).await {
                Ok(report) => return Some(report),
                Err(_) if self.publisher.is_stalled(enqueued.since.elapsed()) => return None,
                Err(_) => {}
            }
        }
    }

    /// Kafka has reported: if it did not take the message, the failed queue is next.
    async fn settle(
        &self,
        permit: Permit,
        since: Instant,
        report: Result<Acknowledged, PublishError>,
        message: &Message,
        trace: &TraceParent,
    ) -> Result<Durability, NotDurable> {
        match self.judged(permit, since, report) {
            Ok(_) => Ok(self.remember(message, Durability::Kafka)),
            Err(PublishError::TooLarge(_)) => Err(NotDurable::TooLarge),
            Err(PublishError::Unavailable(failure)) => self.queue(message, trace, &failure.to_string()).await,
        }
    }

    /// Queues a message that Kafka's client still has. If the failed queue refuses, the message goes on waiting for Kafka, as if nobody had asked.
    async fn queue_meanwhile(
        &self,
        enqueued: Enqueued,
        message: &Message,
        trace: &TraceParent,
    ) -> Result<Durability, NotDurable> {
        let Enqueued { permit, report, since } = enqueued;
        match self.queue(message, trace, "kafka does not answer").await {
            Ok(durability) => {
                // What Kafka has to say is its breaker's to know.
                let publish = self.clone();
                tokio::spawn(async move { drop(publish.judged(permit, since, report.await)) });
                Ok(durability)
            }
            Err(_) => self.settle(permit, since, report.await, message, trace).await,
        }
    }

    /// Counts a report for Kafka's breaker.
    fn judged(
        &self,
        permit: Permit,
        since: Instant,
        report: Result<Acknowledged, PublishError>,
    ) -> Result<Acknowledged, PublishError> {
        self.metrics.publish.observe(since.elapsed().as_secs_f64());
        match &report {
            Ok(_) => permit.success(),
            // The client may have refused it without asking Kafka.
            Err(PublishError::TooLarge(_)) => drop(permit),
            Err(PublishError::Unavailable(_)) => permit.failure(Instant::now()),
        }
        report
    }

    /// The failed queue, because of this.
    async fn queue(&self, message: &Message, trace: &TraceParent, reason: &str) -> Result<Durability, NotDurable> {
        tracing::debug!(message_id = %message.id, chat_id = %message.chat, reason, "falling back to the failed queue");
        let entry = QueueEntry {
            queued_at: unix_ms(),
            traceparent: Some(trace.to_string()),
            record: record::encode(message).into(),
        };
        match self.failed.push(&message.chat, &entry).await {
            PushOutcome::Accepted => Ok(self.remember(message, Durability::FailedQueue)),
            PushOutcome::Refused(why) => {
                Err(NotDurable::Unavailable(format!("{reason}; the failed queue refused: {why}")))
            }
            PushOutcome::Unknown(why) => {
                Err(NotDurable::Unavailable(format!("{reason}; the failed queue did not answer: {why}")))
            }
        }
    }
}
