//! `failed show`: a chat's entries, without their content.

use anyhow::Result;
use holdfast_failed_queue::FailedQueue;
use serde::Serialize;

use super::{Entry, PAGE};
use crate::args::FailedShow;
use crate::exit::Verdict;
use crate::output::Output;
use crate::time;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    index: usize,
    queued_at: Option<i64>,
    buried_at: Option<i64>,
    reason: Option<String>,
    message_id: Option<String>,
    sender_id: Option<String>,
    timestamp: Option<i64>,
    bytes: usize,
    problem: Option<String>,
}

impl Row {
    fn new(index: usize, entry: &Entry) -> Self {
        let message = entry.message();
        let (buried_at, reason) = entry.buried.clone().unzip();
        Self {
            index,
            queued_at: entry.queued.as_ref().ok().map(|entry| entry.queued_at),
            buried_at,
            reason,
            message_id: message.as_ref().ok().map(|message| message.id.to_string()),
            sender_id: message.as_ref().ok().map(|message| message.sender.to_string()),
            timestamp: message.as_ref().ok().map(|message| message.timestamp),
            bytes: entry.bytes.len(),
            problem: message.err(),
        }
    }
}

/// Prints a chat's entries, oldest first.
pub async fn run(queue: &FailedQueue, args: &FailedShow, output: &mut Output<'_>) -> Result<Verdict> {
    let mut rows = Vec::new();
    while rows.len() < args.limit {
        let entries = super::page(queue, &args.chat, args.dead, rows.len(), PAGE.min(args.limit - rows.len())).await?;
        if entries.is_empty() {
            break;
        }
        for entry in &entries {
            rows.push(Row::new(rows.len(), entry));
        }
    }
    if rows.is_empty() {
        let list = if args.dead { "dead list" } else { "queue" };
        output.note(format!("the {list} of {} is empty", args.chat))?;
        return Ok(Verdict::Fine);
    }
    output.rows(["#", "message", "sender", "stamped", "queued", "buried", "bytes", "why"], &rows, |row| {
        let at = |ms: Option<i64>| ms.map_or("-".into(), time::show);
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let why: Vec<_> = [&row.reason, &row.problem].into_iter().flatten().cloned().collect();
        [
            row.index.to_string(),
            text(&row.message_id),
            text(&row.sender_id),
            at(row.timestamp),
            at(row.queued_at),
            at(row.buried_at),
            row.bytes.to_string(),
            why.join("; "),
        ]
    })?;
    Ok(Verdict::Fine)
}
