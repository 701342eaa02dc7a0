//! A send that is repeated, from wherever, is the same message.

use anyhow::{Result, ensure};
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions, eventually};
use holdfast_socketio_client::Client;
use holdfast_testkit::{Redis, shared, unique};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_by_another_connection_and_gateway_is_the_same_message_and_another_body_is_another() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::patient(2)).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (one, _) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let (same_gateway, _) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let (other_gateway, _) = Client::connect(&stack.gateways[1].url, &stack.token(&alice)).await?;
    let (receiver, mut events) = Client::connect(&stack.gateways[1].url, &stack.token(&bob)).await?;
    // Answered once what is published reaches the connection.
    receiver.emit_with_ack("resume", &json!({ "offsets": {} })).await?;

    let body = json!({ "tempId": "t-1", "friendId": bob, "content": "hello" });
    let first = one.emit_with_ack("sendMessage", &body).await?;
    ensure!(first["ok"] == true && first["durability"] == "kafka" && first.get("duplicate").is_none(), "{first}");
    for client in [&one, &same_gateway, &other_gateway] {
        let again = client.emit_with_ack("sendMessage", &body).await?;
        ensure!(again["ok"] == true && again["duplicate"] == true, "{again}");
        ensure!(again["message"]["messageId"] == first["message"]["messageId"], "{again}");
        ensure!(again["message"]["timestamp"] == first["message"]["timestamp"], "{again}");
    }
    let other = json!({ "tempId": "t-1", "friendId": bob, "content": "another" });
    let another = other_gateway.emit_with_ack("sendMessage", &other).await?;
    ensure!(another["message"]["messageId"] != first["message"]["messageId"], "{another}");

    // The last message is the sentinel: by then a second copy of the first would have come.
    let last =
        one.emit_with_ack("sendMessage", &json!({ "tempId": "t-2", "friendId": bob, "content": "last" })).await?;
    let mut seen = Vec::new();
    while seen.last() != Some(&last["message"]["messageId"]) {
        let event = events.next_named("newMessage", LIVENESS).await;
        let Some(event) = event else { anyhow::bail!("the last message never came; seen: {seen:?}") };
        seen.push(event["messageId"].clone());
    }
    let expected = [&first, &another, &last].map(|answer| answer["message"]["messageId"].clone());
    ensure!(seen == expected, "{seen:?} instead of {expected:?}");
    eventually("three messages are stored", LIVENESS, async || {
        let count = stack.stored.of_chat(&format!("{alice}:{bob}")).await?.len();
        ensure!(count == 3, "{count}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_keeps_its_time_while_the_cache_is_away() -> Result<()> {
    let cache = Redis::cache().await?;
    let backends = Backends { redis: cache.url(), ..Backends::from(shared().await) };
    let stack = Stack::start(&backends, StackOptions { workers: 0, ..Default::default() }).await?;
    let (client, _) = Client::connect(stack.url(), &stack.token(&unique("alice"))).await?;
    let body = json!({ "tempId": "t-1", "friendId": unique("bob"), "content": "hello" });
    let first = client.emit_with_ack("sendMessage", &body).await?;
    cache.stop().await?;
    let again = client.emit_with_ack("sendMessage", &body).await?;
    ensure!(again["ok"] == true && again["message"]["seq"].is_null(), "{again}");
    ensure!(again["message"]["timestamp"] == first["message"]["timestamp"], "{again} after {first}");
    Ok(())
}
