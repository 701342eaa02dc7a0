//! Finds messages that MongoDB does not have: in the dead-letter topic, the failed queue, its dead lists, or not committed yet.

use std::collections::HashSet;

use anyhow::{Context, Result};
use holdfast_kafka::RecordView;
use holdfast_message::{MessageId, record};

use super::{Finding, Sources};
use crate::args::DlqFilter;
use crate::dlq::Letters;
use crate::failed;
use crate::log_range::{LogRange, PartitionOffset, Span};

/// Entries of a list that are read in one call.
const PAGE: usize = 200;

/// The messages that the topics and the failed queue hold.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Partitions and offsets of the messages' topic whose records are dead-lettered.
    letters: HashSet<PartitionOffset>,
    /// Messages in the dead-letter topic.
    dead_letters: HashSet<MessageId>,
    /// Messages in dead lists.
    dead: HashSet<MessageId>,
    /// Messages in failed queues.
    failed: HashSet<MessageId>,
    /// Messages in the topic that are not committed.
    not_committed: HashSet<MessageId>,
}

impl Elsewhere {
    /// Reads the dead letters.
    pub async fn of_the_dead(sources: &Sources) -> Result<Self> {
        let mut found = Self::default();
        found.read_lists(sources, true).await?;
        if sources.admin.describe(&sources.kafka.dlq_topic).await?.partitions > 0 {
            let every = DlqFilter::default();
            let mut letters = Letters::open(&sources.admin, &sources.kafka, &every, usize::MAX).await?;
            while let Some(letter) = letters.next().await? {
                found.dead_letters.extend(letter.message().ok().map(|message| message.id));
                if let Some((topic, partition, offset)) = letter.source()
                    && topic == sources.kafka.topic
                {
                    found.letters.insert((partition, offset));
                }
            }
        }
        Ok(found)
    }

    /// Reads messages on their way, too, in the order of the journey, so that none is missed: a message that has left one stage when that is
    /// read is found in the next, and at last in MongoDB, which must be queried again after this.
    pub async fn of_all(sources: &Sources) -> Result<Self> {
        let mut waiting = Self::default();
        waiting.read_lists(sources, false).await?;
        waiting.read_topic(sources).await?;
        Ok(Self { failed: waiting.failed, not_committed: waiting.not_committed, ..Self::of_the_dead(sources).await? })
    }

    /// The finding about a message that MongoDB does not have, by its id and the positions of its records.
    pub fn finding(&self, id: Option<MessageId>, records: &[PartitionOffset]) -> Option<Finding> {
        let among = |ids: &HashSet<MessageId>| id.is_some_and(|id| ids.contains(&id));
        if records.iter().any(|position| self.letters.contains(position)) || among(&self.dead_letters) {
            return Some(Finding::DeadLettered { place: "dead-letter topic" });
        }
        if among(&self.failed) {
            return Some(Finding::Waiting { place: "failed queue" });
        }
        if among(&self.not_committed) {
            return Some(Finding::Waiting { place: "topic, not committed" });
        }
        among(&self.dead).then_some(Finding::DeadLettered { place: "failed queue's dead list" })
    }

    async fn read_lists(&mut self, sources: &Sources, dead: bool) -> Result<()> {
        for chat in failed::all_chats(&sources.queue).await? {
            let mut from = 0;
            loop {
                let page = failed::page(&sources.queue, &chat, dead, from, PAGE).await.context("the failed queue")?;
                if page.is_empty() {
                    break;
                }
                from += page.len();
                let ids = page.iter().filter_map(|entry| entry.message().ok()).map(|message| message.id);
                if dead { self.dead.extend(ids) } else { self.failed.extend(ids) }
            }
        }
        Ok(())
    }

    async fn read_topic(&mut self, sources: &Sources) -> Result<()> {
        let Sources { admin, kafka, group, .. } = sources;
        if admin.describe(&kafka.topic).await?.partitions == 0 {
            return Ok(());
        }
        let committed = admin.committed(group, &kafka.topic).await?;
        let spans = admin.watermarks(&kafka.topic).await?.into_iter().map(|(partition, low, high)| {
            let done = committed.iter().find(|(of, _)| *of == partition).and_then(|(_, offset)| *offset);
            Span { partition, from: done.unwrap_or(low).max(low), to: high }
        });
        let spans: Vec<_> = spans.collect();
        let mut records = LogRange::read(kafka, admin, &kafka.topic, &spans);
        while let Some(found) = records.next().await? {
            let message = record::decode(found.payload().unwrap_or_default());
            self.not_committed.extend(message.ok().map(|message| message.id));
        }
        Ok(())
    }
}
