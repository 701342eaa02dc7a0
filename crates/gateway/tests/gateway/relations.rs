//! Friends and blocks, and who may write to whom.

use holdfast_keys::{Cached, Pair};
use holdfast_message::{ChatId, UserId};
use holdfast_testkit::{Mongo, Proxy, unique, until};
use serde_json::{Value, json};

use crate::described::Description;
use crate::people::{Person, SOON, ask, refused};
use crate::support::{Gateway, invalidate, send, settings};

#[tokio::test(flavor = "multi_thread")]
async fn two_who_both_ask_are_friends_and_either_ends_it() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let description = Description::served(&gateway.url).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let friends = async |method: &str, one: &str, other: &str| {
        let answer = ask(&gateway, one, method, &format!("/api/friends/{other}"), Value::Null, &[]).await;
        description.check(method, "/api/friends/{userId}", &answer);
        (answer.status, answer.body["status"].as_str().unwrap_or_default().to_owned())
    };
    let is = |status: &str| (200, status.to_owned());
    let gone = (204, String::new());
    assert_eq!(friends("GET", &alice, &bob).await, is("none"));
    assert_eq!(friends("PUT", &alice, &bob).await, is("requested"));
    assert_eq!(friends("PUT", &alice, &bob).await, is("requested"));
    assert_eq!(friends("GET", &bob, &alice).await, is("incoming"));
    assert_eq!(friends("DELETE", &bob, &alice).await, gone, "declined");
    assert_eq!(friends("GET", &alice, &bob).await, is("none"));
    assert_eq!(friends("PUT", &alice, &bob).await, is("requested"));
    assert_eq!(friends("PUT", &bob, &alice).await, is("friends"));
    assert_eq!(friends("GET", &alice, &bob).await, is("friends"));
    assert_eq!(friends("DELETE", &alice, &bob).await, gone);
    assert_eq!(friends("GET", &bob, &alice).await, is("none"));
    assert_eq!(friends("GET", &bob, &bob).await.0, 400);
    assert_eq!(friends("PUT", &bob, "a%2A").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_holds_both_ways_until_whoever_made_it_ends_it_and_groups_go_on() {
    let settings = settings(&[]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let (mut alice, bob) = (Person::at(&near, "alice").await, Person::at(&far, "bob").await);
    let group = alice.group(&[&bob.name]).await;
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert_eq!(one.rest("PUT", &format!("/api/friends/{}", other.name), Value::Null).await.status, 200);
        send(&one.client, &other.name, "before").await;
    }
    let first = json!({ "friendId": bob.name, "content": "x", "tempId": "before the block" });
    let sent = alice.emit("sendMessage", first.clone()).await;
    let block = |user: &str| format!("/api/blocks/{user}");
    assert_eq!(alice.rest("PUT", &block(&bob.name), Value::Null).await.status, 204);
    let direct = async |one: &Person<'_>, other: &str| {
        one.emit("sendMessage", json!({ "friendId": other, "content": "x" })).await
    };
    refused(&direct(&alice, &bob.name).await, "FORBIDDEN", false);
    let again = alice.emit("sendMessage", first).await;
    assert_eq!((&again["duplicate"], &again["message"]["messageId"]), (&json!(true), &sent["message"]["messageId"]));
    // Another gateway knows it within moments.
    until("far, too", async || direct(&bob, &alice.name).await["error"]["code"] == "FORBIDDEN").await;
    let page = bob.emit("history", json!({ "friendId": alice.name })).await;
    assert_eq!(page["ok"], true, "what was written stays readable: {page}");
    bob.send(&group, "in the group").await;
    while alice.events.next_named("newMessage", crate::people::SOON).await.unwrap()["content"] != "in the group" {}

    let asked = bob.rest("PUT", &format!("/api/friends/{}", alice.name), Value::Null).await;
    assert_eq!((asked.status, &asked.body["code"]), (403, &json!("FORBIDDEN")));
    let status = bob.rest("GET", &format!("/api/friends/{}", alice.name), Value::Null).await;
    assert_eq!(status.body["status"], "none", "a block ends friendship");
    let added = bob.rest("POST", "/api/chats", json!({ "name": "x", "members": [alice.name] })).await;
    assert_eq!(added.status, 403, "{added:?}");
    let own = bob.group(&[]).await;
    let added = bob.rest("PUT", &format!("/api/chats/{own}/members/{}", alice.name), json!({})).await;
    assert_eq!(added.status, 403, "{added:?}");

    assert_eq!(bob.rest("DELETE", &block(&alice.name), Value::Null).await.status, 204);
    refused(&direct(&bob, &alice.name).await, "FORBIDDEN", false);
    assert_eq!(alice.rest("DELETE", &block(&bob.name), Value::Null).await.status, 204);
    assert_eq!(direct(&alice, &bob.name).await["ok"], true);
    until("far, too", async || direct(&bob, &alice.name).await["ok"] == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_one_has_read_is_not_told_across_a_block() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (mut alice, mut bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let group = alice.group(&[&bob.name]).await;
    for person in [&mut alice, &mut bob] {
        person.hears_of(&group).await;
    }
    let chat = format!("{}:{}", alice.name, bob.name);
    let (from_alice, from_bob) = (alice.send(&chat, "hello").await, bob.send(&chat, "hello").await);
    let last = bob.send(&chat, "and again").await;
    let read = async |person: &Person<'_>, message: &Value| {
        let request = json!({ "chatId": chat, "upTo": message["messageId"] });
        until("it is read", async || person.emit("markRead", request.clone()).await["ok"] == true).await;
    };
    read(&alice, &from_bob).await;
    let told = bob.events.next_named("messagesRead", SOON).await.unwrap();
    assert_eq!((&told["userId"], &told["upTo"]), (&json!(alice.name), &from_bob["messageId"]));

    assert_eq!(alice.rest("PUT", &format!("/api/blocks/{}", bob.name), Value::Null).await.status, 204);
    read(&alice, &last).await;
    read(&bob, &from_alice).await;
    alice.send(&group, "sentinel").await;
    for person in [&mut alice, &mut bob] {
        loop {
            let event = person.events.next().await.unwrap();
            assert_ne!(event.name, "messagesRead", "{} hears {event:?}", person.name);
            if event.name == "newMessage" && event.data["content"] == "sentinel" {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_friends_write_strangers_do_not_and_nobody_does_unknown() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let own = [("PERMISSIONS", "friends"), ("MONGO_URL", url.as_str()), ("MONGO_CB_RECOVERY_TIMEOUT", "500")];
    let settings = settings(&own).await;
    let gateway = Gateway::start(settings.clone()).await;
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let to_bob = json!({ "friendId": bob.name, "content": "x" });
    refused(&alice.emit("sendMessage", to_bob.clone()).await, "FORBIDDEN", false);
    let added = alice.rest("POST", "/api/chats", json!({ "name": "x", "members": [bob.name] })).await;
    assert_eq!(added.status, 403, "{added:?}");
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert_eq!(one.rest("PUT", &format!("/api/friends/{}", other.name), Value::Null).await.status, 200);
    }
    assert_eq!(alice.emit("sendMessage", to_bob.clone()).await["ok"], true);
    let group = alice.group(&[&bob.name]).await;
    line.cut().await;
    invalidate(&settings, Cached::Members(ChatId::parse(&group).unwrap())).await;
    until("it is forgotten", async || alice.try_send(&group, "unknown here").await["ok"] == false).await;
    refused(&alice.emit("sendMessage", json!({ "friendId": "carol", "content": "x" })).await, "UNAVAILABLE", true);
    refused(&alice.try_send(&group, "unknown here yet").await, "UNAVAILABLE", true);
    assert_eq!(alice.emit("sendMessage", to_bob).await["ok"], true, "what is known holds");
    assert_eq!(gateway.metric("holdfast_gateway_permitted_unknown_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_does_not_slip_in_behind_a_question_that_the_store_has_yet_to_answer() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let settings = settings(&[("PERMISSIONS", "friends"), ("MONGO_URL", url.as_str())]).await;
    let gateway = Gateway::start(settings.clone()).await;
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let mallory = Person::at(&gateway, "mallory").await;
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert_eq!(one.rest("PUT", &format!("/api/friends/{}", other.name), Value::Null).await.status, 200);
    }
    let chat = format!("{}:{}", alice.name, bob.name);
    let user = |name: &str| UserId::parse(name).unwrap();
    for _ in 0..3 {
        // What was known is asked anew.
        invalidate(&settings, Cached::Relationship(Pair::of(&user(&alice.name), &user(&bob.name)))).await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        line.latency(std::time::Duration::from_millis(30));
        let (sent, strange) = tokio::join!(alice.try_send(&chat, "hello"), mallory.try_send(&chat, "hello"));
        line.latency(std::time::Duration::ZERO);
        assert_eq!(sent["ok"], true, "{sent}");
        refused(&strange, "FORBIDDEN", false);
    }
}
