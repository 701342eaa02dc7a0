//! A worker that loses its rights says so, and sees that it has them back.

use anyhow::Result;
use holdfast_testkit::{AUTHORIZER, Kafka, KafkaOptions, Operation, Resource, shared};

use crate::rig::until;
use crate::stack::Stack;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_rights_is_not_ready_until_it_has_them_back() -> Result<()> {
    let settings = AUTHORIZER.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let kafka = Kafka::start_with(KafkaOptions { settings, ..KafkaOptions::default() }).await?;
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
