//! A send does not wait for Kafka's delivery timeout where Kafka is plainly away.

use holdfast_testkit::{Kafka, Proxy, unique, until};
use serde_json::json;

use crate::support::{Gateway, settings};

/// Kafka's reports that the gateway has had.
async fn reports(gateway: &Gateway) -> f64 {
    gateway.metric("holdfast_gateway_publish_seconds_count").await
}

/// Breaks a gateway's line to Kafka; the next send is answered before Kafka's client gives it up. Once the line is mended, Kafka takes
/// both copies.
async fn answered_before_kafka_reports(break_line: impl AsyncFnOnce(&Proxy)) {
    let (kafka, [line]) = Kafka::start_behind().await.unwrap();
    let brokers = format!("127.0.0.1:{}", line.port());
    let own = [
        ("KAFKA_BROKERS", &*brokers),
        ("KAFKA_DELIVERY_TIMEOUT_MS", "10000"),
        ("SEND_DEADLINE_MS", "20000"),
        ("KAFKA_CB_RECOVERY_TIMEOUT", "500"),
    ];
    let gateway = Gateway::start(settings(&own).await).await;
    let (client, _events) = gateway.connect(&unique("alice")).await;
    let bob = unique("bob");
    let send = async || client.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": "x" })).await.unwrap();
    until("kafka takes messages", async || send().await["durability"] == "kafka").await;
    until("all are reported on", async || gateway.metric("holdfast_gateway_sends_in_flight").await == 0.0).await;

    let before = reports(&gateway).await;
    break_line(&line).await;
    let answer = send().await;
    assert_eq!((&answer["ok"], &answer["durability"]), (&json!(true), &json!("failed-queue")), "{answer}");
    assert_eq!(reports(&gateway).await, before, "kafka's client had not given it up");

    line.heal().await.unwrap();
    until("its client reports", async || reports(&gateway).await > before).await;
    until("it is replayed", async || gateway.metric("holdfast_failed_queue_replayed_total").await >= 1.0).await;
    until("kafka takes messages again", async || send().await["durability"] == "kafka").await;
    drop(kafka);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_broker_is_connected_a_send_is_queued_at_once() {
    answered_before_kafka_reports(async |line| line.cut().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_kafka_falls_silent_a_send_is_queued_before_its_delivery_timeout() {
    answered_before_kafka_reports(async |line| line.blackhole()).await;
}
