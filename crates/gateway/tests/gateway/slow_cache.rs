//! A cache that takes its time but answers: sends don't wait behind each other until they miss their deadline.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_bench::client::{Client, Events};
use holdfast_testkit::{Proxy, Redis, unique};
use serde_json::{Value, json};

use crate::support::{Gateway, settings, until};

/// A gateway whose line to its cache can be made slow, and some users of it.
struct Slow {
    line: Proxy,
    gateway: Gateway,
    users: Vec<(Client, Events)>,
    _cache: Redis,
}

impl Slow {
    async fn start(own: &[(&'static str, &str)], users: usize) -> Self {
        let cache = Redis::cache().await.unwrap();
        let line = Proxy::start(cache.port()).await.unwrap();
        let url = cache.url_at(line.port());
        let own: Vec<_> =
            own.iter().copied().chain([("REDIS_URL", &*url), ("SOCKET_EVENTS_PER_SECOND", "0")]).collect();
        let gateway = Gateway::start(settings(&own).await).await;
        let users = join_all((0..users).map(|_| async { gateway.connect(&unique("sender")).await })).await;
        Self { line, gateway, users, _cache: cache }
    }

    /// Each user sends so many messages at once; the answers.
    async fn burst(&self, each: usize) -> Vec<Value> {
        let friend = unique("friend");
        let send = async |client: &Client, number: usize| {
            let body = json!({ "friendId": friend, "content": number.to_string() });
            client.emit_with_ack("sendMessage", &body).await.unwrap()
        };
        let sends = self.users.iter().flat_map(|(client, _)| (0..each).map(move |number| (client, number)));
        join_all(sends.map(|(client, number)| send(client, number))).await
    }

    async fn opened(&self) -> f64 {
        let sample = r#"cache_circuit_breaker_transitions_total{dependency="redis",state="open"}"#;
        self.gateway.metric(sample).await
    }
}

fn assert_all_positive(answers: &[Value]) {
    let refused: Vec<_> = answers.iter().filter(|answer| answer["ok"] != true).collect();
    assert!(refused.is_empty(), "{} of {} sends were refused, as {}", refused.len(), answers.len(), refused[0]);
}

/// The defaults, and ten times as slow, for a machine that does not get through enough sends in their time.
#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_answered_positively_in_time_by_a_gateway_whose_cache_takes_nearly_its_budget() {
    for (budget, latency, deadline, each) in [("50", 45, "4000", 200), ("500", 450, "5400", 60)] {
        // With a limit the cache is asked twice for each batch.
        let own = [("REDIS_BUDGET_MS", budget), ("SEND_DEADLINE_MS", deadline), ("MESSAGE_LIMIT", "1000000")];
        let slow = Slow::start(&own, 20).await;
        slow.line.latency(Duration::from_millis(latency));
        assert_all_positive(&slow.burst(each).await);
        // What skipped the cache is listed all the same.
        until("nothing waits to be listed", async || {
            slow.gateway.metric("holdfast_gateway_relist_waiting").await == 0.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_holds_up_sends_again_and_again_is_gone_on_without_until_it_is_quick_again() {
    let own = [("REDIS_BUDGET_MS", "400"), ("SEND_DEADLINE_MS", "5200"), ("CACHE_CB_RECOVERY_TIMEOUT", "3600000")];
    let slow = Slow::start(&own, 10).await;
    slow.line.latency(Duration::from_millis(250));
    // Nobody waits behind the calls of one who waits for each answer.
    let (alice, _) = &slow.users[0];
    let send = async || {
        let body = json!({ "friendId": "bob", "content": "one at a time" });
        alice.emit_with_ack("sendMessage", &body).await.unwrap()
    };
    for _ in 0..8 {
        assert_all_positive(&[send().await]);
    }
    assert_eq!(slow.opened().await, 0.0);

    until("the breaker has opened", async || {
        assert_all_positive(&slow.burst(60).await);
        slow.opened().await >= 1.0
    })
    .await;
    slow.line.heal().await.unwrap();
    // The background call for the first of these finds it quick.
    until("sends have a position again", async || send().await["message"]["seq"].is_u64()).await;
}
