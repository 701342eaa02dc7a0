//! Clients that may have missed something are told so, and find it; nobody else notices.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_socketio_client::{Client, Events};
use holdfast_testkit::{Proxy, Redis, unique, until};
use serde_json::{Map, Value, json};

use crate::support::{Gateway, send, settings, with};

const SOON: Duration = Duration::from_secs(20);

pub(crate) async fn resume(client: &Client, chat: &str, epoch: &Value, seq: u64) -> Value {
    let request = json!({ "offsets": { chat: { "epoch": epoch, "seq": seq } } });
    let answer = client.emit_with_ack("resume", &request).await.unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    answer["chats"][chat].clone()
}

/// The seqs of these messages of a chat.
fn seqs<'a>(messages: impl IntoIterator<Item = &'a Value>) -> BTreeSet<u64> {
    messages.into_iter().filter_map(|message| message["seq"].as_u64()).collect()
}

/// The live messages up to `resync`.
async fn up_to_resync(events: &mut Events) -> Vec<Value> {
    let mut messages = Vec::new();
    loop {
        let event = tokio::time::timeout(SOON, events.next()).await.expect("`resync` in time").expect("connected");
        match event.name.as_str() {
            "newMessage" => messages.push(event.data),
            "resync" => return messages,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_delays_nobody_and_finds_what_it_missed_when_it_reads_again() {
    // A cache that is given time gives every message its seq, on a busy machine too.
    let patient = [
        ("RESEND_WINDOW_MESSAGES", "10000"),
        ("REDIS_BUDGET_MS", "5000"),
        ("SEND_DEADLINE_MS", "20000"),
        ("RECENT_MAX_MESSAGES", "1000"),
        // However long it takes here, it is slow and not gone.
        ("SOCKET_OVERFLOW_MS", "600000"),
        ("WRITE_TIMEOUT_MS", "600000"),
        ("PING_TIMEOUT_MS", "600000"),
    ];
    let gateway = Gateway::start(settings(&patient).await).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let chat = format!("{alice}:{bob}");
    let (sender, _own) = gateway.connect(&alice).await;
    let (stalled, mut late) = gateway.connect(&bob).await;
    let (_prompt, mut events) = gateway.connect(&bob).await;
    stalled.read(false).await.unwrap();

    // Enough to fill what the kernel holds for it, and then its buffer here.
    let (content, mut sent) = ("x".repeat(4000), 0);
    while gateway.metric("holdfast_gateway_lagging_sockets_total").await == 0.0 {
        assert!(sent < 10_000, "its buffer is never full");
        join_all((0..100).map(|_| send(&sender, &bob, &content))).await;
        sent += 100;
    }
    let last = send(&sender, &bob, "the last").await;
    let (epoch, newest) = (&last["epoch"], last["seq"].as_u64().unwrap());
    assert_eq!(newest, sent + 1);
    let mut prompt = Vec::new();
    while prompt.last().is_none_or(|message: &Value| message["seq"] != newest) {
        prompt.push(events.next_named("newMessage", SOON).await.expect("the other device gets every message"));
    }
    assert_eq!(seqs(&prompt), (1..=newest).collect());

    stalled.read(true).await.unwrap();
    let seen = seqs(&up_to_resync(&mut late).await);
    let whole_up_to = (0..newest).find(|seq| !seen.contains(&(seq + 1))).expect("it has missed something");
    let answer = resume(&stalled, &chat, epoch, whole_up_to).await;
    assert_eq!(answer["recovered"], true, "{} seen, {whole_up_to} whole, {newest} sent", seen.len());
    assert_eq!(seqs(answer["messages"].as_array().unwrap()), (whole_up_to + 1..=newest).collect());
    assert_eq!(gateway.metric("holdfast_gateway_lagging_sockets_total").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_heard_nothing_for_a_while_tells_its_clients_and_they_find_what_they_missed() {
    let cache = Redis::cache().await.unwrap();
    let line = Proxy::start(cache.port()).await.unwrap();
    let settings = settings(&[("REDIS_URL", &cache.url())]).await;
    let near = Gateway::start(settings.clone()).await;
    let far = Gateway::start(with(&settings, "REDIS_URL", &cache.url_at(line.port()))).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let chat = format!("{alice}:{bob}");
    let (sender, _own) = near.connect(&alice).await;
    let (receiver, mut events) = far.connect(&bob).await;
    let mut first = Value::Null;
    // Its subscription may be a moment behind the connection.
    until("heard", async || {
        first = send(&sender, &bob, "heard").await;
        events.next_named("newMessage", Duration::from_millis(500)).await.is_some()
    })
    .await;

    line.cut().await;
    for number in 0..20 {
        send(&sender, &bob, &format!("missed {number}")).await;
    }
    line.heal().await.unwrap();
    let live = up_to_resync(&mut events).await;
    assert!(live.iter().all(|message| message["content"] == "heard"), "{live:?}");
    let mut answer = Value::Null;
    // Its breaker may be open for a moment yet.
    until("recovered", async || {
        answer = resume(&receiver, &chat, &first["epoch"], first["seq"].as_u64().unwrap()).await;
        answer["recovered"] == true
    })
    .await;
    let missed = answer["messages"].as_array().unwrap().iter().filter(|message| message["content"] != "heard");
    assert_eq!(missed.count(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn resuming_more_chats_than_allowed_is_cut_and_takes_few_round_trips() {
    let gateway = Gateway::start(settings(&[]).await).await;
    let alice = unique("alice");
    let (client, _events) = gateway.connect(&alice).await;
    // One of those that are read, and one of those that are not.
    for friend in ["z0001", "z1100"] {
        until("listed", async || send(&client, friend, "hello").await["epoch"].is_string()).await;
    }
    let offsets: Map<String, Value> =
        (0..1200).map(|number| (format!("{alice}:z{number:04}"), json!({ "epoch": "e", "seq": 7 }))).collect();
    let answer = client.emit_with_ack("resume", &json!({ "offsets": offsets })).await.unwrap();
    let chats: BTreeMap<String, Value> = serde_json::from_value(answer["chats"].clone()).unwrap();
    assert!(chats.keys().eq(offsets.keys()), "{} chats are answered", chats.len());
    assert!(chats.values().all(|chat| chat["recovered"] == false));
    let unread: Vec<_> = chats.values().map(|chat| chat["epoch"].is_null()).collect();
    assert!(unread[1000..].iter().all(|unread| *unread), "no more than a thousand are read");
    assert!(!unread[1], "{unread:?}");
    let mut trips = 0.0;
    for result in ["ok", "refused", "unavailable"] {
        trips += gateway.metric(&format!("cache_operations_total{{op=\"recent_resume\",result=\"{result}\"}}")).await;
    }
    assert!((1.0..=20.0).contains(&trips), "{trips}");
}
