//! One thing breaks at a time, under load, and comes back: at the end every acknowledged message is stored once. `scripts/faults` runs
//! all cases; here are the quick ones, and one run with the official Socket.IO client.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::faults::{self, CASES, Case, Row};
use holdfast_e2e::{Backends, Peer, Stack, StackOptions, eventually};
use holdfast_testkit::{Kafka, Mongo, Redis, unique};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// How long each server stays away.
const AWAY: Duration = Duration::from_secs(10);
/// Between one fault's end and the next.
const CALM: Duration = Duration::from_secs(4);
/// Messages a second, each way.
const RATE: usize = 25;

/// One test for each of these cases, and one that says if a quick case has none.
macro_rules! quick_cases {
    ($($test:ident: $name:literal),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() -> Result<()> {
                keeps_the_promise($name).await
            }
        )*

        #[test]
        fn every_quick_case_has_a_test() {
            let quick: Vec<_> = CASES.iter().filter(|case| case.quick).map(|case| case.name).collect();
            assert_eq!(quick, [$($name),*]);
        }
    };
}

quick_cases! {
    worker_killed_before_write: "worker-killed-before-write",
    kafka_refused: "kafka-refused",
    cache_killed: "cache-killed",
    client_cut: "client-cut",
}

/// Runs a fault case, one after the other: each has servers of its own, and keeps two cores busy.
pub(crate) async fn run_alone(case: &Case) -> Result<Row> {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    Ok(faults::run(case, 1).await?.0)
}

async fn keeps_the_promise(name: &str) -> Result<()> {
    let case = CASES.iter().find(|case| case.name == name).context("no such case")?;
    let row = run_alone(case).await?;
    ensure!(row.verdict.is_clean(), "{}", row.complaint());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_kafka_mongodb_and_redis_go_away_in_turn_and_nothing_acknowledged_is_lost() -> Result<()> {
    let (kafka, mongo, cache, queue) =
        tokio::try_join!(Kafka::start(), Mongo::start(), Redis::cache(), Redis::queue())?;
    let backends =
        Backends { redis: cache.url(), redis_queue: queue.url(), mongo: mongo.url(), kafka: kafka.brokers() };
    let settings = vec![("RECENT_VERIFY_SECS", "2".into()), ("CACHE_CB_RECOVERY_TIMEOUT", "2000".into())];
    let stack = Stack::start(&backends, StackOptions { settings, ..Default::default() }).await?;
    let (alice, bob) = (unique("alice"), unique("bob"));

    // One fault of 10 s and a calm for each of four servers, and the worker's death before.
    let seconds = (4 * (AWAY + CALM) + 2 * CALM).as_secs() as usize;
    let count = (seconds * RATE).to_string();
    let start = async |user: &str, friend: &str| {
        let (token, rate) = (stack.token(user), RATE.to_string());
        let peers = ["--url", stack.url(), "--token", &token, "--friend", friend, "--send", &count, "--expect", &count];
        let more = ["--rate", &rate, "--inflight", "200", "--catch-up", "--wait", "--timeout", "240"];
        Peer::start(&[&peers[..], &more[..]].concat()).await
    };
    let (mut one, mut other) = (start(&alice, &bob).await?, start(&bob, &alice).await?);
    one.go().await?;
    other.go().await?;

    sleep(CALM).await;
    let worker = &stack.workers[0];
    worker.program.kill9().await?;
    worker.program.start_again()?;
    sleep(CALM).await;
    kafka.stop().await?;
    sleep(AWAY).await;
    kafka.start_again().await?;
    sleep(CALM).await;
    mongo.stop().await?;
    sleep(AWAY).await;
    mongo.start_again().await?;
    sleep(CALM).await;
    cache.stop().await?;
    sleep(AWAY).await;
    cache.start_again().await?;
    sleep(CALM).await;
    queue.stop().await?;
    sleep(AWAY).await;
    queue.start_again().await?;

    let (one, other) = tokio::try_join!(one.report(), other.report())?;
    let ways = [one.durability(), other.durability()];
    ensure!(ways.iter().any(|ways| ways.contains_key("failed-queue")), "kafka's absence went unnoticed: {ways:?}");

    let gateway = &stack.gateways[0];
    let chat = format!("{alice}:{bob}");
    eventually("the failed queue drains", Duration::from_secs(90), async || {
        let waiting = gateway.metric("holdfast_failed_queue_messages").await?;
        ensure!(waiting == 0.0, "{waiting} wait");
        Ok(())
    })
    .await?;
    eventually("every acknowledged message is stored once", Duration::from_secs(60), async || {
        let stored = stack.stored.of_chat(&chat).await?;
        let mut acknowledged = one.acknowledged();
        acknowledged.extend(other.acknowledged());
        let lost = acknowledged.keys().filter(|id| !stored.contains_key(**id)).count();
        ensure!(lost == 0, "{lost} of {} are not stored", acknowledged.len());
        Ok(())
    })
    .await?;

    // Whole in the store, and in the cache: the newest page from the list alone says the same.
    let stored = stack.stored.history(&chat).await?;
    let token = stack.token(&alice);
    let history = ["--mode", "history", "--url", stack.url(), "--token", &token, "--friend", &bob];
    let pages = Peer::start(&history).await?.report().await?;
    ensure!(pages.history() == stored, "history differs from what is stored");
    let (client, _) = holdfast_socketio_client::Client::connect(stack.url(), &token).await?;
    eventually("the recent list answers alone, and whole", Duration::from_secs(20), async || {
        let page = client.emit_with_ack("history", &serde_json::json!({ "friendId": bob, "limit": 50 })).await?;
        ensure!(page["source"] == "cache" && page["complete"] == true, "{} {}", page["source"], page["complete"]);
        let ids = page["messages"].as_array().into_iter().flatten().filter_map(|message| message["messageId"].as_str());
        ensure!(ids.eq(stored.iter().take(50).map(String::as_str)), "the list differs from what is stored");
        Ok(())
    })
    .await
}
