//! A group as large as one may be, over two gateways.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_bench::usage::{Watched, cpu};
use holdfast_e2e::{Backends, Stack, StackOptions, insist};
use holdfast_socketio_client::Client;
use holdfast_testkit::{shared, unique};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const SENDS: usize = 5;
const SOON: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_send_to_a_thousand_members_reaches_each_of_them_once_and_is_stored() -> Result<()> {
    sends_reach_each_member_once(StackOptions::patient(2), 1000).await
}

/// With the settings that are shipped, and as many members as may be added at once with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_send_reaches_each_member_once_with_the_settings_that_are_shipped() -> Result<()> {
    sends_reach_each_member_once(StackOptions::shipped(2), 250).await
}

async fn sends_reach_each_member_once(options: StackOptions, count: usize) -> Result<()> {
    let stack = Arc::new(Stack::start(&Backends::from(shared().await), options).await?);
    let name = unique("member");
    let users: Vec<_> = (0..count).map(|number| format!("{name}-{number:03}")).collect();
    let headers = [
        "content-type: application/json".into(),
        "idempotency-key: all".into(),
        format!("authorization: Bearer {}", stack.token(&users[0])),
    ];
    let new = json!({ "name": "everybody", "members": users[1..] }).to_string();
    let made = insist(stack.url(), "POST", "/api/chats", &headers, &new).await?;
    ensure!(matches!(made.status, 200 | 201), "{made:?}");
    let chat = made.body["chatId"].as_str().context("a chat")?.to_owned();

    let (heard, mut arrivals) = mpsc::unbounded_channel::<(usize, String, Instant)>();
    let connect = |(number, user): (usize, &String)| {
        let (url, token, heard) = (&stack.gateways[number % 2].url, stack.token(user), heard.clone());
        async move {
            let auth = json!({ "token": token });
            let client = Client::connect_to(url, &auth, move |event| {
                if event.name == "newMessage" {
                    let content = serde_json::from_str::<Value>(event.data).unwrap_or_default()["content"].to_string();
                    let _ = heard.send((number, content, Instant::now()));
                }
            });
            let client = client.await?;
            // Answered once what is for its groups reaches it.
            client.emit_with_ack("resume", &json!({ "offsets": {} })).await.map_err(|_| anyhow::anyhow!("closed"))?;
            anyhow::Ok(client)
        }
    };
    let clients: Vec<_> = stream::iter(users.iter().enumerate().map(connect)).buffered(32).try_collect().await?;

    let watched: Vec<Watched> = (stack.gateways.iter().enumerate())
        .map(|(number, gateway)| Watched { name: format!("gateway {number}"), pid: gateway.program.pid() })
        .collect();
    for (send, client) in clients.iter().take(SENDS).enumerate() {
        let (before, started) = (cpu(&watched), Instant::now());
        let payload = json!({ "chatId": chat, "content": format!("send {send}") });
        let answer = client.emit_with_ack("sendMessage", &payload).await.context("an answer")?;
        let answered = started.elapsed();
        ensure!(answer["ok"] == true, "{answer}");
        let mut times = BTreeMap::new();
        while times.len() < count {
            let (member, content, at) = tokio::time::timeout(SOON, arrivals.recv()).await?.context("arrivals")?;
            ensure!(content == format!("\"send {send}\""), "{member} hears {content} late or twice");
            ensure!(times.insert(member, at - started).is_none(), "{member} hears it twice");
        }
        let (first, last) = (times.values().min().context("one")?, times.values().max().context("one")?);
        let cost: Vec<_> = cpu(&watched)
            .into_iter()
            .map(|(name, after)| format!("{name} {:?} of CPU", after - before[&name]))
            .collect();
        println!(
            "a send to {count} sockets over 2 gateways: answered after {answered:.1?}, heard by the first after {first:.1?}, \
             by the last after {last:.1?}; {}",
            cost.join(", "),
        );
    }
    // Nothing came twice behind the last one.
    ensure!(arrivals.try_recv().is_err(), "something came twice");
    let deadline = Instant::now() + SOON;
    while stack.stored.count().await? < SENDS as u64 {
        ensure!(Instant::now() < deadline, "not stored in time");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
