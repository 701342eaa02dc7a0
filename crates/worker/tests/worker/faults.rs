//! Servers that go away and come back, and a dead-letter topic that refuses.

use std::time::Duration;

use anyhow::Result;
use holdfast_testkit::{Kafka, Mongo, shared, until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn while_mongodb_is_down_nothing_is_committed_and_afterwards_everything_is_stored() -> Result<()> {
    let mongo = Mongo::start().await?;
    let stack = Stack::on(&shared().await.kafka_brokers, &mongo.url()).await?;
    let worker = stack.worker(&[("MAX_BUFFER_SIZE", "500")])?;
    worker.ready().await?;
    stack.publish(0..100).await?;
    until("stored", async || stack.stored().await.unwrap() == 100).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    mongo.kill9().await?;
    stack.publish(100..3000).await?;
    until("paused", async || worker.says("/status", "paused").await).await;
    until("told", async || worker.says("/dependencies/mongodb/up", false).await).await;
    assert_eq!(stack.lag().await?, 2900);
    worker.ready().await?;
    mongo.start_again().await?;
    until("stored", async || stack.stored().await.unwrap() == 3000).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    until("active", async || worker.says("/status", "active").await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_starts_before_its_servers_and_waits_for_them() -> Result<()> {
    let (kafka, mongo) = tokio::try_join!(Kafka::start(), Mongo::start())?;
    let stack = Stack::on(&kafka.brokers(), &mongo.url()).await?;
    kafka.kill9().await?;
    mongo.kill9().await?;
    let worker = stack.worker(&[])?;
    until("waiting", async || worker.says("/status", "waiting").await).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(worker.program.is_running());
    kafka.start_again().await?;
    worker.ready().await?;
    stack.publish(0..300).await?;
    until("degraded", async || worker.says("/status", "degraded").await).await;
    mongo.start_again().await?;
    until("stored", async || stack.stored().await.is_ok_and(|stored| stored == 300)).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_between_the_write_and_the_commit_leaves_one_document_a_message() -> Result<()> {
    let (kafka, [line]) = Kafka::start_behind::<1>().await?;
    let mut stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    stack.admin.ensure_topics().await?;
    stack.publish(0..400).await?;
    // Large enough a wait to cut the line between receiving and storing.
    let brokers = format!("127.0.0.1:{}", line.port());
    let slow = [("KAFKA_BROKERS", brokers.as_str()), ("FLUSH_INTERVAL_MS", "3000"), ("BULK_THRESHOLD", "1000")];
    let worker = stack.worker(&slow)?;
    until("received", async || worker.says("/buffer/messages", 400).await).await;
    line.cut().await;
    until("stored", async || stack.stored().await.unwrap() == 400).await;
    assert_eq!(stack.lag().await?, 400, "no commit could pass");
    worker.program.kill9().await?;
    line.heal().await?;
    stack.group = stack.group.clone();
    let again = stack.worker(&[])?;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    assert_eq!(stack.stored().await?, 400);
    assert_eq!(again.metric("holdfast_worker_flush_messages_total{result=\"duplicate\"}").await?, 400.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_dead_letter_topic_refuses_nothing_passes_the_record() -> Result<()> {
    let stack = Stack::start().await?;
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &stack.kafka.brokers).create()?;
    // Takes nothing as large as our letter.
    let narrow = NewTopic::new(&stack.kafka.dlq_topic, 1, TopicReplication::Fixed(1)).set("max.message.bytes", "300");
    admin.create_topics([&narrow], &AdminOptions::new()).await?;
    stack.admin.ensure_topics().await?;
    let offset = stack.publish_raw(0, &fastrand_bytes(2000), &[]).await?;
    stack.publish(0..200).await?;
    let worker = stack.worker(&[])?;
    until("the others stored", async || stack.stored().await.unwrap() == 200).await;
    until("told", async || worker.says("/degraded/0", "the dead-letter topic can't be written").await).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(stack.committed().await?[0].1.unwrap_or_default() <= offset);
    assert_eq!(worker.metric("holdfast_dlq_messages_total{reason=\"malformed\"}").await?, 0.0);

    let wide = AlterConfig::new(ResourceSpecifier::Topic(&stack.kafka.dlq_topic)).set("max.message.bytes", "2000000");
    admin.alter_configs([&wide], &AdminOptions::new()).await?;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    assert_eq!(stack.dead_letters().await?.len(), 1);
    Ok(())
}

/// Bytes that no codec makes small.
fn fastrand_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|_| fastrand::u8(128..)).collect()
}
