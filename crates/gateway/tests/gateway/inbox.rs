//! What users see of their chats, while nothing is stored yet, while the store is away, and under a storm.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_message::{ChatId, UserId};
use holdfast_socketio_client::Client;
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Mongo, Proxy, Redis, request, unique, until};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::described::Description;
use crate::people::{Person, SOON, refused};
use crate::support::{Gateway, message, send, settings, store, with};

/// A cache that is slow, on a busy machine, is no cache that is away.
const PATIENT: [(&str, &str); 2] = [("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")];

async fn ask(client: &Client, event: &str, payload: Value) -> Value {
    client.emit_with_ack(event, &payload).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_durable_but_not_stored_is_unread_and_listed_and_can_be_read() {
    // No worker runs: only the recent lists have the messages.
    let settings = settings(&PATIENT).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, bob, carol) = (unique("alice"), unique("bob"), unique("carol"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let (of_carol, _) = gateway.connect(&carol).await;
    let mut sent = Vec::new();
    for n in 0..5 {
        sent.push(send(&of_alice, &bob, &format!("message {n}")).await);
    }
    let other = send(&of_carol, &bob, "hello").await;
    let (of_bob, _) = gateway.connect(&bob).await;
    let (chat, chat_of_carol) = (format!("{alice}:{bob}"), format!("{bob}:{carol}"));
    // The store knows of the chats a moment after their first messages.
    until("both chats are unread", async || {
        let unread = ask(&of_bob, "unread", json!({})).await;
        unread["counts"] == json!({ chat.clone(): 5, chat_of_carol.clone(): 1 }) && unread["total"] == 6
    })
    .await;
    let list = ask(&of_bob, "conversations", json!({})).await;
    let last = |n: usize| list["conversations"][n]["lastMessage"]["messageId"].clone();
    assert_eq!((last(0), last(1)), (other["messageId"].clone(), sent[4]["messageId"].clone()), "{list}");

    let read = ask(&of_bob, "markRead", json!({ "chatId": chat, "upTo": sent[2]["messageId"] })).await;
    assert_eq!(read, json!({ "ok": true, "unread": 2 }));
    let setting = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.clone();
    let store = Store::new(StoreSettings::new(setting("MONGO_URL"), setting("MONGO_DB"))).await.unwrap();
    let (bob, chat) = (UserId::parse(&bob).unwrap(), ChatId::parse(&chat).unwrap());
    let stored = store.read_states(&bob, std::slice::from_ref(&chat)).await.unwrap()[&chat];
    assert_eq!(stored.id.to_string(), sent[2]["messageId"].as_str().unwrap());
    assert_eq!(stored.timestamp, sent[2]["timestamp"].as_i64().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_readers_of_what_is_not_cached_counts_once() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let _of_bob = gateway.connect(&bob).await;
    send(&of_alice, &bob, "hello").await;
    let counted = async || gateway.metric("holdfast_gateway_inboxes_counted_total").await;
    // Until the counter on arrival has had its turn, which counts too.
    until("counted on arrival", async || counted().await >= 1.0).await;
    let (dora, before) = (unique("dora"), counted().await);
    let (of_dora, _) = gateway.connect(&dora).await;
    let answers = join_all((0..100).map(|_| ask(&of_dora, "unread", json!({})))).await;
    assert!(answers.iter().all(|answer| answer["ok"] == true && answer["total"] == 0), "{answers:?}");
    assert_eq!(counted().await - before, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_told_of_arrivals_at_most_once_a_second_and_in_the_end_of_all() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let (_of_bob, mut events) = gateway.connect(&bob).await;
    let started = Instant::now();
    for n in 1..=60 {
        send(&of_alice, &bob, &format!("message {n}")).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let (mut times, mut last) = (Vec::new(), Value::Null);
    while last["count"] != 60 {
        last = events.next_named("unreadCount", Duration::from_secs(5)).await.expect("the last count");
        times.push(started.elapsed());
    }
    assert_eq!(last, json!({ "chatId": format!("{alice}:{bob}"), "count": 60, "total": 60 }));
    let most = times.last().unwrap().as_secs() + 2;
    assert!(times.len() as u64 <= most, "told {} times in {:?}", times.len(), times.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_what_is_cached_is_answered_and_the_rest_refused() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let lives = [("MONGO_URL", url.as_str()), ("CACHE_UNREAD_TTL", "600"), ("CACHE_CONVLIST_TTL", "600")];
    let gateway = Gateway::start(settings(&[&lives[..], &PATIENT].concat()).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let (of_bob, _) = gateway.connect(&bob).await;
    let first = send(&of_alice, &bob, "hello").await;
    until("cached", async || ask(&of_bob, "unread", json!({})).await["total"] == 1).await;

    line.cut().await;
    let second = send(&of_alice, &bob, "and again").await;
    until("counted on arrival", async || ask(&of_bob, "unread", json!({})).await["total"] == 2).await;
    let list = ask(&of_bob, "conversations", json!({})).await;
    assert_eq!(list["conversations"][0]["lastMessage"]["messageId"], second["messageId"], "{list}");
    assert_eq!((&list["complete"], &list["conversations"][0]["unread"]), (&json!(true), &json!(2)), "{list}");
    // Nothing is cached of alice, who has never asked; and nothing is read that is not stored as read.
    for (client, event, payload) in [
        (&of_alice, "unread", json!({})),
        (&of_alice, "conversations", json!({})),
        (&of_bob, "markRead", json!({ "friendId": alice, "upTo": first["messageId"] })),
    ] {
        let refused = ask(client, event, payload).await;
        assert_eq!(refused["error"]["code"], "UNAVAILABLE", "{event}: {refused}");
        assert_eq!(refused["error"]["retryable"], true, "{event}: {refused}");
    }
    line.heal().await.unwrap();
    until("read", async || {
        let read = ask(&of_bob, "markRead", json!({ "friendId": alice, "upTo": second["messageId"] })).await;
        read["ok"] == true && read["unread"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_listing_was_not_answered_in_time_is_counted_and_its_chat_known() {
    let redis = Redis::cache().await.unwrap();
    let line = Proxy::start(redis.port()).await.unwrap();
    let url = redis.url_at(line.port());
    // What is cached stays so for longer than the test takes.
    let own = [("REDIS_URL", url.as_str()), ("CACHE_UNREAD_TTL", "600"), ("CACHE_CONVLIST_TTL", "600")];
    let settings = settings(&[&own[..], &PATIENT].concat()).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    // Bob has no device: nothing asks for him but the test.
    let token = [format!("authorization: Bearer {}", gateway.token(&bob))];
    let total = async || {
        let answer = request(&gateway.url, "GET", "/api/chat/unread", &token, "").await.unwrap();
        answer.body["total"].as_u64()
    };
    until("nothing is unread, which is cached", async || total().await == Some(0)).await;
    line.drop_answers();
    send(&of_alice, &bob, "first").await;
    line.heal().await.unwrap();
    until("the first is counted", async || total().await == Some(1)).await;
    let (store, bob_id) = (store(&settings).await, UserId::parse(&bob).unwrap());
    until("the store knows the chat", async || {
        store.conversations(&bob_id, None, 10).await.is_ok_and(|chats| chats.len() == 1)
    })
    .await;
    line.drop_answers();
    send(&of_alice, &bob, "second").await;
    line.heal().await.unwrap();
    until("the second is counted", async || total().await == Some(2)).await;

    let online = async || {
        let answer = request(&gateway.url, "GET", "/api/chat/conversations", &token, "").await.unwrap();
        answer.body.pointer("/conversations/0/online").cloned()
    };
    until("alice is there", async || online().await == Some(json!([alice]))).await;
    line.cut().await;
    until("nobody knows who is online", async || online().await == Some(Value::Null)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_that_is_written_to_all_the_while_that_it_is_counted_is_counted_right() {
    let Reading { mongo, line, settings, .. } = Reading::start().await;
    let settings = with(&settings, "CACHE_UNREAD_TTL", "600");
    let gateway = Gateway::start(settings.clone()).await;
    let stored = store(&with(&settings, "MONGO_URL", &mongo.url())).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    // More may come than a recent list holds: what leaves it is stored by then.
    let first = send(&of_alice, &bob, "hello").await;
    stored.insert(&[message(&first)]).await.unwrap();
    let reader = UserId::parse(&bob).unwrap();
    until("the store knows the chat", async || {
        stored.conversations(&reader, None, 10).await.is_ok_and(|chats| chats.len() == 1)
    })
    .await;
    line.latency(Duration::from_millis(150));
    let token = [format!("authorization: Bearer {}", gateway.token(&bob))];
    // Bob has no device: nothing counts for him but this.
    let total = async || {
        let answer = request(&gateway.url, "GET", "/api/chat/unread", &token, "").await.unwrap();
        answer.body["total"].as_u64()
    };
    // What is listed is stored a moment later, while the count goes on.
    let (mut sent, stop) = (1, CancellationToken::new());
    let write = async {
        while !stop.is_cancelled() {
            let answered = send(&of_alice, &bob, "and more").await;
            stored.insert(&[message(&answered)]).await.unwrap();
            sent += 1;
        }
    };
    let count = async {
        until("counted", async || total().await.is_some()).await;
        stop.cancel();
    };
    tokio::join!(write, count);
    line.latency(Duration::ZERO);
    until("all are counted once", async || total().await == Some(sent)).await;
}

/// A gateway whose store is behind a line that can fail, what is stored, and a message from alice that bob may read.
struct Reading {
    mongo: Mongo,
    line: Proxy,
    settings: Vec<(String, String)>,
    gateway: Gateway,
}

impl Reading {
    async fn start() -> Self {
        let mongo = Mongo::start().await.unwrap();
        let line = Proxy::start(mongo.port()).await.unwrap();
        let url = mongo.url_at(line.port());
        let own = [("MONGO_URL", url.as_str()), ("MONGO_CB_RECOVERY_TIMEOUT", "500")];
        let settings = settings(&[&own[..], &PATIENT].concat()).await;
        let gateway = Gateway::start(settings.clone()).await;
        Self { mongo, line, settings, gateway }
    }

    /// Whether the store, asked directly, knows that the user has read something of the chat.
    async fn is_stored(&self, user: &str, chat: &str) -> bool {
        let store = store(&with(&self.settings, "MONGO_URL", &self.mongo.url())).await;
        let (user, chat) = (UserId::parse(user).unwrap(), ChatId::parse(chat).unwrap());
        store.read_states(&user, &[chat]).await.is_ok_and(|states| !states.is_empty())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_was_stored_but_not_answered_is_told_when_it_is_repeated() {
    let reading = Reading::start().await;
    let mut alice = Person::at(&reading.gateway, "alice").await;
    let bob = Person::at(&reading.gateway, "bob").await;
    let (chat, sent) = (format!("{}:{}", alice.name, bob.name), send(&alice.client, &bob.name, "hello").await);
    let request = json!({ "chatId": chat, "upTo": sent["messageId"] });
    until("stored as read", async || {
        reading.line.drop_answers();
        refused(&bob.emit("markRead", request.clone()).await, "UNAVAILABLE", true);
        // If it went no further than opening a connection, which needs answers, then once more.
        reading.line.heal().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        reading.is_stored(&bob.name, &chat).await
    })
    .await;
    until("read", async || bob.emit("markRead", request.clone()).await["ok"] == true).await;
    let told = alice.events.next_named("messagesRead", SOON).await;
    assert_eq!(told, Some(json!({ "chatId": chat, "userId": bob.name, "upTo": sent["messageId"] })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_told_although_its_reader_hangs_up() {
    let reading = Reading::start().await;
    let mut alice = Person::at(&reading.gateway, "alice").await;
    let bob = unique("bob");
    let sent = send(&alice.client, &bob, "hello").await;
    let (body, token) = (json!({ "upTo": sent["messageId"] }).to_string(), reading.gateway.token(&bob));
    let request = format!(
        "PUT /api/chat/messages/{}/read HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        alice.name,
        body.len()
    );
    reading.line.latency(Duration::from_millis(700));
    until("heard", async || {
        let mut line = TcpStream::connect(reading.gateway.url.trim_start_matches("http://")).await.unwrap();
        line.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(line);
        alice.events.next_named("messagesRead", Duration::from_secs(5)).await.is_some()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_is_told_in_small_groups_only() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let (reader, mut other) = (Person::at(&gateway, "reader").await, Person::at(&gateway, "other").await);
    let many: Vec<_> = (0..99).map(|number| format!("{}.{number}", reader.name)).collect();
    let few: Vec<_> = [other.name.as_str()].into_iter().chain(many[..98].iter().map(String::as_str)).collect();
    let (small, large) = (reader.group(&few).await, reader.group(&[&few[..], &[&*many[98]]].concat()).await);
    // Live events of one gateway keep their order.
    for (chat, told) in [(&large, false), (&small, true)] {
        let sent = other.send(chat, "hello").await;
        let request = json!({ "chatId": chat, "upTo": sent["messageId"] });
        until("read", async || reader.emit("markRead", request.clone()).await["ok"] == true).await;
        if told {
            let heard = other.events.next_named("messagesRead", SOON).await;
            let expected = json!({ "chatId": chat, "userId": reader.name, "upTo": sent["messageId"] });
            assert_eq!(heard, Some(expected));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_and_says_why() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (client, _) = gateway.connect(&alice).await;
    let id = "00000000-0000-4000-8000-000000000000";
    for (event, payload, code) in [
        ("markRead", json!({ "friendId": bob }), "VALIDATION"),
        ("markRead", json!({ "friendId": bob, "upTo": "nothing" }), "VALIDATION"),
        ("markRead", json!({ "friendId": bob, "upTo": id.to_uppercase().replace('0', "A") }), "VALIDATION"),
        ("markRead", json!({ "upTo": id }), "VALIDATION"),
        ("markRead", json!({ "friendId": bob, "chatId": "a:b", "upTo": id }), "VALIDATION"),
        ("markRead", json!({ "friendId": bob, "upTo": id }), "NOT_FOUND"),
        ("markRead", json!({ "chatId": "a:b", "upTo": id }), "FORBIDDEN"),
        ("markRead", json!({ "chatId": format!("g_{id}"), "upTo": id }), "NOT_FOUND"),
        ("conversations", json!({ "limit": 0 }), "VALIDATION"),
        ("conversations", json!({ "limit": 101 }), "VALIDATION"),
        ("conversations", json!({ "before": "?" }), "VALIDATION"),
        ("conversations", json!({ "before": "eCB5" }), "VALIDATION"),
    ] {
        let refused = ask(&client, event, payload.clone()).await;
        assert_eq!(refused["error"]["code"], code, "{event} {payload}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_rest_the_answers_are_as_described() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let description = Description::served(&gateway.url).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let sent = send(&of_alice, &bob, "hello").await;
    let headers = [format!("authorization: Bearer {}", gateway.token(&bob)), "content-type: application/json".into()];
    let up_to = json!({ "upTo": sent["messageId"] }).to_string();
    let elsewhere = json!({ "upTo": "00000000-0000-4000-8000-000000000000" }).to_string();
    for (method, template, path, body, status) in [
        ("GET", "/api/chat/unread", "/api/chat/unread".to_owned(), "", 200),
        ("GET", "/api/chat/conversations", "/api/chat/conversations?limit=1".to_owned(), "", 200),
        ("GET", "/api/chat/conversations", "/api/chat/conversations?limit=0".to_owned(), "", 400),
        ("PUT", "/api/chat/messages/{friendId}/read", format!("/api/chat/messages/{alice}/read"), &up_to, 200),
        ("PUT", "/api/chat/messages/{friendId}/read", format!("/api/chat/messages/{alice}/read"), &elsewhere, 404),
        ("PUT", "/api/chats/{chatId}/read", format!("/api/chats/{alice}:{bob}/read"), &up_to, 200),
        ("PUT", "/api/chats/{chatId}/read", "/api/chats/a:b/read".to_owned(), &up_to, 403),
        ("PUT", "/api/chats/{chatId}/read", format!("/api/chats/{alice}:{bob}/read"), "{}", 400),
    ] {
        let answer = request(&gateway.url, method, &path, &headers, body).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        description.check(method, template, &answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_was_written_before_one_joined_nothing_is_unread_and_of_what_is_written_after_everything() {
    let settings = settings(&PATIENT).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let carol = Person::at(&gateway, "carol").await;
    let group = alice.group(&[&carol.name]).await;
    let member = format!("/api/chats/{group}/members/{}", bob.name);
    let unread = async |person: &Person<'_>| ask(&person.client, "unread", json!({})).await;
    let is = |count: usize| match count {
        0 => json!({ "ok": true, "counts": {}, "total": 0 }),
        count => json!({ "ok": true, "counts": { group.clone(): count }, "total": count }),
    };
    let mut written = 0;
    let mut write = async |count: usize| {
        for _ in 0..count {
            let sent = alice.send(&group, "hello").await;
            // Of the first ones the store alone knows.
            if written < 2 {
                store(&settings).await.insert(&[message(&sent)]).await.unwrap();
            }
            written += 1;
        }
    };
    write(3).await;
    for round in 0..3 {
        assert_eq!(alice.rest("PUT", &member, json!({})).await.status, 200);
        assert_eq!(unread(&bob).await, is(0), "round {round}");
        write(2).await;
        until("what is written after is unread", async || unread(&bob).await == is(2)).await;
        let page = ask(&bob.client, "history", json!({ "chatId": group, "limit": 100 })).await;
        assert_eq!(page["messages"].as_array().unwrap().len(), 5 + 3 * round, "{page}");
        assert_eq!(alice.rest("DELETE", &member, Value::Null).await.status, 204);
        until("it is his no more", async || unread(&bob).await == is(0)).await;
        write(1).await;
    }
    until("carol has read nothing", async || unread(&carol).await == is(12)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_unread_either_of_what_the_store_alone_has_when_one_joins() {
    let settings = settings(&PATIENT).await;
    let gateway = Gateway::start(settings.clone()).await;
    let (alice, bob) = (Person::at(&gateway, "alice").await, Person::at(&gateway, "bob").await);
    let group = alice.group(&[]).await;
    let draft = |number: i64| {
        let (sender, chat) = (UserId::parse(&alice.name).unwrap(), ChatId::parse(&group).unwrap());
        let draft = holdfast_message::Draft::new(sender, chat, None, format!("old {number}"), None, None);
        draft.unwrap().stamp(1_700_000_000_000 + number)
    };
    store(&settings).await.insert(&(0..5).map(draft).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(alice.rest("PUT", &format!("/api/chats/{group}/members/{}", bob.name), json!({})).await.status, 200);
    assert_eq!(ask(&bob.client, "unread", json!({})).await["total"], 0);
    let sent = alice.send(&group, "new").await;
    until("the new one is unread", async || ask(&bob.client, "unread", json!({})).await["total"] == 1).await;
    let read = ask(&bob.client, "markRead", json!({ "chatId": group, "upTo": sent["messageId"] })).await;
    assert_eq!(read, json!({ "ok": true, "unread": 0 }));
}
