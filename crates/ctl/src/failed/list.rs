//! `failed list`: every chat with waiting or dead entries.

use anyhow::{Context, Result};
use holdfast_failed_queue::FailedQueue;
use holdfast_service::clock::unix_ms;
use serde::Serialize;

use crate::exit::Verdict;
use crate::output::Output;
use crate::{BUDGET, time};

/// Chats requested in one call.
const CHUNK: usize = 250;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    chat_id: String,
    waiting: u64,
    dead: u64,
    oldest_queued_at: Option<i64>,
    oldest_age_seconds: Option<i64>,
    next_attempt_in_ms: Option<i64>,
    indexed: bool,
}

/// Prints one line for each chat.
pub async fn run(queue: &FailedQueue, output: &mut Output<'_>) -> Result<Verdict> {
    let chats = super::all_chats(queue).await?;
    let mut rows = Vec::with_capacity(chats.len());
    for chunk in chats.chunks(CHUNK) {
        for queue in queue.overview(chunk, BUDGET).await.context("the failed queue")? {
            rows.push(Row {
                chat_id: queue.chat.to_string(),
                waiting: queue.waiting,
                dead: queue.dead,
                oldest_queued_at: queue.oldest_queued_at,
                oldest_age_seconds: queue.oldest_queued_at.map(|at| (unix_ms() - at).max(0) / 1000),
                next_attempt_in_ms: queue.due_in,
                indexed: queue.due_in.is_some(),
            });
        }
    }
    let (waiting, dead) = rows.iter().fold((0, 0), |(waiting, dead), row| (waiting + row.waiting, dead + row.dead));
    if rows.is_empty() {
        output.note("the failed queue is empty")?;
        return Ok(Verdict::Fine);
    }
    output.rows(["chat", "waiting", "dead", "oldest", "next attempt or lease"], &rows, |row| {
        let next = match (row.next_attempt_in_ms, row.waiting) {
            (Some(ms), _) if ms > 0 => format!("in {}", time::length(ms)),
            (Some(_), _) => "due".into(),
            (None, 0) => "-".into(),
            // A gateway finds it within ten minutes.
            (None, _) => "not in the index yet".into(),
        };
        let oldest = row.oldest_queued_at.map_or("-".into(), time::age);
        [row.chat_id.clone(), row.waiting.to_string(), row.dead.to_string(), oldest, next]
    })?;
    output.note(format!("{} chats, {waiting} waiting, {dead} dead", rows.len()))?;
    Ok(Verdict::Fine)
}
