//! Operators hold circuit breakers, and sends go on by the other way.

use holdfast_socketio_client::Client;
use holdfast_testkit::{request, unique};
use serde_json::{Value, json};

use crate::support::{Gateway, settings};

async fn send(client: &Client, friend: &str) -> Value {
    client.emit_with_ack("sendMessage", &json!({ "friendId": friend, "content": "x" })).await.unwrap()
}

async fn turn(gateway: &Gateway, breaker: &str, to: &str) -> u16 {
    request(&gateway.ops_url(), "POST", &format!("/breakers/{breaker}/{to}"), &[], "").await.unwrap().status
}

async fn breaker(gateway: &Gateway, dependency: &str) -> Value {
    gateway.health(&format!("/dependencies/{dependency}/breaker")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_holds_a_breaker_and_sends_go_the_other_way() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _events) = gateway.connect(&alice).await;

    assert_eq!(turn(&gateway, "redis", "open").await, 204);
    assert_eq!(breaker(&gateway, "redis").await, "open");
    assert_eq!(gateway.metric("cache_circuit_breaker_state{dependency=\"redis\"}").await, 1.0);
    let answer = send(&client, &bob).await;
    assert_eq!((&answer["ok"], &answer["message"]["seq"]), (&json!(true), &Value::Null), "{answer}");
    assert_eq!(turn(&gateway, "redis", "auto").await, 204);
    assert_eq!(breaker(&gateway, "redis").await, "closed");
    let answer = send(&client, &bob).await;
    assert!(answer["message"]["seq"].is_u64(), "{answer}");

    assert_eq!(turn(&gateway, "kafka", "open").await, 204);
    let answer = send(&client, &bob).await;
    assert_eq!(answer["durability"], "failed-queue", "{answer}");
    assert_eq!(turn(&gateway, "kafka", "close").await, 204);
    assert_eq!(send(&client, &bob).await["durability"], "kafka");
    let opened = "cache_circuit_breaker_transitions_total{dependency=\"kafka\",to=\"open\"}";
    assert_eq!(gateway.metric(opened).await, 1.0);

    assert_eq!(turn(&gateway, "queue", "open").await, 404, "the failed queue is behind none");
}
