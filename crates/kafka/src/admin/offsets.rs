//! Offsets of a topic: watermarks, committed offsets, offsets by time; and the deletion of records below an offset.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::AdminClient;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::{Admin, AdminError, blocking};
use crate::ClientError;
use crate::commits::{Committed, read_commits};
use crate::context::Callbacks;

impl Admin {
    /// For each partition, its number, the offset of its first record, and the end of what can be read: the offset of the next record or,
    /// while a transaction is open, of the transaction's first record (the last stable offset).
    pub async fn watermarks(&self, topic: &str) -> Result<Vec<(i32, i64, i64)>, AdminError> {
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("asking for watermarks", move || {
            let client = client.inner();
            let metadata = client.fetch_metadata(Some(&topic), timeout)?;
            let partitions = metadata.topics().iter().find(|found| found.name() == topic);
            partitions
                .map_or(&[][..], |found| found.partitions())
                .iter()
                .map(|partition| {
                    let (low, high) = client.fetch_watermarks(&topic, partition.id(), timeout)?;
                    Ok((partition.id(), low, high))
                })
                .collect()
        })
        .await
    }

    /// The offset of the next record of each partition (the high watermark), regardless of open transactions.
    pub async fn ends(&self, topic: &str) -> Result<Vec<(i32, i64)>, AdminError> {
        let mut config = self.settings.consumer(None, &[]);
        // It reads no records. Without this the broker reports the last stable offset as the end.
        config.set("isolation.level", "read_uncommitted");
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("asking for the ends of a topic", move || {
            let partitions = partitions_of(&client, &topic, Offset::End, timeout)?;
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            let partitions = partitions.elements().into_iter().map(|element| element.partition());
            partitions
                .map(|partition| Ok((partition, consumer.fetch_watermarks(&topic, partition, timeout)?.1)))
                .collect()
        })
        .await
    }

    /// The offset that `group` has committed in each partition of `topic`, read from the broker. `None`: nothing is committed.
    pub async fn committed(&self, group: &str, topic: &str) -> Result<Vec<(i32, Option<i64>)>, AdminError> {
        let commits = self.commits(group, topic).await?;
        Ok(commits.into_iter().map(|commit| (commit.partition, commit.offset)).collect())
    }

    /// The committed offsets, with the losses recorded in their metadata.
    pub async fn commits(&self, group: &str, topic: &str) -> Result<Vec<Committed>, AdminError> {
        let config = self.settings.consumer(Some(group), &[]);
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("reading a group's offsets", move || {
            let asked = partitions_of(&client, &topic, Offset::Invalid, timeout)?;
            // Never subscribes, so it does not join the group.
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            read_commits(&consumer.committed_offsets(asked, timeout)?)
        })
        .await
    }

    /// The first offset of each partition whose record was stamped at `timestamp` (epoch ms) or later. `None`: there is none.
    pub async fn offsets_at(&self, topic: &str, timestamp: i64) -> Result<Vec<(i32, Option<i64>)>, AdminError> {
        let config = self.settings.consumer(None, &[]);
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("looking up offsets by time", move || {
            let asked = partitions_of(&client, &topic, Offset::Offset(timestamp), timeout)?;
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            offsets(&consumer.offsets_for_times(asked, timeout)?)
        })
        .await
    }

    /// Deletes every record below the given offset of each partition. Returns the new low watermarks.
    pub async fn delete_records(&self, topic: &str, below: &[(i32, i64)]) -> Result<Vec<(i32, i64)>, AdminError> {
        let doing = "deleting records";
        let mut list = TopicPartitionList::new();
        for (partition, offset) in below {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(ClientError::new(doing))?;
        }
        let deleted = self.client.delete_records(&list, &self.options()).await.map_err(ClientError::new(doing))?;
        let low = offsets(&deleted).map_err(ClientError::new(doing))?;
        Ok(low.into_iter().filter_map(|(partition, offset)| Some((partition, offset?))).collect())
    }
}

fn partitions_of(
    client: &AdminClient<Callbacks>,
    topic: &str,
    offset: Offset,
    timeout: Duration,
) -> KafkaResult<TopicPartitionList> {
    let metadata = client.inner().fetch_metadata(Some(topic), timeout)?;
    let mut list = TopicPartitionList::new();
    for found in metadata.topics().iter().filter(|found| found.name() == topic) {
        for partition in found.partitions() {
            list.add_partition_offset(topic, partition.id(), offset)?;
        }
    }
    Ok(list)
}

fn offsets(list: &TopicPartitionList) -> KafkaResult<Vec<(i32, Option<i64>)>> {
    list.elements()
        .into_iter()
        .map(|element| {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok((element.partition(), offset))
        })
        .collect()
}
