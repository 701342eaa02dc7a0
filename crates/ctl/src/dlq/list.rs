//! `dlq list`: dead letters, one line each.

use anyhow::Result;
use holdfast_kafka::{Admin, KafkaSettings};
use serde::Serialize;

use super::Letters;
use crate::args::DlqFilter;
use crate::exit::Verdict;
use crate::output::Output;
use crate::time;

/// The limit when `--limit` is not given.
const LIMIT: usize = 1000;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    partition: i32,
    offset: i64,
    written_at: Option<i64>,
    reason: String,
    source: Option<String>,
    message_id: Option<String>,
    chat_id: Option<String>,
    bytes: usize,
}

/// Prints one line for each dead letter.
pub async fn run(admin: &Admin, kafka: &KafkaSettings, filter: &DlqFilter, output: &mut Output<'_>) -> Result<Verdict> {
    let mut letters = Letters::open(admin, kafka, filter, LIMIT).await?;
    let mut rows = Vec::new();
    while let Some(letter) = letters.next().await? {
        let (partition, offset) = letter.place();
        let message = letter.message().ok();
        rows.push(Row {
            partition,
            offset,
            written_at: letter.written_at(),
            reason: letter.reason().to_owned(),
            source: letter.source().map(|(topic, partition, offset)| format!("{topic}/{partition}@{offset}")),
            message_id: message.as_ref().map(|message| message.id.to_string()),
            chat_id: message.as_ref().map(|message| message.chat.to_string()),
            bytes: letter.value().map_or(0, <[u8]>::len),
        });
    }
    if rows.is_empty() {
        output.note("no dead letters")?;
        return Ok(Verdict::Fine);
    }
    output.rows(["place", "written", "message", "from", "bytes", "reason"], &rows, |row| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        [
            format!("{}@{}", row.partition, row.offset),
            row.written_at.map_or("-".into(), time::show),
            text(&row.message_id),
            text(&row.source),
            row.bytes.to_string(),
            row.reason.clone(),
        ]
    })?;
    let more = if letters.reached_limit() { "; there may be more (--limit)" } else { "" };
    output.note(format!("{} dead letters{more}", rows.len()))?;
    Ok(Verdict::Fine)
}
