//! How much waits in Kafka, by Kafka's own figures: dead letters, and the age of the oldest record that no commit covers.
//!
//! Every worker asks for all partitions, so one of them is enough, and one that is stuck reports itself no younger. What Kafka does not answer
//! has no value.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use holdfast_kafka::{Admin, KafkaSettings, RangeReader, RecordView};
use holdfast_service::clock::unix_ms;

use crate::metrics::Metrics;

/// How often Kafka is asked.
const ASK: Duration = Duration::from_secs(15);
/// How long the oldest records may take to come.
const READ: Duration = Duration::from_secs(5);

/// Whose depths are measured.
#[derive(Debug, Clone)]
pub struct Depths {
    /// The Kafka client's settings, with both topics' names.
    pub kafka: KafkaSettings,
    /// The workers' consumer group.
    pub group: String,
}

/// Sets the metrics, for ever.
pub async fn run(admin: Admin, depths: Depths, metrics: Metrics) {
    loop {
        let dead_letters = admin.watermarks(&depths.kafka.dlq_topic).await;
        metrics
            .dlq_records(dead_letters.ok().map(|partitions| partitions.iter().map(|(_, low, high)| high - low).sum()));
        let ages = depths.ages(&admin).await;
        if let Err(error) = &ages {
            tracing::debug!(error = format!("{error:#}"), "the age of the backlog can't be read");
        }
        metrics.backlog_ages(&depths.kafka.topic, &ages.unwrap_or_default());
        tokio::time::sleep(ASK).await;
    }
}

impl Depths {
    /// The age in seconds of each partition's oldest record that no commit covers; 0 where there is none.
    async fn ages(&self, admin: &Admin) -> anyhow::Result<HashMap<i32, f64>> {
        // In this order: what is committed meanwhile is below the end that was read before.
        let partitions = admin.watermarks(&self.kafka.topic).await?;
        let committed: HashMap<_, _> = admin.committed(&self.group, &self.kafka.topic).await?.into_iter().collect();
        let mut ages = HashMap::new();
        let mut waiting = Vec::new();
        for (partition, low, high) in partitions {
            // Without a commit a worker begins at the log's start.
            let next = committed.get(&partition).copied().flatten().unwrap_or(low).max(low);
            if next < high {
                waiting.push((partition, next, high));
            } else {
                ages.insert(partition, 0.0);
            }
        }
        if !waiting.is_empty() {
            let kafka = self.kafka.clone();
            let oldest = tokio::task::spawn_blocking(move || oldest(&kafka, &waiting)).await.context("reading")??;
            let now = unix_ms();
            ages.extend(oldest.into_iter().map(|(partition, stamped)| {
                (partition, stamped.map_or(0.0, |stamped| (now - stamped).max(0) as f64 / 1000.0))
            }));
        }
        Ok(ages)
    }
}

/// When the first record at or behind each position was stamped, in Unix epoch milliseconds; `None`: there is no record up to the end. A
/// partition whose record does not come in time is absent.
fn oldest(kafka: &KafkaSettings, waiting: &[(i32, i64, i64)]) -> anyhow::Result<HashMap<i32, Option<i64>>> {
    let from: Vec<_> = waiting.iter().map(|(partition, next, _)| (*partition, *next)).collect();
    let reader = RangeReader::new(kafka, &kafka.topic, &from)?;
    let until = std::time::Instant::now() + READ;
    let mut oldest = HashMap::new();
    while oldest.len() < waiting.len() {
        let left = until.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            break;
        }
        match reader.next(left.min(Duration::from_millis(100)))? {
            Some(record) => {
                oldest.entry(record.partition()).or_insert(record.timestamp().to_millis());
            }
            None => {
                // Behind the position there may be nothing but the end of a transaction.
                for (partition, _, high) in waiting {
                    if reader.position(*partition)?.is_some_and(|position| position >= *high) {
                        oldest.entry(*partition).or_insert(None);
                    }
                }
            }
        }
    }
    Ok(oldest)
}
