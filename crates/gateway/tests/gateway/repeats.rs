//! What becomes of a message whose first send failed and whose repeat did not.

use std::time::Duration;

use holdfast_testkit::{Proxy, Redis, unique};
use serde_json::json;

use crate::resync::resume;
use crate::support::{Gateway, send, settings, until, with};

const SOON: Duration = Duration::from_secs(20);
const WAITING: &str = "holdfast_gateway_relist_waiting";

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_was_cut_off_takes_nothing_back_that_another_one_has_accepted() {
    let (cache, queue) = (Redis::cache().await.unwrap(), Redis::queue().await.unwrap());
    let (to_cache, to_queue) = (Proxy::start(cache.port()).await.unwrap(), Proxy::start(queue.port()).await.unwrap());
    let settings = settings(&[("REDIS_URL", &cache.url()), ("REDIS_QUEUE_URL", &queue.url())]).await;
    let near = Gateway::start(settings.clone()).await;
    let settings = with(&settings, "KAFKA_BROKERS", "127.0.0.1:1");
    let settings = with(&settings, "REDIS_QUEUE_URL", &queue.url_at(to_queue.port()));
    let far = Gateway::start(with(&settings, "REDIS_URL", &cache.url_at(to_cache.port()))).await;

    let (alice, bob) = (unique("alice"), unique("bob"));
    let (first, _own) = far.connect(&alice).await;
    let (again, mut events) = near.connect(&alice).await;
    let message = json!({ "friendId": bob, "content": "twice", "tempId": "t" });
    let cut = async {
        let shown = events.next_named("newMessage", SOON).await.expect("it is listed");
        to_cache.cut().await;
        to_queue.cut().await;
        shown
    };
    let (refused, shown) = tokio::join!(first.emit_with_ack("sendMessage", &message), cut);
    assert_eq!(refused.unwrap()["error"]["code"], "UNAVAILABLE");
    let accepted = again.emit_with_ack("sendMessage", &message).await.unwrap();
    assert_eq!((&accepted["ok"], &accepted["duplicate"]), (&json!(true), &json!(true)), "{accepted}");
    until("the list knows", async || near.metric(WAITING).await == 0.0).await;

    assert_eq!(far.metric(WAITING).await, 1.0, "what it refused is to be taken back");
    to_cache.heal().await.unwrap();
    until("the cache has been told", async || far.metric(WAITING).await == 0.0).await;
    send(&again, &bob, "the end").await;
    while let Some(event) = tokio::time::timeout(SOON, events.next()).await.expect("in time") {
        assert_ne!(event.name, "messageFailed", "{}", event.data);
        if event.data["content"] == "the end" {
            break;
        }
    }
    let answer = resume(&again, &format!("{alice}:{bob}"), &shown["epoch"], 0).await;
    assert_eq!(answer["messages"][0]["messageId"], shown["messageId"], "{answer}");
}
