//! `lag`: how far the workers are behind, for each partition.

use anyhow::{Result, ensure};
use holdfast_kafka::{Admin, KafkaSettings, RecordView};
use holdfast_service::clock::unix_ms;
use serde::Serialize;

use crate::exit::Verdict;
use crate::log_range::{LogRange, Span, made_at};
use crate::output::Output;
use crate::time;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    partition: i32,
    /// `None`: the group has committed nothing here.
    committed: Option<i64>,
    end: i64,
    /// From the first record that is not committed to the end; what is left where nothing but the ends of transactions is not.
    lag: i64,
    oldest_age_ms: Option<i64>,
    /// Records that retention deleted before they were committed.
    lost: i64,
    /// Records that were lost so and that the workers have noticed, until an operator acknowledges it.
    unacknowledged: u64,
    /// Records that consumers can't read until an open transaction before them has ended.
    behind_open_transaction: i64,
}

/// Shows it. Wrong: retention has deleted what was not committed, now or before.
pub async fn run(admin: &Admin, kafka: &KafkaSettings, group: &str, output: &mut Output<'_>) -> Result<Verdict> {
    let topic = &kafka.topic;
    ensure!(admin.describe(topic).await?.partitions > 0, "topic {topic} is missing");
    // In this order, so that no lag is negative, and what can't be read below an end lies behind an open transaction.
    let commits = admin.commits(group, topic).await?;
    let ends = admin.ends(topic).await?;
    let mut rows = Vec::new();
    let mut spans = Vec::new();
    for (partition, low, readable) in admin.watermarks(topic).await? {
        let end = ends.iter().find(|(of, _)| *of == partition).map_or(readable, |(_, end)| *end);
        let readable = readable.min(end);
        let commit = commits.iter().find(|commit| commit.partition == partition);
        let committed = commit.and_then(|commit| commit.offset);
        let done = committed.unwrap_or(low).max(low);
        spans.push(Span { partition, from: done, to: readable });
        rows.push(Row {
            partition,
            committed,
            end,
            lag: (end - readable.max(done)).max(0),
            oldest_age_ms: None,
            lost: (low - committed.unwrap_or(low)).max(0),
            unacknowledged: commit.map_or(0, |commit| commit.loss.records),
            behind_open_transaction: end - readable,
        });
    }
    let mut oldest = LogRange::first_of_each(kafka, admin, topic, &spans);
    while let Some(record) = oldest.next().await? {
        if let Some(row) = rows.iter_mut().find(|row| row.partition == record.partition()) {
            row.lag = row.end - record.offset();
            row.oldest_age_ms = made_at(&record).map(|at| (unix_ms() - at).max(0));
        }
    }
    let columns = ["partition", "committed", "end", "lag", "oldest", "lost to retention", "lost before"];
    output.rows(columns, &rows, |row| {
        [
            row.partition.to_string(),
            row.committed.map_or("-".into(), |offset| offset.to_string()),
            row.end.to_string(),
            row.lag.to_string(),
            row.oldest_age_ms.map_or("-".into(), time::length),
            row.lost.to_string(),
            row.unacknowledged.to_string(),
        ]
    })?;
    for row in rows.iter().filter(|row| row.behind_open_transaction > 0) {
        let (partition, from) = (row.partition, row.end - row.behind_open_transaction);
        output.note(format!(
            "partition {partition}: nobody can read from offset {from} on before a transaction there has ended"
        ))?;
    }
    output.note(format!("{} behind in all, group {group}", rows.iter().map(|row| row.lag).sum::<i64>()))?;
    Ok(if rows.iter().any(|row| row.lost > 0 || row.unacknowledged > 0) { Verdict::Wrong } else { Verdict::Fine })
}
