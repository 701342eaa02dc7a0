//! `failed replay`: publishes entries now, without waiting for their next attempt.
//!
//! Waiting entries go the retry service's own way ([`holdfast_failed_queue::replay`]): the chat is leased in the index, entries are
//! published in order, and each leaves only after Kafka's acknowledgement and by comparison. A gateway may work on the same chat; both
//! can then only publish a message twice, which its id absorbs. A dead entry, too, is published, awaited, and then removed by its bytes.

use std::time::Duration;

use anyhow::Result;
use holdfast_failed_queue::replay::{self, Trouble};
use holdfast_failed_queue::{FailedQueue, FinishAs, QueueEntry};
use holdfast_kafka::{Acknowledged, PublishError, PublishRecord};
use holdfast_message::{ChatId, record};
use serde::Serialize;

use super::PAGE;
use crate::args::FailedReplay;
use crate::exit::Verdict;
use crate::output::{Output, Progress, confirm};
use crate::settings::Topics;
use crate::{BUDGET, audit};

/// Entries of one chat that are published at once.
const BATCH: usize = 64;
/// How long a chat is taken for; taken anew before every batch, each of which takes less.
const LEASE: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    chat_id: String,
    replayed: usize,
    left: u64,
    problems: Vec<String>,
}

/// Replays what the arguments name.
pub async fn run(
    queue: &FailedQueue,
    topics: &Topics,
    args: &FailedReplay,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    let chats = if args.all { super::all_chats(queue).await? } else { args.chats.clone() };
    let mut rows = Vec::new();
    let mut all = 0;
    for chunk in chats.chunks(PAGE) {
        for found in queue.overview(chunk, BUDGET).await? {
            let left = if args.dead { found.dead } else { found.waiting };
            if left > 0 {
                all += left;
                rows.push((found.chat.clone(), Row { chat_id: found.chat.to_string(), left, ..Row::default() }));
            }
        }
    }
    let what = format!("{all} {} entries of {} chats", if args.dead { "dead" } else { "waiting" }, rows.len());
    if args.dry_run {
        let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
        print(&rows, output)?;
        output.note(format!("{what} would be published to {}; nothing was done", topics.kafka.topic))?;
        return Ok(Verdict::Fine);
    }
    if rows.is_empty() {
        output.note("there is nothing to replay")?;
        return Ok(Verdict::Fine);
    }
    confirm(&format!("Publish {what} to {} and remove them here?", topics.kafka.topic), args.yes)?;
    let mut progress = Progress::new("replayed", all);
    let mut failure = None;
    for (chat, row) in &mut rows {
        let outcome = if args.dead {
            replay_dead(queue, topics, chat, row, &mut progress).await
        } else {
            replay_waiting(queue, topics, chat, row, &mut progress).await
        };
        // The next chat would fare no better.
        if let Err(error) = outcome {
            failure = Some(error);
            break;
        }
    }
    drop(progress);
    let chats: Vec<_> = rows.iter().map(|(chat, _)| chat.clone()).collect();
    for (chunk, rows) in chats.chunks(PAGE).zip(rows.chunks_mut(PAGE)) {
        // The report still shows what was replayed if the server is away now.
        let Ok(found) = queue.overview(chunk, BUDGET).await else { break };
        for (found, (_, row)) in found.into_iter().zip(rows) {
            row.left = if args.dead { found.dead } else { found.waiting };
        }
    }
    let rows: Vec<_> = rows.into_iter().map(|(_, row)| row).collect();
    print(&rows, output)?;
    match failure {
        Some(error) => Err(error),
        None if rows.iter().all(|row| row.problems.is_empty()) => Ok(Verdict::Fine),
        None => Ok(Verdict::Wrong),
    }
}

fn print(rows: &[Row], output: &mut Output<'_>) -> Result<()> {
    output.rows(["chat", "replayed", "left", "problems"], rows, |row| {
        [row.chat_id.clone(), row.replayed.to_string(), row.left.to_string(), row.problems.join("; ")]
    })
}

async fn replay_waiting(
    queue: &FailedQueue,
    topics: &Topics,
    chat: &ChatId,
    row: &mut Row,
    progress: &mut Progress,
) -> Result<()> {
    loop {
        let lease = queue.take(chat, LEASE, BUDGET).await?;
        let heads = queue.heads(chat, BATCH, BUDGET).await?;
        if heads.is_empty() {
            if !queue.finish(&lease, FinishAs::Empty, BUDGET).await? {
                // Something was pushed meanwhile.
                queue.finish(&lease, FinishAs::NextAttempt(Duration::ZERO), BUDGET).await?;
            }
            return Ok(());
        }
        let step = replay::step(queue, &topics.publisher, chat, &heads).await;
        for (head, place) in heads.iter().zip(&step.replayed) {
            if let Ok(entry) = &head.entry {
                note(entry, chat, "failed queue", topics, *place);
            }
        }
        row.replayed += step.replayed.len();
        progress.add(step.replayed.len() as u64);
        if let Some(reason) = step.buried {
            row.problems.push(format!("moved to the dead list: {reason}"));
        }
        if let Some(trouble) = step.trouble {
            queue.finish(&lease, FinishAs::NextAttempt(Duration::ZERO), BUDGET).await?;
            row.problems.push(trouble.to_string());
            return match trouble {
                Trouble::Newer => Ok(()),
                Trouble::Kafka(error) => Err(error.into()),
                Trouble::Queue(error) => Err(error.into()),
            };
        }
    }
}

async fn replay_dead(
    queue: &FailedQueue,
    topics: &Topics,
    chat: &ChatId,
    row: &mut Row,
    progress: &mut Progress,
) -> Result<()> {
    // The number of entries that stay in the list: the next page begins after them.
    let mut skipped = 0;
    loop {
        let page = queue.buried(chat, skipped, PAGE, BUDGET).await?;
        if page.is_empty() {
            return Ok(());
        }
        for buried in page {
            progress.add(1);
            let entry = match buried.entry.and_then(|dead| QueueEntry::decode(&dead.entry)) {
                Ok(entry) => entry,
                Err(error) => {
                    skipped += 1;
                    row.problems.push(format!("an entry stays: {error}"));
                    continue;
                }
            };
            match publish(&entry, topics, chat).await {
                Ok(place) => {
                    note(&entry, chat, "dead list", topics, place);
                    row.replayed += 1;
                    queue.unbury_published(chat, &buried.bytes, BUDGET).await?;
                }
                Err(PublishError::TooLarge(reason)) => {
                    skipped += 1;
                    row.problems.push(format!("an entry stays, too large for the topic: {reason}"));
                }
                Err(error) => {
                    row.problems.push(error.to_string());
                    return Err(error.into());
                }
            }
        }
    }
}

async fn publish(entry: &QueueEntry, topics: &Topics, chat: &ChatId) -> Result<Acknowledged, PublishError> {
    let traceparent = entry.traceparent.as_deref();
    let record = PublishRecord { chat: chat.as_str(), value: &entry.record, traceparent, uncached: true };
    topics.publisher.publish(record).await
}

fn note(entry: &QueueEntry, chat: &ChatId, from: &str, topics: &Topics, to: Acknowledged) {
    let id = record::decode(&entry.record).ok().map(|message| message.id);
    let to = format!("{}/{}@{}", topics.kafka.topic, to.partition, to.offset);
    audit::replayed(id, Some(chat), from, &to);
}
