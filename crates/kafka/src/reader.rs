//! Reads a part of the log without a group and without committing: dead letters, verification, replays.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::OwnedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::context::Callbacks;
use crate::{ClientError, KafkaSettings};

/// Reads partitions from given offsets on. Blocking: use it on a thread of its own.
pub struct RangeReader {
    consumer: BaseConsumer<Callbacks>,
}

impl std::fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangeReader").finish_non_exhaustive()
    }
}

impl RangeReader {
    /// Starts each partition at its offset; where that was truncated, at the first record that is left.
    pub fn new(settings: &KafkaSettings, topic: &str, from: &[(i32, i64)]) -> Result<Self, ClientError> {
        let doing = "building the kafka reader";
        // librdkafka wants a group's name to assign by hand; nothing joins or commits.
        let consumer: BaseConsumer<Callbacks> = settings
            .consumer(Some("holdfast-reader"), &[])
            .create_with_context(Callbacks::new("reader"))
            .map_err(ClientError::new(doing))?;
        let mut list = TopicPartitionList::new();
        for (partition, offset) in from {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(ClientError::new(doing))?;
        }
        consumer.assign(&list).map_err(ClientError::new(doing))?;
        Ok(Self { consumer })
    }

    /// How far a partition has been read: one past the last record that [`Self::next`] returned, or past what is no record behind it
    /// (a transaction's marker, the records of an aborted one), which `next` passes while it waits. `None`: nothing was read yet.
    pub fn position(&self, partition: i32) -> Result<Option<i64>, ClientError> {
        let positions = self.consumer.position().map_err(ClientError::new("asking for a position"))?;
        let of = positions.elements().into_iter().find(|element| element.partition() == partition);
        Ok(of.and_then(|element| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }))
    }

    /// The next record, or `None` if none came within `timeout`. Records of one partition come in order.
    pub fn next(&self, timeout: Duration) -> Result<Option<OwnedMessage>, ClientError> {
        let until = std::time::Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match self.consumer.poll(left) {
                Some(Ok(record)) => return Ok(Some(record.detach())),
                Some(Err(error)) if self.consumer.client().fatal_error().is_some() => {
                    return Err(ClientError::new("reading")(error));
                }
                // The callbacks have logged it; librdkafka retries.
                Some(Err(_)) | None if left.is_zero() => return Ok(None),
                Some(Err(_)) | None => {}
            }
        }
    }
}
