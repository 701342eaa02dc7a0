//! Where the failed queue is required, a server that would not keep what it is given keeps the gateway from becoming ready.

use holdfast_testkit::{Redis, RedisOptions, Role, unique, until};
use redis::aio::MultiplexedConnection;
use serde_json::json;

use crate::support::{Gateway, settings, with};

async fn set(raw: &mut MultiplexedConnection, name: &str, value: &str) {
    redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(raw).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_on_a_server_that_evicts_keeps_a_gateway_from_becoming_ready_unless_that_is_allowed() {
    // As when `REDIS_QUEUE_URL` was forgotten.
    let cache = Redis::start(RedisOptions { role: Role::Cache, ..RedisOptions::default() }).await.unwrap();
    let own = [("REDIS_URL", &*cache.url()), ("REDIS_QUEUE_URL", "")];
    let settings = settings(&own).await;
    let gateway = Gateway::begin(settings.clone()).await;
    until("it is asked and refused for its settings", async || gateway.unready().await.contains("may evict")).await;
    until("kafka is there", async || gateway.health("/dependencies/kafka/up").await == true).await;
    let unready = gateway.unready().await;
    assert!(unready.contains("FAILED_QUEUE_REQUIRED") && unready.contains("allkeys-lru"), "{unready}");
    assert_eq!(gateway.health("/status").await, "waiting");

    let allowed = Gateway::start(with(&settings, "FAILED_QUEUE_REQUIRED", "false")).await;
    let (client, _events) = allowed.connect(&unique("alice")).await;
    let answer =
        client.emit_with_ack("sendMessage", &json!({ "friendId": unique("bob"), "content": "x" })).await.unwrap();
    assert_eq!(answer["durability"], "kafka", "{answer}");
    assert_eq!(allowed.health("/status").await, "degraded");

    // Mended while it waits, it becomes ready; and what changes after that is told, and takes nobody out of service.
    let client = redis::Client::open(cache.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    set(&mut raw, "maxmemory-policy", "noeviction").await;
    set(&mut raw, "appendonly", "yes").await;
    until("it is ready", async || gateway.unready().await.is_empty()).await;
    until("the queue is usable", async || gateway.metric("holdfast_failed_queue_usable").await == 1.0).await;
    set(&mut raw, "appendonly", "no").await;
    until("the queue is not", async || gateway.metric("holdfast_failed_queue_usable").await == 0.0).await;
    assert_eq!(gateway.metric("holdfast_degraded{reason=\"failed_queue_no_aof\"}").await, 1.0);
    assert_eq!(gateway.metric("holdfast_degraded{reason=\"failed_queue_evicts\"}").await, 0.0);
    assert_eq!(gateway.metric("holdfast_dependency_up{dependency=\"redis_queue\"}").await, 1.0, "it answers");
    assert_eq!(gateway.metric("holdfast_ready").await, 1.0);
    assert_eq!(gateway.health("/status").await, "degraded");
    assert_eq!(gateway.unready().await, "", "once ready, only draining makes it unready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_away_keeps_no_gateway_from_becoming_ready() {
    let queue = Redis::queue().await.unwrap();
    queue.kill9().await.unwrap();
    let gateway = Gateway::start(settings(&[("REDIS_QUEUE_URL", &*queue.url())]).await).await;
    assert_eq!(gateway.health("/dependencies/redisQueue/up").await, false);
    assert_eq!(gateway.metric("holdfast_dependency_up{dependency=\"redis_queue\"}").await, 0.0);
    assert_eq!(gateway.metric("holdfast_degraded{reason=\"failed_queue_unreachable\"}").await, 1.0);
}
