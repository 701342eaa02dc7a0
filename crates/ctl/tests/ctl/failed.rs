//! `failed`, on the shared queue server under a prefix of each test's own.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_ctl::args::FailedReplay;
use holdfast_ctl::exit;
use holdfast_ctl::failed::replay;
use holdfast_ctl::output::Output;
use holdfast_failed_queue::{DeadEntry, FURTHEST, QueueEntry};
use holdfast_kafka::{Headers, RecordView};
use holdfast_message::{ChatId, Message, record};
use holdfast_testkit::Kafka;

use crate::support::{World, chat, message, messages};

async fn redis(world: &World) -> redis::aio::MultiplexedConnection {
    holdfast_testkit::connect_redis(world.name("REDIS_QUEUE_URL")).await.unwrap()
}

async fn rpush(world: &World, key: &str, bytes: &[u8]) {
    let _: () = redis::cmd("RPUSH").arg(key).arg(bytes).query_async(&mut redis(world).await).await.unwrap();
}

/// Everything under the world's prefix, byte for byte.
async fn everything(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut redis = redis(world).await;
    let pattern = format!("{}:*", world.name("CACHE_KEY_PREFIX"));
    let keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await.unwrap();
    let mut all = BTreeMap::new();
    for key in keys {
        all.insert(key.clone(), redis::cmd("DUMP").arg(&key).query_async(&mut redis).await.unwrap());
    }
    all
}

fn keys(world: &World) -> holdfast_keys::Keys {
    world.settings().keys().unwrap()
}

fn entry(message: &Message) -> QueueEntry {
    QueueEntry { queued_at: 5, traceparent: None, record: record::encode(message).into() }
}

fn dead(message: &Message, reason: &str) -> Vec<u8> {
    DeadEntry { buried_at: 7, reason: reason.into(), entry: entry(message).encode() }.encode().to_vec()
}

/// The records of the main topic: chat, message and whether it is marked `uncached`.
async fn published(world: &World) -> Vec<(String, Message, bool)> {
    let mut records = Vec::new();
    for found in world.records().await {
        let key = String::from_utf8(found.key().unwrap().to_vec()).unwrap();
        let uncached = found.headers().unwrap().iter().any(|header| header.key == "uncached");
        records.push((key, record::decode(found.payload().unwrap()).unwrap(), uncached));
    }
    records
}

fn of_chat(records: &[(String, Message, bool)], chat: &ChatId) -> Vec<Message> {
    let of = records.iter().filter(|(key, _, uncached)| key == chat.as_str() && *uncached);
    of.map(|(_, message, _)| message.clone()).collect()
}

#[tokio::test]
async fn every_chat_with_waiting_or_dead_entries_is_listed() {
    let world = World::new().await;
    assert!(world.ctl(&["failed", "list"]).await.expect(0).stdout.contains("the failed queue is empty"));
    let (waiting, buried, lost) = (chat(), chat(), chat());
    for message in messages(&waiting, 3) {
        world.push(&message).await;
    }
    rpush(&world, &keys(&world).failed_dead(&buried), &dead(&message(&buried, 1), "too large")).await;
    // Its gateway died before it was indexed.
    rpush(&world, &keys(&world).failed(&lost), &entry(&message(&lost, 1)).encode()).await;
    let rows = world.ctl(&["--json", "failed", "list"]).await.expect(0).json();
    let row = |chat: &ChatId| rows.iter().find(|row| row["chatId"] == chat.as_str()).unwrap();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!((&row(&waiting)["waiting"], &row(&waiting)["oldestQueuedAt"]), (&3.into(), &5.into()));
    assert_eq!((&row(&buried)["waiting"], &row(&buried)["dead"]), (&0.into(), &1.into()));
    assert_eq!((&row(&lost)["waiting"], &row(&lost)["indexed"]), (&1.into(), &false.into()));
    let shown = world.ctl(&["failed", "list"]).await.expect(0).stdout;
    assert!(shown.contains("3 chats, 4 waiting, 1 dead") && shown.contains("not in the index yet"), "{shown}");
}

#[tokio::test]
async fn entries_are_shown_and_exported_without_their_content_unless_asked_for() {
    let world = World::new().await;
    let chat = chat();
    let sent = messages(&chat, 2);
    world.push(&sent[0]).await;
    rpush(&world, &keys(&world).failed(&chat), b"nonsense").await;
    rpush(&world, &keys(&world).failed_dead(&chat), &dead(&sent[1], "too large")).await;
    let rows = world.ctl(&["--json", "failed", "show", chat.as_str()]).await.expect(0).json();
    assert_eq!(rows[0]["messageId"], sent[0].id.to_string());
    assert!(rows[1]["problem"].as_str().unwrap().contains("not an entry"), "{rows:?}");
    let rows = world.ctl(&["--json", "failed", "show", chat.as_str(), "--dead"]).await.expect(0).json();
    assert_eq!((&rows[0]["messageId"], &rows[0]["reason"]), (&sent[1].id.to_string().into(), &"too large".into()));
    let table = world.ctl(&["failed", "show", chat.as_str()]).await.expect(0).stdout;
    assert!(table.contains(&sent[0].id.to_string()) && !table.contains("the content"), "{table}");

    let ran = world.ctl(&["failed", "export"]).await.expect(0);
    assert!(!ran.stdout.contains("the content of"));
    let lines = ran.json();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, lines[0]["bytes"].as_str().unwrap());
    assert_eq!(bytes.unwrap(), entry(&sent[0]).encode());
    assert_eq!((&lines[0]["chatId"], &lines[0]["messageId"]), (&chat.as_str().into(), &sent[0].id.to_string().into()));
    assert_eq!(lines[1]["bytes"], "bm9uc2Vuc2U=");
    let lines = world.ctl(&["failed", "export", chat.as_str(), "--dead", "--with-content"]).await.expect(0).json();
    assert_eq!((&lines[0]["content"], &lines[0]["list"]), (&"the content of 2".into(), &"dead".into()));
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::with_topics().await;
    let chat = chat();
    for message in messages(&chat, 3) {
        world.push(&message).await;
    }
    rpush(&world, &keys(&world).failed_dead(&chat), &dead(&message(&chat, 4), "too large")).await;
    let before = everything(&world).await;
    let ran = world.ctl(&["failed", "replay", "--all", "--dry-run"]).await.expect(0);
    assert!(ran.stdout.contains("3 waiting entries of 1 chats would be published"), "{}", ran.stdout);
    world.ctl(&["failed", "replay", chat.as_str(), "--dead", "--dry-run"]).await.expect(0);
    assert_eq!(everything(&world).await, before);
    assert_eq!(published(&world).await, []);
}

#[tokio::test]
async fn waiting_entries_are_published_in_order_and_audited_and_leave_nothing_behind() {
    let world = World::with_topics().await;
    let (one, other, alone) = (chat(), chat(), chat());
    let sent = messages(&one, 150);
    for message in &sent {
        world.push(message).await;
    }
    world.push(&message(&other, 1)).await;
    world.push(&message(&alone, 1)).await;
    rpush(&world, &keys(&world).failed(&other), b"nonsense").await;
    // A gateway has leased them all, and hangs.
    let queue = world.settings().failed_queue().unwrap();
    assert_eq!(queue.lease(10, FURTHEST, Duration::from_secs(5)).await.unwrap().len(), 3);
    let listed = world.ctl(&["failed", "list", "--json"]).await.expect(0).json();
    assert!(listed.iter().all(|row| row["nextAttemptInMs"].as_i64().unwrap() > 60_000), "{listed:?}");
    let ran = world.ctl(&["--json", "failed", "replay", one.as_str(), other.as_str(), "--yes"]).await.expect(1);
    let records = published(&world).await;
    assert_eq!(of_chat(&records, &one), sent);
    assert_eq!(of_chat(&records, &other), [message(&other, 1)]);
    assert_eq!(records.len(), 151, "only what was asked for");
    let rows = ran.json();
    assert_eq!((&rows[0]["replayed"], &rows[0]["left"]), (&150.into(), &0.into()));
    assert!(rows[1]["problems"][0].as_str().unwrap().contains("moved to the dead list"), "{rows:?}");
    let audit = ran.audit();
    assert_eq!(audit.len(), 151);
    assert_eq!((&audit[0]["messageId"], &audit[0]["chatId"]), (&sent[0].id.to_string().into(), &one.as_str().into()));
    assert_eq!((&audit[0]["who"], &audit[0]["from"]), (&"ops".into(), &"failed queue".into()));
    assert!(audit[0]["to"].as_str().unwrap().starts_with(world.name("KAFKA_TOPIC")), "{:?}", audit[0]);
    assert!(!ran.stderr.contains("the content of"));
    // Both chats have left the index; what could not be read is kept.
    assert_eq!(queue.indexed_chats(Duration::from_secs(5)).await.unwrap(), [alone]);
    assert_eq!(queue.buried(&other, 0, 10, Duration::from_secs(5)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn dead_entries_are_published_and_those_that_cannot_be_stay() {
    let world = World::with_topics().await;
    let chat = chat();
    let sent = messages(&chat, 3);
    let key = keys(&world).failed_dead(&chat);
    rpush(&world, &key, &dead(&sent[0], "too large")).await;
    rpush(&world, &key, b"nonsense").await;
    rpush(&world, &key, &dead(&sent[1], "too large")).await;
    let huge = Message { content: "x".repeat(2 << 20), ..sent[2].clone() };
    rpush(&world, &key, &dead(&huge, "too large")).await;
    // Waiting entries are another matter.
    world.push(&message(&chat, 9)).await;
    let ran = world.ctl(&["--json", "failed", "replay", "--all", "--dead", "--yes"]).await.expect(1);
    assert_eq!(of_chat(&published(&world).await, &chat), sent[..2]);
    let rows = ran.json();
    assert_eq!((&rows[0]["replayed"], &rows[0]["left"]), (&2.into(), &2.into()));
    assert_eq!(rows[0]["problems"].as_array().unwrap().len(), 2, "{rows:?}");
    assert_eq!(ran.audit().len(), 2);
    let queue = world.settings().failed_queue().unwrap();
    assert_eq!(queue.heads(&chat, 10, Duration::from_secs(5)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_leaves_while_kafka_does_not_acknowledge() {
    let (_kafka, [proxy]) = Kafka::start_behind().await.unwrap();
    let world = World::new().await.set("KAFKA_BROKERS", format!("127.0.0.1:{}", proxy.port()));
    let settings = world.settings();
    settings.admin().unwrap().ensure_topics().await.unwrap();
    let (queue, topics) = (settings.failed_queue().unwrap(), settings.topics().await.unwrap());
    let chat = chat();
    for message in messages(&chat, 3) {
        world.push(&message).await;
    }
    rpush(&world, &keys(&world).failed_dead(&chat), &dead(&message(&chat, 4), "too large")).await;
    let lists = [keys(&world).failed(&chat), keys(&world).failed_dead(&chat)];
    let before = everything(&world).await;
    proxy.drop_answers();
    for dead in [false, true] {
        let args = FailedReplay { chats: vec![chat.clone()], all: false, dead, dry_run: false, yes: true };
        let mut printed = Vec::new();
        let result = replay::run(&queue, &topics, &args, &mut Output::new(&mut printed, false)).await;
        assert_eq!(exit::code(&result), exit::UNREACHABLE, "{result:?}");
        let printed = String::from_utf8(printed).unwrap();
        assert!(printed.contains("did not acknowledge"), "{printed}");
        let after = everything(&world).await;
        assert!(lists.iter().all(|list| after[list] == before[list]));
    }
    // The gateways try on.
    let indexed = queue.overview(&[chat], Duration::from_secs(5)).await.unwrap();
    assert!(indexed[0].due_in.unwrap() <= 0, "{indexed:?}");
}
