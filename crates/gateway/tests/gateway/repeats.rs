//! What becomes of a message whose first send failed and whose repeat did not.

use std::time::Duration;

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Proxy, Redis, unique, until};
use serde_json::json;

use crate::resync::resume;
use crate::support::{Gateway, send, settings, with};

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
    let (first, mut own) = far.connect(&alice).await;
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

    // Its own clients were told that it failed, and no offset of theirs is below it.
    let failed = own.next_named("messageFailed", SOON).await.expect("it was refused");
    assert_eq!(failed["messageId"], shown["messageId"]);
    let kept = own.next_named("newMessage", SOON).await.expect("it was accepted elsewhere");
    assert_eq!((&kept["messageId"], &kept["seq"]), (&shown["messageId"], &shown["seq"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_and_is_not_listed_any_more_is_shown_again_if_it_is_stored() {
    let (cache, queue) = (Redis::cache().await.unwrap(), Redis::queue().await.unwrap());
    let to_cache = Proxy::start(cache.port()).await.unwrap();
    let settings = settings(&[("REDIS_QUEUE_URL", &queue.url())]).await;
    let settings = with(&settings, "KAFKA_BROKERS", "127.0.0.1:1");
    let far = Gateway::start(with(&settings, "REDIS_URL", &cache.url_at(to_cache.port()))).await;
    queue.stop().await.unwrap();
    to_cache.cut().await;

    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, mut events) = far.connect(&alice).await;
    let message = json!({ "friendId": bob, "content": "stored by another's doing", "tempId": "t" });
    let refused = client.emit_with_ack("sendMessage", &message).await.unwrap();
    assert_eq!(refused["error"]["code"], "UNAVAILABLE", "{refused}");
    let shown = events.next_named("newMessage", SOON).await.expect("it is shown at once");
    let failed = events.next_named("messageFailed", SOON).await.expect("it was refused");
    assert_eq!(failed["messageId"], shown["messageId"]);

    store(&settings, &shown).await;
    to_cache.heal().await.unwrap();
    let kept = events.next_named("newMessage", SOON).await.expect("it is stored");
    assert!(kept["seq"].is_null(), "{kept}");
    assert_eq!(kept, shown);
}

/// Stores a message as it was shown.
async fn store(settings: &[(String, String)], shown: &serde_json::Value) {
    let of = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.clone();
    let store = Store::new(StoreSettings::new(of("MONGO_URL"), of("MONGO_DB"))).await.unwrap();
    let text = |name: &str| shown[name].as_str().unwrap();
    let message = Message {
        id: MessageId::parse(text("messageId")).unwrap(),
        temp_id: Some(text("tempId").to_owned()),
        chat: ChatId::parse(text("chatId")).unwrap(),
        sender: UserId::parse(text("senderId")).unwrap(),
        receiver: Some(UserId::parse(text("receiverId")).unwrap()),
        content: text("content").to_owned(),
        image_url: None,
        public_id: None,
        timestamp: shown["timestamp"].as_i64().unwrap(),
    };
    store.insert(&[message]).await.unwrap();
}
