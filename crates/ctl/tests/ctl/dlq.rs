//! `dlq`, over letters as the worker writes them.

use holdfast_kafka::{Headers, Publisher, RecordView};
use holdfast_message::{Message, record};
use holdfast_store::Store;

use crate::support::{World, chat, message, messages};

/// Puts letters into the dead-letter topic, and returns when they were written.
async fn bury(world: &World, letters: &[(&[u8], &[u8], &str, &str)]) {
    let kafka = world.settings().kafka();
    let publisher = Publisher::dead_letters(&kafka).unwrap();
    for (number, (key, value, reason, time)) in letters.iter().enumerate() {
        let offset = number.to_string();
        let headers: [(&str, Option<&[u8]>); 8] = [
            ("content-type", Some(b"application/x-protobuf")),
            ("schema-version", Some(b"1")),
            ("traceparent", Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
            ("dlq-reason", Some(reason.as_bytes())),
            ("dlq-topic", Some(kafka.topic.as_bytes())),
            ("dlq-partition", Some(b"1")),
            ("dlq-offset", Some(offset.as_bytes())),
            ("dlq-time", Some(time.as_bytes())),
        ];
        publisher.publish_raw(&kafka.dlq_topic, Some(0), Some(key), Some(value), &headers).await.unwrap();
    }
}

async fn store(world: &World, messages: &[Message]) -> Store {
    let store = world.settings().store().await.unwrap();
    store.insert(messages).await.unwrap();
    store
}

#[tokio::test]
async fn letters_are_listed_by_reason_time_and_place_and_shown_without_content() {
    let world = World::with_topics().await;
    assert!(world.ctl(&["dlq", "list"]).await.expect(0).stdout.contains("no dead letters"));
    let chat = chat();
    let (key, value) = (chat.as_str().as_bytes(), record::encode(&message(&chat, 1)));
    let letters: [(&[u8], &[u8], &str, &str); 3] = [
        (key, &value, "refused: document failed validation", "1700000000000"),
        (b"k", b"nonsense", "malformed: not a protobuf", "1700000000001"),
        (key, &value, "refused: too large", "1700000000002"),
    ];
    bury(&world, &letters).await;
    let list = async |more: &[&str]| world.ctl(&[&["--json", "dlq", "list"], more].concat()).await.expect(0).json();
    let all = list(&[]).await;
    assert_eq!(all.len(), 3);
    assert_eq!(all[0]["messageId"], message(&chat, 1).id.to_string());
    assert_eq!(all[1]["messageId"], serde_json::Value::Null);
    assert_eq!(all[2]["source"], format!("{}/1@2", world.name("KAFKA_TOPIC")));
    assert_eq!(list(&["--reason", "refused"]).await.len(), 2);
    assert_eq!(list(&["--limit", "1"]).await.len(), 1);
    assert_eq!(list(&["--partition", "1"]).await.len(), 0);
    assert_eq!(list(&["--since", "1h"]).await.len(), 3);
    assert_eq!(list(&["--since", "2200-01-01T00:00:00Z"]).await.len(), 0);
    assert_eq!(list(&["--partition", "0", "--offset", "2"]).await[0]["reason"], "refused: too large");
    world.ctl(&["dlq", "list", "--partition", "0", "--offset", "7"]).await.expect(2);

    let shown = world.ctl(&["dlq", "show", "--partition", "0", "--offset", "0"]).await.expect(0).stdout;
    assert!(shown.contains("document failed validation") && shown.contains(chat.as_str()), "{shown}");
    assert!(shown.contains("traceparent") && !shown.contains("the content of"), "{shown}");
    let shown = world.ctl(&["--json", "dlq", "show", "--limit", "1", "--with-content"]).await.expect(0).json();
    assert_eq!(shown[0]["content"], "the content of 1");
}

#[tokio::test]
async fn a_replay_publishes_what_was_there_but_for_what_mongodb_has() {
    let world = World::with_topics().await;
    let chat = chat();
    let sent = messages(&chat, 3);
    let key = chat.as_str().as_bytes();
    let values: Vec<_> = sent.iter().map(record::encode).collect();
    let mut letters: Vec<(&[u8], &[u8], &str, &str)> =
        values.iter().map(|value| (key, value.as_slice(), "refused: x", "1700000000000")).collect();
    letters.push((b"k", b"nonsense", "malformed: x", "1700000000000"));
    bury(&world, &letters).await;
    let store = store(&world, &sent[..1]).await;

    let dry = world.ctl(&["dlq", "replay", "--dry-run"]).await.expect(1);
    assert_eq!(dry.stdout.matches("would be replayed").count(), 2, "{}", dry.stdout);
    assert_eq!(world.records().await.len(), 0);

    let ran = world.ctl(&["--json", "dlq", "replay", "--yes"]).await.expect(1);
    let outcomes: Vec<_> = ran.json().into_iter().map(|row| row["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(outcomes, ["alreadyStored", "replayed", "replayed", "undecodable"]);
    let found = world.records().await;
    assert_eq!(found.iter().map(|record| record.payload().unwrap()).collect::<Vec<_>>(), [&values[1], &values[2]]);
    assert!(found.iter().all(|record| record.key() == Some(key)));
    let headers: Vec<_> = found[0].headers().unwrap().iter().map(|header| header.key.to_owned()).collect();
    assert_eq!(headers, ["content-type", "schema-version", "traceparent", "uncached"]);
    let audit = ran.audit();
    assert_eq!((audit.len(), &audit[0]["messageId"]), (2, &sent[1].id.to_string().into()));
    assert_eq!(audit[0]["from"], format!("{}/0@1", world.name("KAFKA_DLQ_TOPIC")));

    // Stored meanwhile: a second run changes nothing.
    store.insert(&sent[1..]).await.unwrap();
    let again = world.ctl(&["dlq", "replay", "--yes", "--reason", "refused"]).await.expect(0);
    assert_eq!(again.stdout.matches("MongoDB has it already").count(), 3, "{}", again.stdout);
    assert_eq!(world.records().await.len(), 2);

    world.ctl(&["dlq", "replay", "--yes", "--force", "--reason", "malformed"]).await.expect(0);
    let found = world.records().await;
    assert!(found.iter().any(|record| record.payload() == Some(b"nonsense") && record.key() == Some(b"k")));
}

#[tokio::test]
async fn a_letter_of_the_workers_own_can_be_replayed_once_its_cause_is_mended() {
    let world = World::with_topics().await;
    let chat = chat();
    let sent = message(&chat, 1);
    // A validator that the document breaks: what MongoDB refuses alone goes to the dead letters.
    let client = mongodb::Client::with_uri_str(world.name("MONGO_URL")).await.unwrap();
    let database = client.database(world.name("MONGO_DB"));
    database
        .create_collection("messages")
        .validator(mongodb::bson::doc! { "content": { "$ne": sent.content.as_str() } })
        .await
        .unwrap();
    world.publish(std::slice::from_ref(&sent)).await;
    world.work().await;
    let rows = world.ctl(&["--json", "dlq", "list"]).await.expect(0).json();
    assert_eq!(rows[0]["messageId"], sent.id.to_string(), "{rows:?}");
    let verified = world.ctl(&["--json", "verify"]).await.expect(0).json();
    assert_eq!((&verified[0]["finding"], &verified[0]["place"]), (&"deadLettered".into(), &"dead-letter topic".into()));

    let mend = mongodb::bson::doc! { "collMod": "messages", "validator": {} };
    database.run_command(mend).await.unwrap();
    world.ctl(&["dlq", "replay", "--yes"]).await.expect(0);
    world.work().await;
    let verified = world.ctl(&["--json", "verify"]).await.expect(0).json();
    assert_eq!((verified.len(), &verified[0]["summary"]["checked"]), (1, &2.into()), "{verified:?}");
}
