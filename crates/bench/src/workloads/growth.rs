//! A steady load for a while: whether processes grow, and what a message takes in each server.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::connect_redis;
use mongodb::bson::{Document, doc};

use crate::servers::Place;
use crate::services::Needs;
use crate::subject::Subject;
use crate::target::{Bench, Target};
use crate::usage::{Meter, memory};
use crate::values::Values;

/// Messages a second.
const RATE: f64 = 1000.0;
/// The load lasts this many times as long as a loop, in as many parts.
const PARTS: usize = 6;

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs::default()).await?;
    let load = target.load(100).await?;
    let part = Duration::from_secs_f64(bench.options.seconds);
    load.open(RATE, Duration::from_secs_f64(bench.options.warm_up)).await?;
    target.drained(&load).await?;
    let mut held = Vec::new();
    let (stored_before, log_before) = (stored_bytes(&target).await?, log_bytes(bench, target.place()?)?);
    let count_before = load.acknowledged().len();
    let meter = Meter::start(target.processes());
    for _ in 0..PARTS {
        load.open(RATE, part).await?;
        held.push(memory(&target.processes()));
    }
    let spent = meter.spent();
    target.drained(&load).await?;
    let count = (load.acknowledged().len() - count_before) as f64;
    let mut values = Values::default();
    let (first, last) = (held.first().context("no part")?, held.last().context("no part")?);
    for process in ["gateway", "worker"] {
        let mib = |of: &BTreeMap<String, u64>| of.get(process).copied().unwrap_or_default() as f64 / f64::from(1 << 20);
        values.add(format!("memory {process} after the first part, MiB"), mib(first));
        values.add(format!("memory {process} at the end, MiB"), mib(last));
    }
    values.add("MongoDB: data, bytes a message", (stored_bytes(&target).await? - stored_before) / count);
    values.add("Kafka: log, bytes a message", (log_bytes(bench, target.place()?)? - log_before) / count);
    values.add("Redis: cache, bytes a chat", cache_bytes(bench).await? / (bench.options.sockets as f64 / 2.0));
    values.spent(&spent, count as u64, "a message");
    target.verify(&load, &mut values).await?;
    drop(load);
    target.end().await?;
    Ok(values)
}

/// The bytes of all messages, without indexes, before compression on disk.
async fn stored_bytes(target: &Target<'_>) -> Result<f64> {
    let database = target.messages().context("no store")?.database();
    let stats: Document =
        database.run_command(doc! { "collStats": "messages" }).await.context("the collection's size")?;
    let size = stats.get_i32("size").map(f64::from).or_else(|_| stats.get_i64("size").map(|size| size as f64));
    size.context("MongoDB does not tell the collection's size")
}

/// The bytes of the records in Kafka's log.
fn log_bytes(bench: &Bench, place: &Place) -> Result<f64> {
    let folder = bench.servers.kafka.folder().path().join("data");
    let mut sum = 0;
    for topic in entries(&folder)? {
        let name = topic.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with(&format!("{}-", place.topic)) {
            for file in entries(&topic)?.into_iter().filter(|file| file.extension().is_some_and(|end| end == "log")) {
                sum += std::fs::metadata(file)?.len();
            }
        }
    }
    Ok(sum as f64)
}

fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("can't read {}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.exists()).collect())
}

/// What the cache holds, without what an empty one does.
async fn cache_bytes(bench: &Bench) -> Result<f64> {
    let mut connection = connect_redis(&bench.servers.cache.url()).await?;
    let info: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:"));
    line.and_then(|number| number.trim().parse().ok()).context("Redis does not tell its memory")
}
