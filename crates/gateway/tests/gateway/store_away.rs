//! While MongoDB is away requests are answered at once with what else is known.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_socketio_client::Client;
use holdfast_testkit::{Mongo, Proxy, unique, until};
use serde_json::{Value, json};

use crate::support::{Gateway, send, settings};

/// What the driver takes to give a server up, and so a request without a breaker.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(2);
/// How long the breaker stays open here.
const RECOVERY: &str = "8000";

async fn history(client: &Client, friend: &str, more: Value) -> Value {
    let mut request = json!({ "friendId": friend, "limit": 1 });
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.emit_with_ack("history", &request).await.unwrap()
}

async fn breaker_is(gateway: &Gateway, state: &str, gauge: f64) -> bool {
    gateway.health("/dependencies/mongodb/breaker").await == state
        && gateway.metric("cache_circuit_breaker_state{dependency=\"mongodb\"}").await == gauge
}

async fn answers_at_once_without_the_store_and_finds_it_again(lose: impl AsyncFnOnce(&Proxy)) {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    // A list that answers alone asks no store, and so probes nothing.
    let own = [("MONGO_URL", url.as_str()), ("MONGO_CB_RECOVERY_TIMEOUT", RECOVERY), ("RECENT_VERIFY_SECS", "1")];
    let gateway = Gateway::start(settings(&own).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _events) = gateway.connect(&alice).await;
    for content in ["first", "second"] {
        send(&client, &bob, content).await;
    }
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    assert!(breaker_is(&gateway, "closed", 0.0).await);

    lose(&line).await;
    let first = join_all((0..8).map(|_| history(&client, &bob, json!({})))).await;
    assert!(first.iter().all(|page| page["ok"] == true && page["complete"] == false), "{first:?}");
    assert!(breaker_is(&gateway, "open", 1.0).await);

    // Without a breaker each of a hundred requests would be held until the driver gives up.
    let mut held = 0;
    let mut timed = async |request: Value| {
        let asked = Instant::now();
        let answer = history(&client, &bob, request).await;
        held += u32::from(asked.elapsed() >= GIVEN_UP_AFTER);
        answer
    };
    for _ in 0..50 {
        let page = timed(json!({})).await;
        assert_eq!((&page["complete"], &page["messages"][0]["content"]), (&json!(false), &json!("second")), "{page}");
        let older = timed(json!({ "before": page["nextCursor"] })).await;
        assert_eq!((&older["error"]["code"], &older["error"]["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    }
    assert!(held <= 10, "{held} of a hundred requests waited for the store");
    send(&client, &bob, "sending goes on").await;

    line.heal().await.unwrap();
    until("a page is whole again", async || history(&client, &bob, json!({})).await["complete"] == true).await;
    // Real requests are the probes, and it takes three.
    until("closed", async || {
        history(&client, &bob, json!({})).await;
        breaker_is(&gateway, "closed", 0.0).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_says_nothing_holds_up_a_few_requests_and_no_more() {
    answers_at_once_without_the_store_and_finds_it_again(async |line| line.blackhole()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mongodb_that_cannot_be_reached_holds_up_a_few_requests_and_no_more() {
    answers_at_once_without_the_store_and_finds_it_again(async |line| line.cut().await).await;
}
