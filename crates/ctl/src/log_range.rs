//! Reads a part of a topic, record by record, and knows when it has all of it: by its position, as the last offset may be no record but
//! the end of a transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_kafka::{Admin, ClientError, Headers, KafkaSettings, OwnedMessage, RangeReader, RecordView};
use tokio::sync::mpsc;

/// How long Kafka may return no record before the log's beginning is requested.
const IDLE: Duration = Duration::from_secs(10);
/// How long Kafka may return no record before the position is checked.
const LOOK: Duration = Duration::from_millis(50);
/// The most records read ahead; above it the reader waits.
const AHEAD: usize = 1000;

/// The position of a record: its partition and offset.
pub type PartitionOffset = (i32, i64);

/// Offsets of one partition: `from` to `to`, itself not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The partition's number.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The offset after the last.
    pub to: i64,
}

impl Span {
    /// How many offsets it has.
    pub fn len(&self) -> u64 {
        (self.to - self.from).max(0).unsigned_abs()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.to <= self.from
    }
}

/// The records of some spans, in order within a partition.
#[derive(Debug)]
pub struct LogRange {
    records: mpsc::Receiver<Result<OwnedMessage>>,
}

impl LogRange {
    /// Begins to read. Records that retention deletes meanwhile are left out.
    pub fn read(settings: &KafkaSettings, admin: &Admin, topic: &str, spans: &[Span]) -> Self {
        Self::start(settings, admin, topic, spans, false)
    }

    /// The same, of each span the first record alone.
    pub fn first_of_each(settings: &KafkaSettings, admin: &Admin, topic: &str, spans: &[Span]) -> Self {
        Self::start(settings, admin, topic, spans, true)
    }

    fn start(settings: &KafkaSettings, admin: &Admin, topic: &str, spans: &[Span], first: bool) -> Self {
        let (sender, records) = mpsc::channel(AHEAD);
        let spans: Vec<_> = spans.iter().copied().filter(|span| !span.is_empty()).collect();
        let (settings, admin, topic) = (settings.clone(), admin.clone(), topic.to_owned());
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let low = || {
                let lows = runtime.block_on(admin.watermarks(&topic))?;
                anyhow::Ok(lows.into_iter().map(|(partition, low, _)| (partition, low)).collect())
            };
            // A receiver that is gone wants no more.
            if let Err(error) = forward(&settings, &topic, &spans, first, low, &sender) {
                let _ = sender.blocking_send(Err(error));
            }
        });
        Self { records }
    }

    /// The next record; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<OwnedMessage>> {
        self.records.recv().await.transpose()
    }
}

fn forward(
    settings: &KafkaSettings,
    topic: &str,
    spans: &[Span],
    first: bool,
    low: impl Fn() -> Result<BTreeMap<i32, i64>>,
    sender: &mpsc::Sender<Result<OwnedMessage>>,
) -> Result<()> {
    let starts: Vec<_> = spans.iter().map(|span| (span.partition, span.from)).collect();
    let mut ends: BTreeMap<i32, i64> = spans.iter().map(|span| (span.partition, span.to)).collect();
    if ends.is_empty() {
        return Ok(());
    }
    let reader = RangeReader::new(settings, topic, &starts)?;
    let mut idle = Duration::ZERO;
    while !ends.is_empty() {
        let Some(record) = reader.next(LOOK)? else {
            let before = ends.len();
            for (partition, end) in ends.clone() {
                if reader.position(partition)?.is_some_and(|position| position >= end) {
                    ends.remove(&partition);
                }
            }
            idle = if ends.len() == before { idle + LOOK } else { Duration::ZERO };
            if idle < IDLE {
                continue;
            }
            idle = Duration::ZERO;
            // What is left may have been deleted meanwhile.
            let low = low().context("kafka gives no more records")?;
            ends.retain(|partition, end| low.get(partition).is_some_and(|low| low < end));
            if ends.len() == before {
                let reason = "kafka gives no more records, although it has them".into();
                return Err(ClientError { doing: "reading a topic", reason }.into());
            }
            continue;
        };
        idle = Duration::ZERO;
        let partition = record.partition();
        let Some(&end) = ends.get(&partition) else { continue };
        if first || record.offset() + 1 >= end {
            ends.remove(&partition);
        }
        if record.offset() < end && sender.blocking_send(Ok(record)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A header's value as text.
pub fn header<'a>(record: &'a OwnedMessage, name: &str) -> Option<&'a str> {
    let found = record.headers()?.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

/// When it was made, in Unix epoch milliseconds, if it says so.
pub fn made_at(record: &OwnedMessage) -> Option<i64> {
    record.timestamp().to_millis()
}
