//! `dlq`: the dead-letter topic, which holds records that can't be stored, each with its reason.

pub mod list;
pub mod replay;
pub mod show;

use anyhow::{Result, ensure};
use holdfast_kafka::{Admin, Headers, KafkaSettings, OwnedMessage, RecordView};
use holdfast_message::record::{self, header};
use holdfast_message::{Message, record::DecodeError};

use crate::args::DlqFilter;
use crate::exit::Usage;
use crate::log_range::{LogRange, Span, header as text_of, made_at};

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    record: OwnedMessage,
}

impl Letter {
    /// Its partition and offset in the dead-letter topic.
    pub fn place(&self) -> (i32, i64) {
        (self.record.partition(), self.record.offset())
    }

    /// When it was written, in Unix epoch milliseconds.
    pub fn written_at(&self) -> Option<i64> {
        self.header(header::DLQ_TIME).and_then(|text| text.parse().ok()).or_else(|| made_at(&self.record))
    }

    /// Why the record was dead-lettered.
    pub fn reason(&self) -> &str {
        self.header(header::DLQ_REASON).unwrap_or("(none given)")
    }

    /// The topic, partition and offset that it came from.
    pub fn source(&self) -> Option<(&str, i32, i64)> {
        let number = |name| self.header(name)?.parse::<i64>().ok();
        let partition = i32::try_from(number(header::DLQ_PARTITION)?).ok()?;
        Some((self.header(header::DLQ_TOPIC)?, partition, number(header::DLQ_OFFSET)?))
    }

    /// The message in it, or why there is none.
    pub fn message(&self) -> Result<Message, DecodeError> {
        record::decode(self.value().unwrap_or_default())
    }

    /// The record's key.
    pub fn key(&self) -> Option<&[u8]> {
        self.record.key()
    }

    /// The record's value.
    pub fn value(&self) -> Option<&[u8]> {
        self.record.payload()
    }

    /// The headers that the record came with.
    pub fn original_headers(&self) -> Vec<(&str, Option<&[u8]>)> {
        let all = self.record.headers().map(Headers::iter).into_iter().flatten();
        all.filter(|header| !header.key.starts_with("dlq-")).map(|header| (header.key, header.value)).collect()
    }

    fn header(&self, name: &str) -> Option<&str> {
        text_of(&self.record, name)
    }
}

/// Dead letters that a filter lets through, one after the other.
#[derive(Debug)]
pub struct Letters {
    range: LogRange,
    filter: DlqFilter,
    left: usize,
}

impl Letters {
    /// Those that lie in the topic now, at most `limit` unless the filter says otherwise.
    pub async fn open(admin: &Admin, kafka: &KafkaSettings, filter: &DlqFilter, limit: usize) -> Result<Self> {
        let topic = &kafka.dlq_topic;
        ensure!(admin.describe(topic).await?.partitions > 0, "topic {topic} is missing");
        let since = match filter.since {
            Some(since) => admin.offsets_at(topic, since).await?,
            None => Vec::new(),
        };
        let mut spans = Vec::new();
        for (partition, low, high) in admin.watermarks(topic).await? {
            if filter.partition.is_some_and(|only| only != partition) {
                continue;
            }
            let first = since.iter().find(|(of, _)| *of == partition).map_or(low, |(_, offset)| offset.unwrap_or(high));
            spans.push(match filter.offset {
                Some(offset) if (low..high).contains(&offset) => Span { partition, from: offset, to: offset + 1 },
                Some(offset) => {
                    let there = format!("partition {partition} of {topic} holds offsets {low} to {high}");
                    return Err(Usage(format!("{there}, not {offset}")).into());
                }
                None => Span { partition, from: first, to: high },
            });
        }
        let range = LogRange::read(kafka, admin, topic, &spans);
        Ok(Self { range, filter: filter.clone(), left: filter.limit.unwrap_or(limit) })
    }

    /// The next dead letter.
    pub async fn next(&mut self) -> Result<Option<Letter>> {
        while self.left > 0
            && let Some(record) = self.range.next().await?
        {
            let letter = Letter { record };
            if self.filter.reason.as_deref().is_none_or(|reason| letter.reason().contains(reason)) {
                self.left -= 1;
                return Ok(Some(letter));
            }
        }
        Ok(None)
    }

    /// Whether the limit ended it.
    pub fn reached_limit(&self) -> bool {
        self.left == 0
    }
}
