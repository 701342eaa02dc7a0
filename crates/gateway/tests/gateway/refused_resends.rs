//! Resends of durable messages whose sender may no longer send: answered as durable, and nothing else happens.

use holdfast_testkit::{unique, until};
use serde_json::{Value, json};

use crate::people::{Person, SOON, refused};
use crate::support::{Gateway, send, settings};

/// More messages than the resend window holds, so that the first one is unknown to the recent list.
const SENT: usize = 40;
/// Cached counts that outlive the test change by messages alone.
const SMALL: [(&str, &str); 3] =
    [("RECENT_MAX_MESSAGES", "10"), ("RESEND_WINDOW_MESSAGES", "20"), ("CACHE_UNREAD_TTL", "3600")];

fn numbered(chat: &str, number: usize) -> Value {
    json!({ "chatId": chat, "content": format!("t{number}"), "tempId": format!("t{number}") })
}

/// Sends [`SENT`] messages to a chat, and returns the first one as it was answered.
async fn fill(sender: &Person<'_>, chat: &str) -> Value {
    let mut first = Value::Null;
    for number in 0..SENT {
        let answer = sender.emit("sendMessage", numbered(chat, number)).await;
        assert_eq!(answer["ok"], true, "{answer}");
        if number == 0 {
            first = answer["message"].clone();
        }
    }
    first
}

/// What others could notice of a send: the stream's position, what is unread, and what was handed to Kafka.
async fn traces(reader: &Person<'_>, chat: &str) -> (Value, Value, Value, f64) {
    let page = reader.emit("history", json!({ "chatId": chat, "limit": 1 })).await;
    assert_eq!(page["ok"], true, "{page}");
    let unread = reader.emit("unread", json!({})).await;
    let published = reader.gateway.metric("holdfast_gateway_publish_seconds_count").await;
    (page["epoch"].clone(), page["seq"].clone(), unread["counts"][chat].clone(), published)
}

/// Resends the first message over Socket.IO and REST five times each: answered as durable, with the original timestamp.
async fn resends_are_answered(sender: &Person<'_>, chat: &str, first: &Value) {
    for _ in 0..5 {
        let answer = sender.emit("sendMessage", numbered(chat, 0)).await;
        let told = (&answer["ok"], &answer["duplicate"], &answer["durability"]);
        assert_eq!(told, (&json!(true), &json!(true), &json!("kafka")), "{answer}");
        for field in ["messageId", "timestamp", "content", "tempId"] {
            assert_eq!(answer["message"][field], first[field], "{field}");
        }
        let answer = sender.rest("POST", &format!("/api/chats/{chat}/messages"), numbered(chat, 0)).await;
        assert_eq!((answer.status, &answer.body["duplicate"]), (200, &json!(true)), "{answer:?}");
        assert_eq!(answer.body["message"]["timestamp"], first["timestamp"], "{answer:?}");
    }
}

/// Both a block and a removal, in this delivery mode.
async fn they_go_no_further(mode: &str) {
    let settings = settings(&[SMALL[0], SMALL[1], SMALL[2], ("DELIVERY_MODE", mode)]).await;
    let (gateway, other) = tokio::join!(Gateway::start(settings.clone()), Gateway::start(settings.clone()));
    let mut bob = Person::at(&gateway, "bob").await;
    let alice = Person::at(&gateway, "alice").await;
    let elsewhere = Person::named(&other, &alice.name).await;
    let direct = format!("{}:{}", alice.name, bob.name);
    let group = bob.group(&[&alice.name]).await;
    let firsts =
        [(fill(&alice, &direct).await, &direct, "FORBIDDEN"), (fill(&alice, &group).await, &group, "NOT_FOUND")];

    assert_eq!(bob.rest("PUT", &format!("/api/blocks/{}", alice.name), Value::Null).await.status, 204);
    assert_eq!(
        bob.rest("DELETE", &format!("/api/chats/{group}/members/{}", alice.name), Value::Null).await.status,
        204
    );
    for (first, chat, code) in &firsts {
        let fresh = json!({ "chatId": chat, "content": "new" });
        for sender in [&alice, &elsewhere] {
            until("it is refused", async || sender.emit("sendMessage", fresh.clone()).await["ok"] == false).await;
        }
        let before = traces(&bob, chat).await;
        let _ = bob.events.arrived();
        resends_are_answered(&alice, chat, first).await;
        // A gateway that did not make it durable refuses it, as it refuses a new message.
        refused(&elsewhere.emit("sendMessage", numbered(chat, 0)).await, code, false);
        // The sentinel comes behind whatever the resends caused.
        let (carol, _events) = gateway.connect(&unique("carol")).await;
        send(&carol, &bob.name, "sentinel").await;
        let heard = bob.events.next_named("newMessage", SOON).await.expect("the sentinel");
        assert_eq!(heard["content"], "sentinel", "{mode}: a refused resend is delivered");
        let after = traces(&bob, chat).await;
        // The sentinel itself was published.
        assert_eq!((after.0, after.1, after.2, after.3 - 1.0), before, "{mode}: a refused resend went further");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_or_removed_sender_who_resends_a_durable_message_is_answered_and_nobody_else_notices() {
    they_go_no_further("realtime-first").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_where_messages_are_delivered_once_they_are_durable() {
    they_go_no_further("durable-first").await;
}
