//! The recent list alone: what one Redis can do if nothing else limits it.
//!
//! Not by `redis-benchmark`: its messages can't have timestamps that rise, nor one id in two places, so that every call would go the long
//! ways that the script keeps for lists out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_cache::recent::{Added, Attempt, RecentSettings};
use holdfast_cache::{Origin, RecentList};
use holdfast_keys::Keys;
use holdfast_redis::{Connection, RedisMetrics};
use tokio::task::JoinSet;

use super::records;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

const CONNECTIONS: usize = 4;
/// The gateway's batches.
const BATCH: usize = 64;
/// Messages that come first and do not count: they fill the lists, which have to be trimmed from then on.
const FIRST: usize = 100 * records::CHATS;
const BUDGET: Duration = Duration::from_secs(30);

pub(super) async fn run(bench: &Bench) -> Result<Values> {
    bench.servers.make_place().await?;
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).context("metrics")?;
    let lists = (0..CONNECTIONS).map(|_| {
        let connection = Connection::open("bench", &bench.servers.cache.url(), metrics.clone())?;
        anyhow::Ok(RecentList::new(connection, Keys::default(), RecentSettings::default(), Origin::random()))
    });
    let lists: Vec<RecentList> = lists.collect::<Result<_>>()?;
    let count = bench.options.messages;
    add(&lists, 0, FIRST).await?;
    let meter = Meter::start(bench.servers.processes());
    let started = Instant::now();
    add(&lists, FIRST, FIRST + count).await?;
    let seconds = started.elapsed().as_secs_f64();
    let spent = meter.spent();
    let mut values = Values::default();
    values.add("messages/s", count as f64 / seconds);
    values.spent(&spent, count as u64, "a message");
    Ok(values)
}

/// Adds the messages of these numbers, in batches, one at a time on each connection.
async fn add(lists: &[RecentList], from: usize, to: usize) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(from));
    let mut connections = JoinSet::new();
    for list in lists {
        let (list, next) = (list.clone(), next.clone());
        connections.spawn(async move {
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= to {
                    return anyhow::Ok(());
                }
                let batch = (first..to.min(first + BATCH)).map(records::message).collect::<Result<Vec<_>>>()?;
                let adds: Vec<_> = batch.iter().map(|message| (message, Attempt::random())).collect();
                for added in list.add_batch(&adds, BUDGET).await {
                    let added = added.context("a recent list")?;
                    ensure!(matches!(added, Added::New(_)), "a message is not new: {added:?}");
                }
            }
        });
    }
    while let Some(ended) = connections.join_next().await {
        ended.context("a connection's task ended early")??;
    }
    Ok(())
}
