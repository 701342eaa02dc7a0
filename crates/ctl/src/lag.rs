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
    lag: i64,
    oldest_age_ms: Option<i64>,
    /// Records that retention deleted before they were committed.
    lost: i64,
}

/// Shows it. Wrong: retention has deleted what was not committed.
pub async fn run(admin: &Admin, kafka: &KafkaSettings, group: &str, output: &mut Output<'_>) -> Result<Verdict> {
    let topic = &kafka.topic;
    ensure!(admin.describe(topic).await?.partitions > 0, "topic {topic} is missing");
    // In this order, so that no lag is negative.
    let committed = admin.committed(group, topic).await?;
    let mut rows = Vec::new();
    for (partition, low, end) in admin.watermarks(topic).await? {
        let committed = committed.iter().find(|(of, _)| *of == partition).and_then(|(_, offset)| *offset);
        let done = committed.unwrap_or(low);
        let lost = (low - done).max(0);
        rows.push(Row { partition, committed, end, lag: end - done.max(low), oldest_age_ms: None, lost });
    }
    // The first record that is not committed, of each partition that has one.
    let spans: Vec<_> = rows
        .iter()
        .filter(|row| row.lag > 0)
        .map(|row| Span { partition: row.partition, from: row.end - row.lag, to: row.end - row.lag + 1 })
        .collect();
    let mut oldest = LogRange::read(kafka, admin, topic, &spans);
    while let Some(record) = oldest.next().await? {
        if let Some(row) = rows.iter_mut().find(|row| row.partition == record.partition()) {
            row.oldest_age_ms = made_at(&record).map(|at| (unix_ms() - at).max(0));
        }
    }
    output.rows(["partition", "committed", "end", "lag", "oldest", "lost to retention"], &rows, |row| {
        [
            row.partition.to_string(),
            row.committed.map_or("-".into(), |offset| offset.to_string()),
            row.end.to_string(),
            row.lag.to_string(),
            row.oldest_age_ms.map_or("-".into(), time::length),
            row.lost.to_string(),
        ]
    })?;
    output.note(format!("{} behind in all, group {group}", rows.iter().map(|row| row.lag).sum::<i64>()))?;
    Ok(if rows.iter().any(|row| row.lost > 0) { Verdict::Wrong } else { Verdict::Fine })
}
