//! A cache that takes its time but answers: sends don't wait behind each other until they miss their deadline.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_testkit::{Proxy, Redis, unique, until};
use serde_json::{Value, json};

use crate::support::{Gateway, settings};

fn assert_all_positive(answers: &[Value]) {
    let refused: Vec<_> = answers.iter().filter(|answer| answer["ok"] != true).collect();
    assert!(refused.is_empty(), "{} of {} sends were refused, as {}", refused.len(), answers.len(), refused[0]);
}

/// The cache takes ten times its time as shipped, and Kafka may take 14 s, so that the machine's speed does not matter: one batch
/// of 64 after the other, this cache would take 25 s for these sends, and each may take 17 s.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_cache_that_takes_nearly_its_budget_all_sends_are_accepted_and_the_breaker_opens() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let url = cache.url_at(line.port());
    let own = [
        ("REDIS_URL", &*url),
        ("REDIS_BUDGET_MS", "500"),
        ("KAFKA_DELIVERY_TIMEOUT_MS", "14000"),
        ("SEND_DEADLINE_MS", "16900"),
        // With a limit the cache is asked twice for each batch.
        ("MESSAGE_LIMIT", "1000000"),
        ("SOCKET_EVENTS_PER_SECOND", "0"),
        ("CACHE_CB_RECOVERY_TIMEOUT", "3600000"),
    ];
    let gateway = Gateway::start(settings(&own).await).await;
    let users = join_all((0..20).map(|_| async { gateway.connect(&unique("sender")).await })).await;
    let friend = unique("friend");
    let send = async |user: usize, text: String| {
        let body = json!({ "friendId": friend, "content": text });
        users[user].0.emit_with_ack("sendMessage", &body).await.unwrap()
    };
    let opened =
        async || gateway.metric(r#"cache_circuit_breaker_transitions_total{dependency="redis",to="open"}"#).await;

    line.latency(Duration::from_millis(450));
    // Nobody waits behind the calls of one who waits for each answer.
    for number in 0..2 {
        assert_all_positive(&[send(0, number.to_string()).await]);
    }
    assert_eq!(opened().await, 0.0);
    let sends = (0..1800).map(|number| send(number % users.len(), number.to_string()));
    assert_all_positive(&join_all(sends).await);
    assert!(opened().await >= 1.0);

    line.heal().await.unwrap();
    // The background calls for what went on without the cache find it quick.
    until("sends have a position again", async || send(0, "again".to_owned()).await["message"]["seq"].is_u64()).await;
    until("nothing waits to be listed", async || gateway.metric("holdfast_gateway_relist_waiting").await == 0.0).await;
}
