//! A gateway that Kafka lets write nothing goes on, and writes as soon as it may.

use holdfast_testkit::{Kafka, KafkaOptions, Operation, Resource, unique, until};
use serde_json::json;

use crate::support::{Gateway, settings};

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_may_not_write_keeps_messages_in_the_failed_queue_until_it_may() {
    let kafka = Kafka::start_with(KafkaOptions::default().with_authorizer()).await.unwrap();
    kafka.deny(Resource::Cluster, "kafka-cluster", Operation::IdempotentWrite).await.unwrap();
    kafka.deny(Resource::Topic, "*", Operation::Write).await.unwrap();
    let own = [("KAFKA_BROKERS", &*kafka.brokers()), ("KAFKA_CB_RECOVERY_TIMEOUT", "500")];
    let gateway = Gateway::start(settings(&own).await).await;
    let (client, _events) = gateway.connect(&unique("alice")).await;
    let bob = unique("bob");
    let send = async |content: &str| {
        let payload = json!({ "friendId": bob, "content": content });
        client.emit_with_ack("sendMessage", &payload).await.unwrap()
    };

    let rebuilds = "holdfast_gateway_producer_rebuilds_total";
    let mut sent = 0;
    until("its producer has died and was replaced", async || {
        let answer = send("denied").await;
        assert_eq!((&answer["ok"], &answer["durability"]), (&json!(true), &json!("failed-queue")), "{answer}");
        sent += 1;
        gateway.metric(rebuilds).await >= 2.0
    })
    .await;
    until("it does not count as up", async || gateway.health("/dependencies/kafka/up").await == false).await;
    assert_eq!(gateway.health("/status").await, "degraded");
    let page = client.emit_with_ack("history", &json!({ "friendId": bob })).await.unwrap();
    assert_eq!((&page["ok"], &page["complete"]), (&json!(true), &json!(true)), "{page}");
    assert_eq!(page["messages"].as_array().unwrap().len(), sent.min(20));

    kafka.allow(Resource::Cluster, "kafka-cluster").await.unwrap();
    kafka.allow(Resource::Topic, "*").await.unwrap();
    until("it writes again", async || {
        let answer = send("permitted").await;
        assert_eq!(answer["ok"], true, "{answer}");
        answer["durability"] == "kafka"
    })
    .await;
    until("the queue is replayed", async || {
        gateway.metric("holdfast_failed_queue_replayed_total").await >= sent as f64
    })
    .await;
    until("all is well", async || gateway.health("/status").await == "active").await;
}
