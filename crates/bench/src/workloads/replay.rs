//! What the failed queue took while Kafka was away is published once it is back.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_testkit::connect_redis;
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

use crate::services::Needs;
use crate::subject::Subject;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

/// How often the queue is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long one portion of sends lasts while Kafka is away.
const PORTION: Duration = Duration::from_secs(1);
/// How long filling the queue may take.
const FILL: Duration = Duration::from_secs(120);

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs::default()).await?;
    let load = target.load(100).await?;
    load.open(200.0, Duration::from_secs(1)).await?;
    target.drained(&load).await?;
    bench.servers.kafka.kill9().await?;
    let mut queue = connect_redis(&bench.servers.queue.url()).await?;

    // The first sends wait for Kafka; afterwards the breaker is open.
    let (mut queued, mut seconds, fill_by) = (0_u64, 0.0, Instant::now() + FILL);
    while queued < bench.options.replayed as u64 {
        ensure!(Instant::now() < fill_by, "the failed queue took {queued} messages only\n{}", target.logs());
        let phase = load.closed(bench.options.in_flight, PORTION).await?;
        queued += phase.durability.get("failed-queue").copied().unwrap_or_default();
        seconds += phase.seconds;
    }
    let chats = waiting(&mut queue).await?;
    bench.servers.kafka.start_again().await?;
    let back = Instant::now();
    // Kafka is another process now.
    let meter = Meter::start(target.processes());
    let limit = Duration::from_secs_f64(bench.options.drain_limit);
    while waiting(&mut queue).await? > 0 {
        ensure!(back.elapsed() < limit, "the failed queue is not empty after {limit:?}\n{}", target.logs());
        sleep(LOOK).await;
    }
    let replayed = back.elapsed().as_secs_f64();
    let spent = meter.spent();
    target.drained(&load).await?;

    let mut values = Values::default();
    values.add("messages in the failed queue", queued as f64);
    values.add("chats in the failed queue", chats as f64);
    values.add("accepted by the failed queue, messages/s", queued as f64 / seconds);
    values.add("failed queue empty after Kafka is back, s", replayed);
    values.add("replayed, messages/s", queued as f64 / replayed);
    values.spent(&spent, queued, "a replayed message");
    target.verify(&load, &mut values).await?;
    drop(load);
    target.end().await?;
    Ok(values)
}

/// The chats that wait in the failed queue.
async fn waiting(queue: &mut MultiplexedConnection) -> Result<u64> {
    redis::cmd("ZCARD").arg("chat:failed:index").query_async(queue).await.context("the failed queue's index")
}
