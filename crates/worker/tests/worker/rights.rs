//! A worker that loses its rights says so, and sees that it has them back.

use anyhow::{Result, ensure};
use holdfast_testkit::{Kafka, KafkaOptions, shared};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::until;
use crate::stack::Stack;

// Kafka's numbers for the parts of an access rule.
const TOPIC: u8 = 2;
const GROUP: u8 = 3;
const LITERAL: u8 = 3;
const ANY: u8 = 1;
const ALL: u8 = 2;
const READ: u8 = 3;
const ALTER_CONFIGS: u8 = 11;
const DENY: u8 = 2;
const ALLOW: u8 = 3;

/// `CreateAcls` or `DeleteAcls`, version 1, which no client library here speaks. Both lists have one shape.
async fn change_rules(kafka: &Kafka, api: u8, resource: u8, name: &str, rules: &[(u8, u8)]) -> Result<()> {
    let string = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
    let mut body = vec![0, api, 0, 1, 0, 0, 0, 7, 0xff, 0xff];
    body.extend((rules.len() as u32).to_be_bytes());
    for (operation, permission) in rules {
        body.push(resource);
        body.extend(string(name));
        body.push(LITERAL);
        body.extend([string("User:*"), string("*")].concat());
        body.extend([*operation, *permission]);
    }
    let mut stream = TcpStream::connect(("127.0.0.1", kafka.port())).await?;
    stream.write_all(&(body.len() as u32).to_be_bytes()).await?;
    stream.write_all(&body).await?;
    let mut answer = vec![0; stream.read_u32().await? as usize];
    stream.read_exact(&mut answer).await?;
    // The request's number, throttling, how many results; then the first one's error.
    ensure!(answer[..4] == [0, 0, 0, 7] && answer[12..14] == [0, 0], "{answer:?}");
    Ok(())
}

/// Everything but this.
async fn deny(kafka: &Kafka, operation: u8, resource: u8, name: &str) -> Result<()> {
    change_rules(kafka, 30, resource, name, &[(ALL, ALLOW), (operation, DENY)]).await
}

async fn deny_reading(kafka: &Kafka, resource: u8, name: &str) -> Result<()> {
    deny(kafka, READ, resource, name).await
}

/// One that asks its rules.
async fn kafka_with_rights() -> Result<Kafka> {
    let settings = [
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    Kafka::start_with(KafkaOptions { settings, ..KafkaOptions::default() }).await
}

async fn allow(kafka: &Kafka, resource: u8, name: &str) -> Result<()> {
    change_rules(kafka, 31, resource, name, &[(ANY, ANY)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_its_rights_is_not_ready_until_it_has_them_back() -> Result<()> {
    let kafka = kafka_with_rights().await?;
    let stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    stack.publish(0..10).await?;
    until("stored", async || stack.stored().await.unwrap() == 10).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;

    deny_reading(&kafka, TOPIC, &stack.kafka.topic).await?;
    until("it may not read the topic, and says so", async || !worker.is_ready().await).await;
    until("its health says why", async || worker.says("/status", "degraded").await).await;
    let refused = "holdfast_worker_consumer_errors_total{code=\"topic_authorization_failed\"}";
    assert!(worker.metric(refused).await? >= 1.0);
    allow(&kafka, TOPIC, &stack.kafka.topic).await?;
    until("it may, and says so although nothing comes", async || worker.is_ready().await).await;

    deny_reading(&kafka, GROUP, &stack.group).await?;
    until("it is no member any more", async || !worker.is_ready().await).await;
    let refused = "holdfast_worker_consumer_errors_total{code=\"group_authorization_failed\"}";
    until("why is counted", async || worker.metric(refused).await.unwrap() >= 1.0).await;
    allow(&kafka, GROUP, &stack.group).await?;
    until("it is one again", async || worker.is_ready().await).await;
    stack.publish(10..20).await?;
    until("stored", async || stack.stored().await.unwrap() == 20).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_correct_the_dead_letter_topic_warns_and_works() -> Result<()> {
    let kafka = kafka_with_rights().await?;
    let stack = Stack::on(&kafka.brokers(), &shared().await.mongo_url).await?;
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", kafka.brokers()).create()?;
    let dead = NewTopic::new(&stack.kafka.dlq_topic, 1, TopicReplication::Fixed(1)).set("retention.ms", "604800000");
    let made = client.create_topics([&dead], &AdminOptions::new()).await?;
    assert!(made.iter().all(Result::is_ok), "{made:?}");
    deny(&kafka, ALTER_CONFIGS, TOPIC, &stack.kafka.dlq_topic).await?;

    let worker = stack.worker(&[])?;
    worker.ready().await?;
    stack.publish(0..10).await?;
    until("stored", async || stack.stored().await.unwrap() == 10).await;
    let log = worker.program.log_tail(200);
    assert!(log.contains("does not let us change the dead-letter topic's retention"), "{log}");
    assert!(log.contains("deletes dead letters before anybody has dealt with them"), "{log}");
    assert_eq!(stack.admin.describe(&stack.kafka.dlq_topic).await?.retention_ms, Some(604_800_000));
    // With the right, the next start corrects it.
    allow(&kafka, TOPIC, &stack.kafka.dlq_topic).await?;
    let next = stack.worker(&[])?;
    next.ready().await?;
    let kept = async || stack.admin.describe(&stack.kafka.dlq_topic).await.unwrap().retention_ms == Some(-1);
    until("corrected", kept).await;
    Ok(())
}
