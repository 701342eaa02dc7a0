//! Who types is seen by the other members, on every gateway and device, and by nobody else.

use std::time::{Duration, Instant};

use holdfast_message::{ChatId, UserId};
use holdfast_socketio_client::{Client, Events};
use holdfast_store::groups::{Group, Member, Role};
use holdfast_testkit::{Proxy, Redis, unique, until};
use serde_json::{Value, json};

use crate::support::{Gateway, send, settings, store};

const SOON: Duration = Duration::from_secs(20);

async fn say(client: &Client, whom: Value, typing: bool) -> Value {
    let mut word = json!({ "typing": typing });
    word.as_object_mut().unwrap().extend(whom.as_object().unwrap().clone());
    client.emit_with_ack("typing", &word).await.unwrap()
}

/// The next words about this user.
async fn heard(events: &mut Events, user: &str, count: usize) -> Vec<bool> {
    let mut words = Vec::new();
    while words.len() < count {
        let event = events.next_named("typing", SOON).await.expect("a word in time");
        if event["userId"] == user {
            words.push(event["typing"].as_bool().unwrap());
        }
    }
    words
}

/// A stored group of these users.
async fn group(settings: &[(String, String)], id: &str, users: &[&UserId]) -> ChatId {
    let chat = ChatId::parse(id).unwrap();
    let member = |user: &&UserId| Member { user: (*user).clone(), role: Role::Member, joined_at: 1 };
    let group = Group {
        chat: chat.clone(),
        name: "friends".into(),
        members: users.iter().map(member).collect(),
        created_by: users[0].clone(),
        created_at: 1,
        version: 1,
    };
    assert!(store(settings).await.create_group(&group).await.unwrap());
    chat
}

/// Until this user's other gateway hears what is published.
async fn hears(events: &mut Events, friend: &Client, user: &str) {
    until("the subscription", async || {
        // On a busy machine it may be refused.
        let hello = json!({ "friendId": user, "content": "hello" });
        friend.emit_with_ack("sendMessage", &hello).await.unwrap();
        events.next_named("newMessage", Duration::from_millis(300)).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_is_told_once_in_a_while_and_ends_by_a_word_a_message_silence_or_a_disconnect() {
    let settings = settings(&[("CACHE_TYPING_TTL", "3")]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (writer, mut own) = near.connect(&alice).await;
    let (_other_device, mut other) = far.connect(&alice).await;
    let (_phone, mut phone) = near.connect(&bob).await;
    let (_laptop, mut laptop) = far.connect(&bob).await;
    hears(&mut laptop, &writer, &bob).await;
    let to_bob = json!({ "friendId": bob });

    for _ in 0..10 {
        assert_eq!(say(&writer, to_bob.clone(), true).await, json!({ "ok": true }));
    }
    // Each word is waited for: of several at once the last is told.
    let mut all = async |words: &[bool]| {
        for events in [&mut phone, &mut laptop] {
            assert_eq!(heard(events, &alice, words.len()).await, words);
        }
    };
    all(&[true]).await;
    say(&writer, json!({ "chatId": format!("{alice}:{bob}") }), false).await;
    // The end is told once: this is no news.
    say(&writer, to_bob.clone(), false).await;
    all(&[false]).await;
    say(&writer, to_bob.clone(), true).await;
    all(&[true]).await;
    send(&writer, &bob, "said").await;
    all(&[false]).await;
    say(&writer, to_bob.clone(), true).await;
    // The last word is followed by silence.
    all(&[true, false]).await;
    say(&writer, to_bob, true).await;
    all(&[true]).await;
    writer.kill();
    all(&[false]).await;
    for events in [&mut own, &mut other] {
        assert!(events.arrived().iter().all(|event| event.name != "typing"), "one's own devices are not told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_begins_and_ends_without_end_is_told_of_twice_a_second_and_as_it_is_in_the_end() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (writer, _events) = gateway.connect(&alice).await;
    let (_bob, mut events) = gateway.connect(&bob).await;
    let begun = Instant::now();
    for n in 0..200 {
        say(&writer, json!({ "friendId": bob }), n % 2 == 0).await;
    }
    let most = 2 * begun.elapsed().as_secs() as usize + 6;
    let mut words = Vec::new();
    while let Some(event) = events.next_named("typing", Duration::from_secs(5)).await {
        words.push(event["typing"].as_bool().unwrap());
    }
    assert!(words.len() <= most, "{words:?} in {:?}", begun.elapsed());
    assert_eq!((words.first(), words.last()), (Some(&true), Some(&false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_types_into_a_chat_of_others() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob, mallory) = (unique("alice"), unique("bob"), unique("mallory"));
    let (writer, _events) = gateway.connect(&alice).await;
    let (_bob, mut events) = gateway.connect(&bob).await;
    let (intruder, _events) = gateway.connect(&mallory).await;
    let of_others = format!("{alice}:{bob}");
    let group = "g_00000000-0000-4000-8000-000000000000";
    for (whom, code) in [
        (json!({ "chatId": of_others }), "FORBIDDEN"),
        (json!({ "friendId": bob, "chatId": of_others }), "VALIDATION"),
        (json!({ "chatId": group }), "NOT_FOUND"),
        (json!({}), "VALIDATION"),
        (json!({ "friendId": "a:b" }), "VALIDATION"),
        (json!({ "friendId": mallory }), "VALIDATION"),
        (json!({ "friendId": bob, "typing": "yes" }), "VALIDATION"),
    ] {
        let answer = match whom.get("typing") {
            Some(_) => intruder.emit_with_ack("typing", &whom).await.unwrap(),
            None => say(&intruder, whom.clone(), true).await,
        };
        assert_eq!(answer["error"]["code"], code, "{whom}: {answer}");
    }
    say(&writer, json!({ "friendId": bob }), true).await;
    let first = events.next_named("typing", SOON).await.unwrap();
    assert_eq!(first, json!({ "chatId": of_others, "userId": alice, "typing": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_limit_refuses_is_not_told() {
    let gateway = Gateway::start(settings(&[("EVENT_LIMIT", "1"), ("WINDOW_SECONDS", "60")]).await).await;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (writer, _events) = gateway.connect(&alice).await;
    let (_carol, mut events) = gateway.connect(&carol).await;
    assert_eq!(say(&writer, json!({ "friendId": bob }), true).await, json!({ "ok": true }));
    let refused = say(&writer, json!({ "friendId": carol }), true).await;
    assert_eq!(refused["error"]["code"], "RATE_LIMITED", "{refused}");
    send(&writer, &carol, "the sentinel").await;
    loop {
        let event = events.next().await.unwrap();
        assert_ne!(event.name, "typing", "{event:?}");
        if event.name == "newMessage" {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_other_members_of_a_group_see_who_types() {
    let settings = settings(&[]).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| UserId::parse(&unique(name)).unwrap());
    let chat = group(&settings, "g_0f0e0d0c-0b0a-4000-8000-010203040506", &[&alice, &bob, &carol]).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let (writer, _events) = near.connect(alice.as_str()).await;
    let (_other_device, mut own) = near.connect(alice.as_str()).await;
    let (_bob, mut here) = near.connect(bob.as_str()).await;
    let (there, mut elsewhere) = far.connect(carol.as_str()).await;
    let whom = json!({ "chatId": chat.as_str() });
    // They join their groups' rooms a moment after they connected.
    until("everybody is in the room", async || {
        say(&writer, whom.clone(), false).await;
        say(&writer, whom.clone(), true).await;
        let mut heard = true;
        for events in [&mut here, &mut elsewhere] {
            heard &= events.next_named("typing", Duration::from_millis(500)).await.is_some();
        }
        heard
    })
    .await;
    assert!(own.arrived().iter().all(|event| event.name != "typing"));
    until("carol may type", async || say(&there, whom.clone(), true).await["ok"] == true).await;
    let told = own.next_named("typing", SOON).await.unwrap();
    assert_eq!(told, json!({ "chatId": chat.as_str(), "userId": carol.as_str(), "typing": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cache_those_on_the_same_gateway_still_see_it_and_what_others_miss_is_counted() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let gateway = Gateway::start(settings(&[("REDIS_URL", &cache.url_at(line.port()))]).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (writer, _events) = gateway.connect(&alice).await;
    let (_bob, mut events) = gateway.connect(&bob).await;
    line.cut().await;
    for typing in [true, false, true] {
        assert_eq!(say(&writer, json!({ "friendId": bob }), typing).await, json!({ "ok": true }));
        assert_eq!(heard(&mut events, &alice, 1).await, [typing]);
    }
    until("counted", async || {
        gateway.metric("holdfast_gateway_live_dropped_total{reason=\"unavailable\"}").await >= 3.0
    })
    .await;
    assert_eq!(gateway.metric("holdfast_gateway_live_waiting").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_no_answer_is_heard() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (writer, mut own) = gateway.connect(&alice).await;
    let (reader, mut heard) = gateway.connect(&bob).await;
    writer.emit("typing", &json!({ "friendId": bob, "typing": true })).await.unwrap();
    let typing = json!({ "chatId": format!("{alice}:{bob}"), "userId": alice, "typing": true });
    assert_eq!(heard.next_named("typing", SOON).await, Some(typing));
    let message = send(&writer, &bob, "said").await;
    reader.emit("markRead", &json!({ "friendId": alice, "upTo": message["messageId"] })).await.unwrap();
    let read = own.next_named("messagesRead", SOON).await.expect("the reading is told");
    assert_eq!(read["upTo"], message["messageId"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_page_of_history_says_who_types_now() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    // So long a life that nothing expires within the test.
    let settings = settings(&[("REDIS_URL", &*cache.url_at(line.port())), ("CACHE_TYPING_TTL", "3600")]).await;
    let gateway = Gateway::start(settings.clone()).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| UserId::parse(&unique(name)).unwrap());
    let chat = group(&settings, "g_0f0e0d0c-0b0a-4000-8000-060504030201", &[&alice, &bob, &carol]).await;
    let (writer, _events) = gateway.connect(alice.as_str()).await;
    let (reader, _events) = gateway.connect(bob.as_str()).await;
    let history = async |client: &Client, request: Value| client.emit_with_ack("history", &request).await.unwrap();
    let with_alice = json!({ "friendId": alice.as_str(), "limit": 1 });
    send(&writer, bob.as_str(), "one").await;
    send(&writer, bob.as_str(), "two").await;
    assert_eq!(history(&reader, with_alice.clone()).await["typing"], json!([]));

    say(&writer, json!({ "friendId": bob.as_str() }), true).await;
    say(&writer, json!({ "chatId": chat.as_str() }), true).await;
    let first = history(&reader, with_alice.clone()).await;
    assert_eq!(first["typing"], json!([alice.as_str()]));
    let of_group = history(&reader, json!({ "chatId": chat.as_str() })).await;
    assert_eq!(of_group["typing"], json!([alice.as_str()]));
    let own = history(&writer, json!({ "friendId": bob.as_str() })).await;
    assert_eq!(own["typing"], json!([]), "nobody reads of oneself");
    let second = json!({ "friendId": alice.as_str(), "limit": 1, "before": first["nextCursor"] });
    let second = history(&reader, second).await;
    assert!(second["messages"][0]["content"] == "one" && second.get("typing").is_none(), "{second}");

    say(&writer, json!({ "friendId": bob.as_str() }), false).await;
    until("the end is written", async || history(&reader, with_alice.clone()).await["typing"] == json!([])).await;
    line.cut().await;
    let without = history(&reader, with_alice).await;
    assert!(without["ok"] == true && without.get("typing").is_none(), "{without}");
}
