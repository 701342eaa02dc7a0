//! A worker that loses its rights says so, and sees that it has them back.

use anyhow::Result;
use holdfast_testkit::{Kafka, KafkaOptions, Operation, Resource, shared, until};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;

use crate::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_rights_is_not_ready_until_it_has_them_back() -> Result<()> {
    let kafka = Kafka::start_with(KafkaOptions::default().with_authorizer()).await?;
    let stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    stack.publish(0..10).await?;
    until("stored", async || stack.stored().await.unwrap() == 10).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;

    kafka.deny(Resource::Topic, &stack.kafka.topic, Operation::Read).await?;
    until("it may not read the topic, and says so", async || !worker.is_ready().await).await;
    until("its health says why", async || worker.says("/status", "degraded").await).await;
    let refused = "holdfast_worker_consumer_errors_total{code=\"topic_authorization_failed\"}";
    assert!(worker.metric(refused).await? >= 1.0);
    kafka.allow(Resource::Topic, &stack.kafka.topic).await?;
    until("it may, and says so although nothing comes", async || worker.is_ready().await).await;

    kafka.deny(Resource::Group, &stack.group, Operation::Read).await?;
    until("it is no member any more", async || !worker.is_ready().await).await;
    let refused = "holdfast_worker_consumer_errors_total{code=\"group_authorization_failed\"}";
    until("why is counted", async || worker.metric(refused).await.unwrap() >= 1.0).await;
    kafka.allow(Resource::Group, &stack.group).await?;
    until("it is one again", async || worker.is_ready().await).await;
    stack.publish(10..20).await?;
    until("stored", async || stack.stored().await.unwrap() == 20).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_write_dead_letters_goes_on_storing_and_writes_them_once_it_may() -> Result<()> {
    let kafka = Kafka::start_with(KafkaOptions::default().with_authorizer()).await?;
    let stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    stack.admin.ensure_topics().await?;
    stack.publish(0..5).await?;
    stack.publish_raw(0, b"\xff\xff no message", &[]).await?;
    stack.publish(5..10).await?;
    kafka.deny(Resource::Cluster, "kafka-cluster", Operation::IdempotentWrite).await?;
    kafka.deny(Resource::Topic, "*", Operation::Write).await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    until("what can be stored is", async || stack.stored().await.unwrap() == 10).await;
    let rebuilds = "holdfast_worker_producer_rebuilds_total";
    until("the producer dies and is replaced", async || worker.metric(rebuilds).await.unwrap() >= 1.0).await;
    assert!(stack.lag().await? > 0, "nothing passes the record that is in no topic yet");

    kafka.allow(Resource::Cluster, "kafka-cluster").await?;
    kafka.allow(Resource::Topic, "*").await?;
    until("everything is committed", async || stack.lag().await.unwrap() == 0).await;
    assert_eq!(worker.metric("holdfast_dlq_messages_total{reason=\"malformed\"}").await?, 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_correct_the_dead_letter_topic_warns_and_works() -> Result<()> {
    let kafka = Kafka::start_with(KafkaOptions::default().with_authorizer()).await?;
    let stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create()?;
    let dead = NewTopic::new(&stack.kafka.dlq_topic, 1, TopicReplication::Fixed(1)).set("retention.ms", "604800000");
    let made = client.create_topics([&dead], &AdminOptions::new()).await?;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    kafka.deny(Resource::Topic, &stack.kafka.dlq_topic, Operation::AlterConfigs).await?;

    let worker = stack.worker(&[])?;
    worker.ready().await?;
    stack.publish(0..10).await?;
    until("stored", async || stack.stored().await.unwrap() == 10).await;
    let log = worker.program.log_tail(200);
    assert!(log.contains("does not let us change the dead-letter topic's retention"), "{log}");
    assert!(log.contains("deletes dead letters before anybody has dealt with them"), "{log}");
    assert_eq!(stack.admin.describe(&stack.kafka.dlq_topic).await?.retention_ms, Some(604_800_000));
    // With the right, the next start corrects it.
    kafka.allow(Resource::Topic, &stack.kafka.dlq_topic).await?;
    let next = stack.worker(&[])?;
    next.ready().await?;
    let kept = async || stack.admin.describe(&stack.kafka.dlq_topic).await.unwrap().retention_ms == Some(-1);
    until("corrected", kept).await;
    Ok(())
}
