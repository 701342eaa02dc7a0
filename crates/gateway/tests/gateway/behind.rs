//! While the worker is behind, history says what it can't show.

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{shared, unique, until};
use serde_json::{Value, json};

use crate::support::{Gateway, failed_queue, message, queue_failed, send, settings, store};

#[tokio::test(flavor = "multi_thread")]
async fn a_page_over_what_only_the_log_has_is_not_complete() {
    let settings = settings(&[("RECENT_MAX_MESSAGES", "5")]).await;
    let db = settings.iter().find(|(name, _)| name == "MONGO_DB").unwrap().1.clone();
    let store = Store::new(StoreSettings::new(&shared().await.mongo_url, db)).await.unwrap();
    let gateway = Gateway::start(settings).await;
    let (client, _events) = gateway.connect(&unique("alice")).await;
    let bob = unique("bob");
    let mut sent = Vec::new();
    for number in 1..=12 {
        sent.push(message(&send(&client, &bob, &number.to_string()).await));
    }
    let page = async |limit: usize, before: &Value| {
        let request = json!({ "friendId": bob, "limit": limit, "before": before });
        let page = client.emit_with_ack("history", &request).await.unwrap();
        (page["messages"].as_array().unwrap().len(), page["complete"] == true, page["nextCursor"].clone())
    };
    // The list holds 8 to 12, and no worker has stored anything.
    let (count, complete, listed) = page(3, &Value::Null).await;
    assert_eq!((count, complete), (3, true), "it does not reach down to what was let go");
    assert_eq!(page(3, &listed).await, (2, false, Value::Null));
    assert_eq!(page(20, &Value::Null).await, (5, false, Value::Null));

    // A worker has come as far as 6.
    store.insert(&sent[..6]).await.unwrap();
    let (count, complete, stored) = page(8, &Value::Null).await;
    assert_eq!((count, complete), (8, false));
    assert_eq!(page(8, &listed).await, (8, false, Value::Null));
    assert_eq!(page(8, &stored).await, (3, true, Value::Null), "everything below is stored");

    store.insert(&sent[6..]).await.unwrap();
    assert_eq!(page(20, &Value::Null).await, (12, true, Value::Null));
    assert_eq!(page(20, &listed).await, (9, true, Value::Null));
}

/// Another gateway queued it long ago; the list knows nothing of it.
fn queued(alice: &UserId, bob: &UserId, number: u8) -> Message {
    Message {
        id: MessageId::from_bytes([number; 16]),
        temp_id: None,
        receiver: Some(bob.clone()),
        chat: ChatId::direct(alice, bob).unwrap(),
        sender: alice.clone(),
        content: "queued".into(),
        image_url: None,
        public_id: None,
        timestamp: 1_700_000_000_000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_without_what_was_replayed_and_is_not_stored_is_not_complete() {
    let settings = settings(&[("RECENT_MAX_MESSAGES", "5")]).await;
    let store = store(&settings).await;
    let (alice, bob) = (UserId::parse(&unique("alice")).unwrap(), UserId::parse(&unique("bob")).unwrap());
    let queued = queued(&alice, &bob, 7);
    queue_failed(&failed_queue(&settings), &queued).await;
    let gateway = Gateway::start(settings).await;
    until("it is replayed", async || gateway.metric("holdfast_failed_queue_replayed_total").await == 1.0).await;
    let (client, _events) = gateway.connect(alice.as_str()).await;
    // They went into the log before it, and are stored.
    for number in 1..=8 {
        store.insert(&[message(&send(&client, bob.as_str(), &number.to_string()).await)]).await.unwrap();
    }
    let page = async || {
        let page = client.emit_with_ack("history", &json!({ "friendId": bob.as_str(), "limit": 20 })).await.unwrap();
        (page["messages"].as_array().unwrap().len(), page["complete"] == true)
    };
    assert_eq!(page().await, (8, false));
    assert_eq!(page().await, (8, false), "the first reading vouched for nothing");
    store.insert(&[queued]).await.unwrap();
    assert_eq!(page().await, (9, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_verifies_a_list_that_lacks_what_was_replayed_and_is_not_stored() {
    let settings = settings(&[]).await;
    let store = store(&settings).await;
    let (alice, bob) = (UserId::parse(&unique("alice")).unwrap(), UserId::parse(&unique("bob")).unwrap());
    let queued = queued(&alice, &bob, 7);
    // Twice, as a send and its repeat may be.
    queue_failed(&failed_queue(&settings), &queued).await;
    queue_failed(&failed_queue(&settings), &queued).await;
    let gateway = Gateway::start(settings).await;
    until("both are replayed", async || gateway.metric("holdfast_failed_queue_replayed_total").await == 2.0).await;
    let (client, _events) = gateway.connect(alice.as_str()).await;
    for number in 1..=3 {
        store.insert(&[message(&send(&client, bob.as_str(), &number.to_string()).await)]).await.unwrap();
    }
    // A repair that one of them causes would make the list answer the later ones alone.
    for _ in 0..20 {
        let page = client.emit_with_ack("history", &json!({ "friendId": bob.as_str() })).await.unwrap();
        assert_eq!((page["messages"].as_array().unwrap().len(), &page["complete"]), (3, &json!(false)), "{page}");
    }
    store.insert(&[queued]).await.unwrap();
    let page = client.emit_with_ack("history", &json!({ "friendId": bob.as_str() })).await.unwrap();
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["complete"]), (4, &json!(true)), "{page}");
}
