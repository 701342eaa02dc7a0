//! The process: how it ends, and many of it.

use std::time::Duration;

use anyhow::Result;
use holdfast_testkit::{Mongo, Proxy, shared, until};
use mongodb::bson::{Document, doc};

use crate::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_a_full_buffer_stores_and_commits_it_and_exits_with_0() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[("BULK_THRESHOLD", "1000"), ("FLUSH_INTERVAL_MS", "300000")])?;
    worker.ready().await?;
    stack.publish(0..900).await?;
    until("received", async || worker.says("/buffer/messages", 900).await).await;
    assert_eq!((stack.stored().await?, stack.lag().await?), (0, 900));
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(25)).await?, 0);
    assert_eq!((stack.stored().await?, stack.lag().await?), (900, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_leaves_no_chat_out_of_the_conversations_view() -> Result<()> {
    let mongo = Mongo::start().await?;
    let line = Proxy::start(mongo.port()).await?;
    let stack = Stack::on(&shared().await.kafka_brokers, &mongo.url_at(line.port())).await?;
    let worker = stack.worker(&[("BULK_THRESHOLD", "1000"), ("FLUSH_INTERVAL_MS", "300000")])?;
    worker.ready().await?;
    stack.publish(0..100).await?;
    until("received", async || worker.says("/buffer/messages", 100).await).await;
    // The view takes longer to be told than the group to be left.
    line.latency(Duration::from_secs(2));
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(25)).await?, 0);
    line.heal().await?;
    let view = mongodb::Client::with_uri_str(&stack.mongo_url).await?.database(&stack.db);
    let told = view.collection::<Document>("conversations").count_documents(doc! {}).await?;
    assert_eq!((stack.stored().await?, told), (100, 37));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_all_named_at_once() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[("BULK_THRESHOLD", "many"), ("KAFKA_CLEANUP", "yes")])?;
    until("ended", async || !worker.program.is_running()).await;
    assert_eq!(worker.program.exit_status().and_then(|status| status.code()), Some(64));
    let log = worker.program.log_tail(20);
    assert!(log.contains("BULK_THRESHOLD: must be") && log.contains("KAFKA_CLEANUP: must be"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_to_three_to_one_workers_under_load_store_every_message_once() -> Result<()> {
    let stack = Stack::start().await?;
    let first = stack.worker(&[])?;
    first.ready().await?;
    let mut published = 0;
    let mut load = async |rounds: usize| -> Result<usize> {
        for _ in 0..rounds {
            stack.publish(published..published + 200).await?;
            published += 200;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(published)
    };
    load(10).await?;
    let (second, third) = (stack.worker(&[])?, stack.worker(&[])?);
    load(10).await?;
    second.ready().await?;
    third.ready().await?;
    load(10).await?;
    assert_eq!(second.program.term_and_wait(Duration::from_secs(25)).await?, 0);
    load(10).await?;
    third.program.kill9().await?;
    let all = load(10).await?;
    until("stored", async || stack.stored().await.unwrap() == all as u64).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    assert_eq!(first.metric("holdfast_worker_records_skipped_total").await?, 0.0);
    Ok(())
}
