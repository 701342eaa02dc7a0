//! `verify`, over what a real worker stored and somebody then spoilt.

use holdfast_message::{Message, MessageId};
use mongodb::bson::{Bson, DateTime, doc};
use serde_json::Value;

use crate::support::{Ran, World, chat, message, messages};

/// What was said of a message.
fn finding<'a>(lines: &'a [Value], id: &MessageId) -> Option<&'a Value> {
    lines.iter().find(|line| line["messageId"] == id.to_string())
}

fn summary(ran: &Ran) -> Value {
    ran.json().pop().unwrap()["summary"].clone()
}

async fn verify(world: &World, more: &[&str], code: i32) -> Ran {
    world.ctl(&[&["--json", "verify"], more].concat()).await.expect(code)
}

#[tokio::test]
async fn every_missing_and_altered_message_is_named_and_no_other() {
    let world = World::with_topics().await;
    let (one, other) = (chat(), chat());
    let sent: Vec<Message> = messages(&one, 12).into_iter().chain(messages(&other, 3)).collect();
    world.publish(&sent).await;
    world.work().await;
    let fine = verify(&world, &[], 0).await;
    assert_eq!((fine.json().len(), &summary(&fine)["checked"]), (1, &15.into()));
    let shown = world.ctl(&["verify"]).await.expect(0).stdout;
    assert!(shown.contains("15 checked, nothing wrong"), "{shown}");

    let stored = world.messages().await;
    let id = |index: usize| sent[index].id.to_string();
    stored.delete_one(doc! { "_id": id(0) }).await.unwrap();
    let fields = ["content", "senderId", "receiverId", "imageUrl", "publicId", "tempId", "timestamp", "chatId"];
    for (index, field) in fields.iter().enumerate() {
        let value = if *field == "timestamp" {
            doc! { *field: 5_i64 }
        } else {
            doc! { *field: "forged" }
        };
        stored.update_one(doc! { "_id": id(index + 1) }, doc! { "$set": value }).await.unwrap();
    }
    let ran = verify(&world, &[], 1).await;
    let lines = ran.json();
    assert_eq!(finding(&lines, &sent[0].id).unwrap()["finding"], "missing");
    for (index, field) in fields.iter().enumerate() {
        let found = finding(&lines, &sent[index + 1].id).unwrap();
        assert_eq!(found["finding"], "altered");
        assert!(found["fields"].as_array().unwrap().iter().any(|altered| altered == field), "{field}: {found}");
    }
    assert_eq!(lines.len(), 10, "{lines:?}");
    let summary = summary(&ran);
    assert_eq!((&summary["missing"], &summary["altered"]), (&1.into(), &8.into()));
    let shown = world.ctl(&["verify"]).await.expect(1).stdout;
    assert!(shown.contains(&format!("{}  missing", id(0))) && shown.contains("altered: content"), "{shown}");
}

#[tokio::test]
async fn an_id_that_its_fields_do_not_make_is_altered_even_where_the_record_agrees() {
    let world = World::with_topics().await;
    let forged = Message { content: "another text under the old id".into(), ..message(&chat(), 1) };
    world.publish(std::slice::from_ref(&forged)).await;
    world.work().await;
    let lines = verify(&world, &[], 1).await.json();
    assert_eq!(finding(&lines, &forged.id).unwrap()["fields"], serde_json::json!(["_id"]));
}

#[tokio::test]
async fn only_the_time_of_a_copy_of_the_same_send_will_do() {
    let world = World::with_topics().await;
    let chat = chat();
    let first = message(&chat, 1);
    let repeat = Message { timestamp: first.timestamp + 90_000, ..first.clone() };
    world.publish(&[first.clone(), message(&chat, 2), repeat.clone()]).await;
    world.work().await;
    // The first stored copy won, as it should.
    verify(&world, &[], 0).await;
    let partition = {
        let marks = world.settings().admin().unwrap().watermarks(world.name("KAFKA_TOPIC")).await.unwrap();
        marks.into_iter().find(|(_, _, high)| *high == 3).unwrap().0.to_string()
    };
    // From after the first copy on, its time can't be judged, and that is said.
    let later = ["--partition", &partition, "--from", "2"];
    let ran = verify(&world, &later, 0).await;
    assert_eq!(finding(&ran.json(), &first.id).unwrap()["finding"], "timestampUnjudged");
    // No copy of the send has this time.
    let stored = world.messages().await;
    let set = async |timestamp: i64| {
        let by_id = doc! { "_id": first.id.to_string() };
        stored.update_one(by_id, doc! { "$set": { "timestamp": timestamp } }).await.unwrap();
    };
    set(first.timestamp + 1).await;
    let lines = verify(&world, &[], 1).await.json();
    assert_eq!(finding(&lines, &first.id).unwrap()["fields"], serde_json::json!(["timestamp"]));
    // The repeat's is one of a copy's.
    set(repeat.timestamp).await;
    verify(&world, &[], 0).await;
    // Later than every copy at hand: no copy from before the range could be.
    set(repeat.timestamp + 120_000).await;
    verify(&world, &later, 1).await;
}

#[tokio::test]
async fn what_retention_deleted_is_unverifiable_and_not_fine() {
    let world = World::with_topics().await;
    let chat = chat();
    world.publish(&messages(&chat, 5)).await;
    world.work().await;
    let (settings, topic) = (world.settings(), world.name("KAFKA_TOPIC"));
    let admin = settings.admin().unwrap();
    let partition = admin.watermarks(topic).await.unwrap().into_iter().find(|(_, _, high)| *high == 5).unwrap().0;
    admin.delete_records(topic, &[(partition, 2)]).await.unwrap();
    // What is still there is compared, and what is gone is said.
    let ran = verify(&world, &[], 0).await;
    assert_eq!((&summary(&ran)["checked"], &summary(&ran)["beforeTheRange"]), (&3.into(), &2.into()));
    let asked = ["--partition", &partition.to_string(), "--from", "0"];
    let ran = verify(&world, &asked, 1).await;
    assert_eq!((&summary(&ran)["checked"], &summary(&ran)["unverifiable"]), (&3.into(), &2.into()));
    verify(&world, &["--partition", &partition.to_string(), "--from", "0", "--to", "1"], 1).await;
    verify(&world, &["--partition", &partition.to_string(), "--from", "2", "--to", "4"], 0).await;
    // Within retention nothing can have gone; before it, something may.
    verify(&world, &["--since", "1h"], 0).await;
    let ran = verify(&world, &["--since", "30days"], 1).await;
    assert_eq!(summary(&ran)["notes"].as_array().unwrap().len(), 1, "{}", summary(&ran));
    // Deleted before it was committed: lost, whatever was asked for.
    world.publish(&[message(&chat, 6), message(&chat, 7)]).await;
    let ran = verify(&world, &[], 0).await;
    assert_eq!(summary(&ran)["notCommitted"], 2);
    admin.delete_records(topic, &[(partition, 6)]).await.unwrap();
    let ran = verify(&world, &[], 1).await;
    assert_eq!(summary(&ran)["unverifiable"], 1);
    world.ctl(&["verify", "--partition", "9"]).await.expect(2);
}

#[tokio::test]
async fn an_undecodable_record_counts_as_dead_lettered_only_while_the_letter_is_there() {
    let world = World::with_topics().await;
    let kafka = world.settings().kafka();
    let publisher = world.settings().topics().await.unwrap().publisher;
    publisher.publish_raw(&kafka.topic, Some(0), Some(b"k"), Some(b"nonsense"), &[]).await.unwrap();
    world.work().await;
    let lines = verify(&world, &[], 0).await.json();
    assert_eq!((&lines[0]["finding"], &lines[0]["record"]), (&"deadLettered".into(), &"0@0".into()));
    let admin = world.settings().admin().unwrap();
    let ends: Vec<_> = admin
        .watermarks(&kafka.dlq_topic)
        .await
        .unwrap()
        .into_iter()
        .map(|(partition, _, end)| (partition, end))
        .collect();
    admin.delete_records(&kafka.dlq_topic, &ends).await.unwrap();
    let lines = verify(&world, &[], 1).await.json();
    assert_eq!((&lines[0]["finding"], &lines[0]["record"]), (&"undecodable".into(), &"0@0".into()));
}

#[tokio::test]
async fn ids_are_looked_for_wherever_a_durable_message_may_be() {
    let world = World::with_topics().await;
    let chat = chat();
    let sent = messages(&chat, 6);
    world.publish(&sent[..2]).await;
    world.work().await;
    world.publish(&sent[2..3]).await;
    world.push(&sent[3]).await;
    // Beyond what the topic takes.
    let dead = holdfast_failed_queue::DeadEntry {
        buried_at: 1,
        reason: "too large".into(),
        entry: holdfast_failed_queue::QueueEntry {
            queued_at: 1,
            traceparent: None,
            record: holdfast_message::record::encode(&sent[4]).into(),
        }
        .encode(),
    };
    let mut redis = holdfast_testkit::connect_redis(world.name("REDIS_QUEUE_URL")).await.unwrap();
    let key = world.settings().keys().unwrap().failed_dead(&chat);
    let _: () = redis::cmd("RPUSH").arg(key).arg(&*dead.encode()).query_async(&mut redis).await.unwrap();
    let stored = world.messages().await;
    let by_id = doc! { "_id": sent[1].id.to_string() };
    stored.update_one(by_id, doc! { "$set": { "content": "forged" } }).await.unwrap();

    let folder = holdfast_testkit::Folder::temporary("ids").unwrap();
    let file = folder.path().join("ids");
    let ids: Vec<_> = sent.iter().map(|message| message.id.to_string()).collect();
    std::fs::write(&file, format!("# what was acknowledged\n\n{}\n{}\n", ids.join("\n"), ids[0])).unwrap();
    let file = file.to_str().unwrap();
    let ran = verify(&world, &["--ids", file], 1).await;
    let lines = ran.json();
    let said = |index: usize| finding(&lines, &sent[index].id).map(|line| line["finding"].as_str().unwrap().to_owned());
    assert_eq!(said(0), None);
    let expected = ["altered", "waiting", "waiting", "deadLettered", "missing"];
    assert_eq!((1..6).map(|index| said(index).unwrap()).collect::<Vec<_>>(), expected);
    assert_eq!((&summary(&ran)["checked"], &summary(&ran)["missing"]), (&6.into(), &1.into()));

    std::fs::write(file, "no id\n").unwrap();
    assert!(world.ctl(&["verify", "--ids", file]).await.expect(2).stderr.contains("line 1"));
    world.ctl(&["verify", "--ids", "/nowhere"]).await.expect(2);
}

#[tokio::test]
async fn a_message_stored_twice_is_named() {
    // In the database `local` alone a collection may lack the unique primary key, as one id may lie on two shards elsewhere.
    let mongo = holdfast_testkit::Mongo::start().await.unwrap();
    let url = format!("{}&retryWrites=false", mongo.url());
    let world = World::with_topics().await.set("MONGO_URL", url).set("MONGO_DB", "local");
    let client = mongodb::Client::with_uri_str(mongo.url()).await.unwrap();
    let create = doc! { "create": "messages", "autoIndexId": false };
    client.database("local").run_command(create).await.unwrap();
    let sent = message(&chat(), 1);
    world.publish(std::slice::from_ref(&sent)).await;
    world.work().await;
    let stored = world.messages().await;
    let copy = stored.find_one(doc! {}).await.unwrap().unwrap();
    stored.insert_one(copy).await.unwrap();
    let lines = verify(&world, &[], 1).await.json();
    let found = finding(&lines, &sent.id).unwrap();
    assert_eq!((&found["finding"], &found["copies"]), (&"duplicated".into(), &2.into()));
}

#[tokio::test]
async fn stored_documents_that_cannot_be_read_are_named_whoever_wrote_them() {
    let world = World::with_topics().await;
    world.settings().store().await.unwrap().ensure_indexes().await.unwrap();
    let chat = chat();
    let sent = messages(&chat, 4);
    world.publish(&sent).await;
    world.work().await;
    let stored = world.messages().await;
    let at = async |message: &Message, timestamp: Bson| {
        let by_id = doc! { "_id": message.id.to_string() };
        stored.update_one(by_id, doc! { "$set": { "timestamp": timestamp } }).await.unwrap();
    };
    // What other tools make of the same milliseconds is the same.
    at(&sent[0], (sent[0].timestamp as f64).into()).await;
    at(&sent[1], DateTime::from_millis(sent[1].timestamp).into()).await;
    verify(&world, &[], 0).await;
    // Nobody sent these.
    let strange = "00000000-0000-4000-8000-000000000001";
    let document = |id: Bson, timestamp: Bson| {
        doc! { "_id": id, "chatId": chat.as_str(), "senderId": "x", "content": "x", "timestamp": timestamp }
    };
    stored.insert_one(document(strange.into(), "yesterday".into())).await.unwrap();
    stored.insert_one(document("no uuid".into(), 5_i64.into())).await.unwrap();
    at(&sent[2], f64::NAN.into()).await;
    let ran = verify(&world, &[], 1).await;
    let lines = ran.json();
    assert_eq!(finding(&lines, &sent[2].id).unwrap()["finding"], "altered", "{lines:?}");
    let named =
        |id: &str| lines.iter().find(|line| line["document"] == id).unwrap_or_else(|| panic!("{id}: {lines:?}"));
    assert_eq!((&named(strange)["finding"], &named(strange)["field"]), (&"unreadable".into(), &"timestamp".into()));
    assert_eq!(named("no uuid")["field"], "_id");
    assert_eq!((&summary(&ran)["unreadable"], &summary(&ran)["altered"]), (&2.into(), &1.into()));
    let shown = world.ctl(&["verify"]).await.expect(1).stdout;
    assert!(shown.contains(&format!("{strange}  stored, and cannot be read: timestamp")), "{shown}");

    let checks = world.ctl(&["--json", "doctor"]).await.json();
    let check = checks.iter().find(|check| check["name"] == "mongodb: messages that can be read").unwrap();
    assert_eq!(check["status"], "wrong", "{check}");
    for named in [strange, "no uuid", &sent[2].id.to_string()] {
        assert!(check["found"].as_str().unwrap().contains(named), "{check}");
    }
}
