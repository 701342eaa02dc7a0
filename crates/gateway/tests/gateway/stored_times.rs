//! Messages that another tool stored: with a `timestamp` of another type, or with one that is none.

use holdfast_testkit::until;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::{Value, json};

use crate::people::Person;
use crate::support::{Gateway, settings};

const UNREADABLE: &str = "holdfast_gateway_unreadable_documents_total";

fn ids(page: &Value) -> Vec<String> {
    page["messages"].as_array().unwrap().iter().map(|message| message["messageId"].as_str().unwrap().into()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_stands_in_history_at_its_time_whatever_type_that_has() {
    let settings = settings(&[]).await;
    let gateway = Gateway::start(settings.clone()).await;
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    let stored = mongodb::Client::with_uri_str(value("MONGO_URL")).await.unwrap();
    let stored = stored.database(value("MONGO_DB")).collection::<Document>("messages");
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let chat = format!("{}:{}", alice.name, bob.name);
    let at = 1_700_000_000_000_i64;
    let id = |n: i64| format!("00000000-0000-4000-8000-{n:012}");
    let store = async |n: i64, timestamp: Bson| {
        let document = doc! {
            "_id": id(n), "chatId": &chat, "senderId": &bob.name, "receiverId": &alice.name, "content": format!("{n}"),
            "timestamp": timestamp,
        };
        stored.insert_one(document).await.unwrap();
    };
    assert_eq!(gateway.metric(UNREADABLE).await, 0.0);
    for n in 1..=20 {
        let time = at + n * 1000;
        let timestamp = match n % 4 {
            0 => time.into(),
            1 => (time as f64).into(),
            2 => DateTime::from_millis(time).into(),
            _ => (time as f64 + 0.5).into(),
        };
        store(n, timestamp).await;
    }
    store(0, 5_i32.into()).await;
    store(100, "yesterday".into()).await;

    let expected: Vec<_> = (0..=20).rev().map(id).collect();
    let whole = alice.emit("history", json!({ "friendId": bob.name, "limit": 100 })).await;
    assert_eq!(ids(&whole), expected, "{whole}");
    let times: Vec<_> =
        whole["messages"].as_array().unwrap().iter().map(|m| m["timestamp"].as_i64().unwrap()).collect();
    let all: Vec<_> = (1..=20).rev().map(|n| at + n * 1000).chain([5]).collect();
    assert_eq!(times, all);
    let (mut paged, mut before) = (Vec::new(), Value::Null);
    loop {
        let page = alice.emit("history", json!({ "friendId": bob.name, "limit": 3, "before": before })).await;
        paged.extend(ids(&page));
        before = page["nextCursor"].clone();
        if before.is_null() {
            break;
        }
    }
    assert_eq!(paged, expected);

    // What is derived from the messages counts them, too.
    let unread = alice.emit("unread", json!({})).await;
    let read = alice.emit("markRead", json!({ "friendId": bob.name, "upTo": id(10) })).await;
    assert_eq!((&unread["ok"], &read["ok"], &read["unread"]), (&json!(true), &json!(true), &json!(10)), "{read}");
    let sent = alice.send(&chat, "the newest").await;
    let newest = alice.emit("history", json!({ "friendId": bob.name, "limit": 2 })).await;
    assert_eq!(ids(&newest), [sent["messageId"].as_str().unwrap().to_owned(), id(20)]);
    // What can't be read is counted once, however often it is met.
    until("the unreadable document is counted", async || gateway.metric(UNREADABLE).await == 1.0).await;
    assert_eq!(gateway.metric(UNREADABLE).await, 1.0);
}
