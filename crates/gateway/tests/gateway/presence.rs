//! Who is online is seen by those who share a chat, and by whoever asks.

use std::time::Duration;

use holdfast_cache::presence::{Online, PresenceSettings, Seen};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_socketio_client::{Client, Events};
use holdfast_testkit::{Mongo, Proxy, Redis, request, unique, until};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::described::Description;
use crate::support::{Gateway, send, settings, store};

const SOON: Duration = Duration::from_secs(30);

/// A cache that is given time answers on a busy machine, too.
const PATIENT: [(&str, &str); 2] = [("REDIS_BUDGET_MS", "5000"), ("SEND_DEADLINE_MS", "20000")];

async fn look(client: &Client, users: &[&str]) -> Value {
    client.emit_with_ack("presence", &json!({ "userIds": users })).await.unwrap()
}

async fn is_online(client: &Client, user: &str) -> bool {
    look(client, &[user]).await["online"][user] == true
}

/// The next that is told of anybody.
async fn told(events: &mut Events) -> (String, bool, i64) {
    let event = events.next_named("presence", SOON).await.expect("presence in time");
    let user = event["userId"].as_str().unwrap().to_owned();
    (user, event["online"].as_bool().unwrap(), event["lastSeen"].as_i64().unwrap())
}

/// Lets two users share a chat.
async fn acquaint(settings: &[(String, String)], one: &str, other: &str) {
    let [sender, receiver] = [one, other].map(|user| UserId::parse(user).unwrap());
    let message = Message {
        id: MessageId::from_bytes(fastrand::u128(..).to_be_bytes()),
        temp_id: None,
        chat: ChatId::direct(&sender, &receiver).unwrap(),
        sender,
        receiver: Some(receiver),
        content: "hello".into(),
        image_url: None,
        public_id: None,
        timestamp: 1,
    };
    let store = store(settings).await;
    until("they share a chat", async || store.touch_conversations(std::slice::from_ref(&message)).await.is_ok()).await;
}

/// What these settings' cache says of presence, asked directly.
fn cached(settings: &[(String, String)], url: Option<&str>) -> Online {
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let connection = Connection::open("cache", url.unwrap_or(value("REDIS_URL")), metrics).unwrap();
    let keys = Keys::new(value("CACHE_KEY_PREFIX"), "v1", ":", 250).unwrap();
    let life = PresenceSettings { life: Duration::from_secs(90), grace: Duration::from_secs(5) };
    Online::new(connection, keys, life)
}

async fn seen(cached: &Online, user: &str) -> Seen {
    let user = UserId::parse(user).unwrap();
    cached.look(&[user], Duration::from_secs(5)).await.unwrap()[0]
}

async fn flush(cache: &Redis) {
    let mut server = TcpStream::connect(("127.0.0.1", cache.port())).await.unwrap();
    server.write_all(b"FLUSHALL\r\n").await.unwrap();
    let mut answer = [0; 5];
    server.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"+OK\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn partners_on_any_gateway_see_a_user_come_and_go_and_nothing_of_a_reconnect() {
    let settings = settings(&PATIENT).await;
    let [alice, bob, carol, dave] = ["alice", "bob", "carol", "dave"].map(unique);
    for (one, other) in [(&alice, &bob), (&carol, &dave)] {
        acquaint(&settings, one, other).await;
    }
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let (watcher, mut partner) = far.connect(&bob).await;
    let (_carol, mut stranger) = far.connect(&carol).await;
    // Their own subscriptions are behind the connection.
    until("bob hears", async || {
        // On a busy machine it may be refused.
        let hello = json!({ "friendId": bob, "content": "hello" });
        near.connect(&carol).await.0.emit_with_ack("sendMessage", &hello).await.unwrap();
        partner.next_named("newMessage", Duration::from_millis(300)).await.is_some()
    })
    .await;
    assert_eq!(look(&watcher, &[&alice]).await, json!({ "ok": true, "online": { &alice: false }, "lastSeen": {} }));

    // By her hello carol is bob's partner, too: where it took several, he learns that she came and went.
    let told_but_of_carol = async |partner: &mut Events| loop {
        let told = told(partner).await;
        if told.0 != carol {
            break told;
        }
    };
    let (first, _first) = near.connect(&alice).await;
    let (who, online, came) = told_but_of_carol(&mut partner).await;
    assert_eq!((who.as_str(), online), (alice.as_str(), true));
    // A second device, one that goes, and one that reconnects: she is there all the while.
    let (second, _second) = far.connect(&alice).await;
    first.kill();
    until("the first device has expired", async || {
        tokio::time::sleep(Duration::from_secs(6)).await;
        is_online(&watcher, &alice).await
    })
    .await;
    second.kill();
    let (third, _third) = near.connect(&alice).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let seen = look(&watcher, &[&alice, &bob]).await;
    assert_eq!(seen["online"], json!({ &alice: true, &bob: true }));
    assert!(seen["lastSeen"][&alice].as_i64().unwrap() > came);
    third.kill();
    // Nothing was told in between.
    let (who, online, left) = told_but_of_carol(&mut partner).await;
    assert_eq!((who.as_str(), online), (alice.as_str(), false));
    assert!(left > came + 10_000, "{came} {left}");
    let seen = look(&watcher, &[&alice]).await;
    assert_eq!(seen, json!({ "ok": true, "online": { &alice: false }, "lastSeen": { &alice: left } }));

    // Who shares no chat with her was told nothing.
    let (_dave, _events) = near.connect(&dave).await;
    assert_eq!(told(&mut stranger).await.0, dave);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_lost_everything_learns_who_is_there_and_nobody_is_told_otherwise() {
    let cache = Redis::cache().await.unwrap();
    let (url, [budget, deadline]) = (cache.url(), PATIENT);
    // No heartbeat is due for minutes.
    let settings = settings(&[("REDIS_URL", &url), ("CACHE_PRESENCE_TTL", "600"), budget, deadline]).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    acquaint(&settings, &alice, &bob).await;
    let gateway = Gateway::start(settings).await;
    let (watcher, mut events) = gateway.connect(&bob).await;
    let (phone, _phone) = gateway.connect(&alice).await;
    assert!(told(&mut events).await.1);
    flush(&cache).await;
    until("the gateway misses its devices", async || is_online(&watcher, &alice).await).await;
    phone.kill();
    let (_, online, _) = told(&mut events).await;
    assert!(!online, "the first that is told after her coming is that she has gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_whom_nobody_could_be_told_others_are_told_later_and_as_it_is_then() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let [budget, deadline] = PATIENT;
    let settings = settings(&[("MONGO_URL", &url), ("MONGO_CB_RECOVERY_TIMEOUT", "500"), budget, deadline]).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(unique);
    for other in [&alice, &carol] {
        acquaint(&settings, &bob, other).await;
    }
    let (gateway, cached) = (Gateway::start(settings.clone()).await, cached(&settings, None));
    let (_watcher, mut events) = gateway.connect(&bob).await;
    let (_carol, _events) = gateway.connect(&carol).await;
    assert_eq!(told(&mut events).await.0, carol);
    line.cut().await;
    let (phone, _phone) = gateway.connect(&alice).await;
    until("she has come", async || seen(&cached, &alice).await.online).await;
    phone.kill();
    until("she has gone", async || !seen(&cached, &alice).await.online).await;
    line.heal().await.unwrap();
    let (who, online, _) = told(&mut events).await;
    assert_eq!((who.as_str(), online), (alice.as_str(), false), "she is not said to have come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coming_that_the_cache_took_without_an_answer_is_told() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let url = cache.url_at(line.port());
    let settings = settings(&[("REDIS_URL", &url), ("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")]).await;
    let (gateway, cached) = (Gateway::start(settings.clone()).await, cached(&settings, Some(&cache.url())));
    let bob = unique("bob");
    let (watcher, mut events) = gateway.connect(&bob).await;
    until("bob is there", async || is_online(&watcher, &bob).await).await;
    let mut come = None;
    until("the cache took it", async || {
        let alice = unique("alice");
        acquaint(&settings, &alice, &bob).await;
        line.drop_answers();
        let device = gateway.connect(&alice).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let taken = seen(&cached, &alice).await.online;
        line.heal().await.unwrap();
        // If it did not, the connection had been given up before; then once more.
        if !taken {
            until("heard", async || is_online(&watcher, &alice).await).await;
        }
        come = Some((alice, device));
        taken
    })
    .await;
    let (alice, _device) = come.unwrap();
    until("told", async || told(&mut events).await.0 == alice).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cache_nobody_knows_who_is_online_and_nothing_else_suffers() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let own = [("REDIS_URL", cache.url_at(line.port())), ("CACHE_CB_RECOVERY_TIMEOUT", "500".to_owned())];
    let own: Vec<_> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let gateway = Gateway::start(settings(&own).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (watcher, _events) = gateway.connect(&bob).await;
    line.cut().await;
    let answer = look(&watcher, &[&alice]).await;
    assert_eq!((&answer["error"]["code"], &answer["error"]["retryable"]), (&json!("UNAVAILABLE"), &json!(true)));
    let (came_meanwhile, mut events) = gateway.connect(&alice).await;
    send(&came_meanwhile, &bob, "as ever").await;
    send(&watcher, &alice, "as ever").await;
    assert!(events.next_named("newMessage", SOON).await.is_some());
    line.heal().await.unwrap();
    until("both are known", async || {
        look(&watcher, &[&alice, &bob]).await["online"] == json!({ &alice: true, &bob: true })
    })
    .await;
    assert_eq!(gateway.metric("holdfast_gateway_presence_dropped_total{reason=\"full\"}").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_blocks_the_other_neither_sees_the_other() {
    let settings = settings(&PATIENT).await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(unique);
    for other in [&alice, &carol] {
        acquaint(&settings, &bob, other).await;
    }
    let gateway = Gateway::start(settings).await;
    let (_client, mut events) = gateway.connect(&bob).await;
    let token = format!("authorization: Bearer {}", gateway.token(&bob));
    let blocked = request(&gateway.url, "PUT", &format!("/api/blocks/{alice}"), &[token], "").await.unwrap();
    assert!((200..300).contains(&blocked.status), "{blocked:?}");
    let (other, mut her_events) = gateway.connect(&alice).await;
    let (watcher, _events) = gateway.connect(&carol).await;
    // What is told of one user after the other is told in that order.
    assert_eq!(told(&mut events).await.0, carol);
    until("both are there", async || {
        look(&watcher, &[&alice, &bob]).await["online"] == json!({ &alice: true, &bob: true })
    })
    .await;
    let of_her = gateway.get(&bob, &format!("/api/presence?userIds={alice},{carol}")).await;
    assert_eq!(of_her.body["online"], json!({ &alice: false, &carol: true }));
    assert_eq!(of_her.body["lastSeen"].get(&alice), None);
    assert_eq!(look(&other, &[&bob]).await, json!({ "ok": true, "online": { &bob: false }, "lastSeen": {} }));
    let typed = other.emit_with_ack("typing", &json!({ "friendId": bob, "typing": true })).await.unwrap();
    assert_eq!(typed["error"]["code"], "FORBIDDEN", "{typed}");
    assert!(
        her_events
            .arrived()
            .iter()
            .chain(&events.arrived())
            .all(|event| event.name == "presence" && event.data["userId"] == carol)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_users_are_one_call_and_more_are_too_many() {
    let gateway = Gateway::start(settings(&PATIENT).await).await;
    let (alice, mut users) = (unique("alice"), Vec::new());
    let (client, _events) = gateway.connect(&alice).await;
    users.extend((0..99).map(|number| format!("{alice}.{number}")));
    users.push(alice.clone());
    let users: Vec<_> = users.iter().map(String::as_str).collect();
    until("she is there", async || is_online(&client, &alice).await).await;
    const LOOKS: &str = "cache_operations_total{op=\"presence_look\",result=\"ok\"}";
    let before = gateway.metric(LOOKS).await;
    let answer = look(&client, &users).await;
    assert_eq!(gateway.metric(LOOKS).await, before + 1.0);
    let online = answer["online"].as_object().unwrap();
    assert_eq!((online.len(), online.values().filter(|online| **online == true).count()), (100, 1));

    let (path, many) = (format!("/api/presence?userIds={}", users.join(",")), [&*users, &["one-more"]].concat());
    let response = gateway.get(&alice, &path).await;
    assert_eq!((response.status, &response.body["online"]), (200, &answer["online"]));
    let description = Description::served(&gateway.url).await;
    description.check("GET", "/api/presence", &response);
    for wrong in [json!(many), json!(["a:b"]), json!(["*"]), json!([""]), json!(7), Value::Null] {
        let answer = client.emit_with_ack("presence", &json!({ "userIds": wrong })).await.unwrap();
        assert_eq!(answer["error"]["code"], "VALIDATION", "{wrong}");
    }
    for (query, status) in [(format!("userIds={}", many.join(",")), 400), ("userIds=".into(), 400), ("".into(), 400)] {
        let response = gateway.get(&alice, &format!("/api/presence?{query}")).await;
        assert_eq!((response.status, &response.body["code"]), (status, &json!("VALIDATION")), "{query}");
        description.check("GET", "/api/presence", &response);
    }
}
