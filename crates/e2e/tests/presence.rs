//! A gateway that is killed takes its users offline, for everybody else, and leaves no ghost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Backends, LIVENESS, Stack, StackOptions, eventually};
use holdfast_socketio_client::Client;
use holdfast_testkit::{connect_redis, shared, unique};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn users_of_a_killed_gateway_are_offline_to_others_in_time_and_stay_so() -> Result<()> {
    let (ttl, mut options) = (Duration::from_secs(9), StackOptions::patient(2));
    options.settings.push(("CACHE_PRESENCE_TTL", ttl.as_secs().to_string()));
    a_gateway_is_killed(options, ttl).await
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_are_with_the_settings_that_are_shipped() -> Result<()> {
    a_gateway_is_killed(StackOptions::shipped(2), Duration::from_secs(90)).await
}

/// Until when the last connection counts as online without another heartbeat, in epoch milliseconds.
async fn latest_expiry(stack: &Stack) -> Result<i64> {
    let mut redis = connect_redis(&shared().await.redis_cache_url).await?;
    let mut command = redis::cmd("ZRANGE");
    command.arg(format!("{}:v1:online", stack.key_prefix)).arg(-1).arg(-1).arg("WITHSCORES");
    let found: Vec<(String, f64)> = command.query_async(&mut redis).await?;
    Ok(found.first().context("nobody is online")?.1 as i64)
}

/// `ttl`: how long a connection counts as online without a heartbeat.
async fn a_gateway_is_killed(options: StackOptions, ttl: Duration) -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), options).await?;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (watcher, mut events) = Client::connect(&stack.gateways[0].url, &stack.token(&bob)).await?;
    let (victim, _events) = Client::connect(&stack.gateways[1].url, &stack.token(&alice)).await?;
    let (survivor, _events) = Client::connect(&stack.gateways[1].url, &stack.token(&carol)).await?;
    for client in [&victim, &survivor] {
        let hello = json!({ "friendId": bob, "content": "hello", "tempId": "hello" });
        eventually("a hello is accepted", LIVENESS, async || {
            let answer = client.emit_with_ack("sendMessage", &hello).await?;
            ensure!(answer["ok"] == true, "{answer}");
            Ok(())
        })
        .await?;
    }
    eventually("both chats are stored", LIVENESS, async || {
        ensure!(stack.stored.count().await? == 2, "they are not");
        Ok(())
    })
    .await?;
    let online = async |user: &str| {
        let answer = watcher.emit_with_ack("presence", &json!({ "userIds": [user] })).await?;
        answer["online"][user].as_bool().with_context(|| answer.to_string())
    };
    eventually("they are online", LIVENESS, async || {
        ensure!(online(&alice).await? && online(&carol).await?, "they are not");
        Ok(())
    })
    .await?;
    events.arrived();

    stack.gateways[1].program.kill9().await?;
    // Whoever asks from then on is told "offline": nobody is left to prolong these.
    let latest = latest_expiry(&stack).await?;
    let now_ms = holdfast_e2e::ledger::now_ms();
    ensure!(latest <= now_ms + ttl.as_millis() as i64, "online until {latest}, and it is {now_ms}");
    // One of them comes back at once, elsewhere: she was never gone.
    let (_returned, _events) = Client::connect(&stack.gateways[0].url, &stack.token(&carol)).await?;
    let gone = events.next_named("presence", ttl + LIVENESS).await.context("nobody is told")?;
    ensure!(gone["userId"] == alice && gone["online"] == false, "{gone}");
    eventually("alice alone is offline", LIVENESS, async || {
        ensure!(!online(&alice).await? && online(&carol).await?, "she is not");
        Ok(())
    })
    .await?;
    let last_seen = watcher.emit_with_ack("presence", &json!({ "userIds": [alice] })).await?;
    ensure!(last_seen["lastSeen"][&alice] == gone["lastSeen"], "{last_seen}");
    // No ghost, and nobody is told again: the next to be told of comes after a while.
    tokio::time::sleep(ttl.min(Duration::from_secs(10))).await;
    ensure!(!online(&alice).await?, "a ghost");
    let (_again, _events) = Client::connect(&stack.gateways[0].url, &stack.token(&alice)).await?;
    let came = events.next_named("presence", LIVENESS).await.context("nobody is told")?;
    ensure!(came["userId"] == alice && came["online"] == true, "{came}");
    Ok(())
}
