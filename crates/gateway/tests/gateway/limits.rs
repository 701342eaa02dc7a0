//! What is too much is refused, with its code, the time to wait and a count; and nobody else notices.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_gateway::wire::asyncapi;
use holdfast_gateway::wire::events::client;
use holdfast_socketio_client::{Client, ConnectError};
use holdfast_testkit::{Mongo, Proxy, free_port, request, token, unique, until};
use serde_json::{Value, json};

use crate::described::{Description, filled};
use crate::support::{Gateway, SECRET, send, settings, with};

async fn limited(gateway: &Gateway, limit: &str) -> f64 {
    gateway.metric(&format!("holdfast_gateway_limited_total{{limit=\"{limit}\"}}")).await
}

fn is_limited(answer: &Value) -> bool {
    let error = &answer["error"];
    let is = error["code"] == "RATE_LIMITED";
    assert!(!is || (error["retryable"] == true && error["retryAfterMs"].as_u64().is_some_and(|ms| ms > 0)), "{answer}");
    is
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_but_a_send_is_limited_by_its_name_over_all_gateways() {
    // A budget that a busy machine keeps to: beyond it each gateway counts alone.
    let own =
        [("EVENT_LIMIT", "2"), ("WINDOW_SECONDS", "60"), ("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")];
    let settings = settings(&own).await;
    let gateways = [Gateway::start(settings.clone()).await, Gateway::start(settings).await];
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (first, _) = gateways[0].connect(&alice).await;
    let (second, _) = gateways[1].connect(&alice).await;
    let (other, _) = gateways[0].connect(&bob).await;
    let described = asyncapi::description();
    for event in client::ALL.into_iter().filter(|event| *event != client::SEND_MESSAGE) {
        let payload = &described["components"]["messages"][event]["examples"][0]["payload"];
        for socket in [&first, &second] {
            assert!(!is_limited(&socket.emit_with_ack(event, payload).await.unwrap()), "{event}");
        }
        for socket in [&first, &second] {
            assert!(is_limited(&socket.emit_with_ack(event, payload).await.unwrap()), "{event}");
        }
        assert!(!is_limited(&other.emit_with_ack(event, payload).await.unwrap()), "{event}");
    }
    assert_eq!(limited(&gateways[1], "events").await, (client::ALL.len() - 1) as f64);
    for _ in 0..5 {
        send(&first, &bob, "sends have a limit of their own").await;
    }
    // REST counts with the same events.
    let bearer = format!("authorization: Bearer {}", gateways[0].token(&alice));
    let path = format!("/api/chat/messages/{bob}");
    let answer = request(&gateways[0].url, "GET", &path, &[bearer], "").await.unwrap();
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("RATE_LIMITED")), "{answer:?}");
    // And not with the other requests besides.
    let bearer = [format!("authorization: Bearer {}", gateways[0].token(&unique("dora")))];
    for (path, status) in [(&path, 200), (&path, 200), (&"/api/presence".to_owned(), 400), (&path, 429)] {
        let answer = request(&gateways[0].url, "GET", path, &bearer, "").await.unwrap();
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
    assert!(answer.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().unwrap() > 30), "{answer:?}");
    // Other requests count together, whatever they ask for.
    let mut routes = 0;
    for (path, method, operation) in Description::served(&gateways[0].url).await.operations() {
        let id = operation["operationId"].as_str().unwrap();
        let bearer = [format!("authorization: Bearer {}", gateways[0].token(&unique("carol")))];
        let (method, path) = (method.to_uppercase(), filled(path));
        let mut statuses = Vec::new();
        for gateway in [&gateways[0], &gateways[1], &gateways[0]] {
            statuses.push(request(&gateway.url, &method, &path, &bearer, "{}").await.unwrap().status);
        }
        let is_send = id.starts_with("sendMessage") || id == "sendToChat";
        assert!(statuses[..2].iter().all(|status| *status != 429), "{method} {path}: {statuses:?}");
        assert_eq!(statuses[2] == 429, !is_send, "{method} {path}: {statuses:?}");
        routes += 1;
    }
    assert!(routes > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_cache_a_limit_of_the_same_size_stands_in() {
    let away = format!("redis://127.0.0.1:{}", free_port().unwrap());
    let own = [("EVENT_LIMIT", "3"), ("MESSAGE_LIMIT", "4"), ("WINDOW_SECONDS", "60"), ("REDIS_URL", away.as_str())];
    let gateway = Gateway::start(settings(&own).await).await;
    let (alice, _) = gateway.connect(&unique("alice")).await;
    let friend = json!({ "friendId": unique("bob"), "content": "hello" });
    for (event, payload, allowed) in [(client::HISTORY, &json!({}), 3), (client::SEND_MESSAGE, &friend, 4)] {
        let mut passed = 0;
        for _ in 0..8 {
            passed += usize::from(!is_limited(&alice.emit_with_ack(event, payload).await.unwrap()));
        }
        assert_eq!(passed, allowed, "{event}");
    }
    assert_eq!((limited(&gateway, "events").await, limited(&gateway, "messages").await), (5.0, 4.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_counts_once_whether_it_is_permitted_or_not() {
    let own =
        [("MESSAGE_LIMIT", "5"), ("WINDOW_SECONDS", "600"), ("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")];
    let gateway = Gateway::start(settings(&own).await).await;
    let nowhere = |n: usize| json!({ "chatId": format!("g_00000000-0000-4000-8000-00000000000{n}"), "content": "x" });
    let somewhere = |_: usize| json!({ "friendId": unique("friend"), "content": "x" });
    let payloads: [&dyn Fn(usize) -> Value; 2] = [&nowhere, &somewhere];
    for payload in payloads {
        let (client, _) = gateway.connect(&unique("user")).await;
        let mut passed = 0;
        for n in 0..8 {
            let answer = client.emit_with_ack(client::SEND_MESSAGE, &payload(n)).await.unwrap();
            let refused = is_limited(&answer);
            // As long as the limit is not used up, and no longer.
            assert_eq!(refused, n >= 5, "{answer}");
            passed += usize::from(!refused);
        }
        assert_eq!(passed, 5);
    }
    assert_eq!(limited(&gateway, "messages").await, 6.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_the_store_takes_no_more_than_a_share_of_what_may_be_in_progress() {
    let mongo = Mongo::start().await.unwrap();
    let line = Proxy::start(mongo.port()).await.unwrap();
    let url = mongo.url_at(line.port());
    let gateway = Gateway::start(settings(&[("MONGO_URL", url.as_str()), ("MAX_SENDS_IN_FLIGHT", "20")]).await).await;
    until("the store is reached", async || gateway.health("/dependencies/mongodb/up").await == true).await;
    let (alice, _) = gateway.connect(&unique("alice")).await;
    let (bob, _) = gateway.connect(&unique("bob")).await;
    line.blackhole();
    let nowhere = |n: usize| json!({ "chatId": format!("g_00000000-0000-4000-8000-0000000000{n}"), "content": "x" });
    let storm = join_all((10..40).map(|n| {
        let (alice, payload) = (&alice, nowhere(n));
        async move { alice.emit_with_ack(client::SEND_MESSAGE, &payload).await.unwrap() }
    }));
    let calm = async {
        // Behind the storm.
        tokio::time::sleep(Duration::from_millis(200)).await;
        bob.emit_with_ack(client::SEND_MESSAGE, &json!({ "friendId": unique("carol"), "content": "x" })).await.unwrap()
    };
    let (storm, calm) = tokio::join!(storm, calm);
    assert_eq!(calm["ok"], true, "{calm}");
    let too_many = |answer: &&Value| answer["error"]["message"] == "too many of your sends in progress";
    assert!(storm.iter().any(|answer| too_many(&answer)), "{storm:?}");
    assert!(storm.iter().all(|answer| answer["error"]["code"] == "UNAVAILABLE"), "{storm:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_that_sends_too_much_is_told_so_and_who_takes_no_notice_is_disconnected() {
    let gateway = Gateway::start(settings(&[("SOCKET_EVENTS_PER_SECOND", "10")]).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (fast, _) = gateway.connect(&alice).await;
    let (calm, _) = gateway.connect(&alice).await;
    let message = json!({ "friendId": bob, "content": "hello" });
    let begun = Instant::now();
    let answers = join_all((0..40).map(|_| fast.emit_with_ack("sendMessage", &message))).await;
    let passed = answers.iter().filter(|answer| answer.as_ref().is_ok_and(|answer| answer["ok"] == true)).count();
    // Having come in counts as an event, too.
    let most = 20 + 10 * (begun.elapsed().as_secs() as usize + 1);
    assert!((19..most).contains(&passed), "{passed} passed in {:?}", begun.elapsed());
    assert!(answers.iter().flatten().all(|answer| answer["ok"] == true || is_limited(answer)), "{answers:?}");
    let refused = answers.iter().flatten().filter(|answer| is_limited(answer)).count();
    assert_eq!(limited(&gateway, "socket_events").await, refused as f64);
    assert_eq!(calm.emit_with_ack("sendMessage", &message).await.unwrap()["ok"], true, "another connection");
    // Whoever waits as told passes.
    let answer = fast.emit_with_ack("history", &json!({ "friendId": bob })).await.unwrap();
    if is_limited(&answer) {
        tokio::time::sleep(Duration::from_millis(answer["error"]["retryAfterMs"].as_u64().unwrap())).await;
        assert_eq!(fast.emit_with_ack("history", &json!({ "friendId": bob })).await.unwrap()["ok"], true);
    }
    // Unknown events, and events that want no answer, count too.
    for _ in 0..150 {
        if fast.emit("noSuchEvent", &json!({})).await.is_err() {
            break;
        }
    }
    tokio::time::timeout(Duration::from_secs(60), fast.closed()).await.expect("it is disconnected");
    assert_eq!(gateway.metric("holdfast_gateway_abusive_sockets_total").await, 1.0);
    assert_eq!(calm.emit_with_ack("sendMessage", &message).await.unwrap()["ok"], true, "another connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_limited_too() {
    let gateway = Gateway::start(settings(&[("SOCKET_BYTES_PER_SECOND", "20000")]).await).await;
    let (alice, _) = gateway.connect(&unique("alice")).await;
    let long = json!({ "friendId": unique("bob"), "content": "x".repeat(4000) });
    let begun = Instant::now();
    let answers = join_all((0..40).map(|_| alice.emit_with_ack("sendMessage", &long))).await;
    let passed = answers.iter().flatten().filter(|answer| answer["ok"] == true).count();
    let most = 10 + 5 * (begun.elapsed().as_secs() as usize + 1);
    assert!((9..most).contains(&passed), "{passed} passed in {:?}", begun.elapsed());
    assert_eq!(limited(&gateway, "socket_bytes").await, (40 - passed) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_leaves_and_comes_in_again_without_end_is_let_in_as_often_as_it_may_send() {
    let own = [("SOCKET_EVENTS_PER_SECOND", "1"), ("PING_INTERVAL_MS", "1000")];
    let gateway = Gateway::start(settings(&own).await).await;
    let open = "/socket.io/?EIO=4&transport=polling";
    let text = |answer: &holdfast_testkit::Response| String::from_utf8_lossy(&answer.bytes).into_owned();
    let opened = text(&request(&gateway.url, "GET", open, &[], "").await.unwrap());
    let sid = opened.split('"').nth(3).unwrap();
    let path = format!("{open}&sid={sid}");
    let say =
        async |packet: &str| assert_eq!(request(&gateway.url, "POST", &path, &[], packet).await.unwrap().status, 200);
    let enter = format!("40{}", json!({ "token": gateway.token(&unique("alice")) }));
    let (mut asked, mut entered) = (0, 0);
    // Faster than once a second.
    for _ in 0..100 {
        asked += 1;
        say(&enter).await;
        let mut heard = text(&request(&gateway.url, "GET", &path, &[], "").await.unwrap());
        while heard == "2" {
            // socketioxide ignores a CONNECT until its task for the last one has ended: ask again with the next ping.
            say("3").await;
            asked += 1;
            say(&enter).await;
            heard = text(&request(&gateway.url, "GET", &path, &[], "").await.unwrap());
        }
        if heard.contains("44{") {
            assert!(heard.contains("RATE_LIMITED"), "{heard}");
            break;
        }
        assert!(heard.contains("40{"), "{heard}");
        entered += 1;
        say("41").await;
    }
    assert!((1..100).contains(&entered), "{entered}");
    let refused = limited(&gateway, "socket_events").await;
    assert!((1.0..=f64::from(asked - entered)).contains(&refused), "{refused} of {asked}, {entered} entered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_counts_by_its_chats_and_in_the_handshake_too() {
    let own =
        [("EVENT_LIMIT", "3"), ("WINDOW_SECONDS", "600"), ("REDIS_BUDGET_MS", "1000"), ("SEND_DEADLINE_MS", "10000")];
    let gateway = Gateway::start(settings(&own).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (of_alice, _) = gateway.connect(&alice).await;
    let sent = send(&of_alice, &bob, "hello").await;
    let offset = json!({ "epoch": sent["epoch"], "seq": 0 });
    let offsets = |chats: usize| {
        let others = (1..chats).map(|n| (format!("{bob}:friend{n}"), offset.clone()));
        Value::Object(others.chain([(format!("{alice}:{bob}"), offset.clone())]).collect())
    };
    // Two of three; there is room for one more, and then for none.
    for (chats, recovered) in [(60, true), (60, false), (1, true), (1, false)] {
        let auth = json!({ "token": gateway.token(&bob), "offsets": offsets(chats) });
        let (_client, mut events) = Client::connect_with(&gateway.url, &auth).await.unwrap();
        let resumed = events.next_named("resumed", Duration::from_secs(20)).await.unwrap();
        let chat = &resumed["chats"][format!("{alice}:{bob}")];
        assert_eq!(chat["recovered"], recovered, "{chats} chats: {chat}");
        assert_eq!(chat["epoch"].is_null(), !recovered, "{chat}");
        assert_eq!(resumed["chats"].as_object().unwrap().len(), chats);
    }
    let (client, _) = gateway.connect(&bob).await;
    assert!(is_limited(&client.emit_with_ack("resume", &json!({ "offsets": {} })).await.unwrap()));
    assert_eq!(limited(&gateway, "events").await, 3.0);
}

fn refusal(connected: Result<(Client, holdfast_socketio_client::Events), ConnectError>) -> String {
    match connected {
        Err(ConnectError::Refused { message, .. }) => message,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_per_user_and_per_address_and_their_places_are_given_back() {
    let common = settings(&[]).await;
    for (name, limit, same_user) in
        [("MAX_SOCKETS_PER_USER", "user_sockets", true), ("MAX_SOCKETS_PER_ADDRESS", "address_sockets", false)]
    {
        let gateway = Gateway::start(with(&common, name, "2")).await;
        let alice = unique("alice");
        let user = || if same_user { alice.clone() } else { unique("user") };
        let mut first = gateway.connect(&user()).await;
        let second = gateway.connect(&user()).await;
        for _ in 0..3 {
            let refused = Client::connect(&gateway.url, &gateway.token(&user())).await;
            assert_eq!(refusal(refused), "RATE_LIMITED", "{name}");
        }
        assert_eq!(limited(&gateway, limit).await, 3.0);
        for round in 0..3 {
            first.0.kill();
            let mut again = None;
            until("a place is free again", async || {
                again = Client::connect(&gateway.url, &gateway.token(&user())).await.ok();
                again.is_some()
            })
            .await;
            first = again.unwrap();
            let refused = Client::connect(&gateway.url, &gateway.token(&user())).await;
            assert_eq!(refusal(refused), "RATE_LIMITED", "{name}, round {round}");
        }
        drop(second);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_are_limited_per_address_as_trusted_proxies_tell_it() {
    let own = [("HANDSHAKES_PER_SECOND_PER_ADDRESS", "3"), ("TRUSTED_PROXIES", "127.0.0.0/8")];
    let gateway = Gateway::start(settings(&own).await).await;
    let open = async |from: &str| {
        let forwarded = [format!("x-forwarded-for: 203.0.113.9, {from}")];
        request(&gateway.url, "GET", "/socket.io/?EIO=4&transport=polling", &forwarded, "").await.unwrap()
    };
    // Six within a second; on a machine too busy for that, from another address again.
    let (mut number, mut refused_before) = (1, 0.0);
    let (from, answers) = loop {
        let (begun, from) = (Instant::now(), format!("198.51.100.{number}"));
        let answers = join_all((0..6).map(|_| open(&from))).await;
        if begun.elapsed() < Duration::from_secs(1) {
            break (from, answers);
        }
        assert!(number < 200, "never six handshakes within a second");
        number += 1;
        refused_before = limited(&gateway, "handshakes").await;
    };
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(passed, 3, "{answers:?}");
    let refused = answers.iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!((refused.status, &refused.body["code"]), (429, &json!("RATE_LIMITED")), "{refused:?}");
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert_eq!(open("198.51.101.2").await.status, 200, "another address");
    assert_eq!(limited(&gateway, "handshakes").await, refused_before + 3.0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(open(&from).await.status, 200, "a second later");
    // What belongs to a connection is no handshake.
    for _ in 0..6 {
        let answer = request(&gateway.url, "GET", "/socket.io/?EIO=4&transport=polling&sid=x", &[], "").await.unwrap();
        assert_ne!(answer.status, 429);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_its_token() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let short = token(&unique("alice"), SECRET, Duration::from_secs(2));
    let (alice, _events) = Client::connect(&gateway.url, &short).await.unwrap();
    let (bob, _) = gateway.connect(&unique("bob")).await;
    // Clocks may differ by five seconds.
    tokio::time::timeout(Duration::from_secs(120), alice.closed()).await.expect("it is closed");
    assert!(!bob.is_closed());
    until("its place is given back", async || gateway.metric("holdfast_gateway_sockets").await == 1.0).await;
}
