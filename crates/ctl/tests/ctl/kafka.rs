//! `topics` and `lag`.

use std::time::Duration;

use holdfast_kafka::KafkaSettings;

use holdfast_message::{Message, record};
use holdfast_testkit::unique;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::support::{World, chat, message, messages};

const WITHIN: Duration = Duration::from_secs(30);

/// A transaction with these messages in partition 0, not ended.
async fn begin(world: &World, messages: &[Message]) -> FutureProducer {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", world.name("KAFKA_BROKERS"))
        .set("transactional.id", unique("restore"))
        .create()
        .unwrap();
    let waiting = producer.clone();
    tokio::task::spawn_blocking(move || waiting.init_transactions(WITHIN)).await.unwrap().unwrap();
    producer.begin_transaction().unwrap();
    for message in messages {
        let value = record::encode(message);
        let record = FutureRecord::<(), _>::to(world.name("KAFKA_TOPIC")).partition(0).payload(&value);
        producer.send(record, WITHIN).await.unwrap();
    }
    producer
}

async fn abort(producer: FutureProducer) {
    tokio::task::spawn_blocking(move || producer.abort_transaction(WITHIN)).await.unwrap().unwrap();
}

#[tokio::test]
async fn transactions_leave_nothing_behind_for_lag_and_verify_to_wait_for() {
    let world = World::with_topics().await;
    let chat = chat();
    let mine = messages(&chat, 6);
    let producer = begin(&world, &mine[..3]).await;
    tokio::task::spawn_blocking(move || producer.commit_transaction(WITHIN)).await.unwrap().unwrap();
    world.work().await;
    // A marker that no worker has passed.
    abort(begin(&world, &mine[3..5]).await).await;
    let rows = world.ctl(&["lag", "--json"]).await.expect(0).json();
    let of_0 = |rows: &[serde_json::Value]| rows.iter().find(|row| row["partition"] == 0).unwrap().clone();
    let row = of_0(&rows);
    assert_eq!((&row["committed"], &row["end"], &row["lag"]), (&4.into(), &7.into(), &0.into()), "{row}");
    assert_eq!((&row["oldestAgeMs"], &row["behindOpenTransaction"]), (&serde_json::Value::Null, &0.into()), "{row}");
    let verified = world.ctl(&["verify", "--json"]).await.expect(0).json();
    assert_eq!(verified.last().unwrap()["summary"]["checked"], 3, "{verified:?}");
    assert_eq!(world.records().await.len(), 3, "what was aborted is nobody's record");
    world.work().await;
    let verified = world.ctl(&["verify", "--json"]).await.expect(0).json();
    let summary = &verified.last().unwrap()["summary"];
    assert_eq!((&summary["checked"], &summary["notCommitted"]), (&3.into(), &0.into()), "{summary}");

    // A transaction that is open holds up what comes after it, and is what the lag is blamed on.
    let open = begin(&world, &mine[5..]).await;
    let row = of_0(&world.ctl(&["lag", "--json"]).await.expect(0).json());
    assert_eq!((&row["end"], &row["lag"], &row["behindOpenTransaction"]), (&8.into(), &1.into(), &1.into()), "{row}");
    let shown = world.ctl(&["lag"]).await.expect(0).stdout;
    assert!(shown.contains("nobody can read from offset 7 on before a transaction there has ended"), "{shown}");
    world.ctl(&["verify"]).await.expect(0);
    abort(open).await;
    assert!(world.ctl(&["lag"]).await.expect(0).stdout.contains("0 behind in all"));
}

#[tokio::test]
async fn a_loss_that_the_workers_noticed_stays_in_lag_until_it_is_acknowledged() {
    let world = World::with_topics().await;
    let chat = chat();
    world.publish(&messages(&chat, 2)).await;
    world.work().await;
    world.publish(&messages(&chat, 5)[2..]).await;
    let (settings, admin) = (world.settings(), world.settings().admin().unwrap());
    let KafkaSettings { topic, .. } = settings.kafka();
    let ends = admin.watermarks(&topic).await.unwrap();
    let partition = ends.iter().find(|(_, _, end)| *end == 5).unwrap().0;
    admin.delete_records(&topic, &[(partition, 4)]).await.unwrap();
    let rows = world.ctl(&["lag", "--json"]).await.expect(1).json();
    assert!(rows.iter().any(|row| row["lost"] == 2 && row["unacknowledged"] == 0), "{rows:?}");
    world.work().await;
    let rows = world.ctl(&["lag", "--json"]).await.expect(1).json();
    assert!(rows.iter().any(|row| row["lost"] == 0 && row["unacknowledged"] == 2), "{rows:?}");
}

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
