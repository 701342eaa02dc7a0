//! A gateway that is killed takes its users offline, for everybody else, and leaves no ghost.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use holdfast_bench::client::Client;
use holdfast_e2e::{Backends, Stack, StackOptions, eventually};
use holdfast_testkit::{shared, unique};
use serde_json::json;

/// How long a connection counts as online here; 90 s by default.
const TTL: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_killed_gateway_are_offline_to_others_in_time_and_stay_so() -> Result<()> {
    // A cache that is given time answers on a busy machine, too.
    let settings = vec![
        ("CACHE_PRESENCE_TTL", TTL.as_secs().to_string()),
        ("REDIS_BUDGET_MS", "5000".to_owned()),
        ("SEND_DEADLINE_MS", "20000".to_owned()),
    ];
    let options = StackOptions { gateways: 2, settings, ..Default::default() };
    let stack = Stack::start(&Backends::from(shared().await), options).await?;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (watcher, mut events) = Client::connect(&stack.gateways[0].url, &stack.token(&bob)).await?;
    let (victim, _events) = Client::connect(&stack.gateways[1].url, &stack.token(&alice)).await?;
    let (survivor, _events) = Client::connect(&stack.gateways[1].url, &stack.token(&carol)).await?;
    for client in [&victim, &survivor] {
        let answer = client.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": "hello" })).await?;
        ensure!(answer["ok"] == true, "{answer}");
    }
    eventually("both chats are stored", Duration::from_secs(20), async || {
        ensure!(stack.stored.count().await? == 2, "they are not");
        Ok(())
    })
    .await?;
    let online = async |user: &str| {
        let answer = watcher.emit_with_ack("presence", &json!({ "userIds": [user] })).await?;
        answer["online"][user].as_bool().with_context(|| answer.to_string())
    };
    eventually("they are online", Duration::from_secs(20), async || {
        ensure!(online(&alice).await? && online(&carol).await?, "they are not");
        Ok(())
    })
    .await?;
    events.arrived();

    stack.gateways[1].program.kill9().await?;
    let killed = Instant::now();
    // One of them comes back at once, elsewhere: she was never gone.
    let (_returned, _events) = Client::connect(&stack.gateways[0].url, &stack.token(&carol)).await?;
    let gone = events.next_named("presence", TTL).await.context("nobody is told in time")?;
    ensure!(gone["userId"] == alice && gone["online"] == false, "{gone}");
    ensure!(killed.elapsed() <= TTL, "{:?}", killed.elapsed());
    ensure!(!online(&alice).await? && online(&carol).await?, "alice alone is offline");
    let last_seen = watcher.emit_with_ack("presence", &json!({ "userIds": [alice] })).await?;
    ensure!(last_seen["lastSeen"][&alice] == gone["lastSeen"], "{last_seen}");
    // No ghost, and nobody is told again: the next to be told of comes and goes after a whole life.
    tokio::time::sleep(TTL).await;
    ensure!(!online(&alice).await?, "a ghost");
    let (_again, _events) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let came = events.next_named("presence", TTL).await.context("nobody is told")?;
    ensure!(came["userId"] == alice && came["online"] == true, "{came}");
    Ok(())
}
