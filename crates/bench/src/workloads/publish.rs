//! librdkafka with the gateway's settings and records, and nothing around it.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;

use super::records;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

pub(super) async fn run(bench: &Bench) -> Result<Values> {
    some(bench, bench.options.messages).await
}

/// Publishes so many records.
pub(super) async fn some(bench: &Bench, count: usize) -> Result<Values> {
    let place = bench.servers.make_place().await?;
    let brokers = bench.servers.kafka.brokers();
    let records = records::encoded(count)?;
    let meter = Meter::start(bench.servers.processes());
    let started = Instant::now();
    spawn_blocking(move || records::publish(&brokers, &place.topic, &records)).await.context("publishing")??;
    let seconds = started.elapsed().as_secs_f64();
    let mut spent = meter.spent();
    // librdkafka's threads are this process's, which does nothing else meanwhile.
    let client = spent.remove("client").unwrap_or_default();
    spent.insert("rdkafka".to_owned(), client);
    let mut values = Values::default();
    values.add("messages/s", count as f64 / seconds);
    values.spent(&spent, count as u64, "a message");
    Ok(values)
}
