//! What changes with a setting, and what operators' hands leave behind.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions, eventually};
use holdfast_socketio_client::Client;
use holdfast_testkit::{connect_redis, shared, unique};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn durable_first_shows_a_message_once_it_is_durable_and_a_repeat_not_at_all() -> Result<()> {
    let mut options = StackOptions::patient(2);
    options.settings.push(("DELIVERY_MODE", "durable-first".to_owned()));
    let stack = Stack::start(&Backends::from(shared().await), options).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (sender, _) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let (on_near, mut near) = Client::connect(&stack.gateways[0].url, &stack.token(&bob)).await?;
    let (on_far, mut far) = Client::connect(&stack.gateways[1].url, &stack.token(&bob)).await?;
    // Answered once what is published reaches the connection.
    for client in [&on_near, &on_far] {
        client.emit_with_ack("resume", &json!({ "offsets": {} })).await?;
    }

    let body = json!({ "tempId": "t-1", "friendId": bob, "content": "hello" });
    let first = sender.emit_with_ack("sendMessage", &body).await?;
    let again = sender.emit_with_ack("sendMessage", &body).await?;
    ensure!(first["ok"] == true && first["message"]["seq"] == 1, "{first}");
    ensure!(again["duplicate"] == true && again["message"]["timestamp"] == first["message"]["timestamp"], "{again}");
    let last = sender.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": "last" })).await?;
    for events in [&mut near, &mut far] {
        for expected in [&first, &last] {
            let event = events.next_named("newMessage", LIVENESS).await.context("nothing came")?;
            ensure!(event["messageId"] == expected["message"]["messageId"], "{event}");
        }
    }
    eventually("both are stored", LIVENESS, async || {
        let count = stack.stored.of_chat(&format!("{alice}:{bob}")).await?.len();
        ensure!(count == 2, "{count}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_queue_entry_that_cannot_be_read_goes_to_the_dead_list_and_holds_up_no_other() -> Result<()> {
    let shared = shared().await;
    let stack = Stack::start(&Backends::from(shared), StackOptions { workers: 0, ..Default::default() }).await?;
    let (prefix, chat) = (&stack.key_prefix, format!("{}:{}", unique("alice"), unique("bob")));
    let (list, index) = (format!("{prefix}:failed:{{{chat}}}"), format!("{prefix}:failed:index"));
    let mut queue = connect_redis(&shared.redis_queue_url).await?;
    redis::pipe()
        .cmd("RPUSH")
        .arg(&list)
        .arg("garbage")
        .arg([0xc1_u8].as_slice())
        .cmd("ZADD")
        .arg(&index)
        .arg(0)
        .arg(&chat)
        .exec_async(&mut queue)
        .await?;
    let gateway = &stack.gateways[0];
    eventually("both are buried and the chat is forgotten", LIVENESS, async || {
        let (left, dead, known): (u64, u64, Option<f64>) = redis::pipe()
            .cmd("LLEN")
            .arg(&list)
            .cmd("LLEN")
            .arg(format!("{list}:dead"))
            .cmd("ZSCORE")
            .arg(&index)
            .arg(&chat)
            .query_async(&mut queue.clone())
            .await?;
        ensure!((left, dead, known) == (0, 2, None), "{left} left, {dead} dead, {known:?} in the index");
        let counted = gateway.metric("holdfast_failed_queue_dead_total").await?;
        ensure!(counted == 2.0, "{counted} counted");
        Ok(())
    })
    .await
}
