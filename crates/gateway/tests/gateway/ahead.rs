//! Messages whose timestamps lie far ahead: a gateway's clock was wrong, or another tool wrote them.

use std::time::Duration;

use holdfast_cache::Inboxes;
use holdfast_cache::inbox::InboxLife;
use holdfast_keys::{Keys, MAX_KEY_LENGTH};
use holdfast_message::{Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_service::clock::unix_ms;
use holdfast_socketio_client::Client as Socket;
use holdfast_testkit::{unique, until};
use prometheus::Registry;
use serde_json::json;

use crate::sent_once::Healer;
use crate::support::{Gateway, message, send, settings, store};

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

/// A user's chats in their order, each by its last message.
async fn listed(client: &Socket) -> Vec<String> {
    let page = client.emit_with_ack("conversations", &json!({})).await.unwrap();
    assert_eq!((&page["ok"], &page["complete"]), (&json!(true), &json!(true)), "{page}");
    let conversations = page["conversations"].as_array().unwrap();
    conversations
        .iter()
        .map(|conversation| {
            let last = &conversation["lastMessage"];
            assert!(last["messageId"].is_string() && last["timestamp"].is_i64(), "no last message: {conversation}");
            last["content"].as_str().unwrap().to_owned()
        })
        .collect()
}

/// Forgets what is cached of a user's chats, so that whoever asks next counts anew.
async fn forget(settings: &[(String, String)], user: &str) {
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let connection = Connection::open("test", value("REDIS_URL"), metrics).unwrap();
    let keys = Keys::new(value("CACHE_KEY_PREFIX"), "v1", ":", MAX_KEY_LENGTH).unwrap();
    let inboxes = Inboxes::new(connection, keys, InboxLife::default());
    let done = inboxes.forget(&[UserId::parse(user).unwrap()], Duration::from_secs(20)).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

async fn a_chat_is_listed_as_of_when_the_message_came(timestamp: i64) {
    let settings = settings(&[]).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (healer, store) = (Healer::new(&settings).await, store(&settings).await);
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let (of_carol, _) = gateway.connect(&carol).await;
    let (of_bob, _) = gateway.connect(&bob).await;
    // As cached, and as whoever finds nothing cached counts it.
    let becomes = async |wanted: &[&str]| {
        until("the list is in this order", async || listed(&of_bob).await == wanted).await;
        // A gateway notes a chat's first message in the store's view a moment after its answer.
        until("counted anew it is, too", async || {
            forget(&settings, &bob).await;
            listed(&of_bob).await == wanted
        })
        .await;
    };
    send(&of_carol, &bob, "carol's first").await;
    let first = send(&of_alice, &bob, "alice's first").await;
    becomes(&["alice's first", "carol's first"]).await;

    let ahead = Message { id: MessageId::unrepeatable(), timestamp, content: "ahead".into(), ..message(&first) };
    store.insert(std::slice::from_ref(&ahead)).await.unwrap();
    healer.heal(&ahead).await;
    store.touch_conversations(std::slice::from_ref(&ahead)).await.unwrap();
    becomes(&["ahead", "carol's first"]).await;
    // The message stays the chat's last one, by history's order; but its chat does not stay at the top.
    for round in 0..2 {
        let (one, other) = (format!("carol's {round}"), format!("alice's {round}"));
        send(&of_carol, &bob, &one).await;
        becomes(&[&one, "ahead"]).await;
        // A repeat of the view's update moves nothing.
        store.touch_conversations(std::slice::from_ref(&ahead)).await.unwrap();
        becomes(&[&one, "ahead"]).await;
        send(&of_alice, &bob, &other).await;
        becomes(&["ahead", &one]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_far_future_does_not_keep_its_chat_at_the_top() {
    a_chat_is_listed_as_of_when_the_message_came(unix_ms() + 10 * YEAR_MS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_of_the_end_of_time() {
    a_chat_is_listed_as_of_when_the_message_came(i64::MAX).await;
}
