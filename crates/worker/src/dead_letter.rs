//! Publishes records that can't be stored to the dead-letter topic, each with its reason. A record counts as done in the ledger only when
//! the topic has acknowledged it: a topic that can't be written stops the partition's commits, and no record is lost.
//!
//! One batch is in flight at a time. A letter that was not acknowledged is retried with growing waits, for ever. Waiting
//! letters count against the buffer's capacity, so a flood of them pauses fetching.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_kafka::Publisher;
use holdfast_message::record::header;
use holdfast_service::clock::unix_ms;

use crate::backoff::Backoff;
use crate::decode::Original;
use crate::ledger::{Generation, Ledger};
use crate::metrics::Metrics;
use crate::report::{Report, Reports};

/// The most letters in one batch.
const BATCH: usize = 200;

/// A record on its way to the dead-letter topic.
#[derive(Debug)]
pub struct Letter {
    partition: i32,
    generation: Generation,
    offset: i64,
    reason: &'static str,
    detail: String,
    original: Original,
    since: i64,
}

impl Letter {
    /// `reason` is a short word for the metric; `detail` is for people.
    pub fn new(
        partition: i32,
        generation: Generation,
        offset: i64,
        reason: &'static str,
        detail: String,
        original: Original,
    ) -> Self {
        Self { partition, generation, offset, reason, detail, original, since: unix_ms() }
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.detail.len() + self.original.size()
    }
}

/// The dead-letter topic.
#[derive(Debug, Clone)]
pub struct DeadLetterTopic {
    /// The producer that publishes dead letters.
    pub publisher: Publisher,
    /// The topic's name.
    pub topic: Arc<str>,
    /// The name of the topic that the records come from.
    pub source: Arc<str>,
}

/// A batch of letters, each acknowledged or with its error.
#[derive(Debug)]
pub struct Posted(Vec<(Letter, Result<(), String>)>);

/// The letters that are not acknowledged yet.
#[derive(Debug)]
pub struct DeadLetters {
    /// `None`: dead letters are switched off; records that can't be stored are logged and skipped.
    topic: Option<DeadLetterTopic>,
    waiting: VecDeque<Letter>,
    in_flight: usize,
    bytes: usize,
    backoff: Backoff,
}

impl DeadLetters {
    /// Starts without letters; `None` switches dead letters off.
    pub fn new(topic: Option<DeadLetterTopic>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        Self { topic, waiting: VecDeque::new(), in_flight: 0, bytes: 0, backoff }
    }

    /// Adds a letter; without a topic it counts as done at once.
    pub fn push(&mut self, letter: Letter, ledger: &mut Ledger, metrics: &Metrics) {
        if self.topic.is_some() {
            self.bytes += letter.size();
            self.waiting.push_back(letter);
            return;
        }
        tracing::error!(
            partition = letter.partition,
            offset = letter.offset,
            reason = letter.reason,
            detail = letter.detail,
            "skipping a record, as dead letters are switched off"
        );
        metrics.dead_letter(letter.reason, 1);
        ledger.done(letter.partition, letter.generation, letter.offset);
    }

    /// The number of letters that are not acknowledged.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.in_flight
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the last batch failed.
    pub fn is_failing(&self) -> bool {
        self.backoff.is_failing()
    }

    /// Publishes the waiting letters, unless a batch is in flight.
    pub fn begin(&mut self, now: Instant, reports: &Reports) {
        let Some(topic) = self.topic.as_ref() else { return };
        if self.in_flight > 0 || self.waiting.is_empty() || !self.backoff.is_over(now) {
            return;
        }
        let batch: Vec<Letter> = self.waiting.drain(..self.waiting.len().min(BATCH)).collect();
        self.in_flight = batch.len();
        let topic = topic.clone();
        reports.run(async move { Report::Posted(post(&topic, batch).await) });
    }

    /// Takes the outcome of a batch: letters that failed wait for the next one.
    pub fn settle(&mut self, now: Instant, posted: Posted, ledger: &mut Ledger, metrics: &Metrics) {
        self.in_flight = 0;
        let mut failure = None;
        for (letter, result) in posted.0.into_iter().rev() {
            match result {
                Ok(()) => {
                    self.bytes -= letter.size();
                    metrics.dead_letter(letter.reason, 1);
                    ledger.done(letter.partition, letter.generation, letter.offset);
                }
                Err(_) if !ledger.is_current(letter.partition, letter.generation) => self.bytes -= letter.size(),
                Err(error) => {
                    failure = Some((letter.partition, letter.offset, error));
                    self.waiting.push_front(letter);
                }
            }
        }
        let Some((partition, offset, error)) = failure else { return self.backoff.reset() };
        self.backoff.fail(now, fastrand::f64());
        let (attempts, waiting) = (self.backoff.failures(), self.waiting.len());
        if attempts.is_power_of_two() {
            tracing::error!(
                attempts,
                waiting,
                partition,
                offset,
                error,
                "the dead-letter topic can't be written, retrying"
            );
        }
    }

    /// Drops the waiting letters of a revoked partition.
    pub fn forget(&mut self, partition: i32) {
        let bytes = &mut self.bytes;
        self.waiting.retain(|letter| {
            let keep = letter.partition != partition;
            *bytes -= if keep { 0 } else { letter.size() };
            keep
        });
    }
}

async fn post(to: &DeadLetterTopic, letters: Vec<Letter>) -> Posted {
    let send = |letter: &Letter| {
        let reason = format!("{}: {}", letter.reason, letter.detail);
        let (partition, offset) = (letter.partition.to_string(), letter.offset.to_string());
        let time = letter.since.to_string();
        let original = letter.original.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        let mut headers: Vec<(&str, Option<&[u8]>)> = original.collect();
        headers.extend([
            (header::DLQ_REASON, Some(reason.as_bytes())),
            (header::DLQ_TOPIC, Some(to.source.as_bytes())),
            (header::DLQ_PARTITION, Some(partition.as_bytes())),
            (header::DLQ_OFFSET, Some(offset.as_bytes())),
            (header::DLQ_TIME, Some(time.as_bytes())),
        ]);
        to.publisher.publish_raw(
            &to.topic,
            None,
            letter.original.key.as_deref(),
            letter.original.value.as_deref(),
            &headers,
        )
    };
    // All are enqueued before the first is waited for.
    let sent: Vec<_> = letters.iter().map(send).collect();
    let mut posted = Vec::with_capacity(letters.len());
    for (letter, acknowledged) in letters.into_iter().zip(sent) {
        posted.push((letter, acknowledged.await.map(drop).map_err(|error| error.to_string())));
    }
    Posted(posted)
}
