//! One step of the replay of a chat's failed queue. The retry service and operators both use it.
//!
//! An entry is removed only after Kafka has acknowledged it, and only if the head still has the same bytes. By the same comparison it moves to
//! the dead list, if it can't be decoded or Kafka can never take it. Replayed records are marked `uncached`, so that the worker adds to the
//! recent list what the list has missed, and announces only that.

use bytes::Bytes;
use futures_util::future::join_all;
use holdfast_kafka::{Acknowledged, PublishError, PublishRecord, Publisher};
use holdfast_message::ChatId;
use holdfast_redis::RedisError;
use holdfast_service::clock::unix_ms;
use holdfast_service::sabotage;

use crate::BUDGET;
use crate::entry::{EntryError, QueueEntry};
use crate::lease::Head;
use crate::queue::FailedQueue;

/// The result of a step.
#[derive(Debug, Default)]
pub struct Step {
    /// The acknowledgements of the entries at the front, up to the first that Kafka did not acknowledge.
    pub replayed: Vec<Acknowledged>,
    /// How many of them this step removed; another retrier may have removed the others.
    pub removed: usize,
    /// Why the entry after them was moved to the dead list, if it was.
    pub buried: Option<String>,
    /// Why the step ended early, if it did.
    pub trouble: Option<Trouble>,
}

/// Why a replay stops.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// Kafka did not acknowledge an entry.
    #[error("{0}")]
    Kafka(PublishError),
    /// The queue server did not answer, or refused.
    #[error("{0}")]
    Queue(RedisError),
    /// The entry can only be read by a newer gateway.
    #[error("the failed queue holds an entry of a newer version; it waits")]
    Newer,
}

/// The entries up to the first that can't be decoded.
pub fn readable(heads: &[Head]) -> Vec<&QueueEntry> {
    heads.iter().map_while(|head| head.entry.as_ref().ok()).collect()
}

/// Publishes the entries up to the first that can't be decoded, and removes those up to the first that Kafka did not acknowledge.
pub async fn step(queue: &FailedQueue, publisher: &Publisher, chat: &ChatId, heads: &[Head]) -> Step {
    let mut step = Step::default();
    let entries = readable(heads);
    if entries.is_empty() {
        match heads.first().map(|head| (&head.bytes, &head.entry)) {
            Some((_, Err(EntryError::Newer))) => step.trouble = Some(Trouble::Newer),
            Some((bytes, Err(error))) => step.bury(queue, chat, bytes, error.to_string()).await,
            Some((_, Ok(_))) | None => {}
        }
        return step;
    }
    if sabotage::is(sabotage::POP_FIRST) {
        let heads: Vec<_> = heads[..entries.len()].iter().map(|head| head.bytes.clone()).collect();
        let _ = queue.pop_published(chat, &heads, BUDGET).await;
    }
    let publish = |entry: &&QueueEntry| {
        publisher.publish(PublishRecord {
            chat: chat.as_str(),
            value: &entry.record,
            traceparent: entry.traceparent.as_deref(),
            uncached: true,
        })
    };
    let reports: Vec<_> = entries.iter().map(publish).collect();
    let mut refused = None;
    for report in join_all(reports).await {
        match report {
            Ok(acknowledged) => step.replayed.push(acknowledged),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    let done: Vec<Bytes> = heads[..step.replayed.len()].iter().map(|head| head.bytes.clone()).collect();
    if !done.is_empty() {
        match queue.pop_published(chat, &done, BUDGET).await {
            Ok(taken) => step.removed = taken.removed,
            Err(error) => {
                step.trouble = Some(Trouble::Queue(error));
                return step;
            }
        }
    }
    match refused {
        Some(PublishError::TooLarge(reason)) => step.bury(queue, chat, &heads[step.replayed.len()].bytes, reason).await,
        Some(error) => step.trouble = Some(Trouble::Kafka(error)),
        None => {}
    }
    step
}

impl Step {
    async fn bury(&mut self, queue: &FailedQueue, chat: &ChatId, bytes: &Bytes, reason: String) {
        match queue.bury(chat, bytes, &reason, unix_ms(), BUDGET).await {
            Ok(taken) if taken.removed > 0 => self.buried = Some(reason),
            // Another retrier was faster.
            Ok(_) => {}
            Err(error) => self.trouble = Some(Trouble::Queue(error)),
        }
    }
}
