//! Records that came in transactions: from a restore, MirrorMaker or Connect.

use std::time::Duration;

use anyhow::Result;
use holdfast_message::record;
use holdfast_testkit::{unique, until};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::rig::message;
use crate::stack::Stack;

const WITHIN: Duration = Duration::from_secs(30);

/// A producer with its own transactions.
async fn transactional(stack: &Stack) -> Result<FutureProducer> {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &stack.kafka.brokers)
        .set("transactional.id", unique("restore"))
        .create()?;
    let waiting = producer.clone();
    tokio::task::spawn_blocking(move || waiting.init_transactions(WITHIN)).await??;
    Ok(producer)
}

/// Begins a transaction with these messages in partition 0.
async fn begin(stack: &Stack, producer: &FutureProducer, numbers: std::ops::Range<usize>) -> Result<()> {
    producer.begin_transaction()?;
    for number in numbers {
        let value = record::encode(&message(number));
        let record = FutureRecord::<(), _>::to(&stack.kafka.topic).partition(0).payload(&value);
        producer.send(record, WITHIN).await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

async fn commit(producer: &FutureProducer) -> Result<()> {
    let producer = producer.clone();
    Ok(tokio::task::spawn_blocking(move || producer.commit_transaction(WITHIN)).await??)
}

async fn abort(producer: &FutureProducer) -> Result<()> {
    let producer = producer.clone();
    Ok(tokio::task::spawn_blocking(move || producer.abort_transaction(WITHIN)).await??)
}

/// Publishes one plain message to partition 0.
async fn publish(stack: &Stack, number: usize) -> Result<i64> {
    stack.publish_raw(0, &record::encode(&message(number)), &[]).await
}

const LAG: &str = "holdfast_worker_consumer_lag{partition=\"0\"}";

#[tokio::test(flavor = "multi_thread")]
async fn after_a_marker_at_the_end_of_the_log_nothing_is_behind_and_an_aborted_record_is_never_stored() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    let producer = transactional(&stack).await?;
    publish(&stack, 0).await?;
    begin(&stack, &producer, 1..4).await?;
    commit(&producer).await?;
    // 0, 1, 2, 3 and the marker.
    until("committed past the commit's marker", async || stack.committed().await.unwrap()[0].1 == Some(5)).await;
    begin(&stack, &producer, 4..6).await?;
    abort(&producer).await?;
    until("committed past the aborted records", async || stack.committed().await.unwrap()[0].1 == Some(8)).await;
    until("the gauge says so", async || worker.series(LAG).await == Some(0.0)).await;
    assert_eq!(stack.stored().await?, 4);

    // By somebody who receives nothing else.
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    begin(&stack, &producer, 6..8).await?;
    abort(&producer).await?;
    let worker = stack.worker(&[])?;
    until("committed with nothing received", async || stack.committed().await.unwrap()[0].1 == Some(11)).await;
    until("the gauge says so", async || worker.series(LAG).await == Some(0.0)).await;

    // Records, committed and not, in front of a plain one.
    begin(&stack, &producer, 8..10).await?;
    abort(&producer).await?;
    begin(&stack, &producer, 10..12).await?;
    commit(&producer).await?;
    publish(&stack, 12).await?;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    assert_eq!(stack.stored().await?, 4 + 2 + 1);
    assert_eq!([worker.series(SKIPPED).await, worker.series(SKIPPED).await], [Some(0.0), Some(0.0)]);
    assert!(worker.says("/status", "active").await, "{}", worker.health().await?);
    Ok(())
}

const SKIPPED: &str = "holdfast_worker_records_skipped_total";

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_shows_as_lag_and_holds_up_what_comes_after_it_until_it_ends() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    let producer = transactional(&stack).await?;
    publish(&stack, 0).await?;
    begin(&stack, &producer, 1..3).await?;
    publish(&stack, 3).await?;
    until("up to the transaction", async || stack.committed().await.unwrap()[0].1 == Some(1)).await;
    until("the gauge counts what waits", async || worker.series(LAG).await == Some(3.0)).await;
    assert_eq!(stack.stored().await?, 1);
    commit(&producer).await?;
    until("stored", async || stack.stored().await.unwrap() == 4).await;
    until("committed", async || stack.committed().await.unwrap()[0].1 == Some(5)).await;
    until("the gauge says so", async || worker.series(LAG).await == Some(0.0)).await;
    Ok(())
}
