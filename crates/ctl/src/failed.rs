//! `failed`: the failed queue, which holds what Kafka did not take.

pub mod export;
pub mod list;
pub mod replay;
pub mod show;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use holdfast_failed_queue::{Buried, EntryError, FailedQueue, Head, QueueEntry};
use holdfast_message::{ChatId, Message, record};

use crate::BUDGET;

/// Keys examined in one step of a scan.
const KEYS: usize = 1000;
/// Entries that are read at once.
const PAGE: usize = 200;

/// Every chat that is in the index, or has a queue or a dead list.
pub async fn all_chats(queue: &FailedQueue) -> Result<Vec<ChatId>> {
    let mut chats: BTreeSet<_> = queue.indexed_chats(BUDGET).await.context("the failed queue")?.into_iter().collect();
    for start in queue.cursors(BUDGET).await.context("the failed queue")? {
        let mut cursor = Some(start);
        while let Some(from) = cursor {
            let found = queue.find_chats(from, KEYS, BUDGET).await.context("the failed queue")?;
            chats.extend(found.chats);
            cursor = found.next;
        }
    }
    Ok(chats.into_iter().collect())
}

/// One entry of a queue or a dead list, as far as it can be read.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The entry's bytes in the list.
    pub bytes: Vec<u8>,
    /// When and why it was given up; of dead ones only.
    pub buried: Option<(i64, String)>,
    /// The queued entry, or why it can't be decoded.
    pub queued: Result<QueueEntry, EntryError>,
}

impl Entry {
    /// The message in it, or why there is none.
    pub fn message(&self) -> Result<Message, String> {
        let entry = self.queued.as_ref().map_err(ToString::to_string)?;
        record::decode(&entry.record).map_err(|error| error.to_string())
    }
}

impl From<Head> for Entry {
    fn from(head: Head) -> Self {
        Self { bytes: head.bytes.into(), buried: None, queued: head.entry }
    }
}

impl From<Buried> for Entry {
    fn from(buried: Buried) -> Self {
        let (why, queued) = match buried.entry {
            Ok(dead) => (Some((dead.buried_at, dead.reason)), QueueEntry::decode(&dead.entry)),
            Err(error) => (None, Err(error)),
        };
        Self { bytes: buried.bytes.into(), buried: why, queued }
    }
}

/// A page of a chat's queue or dead list, from an index on.
pub async fn page(queue: &FailedQueue, chat: &ChatId, dead: bool, from: usize, max: usize) -> Result<Vec<Entry>> {
    Ok(if dead {
        queue.buried(chat, from, max, BUDGET).await?.into_iter().map(Entry::from).collect()
    } else {
        queue.queued(chat, from, max, BUDGET).await?.into_iter().map(Entry::from).collect()
    })
}
