//! Everything works: a message from one user to the other, to Kafka, to MongoDB, and back as history.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use holdfast_e2e::{Backends, LIVENESS, Peer, Report, Stack, StackOptions, eventually};
use holdfast_testkit::{request, shared, unique};
use serde_json::json;

/// Two official clients exchange `count` messages each way; then everything must be where it belongs.
async fn exchange(stack: &Stack, transport: &str, count: usize) -> Result<()> {
    let (alice, bob) = (unique("alice"), unique("bob"));
    let peer = |user: &str, friend: &str| {
        let count = count.to_string();
        let arguments =
            ["--url", stack.url(), "--token", &stack.token(user), "--friend", friend, "--transport", transport]
                .map(str::to_owned);
        let more = ["--send", &count, "--expect", &count, "--wait", "--linger", "1"].map(str::to_owned);
        async move { Peer::start(&[&arguments[..], &more[..]].concat()).await }
    };
    let (mut one, mut other) = (peer(&alice, &bob).await?, peer(&bob, &alice).await?);
    one.go().await?;
    other.go().await?;
    let (one, other) = tokio::try_join!(one.report(), other.report())?;

    for (report, of_friend, friend) in [(&one, &other, &bob), (&other, &one, &alice)] {
        ensure!(report.durability() == [("kafka", count)].into(), "{:?}", report.durability());
        let received = report.received_once(friend)?;
        ensure!(received == of_friend.acknowledged().into_keys().collect(), "live delivery differs from what was sent");
    }
    let chat = format!("{alice}:{bob}");
    all_stored(stack, &chat, &[&one, &other]).await?;
    same_history(stack, &chat, &alice, &bob, 2 * count).await
}

async fn all_stored(stack: &Stack, chat: &str, reports: &[&Report]) -> Result<()> {
    eventually("every acknowledged message is stored once", LIVENESS, async || {
        let stored = stack.stored.of_chat(chat).await?;
        for ack in reports.iter().flat_map(|report| report.acknowledged().into_iter()) {
            let (id, ack) = ack;
            let document = stored.get(id);
            let Some(document) = document else { anyhow::bail!("{id} is not stored") };
            ensure!(document.get_i64("timestamp")? == ack["timestamp"].as_i64().unwrap_or(0), "{id} has another time");
        }
        Ok(())
    })
    .await
}

async fn same_history(stack: &Stack, chat: &str, alice: &str, bob: &str, count: usize) -> Result<()> {
    let read = async |user: &str, friend: &str| {
        let token = stack.token(user);
        let arguments = ["--mode", "history", "--url", stack.url(), "--token", &token, "--friend", friend];
        Peer::start(&arguments).await?.report().await
    };
    let (one, other) = (read(alice, bob).await?, read(bob, alice).await?);
    let stored = stack.stored.history(chat).await?;
    ensure!(one.history().len() == count, "{} of {count} in history", one.history().len());
    ensure!(one.history() == other.history(), "the two users see different orders");
    ensure!(one.history() == stored, "history differs from what is stored");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_official_clients_exchange_messages_over_websocket_and_polling() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::default()).await?;
    exchange(&stack, "websocket", 1000).await?;
    exchange(&stack, "polling", 100).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_journey_over_rest() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::default()).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let send = async |user: &str, friend: &str, index: usize| {
        let headers = [
            format!("authorization: Bearer {}", stack.token(user)),
            "content-type: application/json".into(),
            format!("idempotency-key: {user}-{index}"),
        ];
        let body = json!({ "friendId": friend, "content": format!("message {index}") }).to_string();
        let first = request(stack.url(), "POST", "/api/chat/messages", &headers, &body).await?;
        ensure!(first.status == 201 && first.body["durability"] == "kafka", "{first:?}");
        if index.is_multiple_of(10) {
            let again = request(stack.url(), "POST", "/api/messages/send", &headers, &body).await?;
            ensure!(again.status == 200 && again.body["duplicate"] == true, "{again:?}");
            ensure!(again.body["message"]["messageId"] == first.body["message"]["messageId"], "{again:?}");
            ensure!(again.body["message"]["timestamp"] == first.body["message"]["timestamp"], "{again:?}");
        }
        Ok(())
    };
    for batch in (0..100).collect::<Vec<_>>().chunks(10) {
        try_join_all(batch.iter().map(|index| send(&alice, &bob, *index))).await?;
        try_join_all(batch.iter().map(|index| send(&bob, &alice, *index))).await?;
    }
    let chat = format!("{alice}:{bob}");
    eventually("all are stored", LIVENESS, async || {
        let count = stack.stored.of_chat(&chat).await?.len();
        ensure!(count == 200, "{count} stored");
        Ok(())
    })
    .await?;

    let mut orders = Vec::new();
    for (user, friend) in [(&alice, &bob), (&bob, &alice)] {
        let headers = [format!("authorization: Bearer {}", stack.token(user))];
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/chat/messages/{friend}?limit=33{cursor}");
            let page = request(stack.url(), "GET", &path, &headers, "").await?;
            ensure!(page.status == 200 && page.body["complete"] == true, "{page:?}");
            let messages = page.body["messages"].as_array().cloned().unwrap_or_default();
            ids.extend(messages.iter().filter_map(|message| message["messageId"].as_str().map(str::to_owned)));
            match page.body["nextCursor"].as_str() {
                Some(next) => cursor = format!("&before={next}"),
                None => break,
            }
        }
        orders.push(ids);
    }
    ensure!(orders[0] == stack.stored.history(&chat).await?, "history differs from what is stored");
    ensure!(orders[0] == orders[1], "the two users see different orders");
    Ok(())
}
