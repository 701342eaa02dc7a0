//! One step of replaying a chat's failed queue; the retry service and operators take no other way.
//!
//! An entry is removed only after Kafka's acknowledgement, and only if it is still the head by its bytes; or it moves to the dead list
//! by the same comparison, when it can't be read or Kafka can never take it. Replays are marked `uncached`, so that the worker lists
//! what the list has missed, and announces only that.

use std::time::Duration;

use axum::body::Bytes;
use futures_util::future::join_all;
use holdfast_cache::failed::{EntryError, Head, QueueEntry};
use holdfast_cache::{CacheError, FailedQueue};
use holdfast_kafka::{Acknowledged, PublishError, PublishRecord, Publisher};
use holdfast_message::ChatId;
use holdfast_service::clock::unix_ms;
use holdfast_service::sabotage;

/// What the queue's server has for a call.
pub const BUDGET: Duration = Duration::from_secs(2);

/// What a step did.
#[derive(Debug, Default)]
pub struct Step {
    /// Entries that Kafka acknowledged before any that it did not, and where they went: the first of those given.
    pub replayed: Vec<Acknowledged>,
    /// How many of them this step removed; another retrier may have been faster.
    pub removed: usize,
    /// Why the entry after them lies in the dead list now.
    pub buried: Option<String>,
    /// Why it went no further.
    pub trouble: Option<Trouble>,
}

/// Why work on a chat stops early.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Trouble {
    /// Kafka did not acknowledge an entry.
    #[error("{0}")]
    Kafka(PublishError),
    /// The queue's server did not answer, or refused.
    #[error("{0}")]
    Queue(CacheError),
    /// An entry that only a newer gateway can read.
    #[error("the failed queue holds an entry of a newer version; it waits")]
    Newer,
}

/// The entries up to the first that can't be read.
pub fn readable(heads: &[Head]) -> Vec<&QueueEntry> {
    heads.iter().map_while(|head| head.entry.as_ref().ok()).collect()
}

/// Publishes the entries up to the first that can't be read, and removes those that Kafka acknowledged before any it did not.
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
            // Another was faster.
            Ok(_) => {}
            Err(error) => self.trouble = Some(Trouble::Queue(error)),
        }
    }
}
