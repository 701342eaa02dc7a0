//! `topics` and `lag`.

use std::time::Duration;

use holdfast_kafka::KafkaSettings;

use crate::support::{World, chat, message, messages};

#[tokio::test]
async fn topics_are_created_once_and_what_differs_is_listed() {
    let world = World::new().await;
    let missing = world.ctl(&["topics", "check"]).await.expect(1);
    assert!(missing.stdout.contains("missing"), "{}", missing.stdout);
    let dry = world.ctl(&["topics", "create", "--dry-run"]).await.expect(0);
    assert!(dry.stdout.contains("would be created"), "{}", dry.stdout);
    world.ctl(&["topics", "check"]).await.expect(1);
    let made = world.ctl(&["topics", "create"]).await.expect(0);
    assert_eq!(made.stdout.matches(" created: 2 partitions").count(), 2, "{}", made.stdout);
    let again = world.ctl(&["--json", "topics", "create"]).await.expect(0).json();
    assert!(again.len() == 2 && again.iter().all(|line| line["outcome"] == "there"), "{again:?}");
    // One replica is what a server alone can give, and is named; nothing else differs.
    let checked = world.ctl(&["--json", "topics", "check"]).await.expect(1).json();
    let wrong: Vec<_> = checked.iter().map(|line| line["name"].as_str().unwrap().split(": ").nth(1).unwrap()).collect();
    assert_eq!(wrong, ["replication factor", "min.insync.replicas", "replication factor", "min.insync.replicas"]);
    assert!(checked.iter().all(|line| line["status"] == "wrong" && line["mend"].is_string()), "{checked:?}");
    let world = world.set("KAFKA_PARTITIONS", "4");
    assert!(world.ctl(&["topics", "check"]).await.expect(1).stdout.contains("4 (KAFKA_PARTITIONS)"));
}

#[tokio::test]
async fn lag_is_what_is_not_committed() {
    let world = World::with_topics().await;
    let chat = chat();
    world.publish(&messages(&chat, 3)).await;
    world.work().await;
    assert!(world.ctl(&["lag"]).await.expect(0).stdout.contains("0 behind in all"));
    world.publish(&[message(&chat, 4), message(&chat, 5)]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let rows = world.ctl(&["lag", "--json"]).await.expect(0).json();
    let behind: Vec<_> = rows.iter().filter(|row| row["lag"] != 0).collect();
    assert_eq!((rows.len(), behind.len()), (2, 1), "{rows:?}");
    assert_eq!((&behind[0]["committed"], &behind[0]["end"], &behind[0]["lag"]), (&3.into(), &5.into(), &2.into()));
    assert!(behind[0]["oldestAgeMs"].as_i64().unwrap() >= 20, "{rows:?}");
    // What is deleted before it is committed is lost, and said to be.
    let settings = world.settings();
    let partition = i32::try_from(behind[0]["partition"].as_i64().unwrap()).unwrap();
    let KafkaSettings { topic, .. } = settings.kafka();
    settings.admin().unwrap().delete_records(&topic, &[(partition, 4)]).await.unwrap();
    let rows = world.ctl(&["lag", "--json"]).await.expect(1).json();
    assert!(rows.iter().any(|row| row["lost"] == 1 && row["lag"] == 1), "{rows:?}");
}
