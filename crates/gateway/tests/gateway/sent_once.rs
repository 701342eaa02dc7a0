//! One connection receives a `messageId` once, however often the message is announced: later announcements bring its position.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_cache::recent::{Added, Attempt, RecentSettings};
use holdfast_cache::{Origin, RecentList};
use holdfast_keys::{Keys, MAX_KEY_LENGTH};
use holdfast_message::{ChatId, Message, MessageId};
use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
use holdfast_socketio_client::{Client as Socket, Event, Events};
use holdfast_testkit::{request, unique, until};
use prometheus::Registry;
use serde_json::{Value, json};

use crate::resync::resume;
use crate::support::{Gateway, message, send, settings};

const SOON: Duration = Duration::from_secs(20);
const BUDGET: Duration = Duration::from_secs(20);

/// What a worker does to the recent lists, without one: no worker runs, so nothing else heals them.
pub(crate) struct Healer {
    lists: RecentList,
    client: Client,
    keys: Keys,
}

impl Healer {
    pub(crate) async fn new(settings: &[(String, String)]) -> Self {
        let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
        let metrics = RedisMetrics::register(&Registry::new()).unwrap();
        let connection = Connection::open("test", value("REDIS_URL"), metrics).unwrap();
        let keys = Keys::new(value("CACHE_KEY_PREFIX"), "v1", ":", MAX_KEY_LENGTH).unwrap();
        let lists = RecentList::new(connection.clone(), keys.clone(), RecentSettings::default(), Origin::random());
        let budget = ClientSettings { budget: BUDGET, ..ClientSettings::default() };
        let client = Client::new(connection, Breaker::new("redis", BreakerSettings::default(), None), budget);
        Self { lists, client, keys }
    }

    /// Adds a message to its list if it is absent, as a worker heals a list, or after a replay.
    pub(crate) async fn heal(&self, message: &Message) -> Added {
        self.lists.add(message, Attempt::DURABLE, BUDGET).await.unwrap()
    }

    /// A message that nobody has: the last thing that a chat's members hear of.
    async fn sentinel(&self, like: &Message) -> String {
        let id = MessageId::unrepeatable();
        self.heal(&Message { id, timestamp: like.timestamp + 1, content: "sentinel".into(), ..like.clone() }).await;
        id.to_string()
    }

    /// The cache loses a chat: its list begins a new epoch.
    async fn lose(&self, chat: &ChatId) {
        assert!(self.client.delete(&self.keys.recent_head(chat)).await.unwrap());
    }
}

/// Holds the gateway's breaker in front of the cache open, or closes it.
async fn breaker(gateway: &Gateway, to: &str) {
    let turned = request(&gateway.ops_url(), "POST", &format!("/breakers/redis/{to}"), &[], "").await.unwrap();
    assert_eq!(turned.status, 204);
}

/// Everything that a connection is given, up to the message with this id.
async fn up_to(events: &mut Events, last: &str) -> Vec<Event> {
    let mut given = Vec::new();
    while given.last().is_none_or(|event: &Event| event.name != "newMessage" || event.data["messageId"] != last) {
        given.push(tokio::time::timeout(SOON, events.next()).await.expect("the sentinel").expect("connected"));
    }
    given
}

/// The positions under which these events bring a message.
fn positions(events: &[Event], name: &str, id: &Value) -> Vec<(Value, Value)> {
    let of_message = events.iter().filter(|event| event.name == name && event.data["messageId"] == *id);
    of_message.map(|event| (event.data["epoch"].clone(), event.data["seq"].clone())).collect()
}

/// Waits until what is published reaches the gateway's connections.
async fn heard(healer: &Healer, like: &Message, events: &mut [&mut Events]) {
    for events in events {
        until("published messages are heard", async || {
            let id = healer.sentinel(like).await;
            let next = async {
                while let Some(event) = events.next().await {
                    if event.data["messageId"] == *id {
                        return;
                    }
                }
            };
            tokio::time::timeout(Duration::from_millis(500), next).await.is_ok()
        })
        .await;
    }
}

/// A gateway, two connections of different users with a chat, and whoever heals its list.
struct Scene {
    gateway: Gateway,
    healer: Healer,
    sender: Socket,
    friend: String,
    chat: ChatId,
    events: [Events; 2],
    _receiver: Socket,
}

impl Scene {
    async fn new(settings: &[(String, String)]) -> Self {
        let gateway = Gateway::start(settings.to_vec()).await;
        let healer = Healer::new(settings).await;
        let (alice, bob) = (unique("alice"), unique("bob"));
        let (sender, mut of_alice) = gateway.connect(&alice).await;
        let (receiver, mut of_bob) = gateway.connect(&bob).await;
        let first = message(&send(&sender, &bob, "first").await);
        heard(&healer, &first, &mut [&mut of_alice, &mut of_bob]).await;
        Self { gateway, healer, sender, friend: bob, chat: first.chat, events: [of_alice, of_bob], _receiver: receiver }
    }

    /// Sends a message that is delivered without a position, and waits until both have received it so.
    async fn send_without_cache(&mut self) -> Value {
        breaker(&self.gateway, "open").await;
        let sent = send(&self.sender, &self.friend, "without a position").await;
        assert!(sent["seq"].is_null(), "{sent}");
        breaker(&self.gateway, "auto").await;
        sent
    }

    /// Both connections are given the message once, at `first`, and then these positions of it, and nothing else of it.
    async fn given(&mut self, sent: &Value, first: (Value, Value), then: &[(Value, Value)]) {
        let last = self.healer.sentinel(&message(sent)).await;
        for events in &mut self.events {
            let given = up_to(events, &last).await;
            let whole = positions(&given, "newMessage", &sent["messageId"]);
            assert_eq!(whole, std::slice::from_ref(&first), "{given:?}");
            assert_eq!(positions(&given, "messagePositioned", &sent["messageId"]), then, "{given:?}");
            for event in given.iter().filter(|event| event.name == "messagePositioned") {
                assert_eq!(event.data["chatId"], sent["chatId"], "{}", event.data);
            }
        }
    }

    fn sent_window(&self) -> impl Future<Output = f64> {
        self.gateway.metric("holdfast_gateway_sent_window_messages")
    }
}

fn at(added: &Added) -> (Value, Value) {
    match added {
        Added::New(position) | Added::Own(position) => (json!(&*position.epoch), json!(position.seq)),
        Added::Repeat { epoch, seq, .. } => (json!(&**epoch), json!(seq)),
    }
}

const NULL: (Value, Value) = (Value::Null, Value::Null);

#[tokio::test(flavor = "multi_thread")]
async fn what_the_background_repeat_lists_gets_its_position_and_is_not_delivered_again() {
    let mut scene = Scene::new(&settings(&[]).await).await;
    let sent = scene.send_without_cache().await;
    until("the background repeat is done", async || {
        scene.gateway.metric("holdfast_gateway_relist_waiting").await == 0.0
    })
    .await;
    let listed = scene.healer.heal(&message(&sent)).await;
    assert!(matches!(listed, Added::Repeat { .. }), "{listed:?}");
    scene.given(&sent, NULL, &[at(&listed)]).await;
    assert!(scene.sent_window().await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_has_listed_before_is_delivered_once_with_its_position() {
    let mut scene = Scene::new(&settings(&[]).await).await;
    // The healer comes first: it lists the message before the gateway takes it.
    let template = message(&send(&scene.sender, &scene.friend, "template").await);
    let temp_id = unique("send");
    let body = json!({ "friendId": scene.friend, "content": "without a position", "tempId": temp_id });
    let id = MessageId::of_send(&template.sender, &scene.chat, &temp_id, "without a position", None, None);
    let early = Message { id, temp_id: Some(temp_id), content: "without a position".into(), ..template };
    let published = scene.healer.heal(&early).await;
    breaker(&scene.gateway, "open").await;
    let answer = scene.sender.emit_with_ack("sendMessage", &body).await.unwrap();
    assert_eq!((&answer["ok"], &answer["message"]["messageId"]), (&json!(true), &json!(id.to_string())), "{answer}");
    breaker(&scene.gateway, "auto").await;
    until("the background repeat is done", async || {
        scene.gateway.metric("holdfast_gateway_relist_waiting").await == 0.0
    })
    .await;
    // Whether it was heard with its position first or delivered without: each connection knows both now.
    let last = scene.healer.sentinel(&early).await;
    for events in &mut scene.events {
        let given = up_to(events, &last).await;
        let (whole, alone) = (
            positions(&given, "newMessage", &answer["message"]["messageId"]),
            positions(&given, "messagePositioned", &answer["message"]["messageId"]),
        );
        let known = at(&published);
        assert!(
            (whole == [known.clone()] && alone.is_empty()) || (whole == [NULL] && alone == [known]),
            "{whole:?} {alone:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_listed_anew_in_a_new_epoch_gets_each_position_once() {
    // As after a restart of the cache; and as a replay's record is healed when the cache has lost the message meanwhile.
    let mut scene = Scene::new(&settings(&[]).await).await;
    let sent = send(&scene.sender, &scene.friend, "once").await;
    let first = (sent["epoch"].clone(), sent["seq"].clone());
    let mut epochs = Vec::new();
    for _ in 0..2 {
        scene.healer.lose(&scene.chat).await;
        let healed = scene.healer.heal(&message(&sent)).await;
        assert!(matches!(healed, Added::New(_)), "{healed:?}");
        epochs.push(at(&healed));
        assert!(matches!(scene.healer.heal(&message(&sent)).await, Added::Repeat { .. }));
    }
    assert_ne!(epochs[0].0, epochs[1].0);
    scene.given(&sent, first, &epochs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_did_not_take_is_delivered_once_although_its_replay_lists_it_anew() {
    let mut scene = Scene::new(&settings(&[]).await).await;
    let hold = async |to: &str| {
        let path = format!("/breakers/kafka/{to}");
        assert_eq!(request(&scene.gateway.ops_url(), "POST", &path, &[], "").await.unwrap().status, 204);
    };
    hold("open").await;
    let queued = json!({ "friendId": scene.friend, "content": "queued", "tempId": unique("send") });
    let answer = scene.sender.emit_with_ack("sendMessage", &queued).await.unwrap();
    assert_eq!(answer["durability"], "failed-queue", "{answer}");
    let sent = answer["message"].clone();
    scene.healer.lose(&scene.chat).await;
    hold("auto").await;
    until("it is replayed", async || scene.gateway.metric("holdfast_failed_queue_replayed_total").await == 1.0).await;
    // What a worker does with the record, which is marked as not listed.
    let healed = scene.healer.heal(&message(&sent)).await;
    assert!(matches!(healed, Added::New(_)), "{healed:?}");
    scene.given(&sent, (sent["epoch"].clone(), sent["seq"].clone()), &[at(&healed)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_gateway_announces_of_a_message_that_was_delivered_here_is_its_position() {
    let settings = settings(&[]).await;
    let mut scene = Scene::new(&settings).await;
    let other = Gateway::start(settings).await;
    let sender = scene.chat.as_str().split(':').find(|user| *user != scene.friend).unwrap().to_owned();
    let (elsewhere, _events) = other.connect(&sender).await;
    let body = json!({ "friendId": scene.friend, "content": "twice", "tempId": unique("send") });
    let first = scene.sender.emit_with_ack("sendMessage", &body).await.unwrap();
    // The other gateway knows nothing of it when it takes the resend.
    scene.healer.lose(&scene.chat).await;
    let again = elsewhere.emit_with_ack("sendMessage", &body).await.unwrap();
    assert_eq!((&first["ok"], &again["ok"]), (&json!(true), &json!(true)), "{first} {again}");
    let (first, again) = (&first["message"], &again["message"]);
    assert_eq!(first["messageId"], again["messageId"]);
    assert_ne!(first["epoch"], again["epoch"]);
    let position = |message: &Value| (message["epoch"].clone(), message["seq"].clone());
    scene.given(first, position(first), &[position(again)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_beyond_the_resend_window_is_delivered_to_nobody_who_has_the_message() {
    let small = settings(&[("RECENT_MAX_MESSAGES", "5"), ("RESEND_WINDOW_MESSAGES", "5")]).await;
    let mut scene = Scene::new(&small).await;
    let body = json!({ "friendId": scene.friend, "content": "old", "tempId": unique("send") });
    let first = scene.sender.emit_with_ack("sendMessage", &body).await.unwrap()["message"].clone();
    for number in 0..20 {
        send(&scene.sender, &scene.friend, &format!("{number}")).await;
    }
    let (_late, mut late) = scene.gateway.connect(&scene.friend).await;
    let again = scene.sender.emit_with_ack("sendMessage", &body).await.unwrap()["message"].clone();
    assert!(again["seq"].as_u64() > first["seq"].as_u64(), "it is listed anew: {again}");
    let position = |message: &Value| (message["epoch"].clone(), message["seq"].clone());
    scene.given(&first, position(&first), &[position(&again)]).await;
    // A connection that has not received it is given all of it.
    let given = late.next_named("newMessage", SOON).await.expect("it is new to this connection");
    assert_eq!((&given["messageId"], &given["seq"]), (&first["messageId"], &again["seq"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retracted_message_may_be_delivered_again() {
    let mut scene = Scene::new(&settings(&[]).await).await;
    let sent = send(&scene.sender, &scene.friend, "retracted").await;
    let retracted = message(&sent);
    // As another gateway says that nothing durable took it.
    let attempt = Attempt::random();
    scene.healer.lose(&scene.chat).await;
    scene.healer.lists.add(&retracted, attempt, BUDGET).await.unwrap();
    let done = scene.healer.lists.tombstone_batch(&[(&retracted, attempt)], BUDGET).await;
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    let healed = scene.healer.heal(&retracted).await;
    let last = scene.healer.sentinel(&retracted).await;
    for events in &mut scene.events {
        let given = up_to(events, &last).await;
        let of_message = given.iter().filter(|event| event.data["messageId"] == sent["messageId"]);
        let names: Vec<_> = of_message.map(|event| event.name.as_str()).collect();
        assert_eq!(names, ["newMessage", "messagePositioned", "messageFailed", "newMessage"]);
        assert_eq!(positions(&given, "newMessage", &sent["messageId"])[1], at(&healed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_answer_to_resume_contains_counts_as_received() {
    let scene = Scene::new(&settings(&[]).await).await;
    let start = send(&scene.sender, &scene.friend, "start").await;
    let sent = send(&scene.sender, &scene.friend, "missed").await;
    let (late, mut events) = scene.gateway.connect(&scene.friend).await;
    let answer = resume(&late, scene.chat.as_str(), &start["epoch"], start["seq"].as_u64().unwrap()).await;
    assert_eq!(answer["messages"][0]["messageId"], sent["messageId"], "{answer}");
    scene.healer.lose(&scene.chat).await;
    let healed = scene.healer.heal(&message(&sent)).await;
    let last = scene.healer.sentinel(&message(&sent)).await;
    let given = up_to(&mut events, &last).await;
    assert_eq!(positions(&given, "newMessage", &sent["messageId"]), [], "{given:?}");
    assert_eq!(positions(&given, "messagePositioned", &sent["messageId"]), [at(&healed)], "{given:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn live_events_behind_an_answer_to_resume_repeat_nothing_that_it_contains() {
    let scene = Scene::new(&settings(&[("EVENT_LIMIT", "0"), ("RECENT_MAX_MESSAGES", "1000")]).await).await;
    let chat = scene.chat.to_string();
    let mut contained = 0;
    for round in 0..20 {
        let start = send(&scene.sender, &scene.friend, "start").await;
        let offsets = json!({ &chat: { "epoch": start["epoch"], "seq": start["seq"] } });
        let auth = json!({ "token": scene.gateway.token(&scene.friend), "offsets": offsets });
        // Some are listed before the stream is read, and their live events wait behind the answer.
        let contents: Vec<_> = (0..20).map(|number| format!("{round} {number}")).collect();
        let sends = join_all(contents.iter().map(|content| send(&scene.sender, &scene.friend, content)));
        let (_, connected) = tokio::join!(sends, Socket::connect_with(&scene.gateway.url, &auth));
        let (_client, mut events) = connected.unwrap();
        let answer = events.next_named("resumed", SOON).await.expect("the answer to the handshake's offsets");
        assert_eq!(answer["chats"][&chat]["recovered"], true, "{answer}");
        let last = scene.healer.sentinel(&message(&start)).await;
        let behind = up_to(&mut events, &last).await;
        for message in answer["chats"][&chat]["messages"].as_array().unwrap() {
            contained += 1;
            let again = positions(&behind, "newMessage", &message["messageId"]);
            assert!(again.is_empty(), "round {round}: {message} is delivered behind the answer that contains it");
        }
    }
    assert!(contained > 0, "no answer contained anything");
}
