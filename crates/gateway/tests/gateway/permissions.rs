//! What is decided about who may write and read, on every gateway: as soon as it changes, and while something is away.

use std::time::{Duration, Instant};

use holdfast_keys::Cached;
use holdfast_message::ChatId;
use holdfast_redis::aside::BOUND;
use holdfast_testkit::{Mongo, Proxy, Redis, request, unique, until};
use serde_json::{Value, json};

use crate::people::{Person, ask, ask_counting, refused};
use crate::support::{Gateway, invalidate, settings, with};

/// Friends' decisions are never passed for want of an answer.
const FRIENDS: (&str, &str) = ("PERMISSIONS", "friends");

/// Two users, who are friends, one on each gateway; the second has no socket anywhere.
async fn friends<'a>(near: &'a Gateway, far: &Gateway) -> (Person<'a>, String) {
    let (alice, bob) = (Person::at(near, "alice").await, unique("bob"));
    assert_eq!(alice.rest("PUT", &format!("/api/friends/{bob}"), Value::Null).await.status, 200);
    let back = ask(far, &bob, "PUT", &format!("/api/friends/{}", alice.name), Value::Null, &[]).await;
    assert_eq!(back.body["status"], "friends", "{back:?}");
    (alice, bob)
}

/// The status of a new send by this path. 200, "known already", is right only for one that had to be sent again.
async fn post(gateway: &Gateway, user: &str, path: &str, mut body: Value) -> u16 {
    body["content"] = json!("x");
    body["tempId"] = json!(unique("send"));
    let (answer, times) = ask_counting(gateway, user, "POST", path, body, &[]).await;
    if answer.status == 200 && times > 1 { 201 } else { answer.status }
}

/// The status of a send to a user.
async fn write(gateway: &Gateway, user: &str, friend: &str) -> u16 {
    post(gateway, user, "/api/chat/messages", json!({ "friendId": friend })).await
}

/// The statuses of a send to a group and of a reading there.
async fn write_and_read(gateway: &Gateway, user: &str, group: &str) -> (u16, u16) {
    let path = format!("/api/chats/{group}/messages");
    let (written, read) =
        tokio::join!(post(gateway, user, &path, json!({})), ask(gateway, user, "GET", &path, Value::Null, &[]));
    (written, read.status)
}

/// From [`BOUND`] after now at the latest this is so, and stays so.
async fn soon_and_for_good<T: PartialEq + std::fmt::Debug>(what: T, mut is: impl AsyncFnMut() -> T) {
    let told = Instant::now();
    until("it is so", async || {
        let asked = told.elapsed();
        let holds = is().await == what;
        assert!(holds || asked <= BOUND, "otherwise after {asked:?}");
        holds
    })
    .await;
    for _ in 0..30 {
        assert_eq!(is().await, what);
    }
}

/// Who is removed, or blocked, on one gateway is refused by the other, where nobody of them has a socket.
pub(crate) async fn changes_here_are_obeyed_there(near: &Gateway, far: &Gateway) {
    let (alice, bob) = friends(near, far).await;
    let group = alice.group(&[&bob]).await;
    let member = format!("/api/chats/{group}/members/{bob}");
    let block = format!("/api/blocks/{bob}");
    for _ in 0..3 {
        soon_and_for_good((201, 200), || write_and_read(far, &bob, &group)).await;
        assert_eq!(alice.rest("DELETE", &member, Value::Null).await.status, 204);
        soon_and_for_good((404, 404), || write_and_read(far, &bob, &group)).await;
        assert_eq!(alice.rest("PUT", &member, json!({})).await.status, 200);
    }
    soon_and_for_good(201, || write(far, &bob, &alice.name)).await;
    assert_eq!(alice.rest("PUT", &block, Value::Null).await.status, 204);
    assert_eq!(write(near, &alice.name, &bob).await, 403, "one sees what one has written");
    soon_and_for_good(403, || write(far, &bob, &alice.name)).await;
    assert_eq!(alice.rest("DELETE", &format!("/api/chats/{group}"), Value::Null).await.status, 204);
    soon_and_for_good((404, 404), || write_and_read(far, &bob, &group)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_and_a_removal_made_through_one_gateway_hold_on_another_that_has_no_socket_of_theirs() {
    let settings = settings(&[FRIENDS]).await;
    let (near, far) = tokio::join!(Gateway::start(settings.clone()), Gateway::start(settings));
    changes_here_are_obeyed_there(&near, &far).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_they_do_while_redis_is_away_from_both() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let settings = settings(&[FRIENDS, ("REDIS_URL", &cache.url_at(line.port()))]).await;
    let (near, far) = tokio::join!(Gateway::start(settings.clone()), Gateway::start(settings));
    let (alice, bob) = friends(&near, &far).await;
    let group = alice.group(&[&bob]).await;
    assert_eq!(write_and_read(&far, &bob, &group).await, (201, 200));
    assert_eq!(write(&far, &bob, &alice.name).await, 201);
    line.cut().await;
    assert_eq!(write_and_read(&far, &bob, &group).await, (201, 200));
    assert_eq!(write(&far, &bob, &alice.name).await, 201);
    assert_eq!(alice.rest("DELETE", &format!("/api/chats/{group}/members/{bob}"), Value::Null).await.status, 204);
    assert_eq!(alice.rest("PUT", &format!("/api/blocks/{bob}"), Value::Null).await.status, 204);
    // Nobody hears of it: what was read from the store is used for as long as an invalidation may take, and not asked for without end.
    let refused = async || (write_and_read(&far, &bob, &group).await, write(&far, &bob, &alice.name).await);
    until("the store is asked anew", async || refused().await == ((404, 404), 403)).await;
    for _ in 0..10 {
        assert_eq!(refused().await, ((404, 404), 403));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_read_when_a_member_was_removed_brings_nobody_back() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url();
    let settings = settings(&[("MONGO_URL", url.as_str())]).await;
    let near = Gateway::start(settings.clone()).await;
    let far = Gateway::start(with(&settings, "MONGO_URL", &mongo.url_at(line.port()))).await;
    until("the store is reached", async || far.health("/dependencies/mongodb/up").await == true).await;
    let (alice, bob) = (Person::at(&near, "alice").await, unique("bob"));
    let group = alice.group(&[&bob]).await;
    let member = format!("/api/chats/{group}/members/{bob}");
    for round in 0..6 {
        soon_and_for_good((201, 200), || write_and_read(&far, &bob, &group)).await;
        invalidate(&settings, Cached::Members(ChatId::parse(&group).unwrap())).await;
        // The answer to the reading is on its way for longer than the removal takes.
        line.latency(Duration::from_millis(100));
        let (removed, _) = tokio::join!(
            async {
                tokio::time::sleep(Duration::from_millis(30 * round)).await;
                alice.rest("DELETE", &member, Value::Null).await.status
            },
            write_and_read(&far, &bob, &group),
        );
        line.latency(Duration::ZERO);
        assert_eq!(removed, 204);
        soon_and_for_good((404, 404), || write_and_read(&far, &bob, &group)).await;
        assert_eq!(alice.rest("PUT", &member, json!({})).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_the_store_decides_by_what_another_has_read() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url();
    let settings = settings(&[FRIENDS, ("MONGO_URL", url.as_str())]).await;
    let near = Gateway::start(settings.clone()).await;
    let far = Gateway::start(with(&settings, "MONGO_URL", &mongo.url_at(line.port()))).await;
    until("the store is reached", async || far.health("/dependencies/mongodb/up").await == true).await;
    let (alice, bob) = friends(&near, &far).await;
    let (group, unknown) = (alice.group(&[&bob]).await, alice.group(&[&bob]).await);
    line.cut().await;
    invalidate(&settings, Cached::Members(ChatId::parse(&unknown).unwrap())).await;
    let try_unknown = async || {
        let body = json!({ "chatId": unknown, "content": "x" }).to_string();
        let headers = [format!("authorization: Bearer {}", far.token(&bob))];
        request(&far.url, "POST", "/api/chat/messages", &headers, &body).await.unwrap().status
    };
    let path = format!("/api/chats/{group}/messages");
    assert_eq!(try_unknown().await, 503);
    assert_eq!(post(&far, &bob, &path, json!({})).await, 201);
    // Longer than a decision is taken for granted.
    tokio::time::sleep(Duration::from_secs(11)).await;
    for _ in 0..20 {
        assert_eq!(post(&far, &bob, &path, json!({})).await, 201);
        assert_eq!(write(&far, &bob, &alice.name).await, 201);
    }
    assert_eq!(try_unknown().await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_many_groups_asks_the_store_once_who_belongs_to_them() {
    let settings = settings(&[]).await;
    let near = Gateway::start(settings.clone()).await;
    let (alice, name) = (Person::at(&near, "alice").await, unique("bob"));
    let mut offsets = serde_json::Map::new();
    for number in 0..12 {
        let members = if number % 2 == 0 { vec![name.as_str()] } else { Vec::new() };
        let group = alice.group(&members).await;
        let sent = alice.send(&group, "hello").await;
        offsets.insert(group, json!({ "epoch": sent["epoch"], "seq": 0, "mine": number % 2 == 0 }));
    }
    // This gateway has met none of the groups: whatever it loads from here on is loaded for this `resume`.
    let far = Gateway::start(settings.clone()).await;
    let bob = Person::named(&far, &name).await;
    assert_eq!(bob.emit("resume", json!({ "offsets": {} })).await["ok"], true);
    for group in offsets.keys() {
        invalidate(&settings, Cached::Members(ChatId::parse(group).unwrap())).await;
    }
    let loads = "cache_aside_loads_total{kind=\"members\",result=\"ok\"}";
    let before = far.metric(loads).await;
    let missed = bob.emit("resume", json!({ "offsets": offsets })).await;
    for (group, offset) in &offsets {
        assert_eq!(missed["chats"][group]["recovered"], offset["mine"], "{missed}");
    }
    assert!(far.metric(loads).await <= before + 1.0, "{} loads", far.metric(loads).await - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_may_be_outdated_is_not_said_to_be_final() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let gateway = Gateway::start(settings(&[("MONGO_URL", url.as_str())]).await).await;
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let group = alice.group(&[]).await;
    assert_eq!(alice.rest("PUT", &format!("/api/blocks/{}", bob.name), Value::Null).await.status, 204);
    let to_alice = json!({ "friendId": alice.name, "content": "x" });
    refused(&bob.emit("sendMessage", to_alice.clone()).await, "FORBIDDEN", false);
    refused(&bob.try_send(&group, "x").await, "NOT_FOUND", false);
    line.cut().await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    for _ in 0..20 {
        refused(&bob.emit("sendMessage", to_alice.clone()).await, "UNAVAILABLE", true);
        refused(&bob.try_send(&group, "x").await, "UNAVAILABLE", true);
    }
    assert_eq!(gateway.metric("holdfast_gateway_permitted_unknown_total").await, 0.0);
}
