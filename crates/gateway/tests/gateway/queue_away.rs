//! While the failed queue's server is away history says whether that may hide something.

use holdfast_socketio_client::Client;
use holdfast_testkit::{Redis, RedisOptions, Role, free_port, unique, until};
use serde_json::{Value, json};

use crate::support::{Gateway, settings};

async fn history(client: &Client, friend: &str) -> Value {
    client.emit_with_ack("history", &json!({ "friendId": friend })).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_queue_has_is_missing_while_its_server_is_away_and_the_page_says_so() {
    let queue = Redis::start(RedisOptions { role: Role::Queue, ..RedisOptions::default() }).await.unwrap();
    let cache = Redis::cache().await.unwrap();
    let nowhere = format!("127.0.0.1:{}", free_port().unwrap());
    let own = [
        ("KAFKA_BROKERS", &*nowhere),
        ("KAFKA_DELIVERY_TIMEOUT_MS", "500"),
        ("REDIS_URL", &*cache.url()),
        ("REDIS_QUEUE_URL", &*queue.url()),
        // The list never answers alone.
        ("RECENT_VERIFY_SECS", "0"),
    ];
    let gateway = Gateway::start(settings(&own).await).await;
    let (client, _events) = gateway.connect(&unique("alice")).await;
    let bob = unique("bob");

    // Nothing was ever queued: its server has nothing to add.
    queue.kill9().await.unwrap();
    let page = history(&client, &bob).await;
    assert_eq!((&page["ok"], &page["complete"]), (&json!(true), &json!(true)), "{page}");

    let is_up = async |up: bool| gateway.health("/dependencies/redisQueue/up").await == up;
    until("its loss is noticed", async || is_up(false).await).await;
    queue.start_again().await.unwrap();
    until("the queue takes messages", async || is_up(true).await).await;
    let sent = client.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": "kept" })).await.unwrap();
    assert_eq!((&sent["ok"], &sent["durability"]), (&json!(true), &json!("failed-queue")), "{sent}");
    until("it is counted", async || gateway.metric("holdfast_failed_queue_messages").await == 1.0).await;
    // Only the queue has it now.
    cache.kill9().await.unwrap();
    cache.start_again().await.unwrap();
    let shown = |page: &Value| page["messages"].as_array().is_some_and(|shown| shown.len() == 1);
    until("it is shown", async || shown(&history(&client, &bob).await)).await;

    queue.kill9().await.unwrap();
    cache.kill9().await.unwrap();
    cache.start_again().await.unwrap();
    until("it is missing", async || !shown(&history(&client, &bob).await)).await;
    let page = history(&client, &bob).await;
    assert_eq!((&page["ok"], &page["complete"]), (&json!(true), &json!(false)), "{page}");

    queue.start_again().await.unwrap();
    until("all is there", async || {
        let page = history(&client, &bob).await;
        shown(&page) && page["complete"] == true
    })
    .await;
}
