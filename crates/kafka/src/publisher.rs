//! Puts a record into the log. Takes bytes from the write path; gives an acknowledgement, or an error that says what the caller
//! must do.
//!
//! A record is in the producer's queue when [`Publisher::publish`] returns, so that the order of calls is the order in the log;
//! the future that it returns only awaits the delivery report. Dropping that future takes nothing back.
//!
//! A producer that failed for good is replaced by [`Publisher::keep_alive`]. Until then every publish fails at once, and its caller falls
//! back as it does while Kafka is away.

use std::future::Future;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::Either;
use holdfast_message::record::{CONTENT_TYPE, SCHEMA_VERSION, header};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use tokio::sync::oneshot;

use crate::delivery::{Failure, PublishError, Report, classify};
use crate::producer::Slot;
use crate::settings::DLQ_HEADROOM;
use crate::{ClientError, KafkaSettings};

/// Above the delivery timeout: by then librdkafka has reported, unless its thread hangs.
pub const REPORT_GRACE: Duration = Duration::from_millis(300);

/// For how long a record waits when no broker is connected: a lost connection may be made anew at once.
const DOWN_PATIENCE: Duration = Duration::from_millis(150);

/// What Kafka adds to a record at most: the batch's header, and the record's own headers.
const BATCH_OVERHEAD: usize = 512;

/// A message on its way into the main topic.
#[derive(Debug, Clone, Copy)]
pub struct PublishRecord<'a> {
    /// The chat: one chat's records share a partition.
    pub chat: &'a str,
    /// [`holdfast_message::record::encode`]'s bytes.
    pub value: &'a [u8],
    /// W3C trace context.
    pub traceparent: Option<&'a str>,
    /// The recent list may not have taken the message.
    pub uncached: bool,
}

/// The producer of a process. Cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    producer: Arc<Slot>,
    topic: Arc<str>,
    report_within: Duration,
    /// For how long a record waits while Kafka acknowledges nothing at all.
    silence_patience: Duration,
    /// The largest record that the main topic is known to take, in bytes.
    record_limit: Arc<AtomicUsize>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl Publisher {
    /// For the main topic. Kafka need not be there yet.
    pub fn new(settings: &KafkaSettings) -> Result<Self, ClientError> {
        Self::with_headroom(settings, "publisher", 0)
    }

    /// For the dead-letter topic: takes records as large as the main topic's, their `dlq-` headers not counted.
    pub fn dead_letters(settings: &KafkaSettings) -> Result<Self, ClientError> {
        Self::with_headroom(settings, "dead-letter publisher", DLQ_HEADROOM)
    }

    fn with_headroom(settings: &KafkaSettings, client: &'static str, headroom: usize) -> Result<Self, ClientError> {
        let producer =
            Slot::new(settings.producer(headroom), client).map_err(ClientError::new("building the kafka producer"))?;
        Ok(Self {
            producer: producer.into(),
            topic: settings.topic.as_str().into(),
            report_within: settings.delivery_timeout + REPORT_GRACE,
            silence_patience: settings.delivery_timeout * 3 / 10,
            record_limit: Arc::new(AtomicUsize::new(usize::MAX)),
        })
    }

    /// Sets the main topic's limit (`max.message.bytes`), so that a larger record is rejected at once as one that can never be published. A
    /// broker's own error does not say whether the record was too large, or the batch that contained it.
    pub fn limit_records(&self, max_message_bytes: usize) {
        self.record_limit.store(max_message_bytes.saturating_sub(BATCH_OVERHEAD), Ordering::Relaxed);
    }

    /// Publishes a message to the main topic. Enqueued when this returns; acknowledged when the future says so.
    pub fn publish(&self, record: PublishRecord<'_>) -> impl Future<Output = Report> + Send + use<> {
        let (size, limit) = (record.value.len() + record.chat.len(), self.record_limit.load(Ordering::Relaxed));
        if size > limit {
            let reason = format!("{size} bytes, and the topic takes {limit}");
            return Either::Left(ready(Err(PublishError::TooLarge(reason))));
        }
        let mut headers = OwnedHeaders::new_with_capacity(4)
            .insert(Header { key: header::CONTENT_TYPE, value: Some(CONTENT_TYPE) })
            .insert(Header { key: header::SCHEMA_VERSION, value: Some(SCHEMA_VERSION.to_string().as_str()) });
        if let Some(traceparent) = record.traceparent {
            headers = headers.insert(Header { key: header::TRACEPARENT, value: Some(traceparent) });
        }
        if record.uncached {
            headers = headers.insert(Header { key: header::UNCACHED, value: Some("1") });
        }
        Either::Right(self.enqueue(&self.topic, None, Some(record.chat.as_bytes()), Some(record.value), headers))
    }

    /// Publishes bytes to any topic with the given headers: dead letters, replays.
    pub fn publish_raw(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> impl Future<Output = Report> + Send + use<> {
        let headers =
            headers.iter().fold(OwnedHeaders::new(), |headers, &(key, value)| headers.insert(Header { key, value }));
        self.enqueue(topic, partition, key, value, headers)
    }

    fn enqueue(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> impl Future<Output = Report> + Send + use<> {
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let (report, delivered) = oneshot::channel();
        let mut record = BaseRecord::with_opaque_to(topic, Box::new(report)).headers(headers);
        record.partition = partition;
        record.key = key;
        record.payload = value;
        let refused = match self.producer.current() {
            Err(dead) => Some(PublishError::Unavailable(Failure { reason: dead, possibly_persisted: false })),
            Ok(producer) => {
                // Before the call, as the report may come before it returns.
                let context = producer.client().context();
                context.enqueued();
                producer.send(record).err().map(|(error, record)| {
                    context.refused();
                    // A dead producer refuses everything from here on.
                    if let Some((code, reason)) = producer.client().fatal_error() {
                        context.died(code, &reason);
                    }
                    drop(record);
                    classify(&error, size, false)
                })
            }
        };
        let within = self.report_within;
        async move {
            if let Some(error) = refused {
                return Err(error);
            }
            let unreported = |reason: String| PublishError::Unavailable(Failure { reason, possibly_persisted: true });
            match tokio::time::timeout(within, delivered).await {
                Ok(Ok(report)) => report,
                Ok(Err(_)) => Err(unreported("the producer was dropped".into())),
                Err(_) => Err(unreported(format!("no delivery report within {within:?}"))),
            }
        }
    }

    /// Replaces the producer whenever it has died, for as long as this is polled. Fatal for librdkafka is, above all, that we may not write
    /// idempotently (`CLUSTER_AUTHORIZATION_FAILED`), which somebody may permit at any time.
    ///
    /// The records of the dead one fail at once, so that their callers fall back; some may be in the log all the same. The next one is
    /// built after a wait that doubles from one death to the next, up to half a minute; `rebuilt` is called for each.
    pub async fn keep_alive(&self, rebuilt: impl Fn() + Send) {
        self.producer.keep_alive(rebuilt).await;
    }

    /// Records enqueued and not yet reported on.
    pub fn in_flight(&self) -> usize {
        self.producer.in_flight()
    }

    /// Whether a record that has waited for so long will hardly be acknowledged soon: no broker is connected, or Kafka has acknowledged nothing
    /// at all for three tenths of the delivery timeout. The record may get into the log all the same.
    pub fn is_stalled(&self, waited: Duration) -> bool {
        let Ok(producer) = self.producer.current() else { return true };
        let context = producer.client().context();
        waited >= DOWN_PATIENCE && context.brokers_are_down()
            || waited >= self.silence_patience && context.silence() >= self.silence_patience
    }

    /// Waits until every record was reported on, or the deadline. Returns how many were not; their futures fail when the last
    /// clone is dropped.
    pub async fn flush(&self, deadline: Duration) -> usize {
        let until = tokio::time::Instant::now() + deadline;
        // The producer's own thread serves the reports; waiting here must not block a runtime thread.
        while self.in_flight() > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.in_flight()
    }

    /// Asks for the main topic's metadata: fails if no broker answers, or the topic is missing or has a partition without leader, or the
    /// producer has died and no other has yet shown that it lives.
    pub async fn ping(&self, timeout: Duration) -> Result<(), ClientError> {
        let error = |reason: String| ClientError { doing: "asking for the topic's metadata", reason };
        let producer = self.producer.sound().map_err(error)?;
        let topic = Arc::clone(&self.topic);
        let asked = tokio::task::spawn_blocking(move || {
            let metadata =
                producer.client().fetch_metadata(Some(&topic), timeout).map_err(|cause| error(cause.to_string()))?;
            let found = metadata.topics().iter().find(|found| found.name() == &*topic);
            let partitions = found.map_or(&[][..], |found| found.partitions());
            if partitions.is_empty() {
                return Err(error(format!("topic {topic} is missing")));
            }
            match partitions.iter().find(|partition| partition.leader() < 0) {
                Some(partition) => Err(error(format!("partition {} has no leader", partition.id()))),
                None => Ok(()),
            }
        });
        asked.await.unwrap_or_else(|panic| {
            Err(ClientError { doing: "asking for the topic's metadata", reason: panic.to_string() })
        })
    }
}
