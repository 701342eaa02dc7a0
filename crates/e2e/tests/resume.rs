//! A client that was away for a moment gets exactly what it missed, or is told that nobody knows.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions};
use holdfast_socketio_client::{Client, Events};
use holdfast_testkit::{Redis, shared, unique};
use serde_json::{Value, json};

async fn send(client: &Client, friend: &str, content: &str) -> Result<Value> {
    let answer = client.emit_with_ack("sendMessage", &json!({ "friendId": friend, "content": content })).await?;
    ensure!(answer["ok"] == true, "{answer}");
    Ok(answer["message"].clone())
}

async fn resumed(events: &mut Events, chat: &str) -> Result<Value> {
    let answer = events.next_named("resumed", LIVENESS).await.context("no `resumed`")?;
    Ok(answer["chats"][chat].clone())
}

fn ids(messages: &Value) -> Vec<&str> {
    messages.as_array().into_iter().flatten().filter_map(|message| message["messageId"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_missed_comes_back_in_order() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::patient(2)).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let chat = format!("{alice}:{bob}");
    let (sender, _) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let first = send(&sender, &bob, "seen").await?;
    let mut missed = Vec::new();
    for index in 0..20 {
        missed.push(send(&sender, &bob, &format!("missed {index}")).await?);
    }
    let expected: Vec<_> = missed.iter().filter_map(|message| message["messageId"].as_str()).collect();

    let offsets = json!({ chat.clone(): { "epoch": first["epoch"], "seq": first["seq"] }, "xaver:zoe": { "epoch": "e", "seq": 1 } });
    let auth = json!({ "token": stack.token(&bob), "offsets": offsets });
    let (receiver, mut events) = Client::connect_with(&stack.gateways[1].url, &auth).await?;
    let of_chat = resumed(&mut events, &chat).await?;
    ensure!(of_chat["recovered"] == true && ids(&of_chat["messages"]) == expected, "{of_chat}");
    ensure!(of_chat["seq"] == missed[19]["seq"] && of_chat["epoch"] == first["epoch"], "{of_chat}");

    let again = receiver.emit_with_ack("resume", &json!({ "offsets": offsets })).await?;
    ensure!(again["ok"] == true && ids(&again["chats"][&chat]["messages"]) == expected, "{again}");
    let foreign = &again["chats"]["xaver:zoe"];
    ensure!(*foreign == json!({ "recovered": false, "epoch": null, "seq": null }), "{foreign}");
    for offset in
        [json!({ "epoch": "another", "seq": 1 }), json!({ "epoch": first["epoch"], "seq": 1_000 }), json!("x")]
    {
        let answer = receiver.emit_with_ack("resume", &json!({ "offsets": { chat.clone(): offset } })).await?;
        ensure!(answer["chats"][&chat]["recovered"] == false, "{answer}");
    }
    let wrong = receiver.emit_with_ack("resume", &json!({ "offsets": 7 })).await?;
    ensure!(wrong["error"]["code"] == "VALIDATION", "{wrong}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_cache_lost_its_data_nothing_is_recovered_and_clients_are_told_to_resync() -> Result<()> {
    let cache = Redis::cache().await?;
    let backends = Backends { redis: cache.url(), ..Backends::from(shared().await) };
    let stack = Stack::start(&backends, StackOptions { workers: 0, ..Default::default() }).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let chat = format!("{alice}:{bob}");
    let (client, mut events) = Client::connect(stack.url(), &stack.token(&alice)).await?;
    let before = send(&client, &bob, "before").await?;
    cache.stop().await?;
    let without = send(&client, &bob, "without the cache").await?;
    ensure!(without["seq"].is_null() && without["epoch"].is_null(), "{without}");
    cache.start_again().await?;
    events.next_named("resync", LIVENESS).await.context("no `resync`")?;

    let offsets = json!({ "offsets": { chat.clone(): { "epoch": before["epoch"], "seq": before["seq"] } } });
    let answer = client.emit_with_ack("resume", &offsets).await?;
    ensure!(answer["chats"][&chat]["recovered"] == false, "{answer}");
    Ok(())
}
