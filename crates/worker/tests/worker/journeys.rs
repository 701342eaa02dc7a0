//! What becomes of records, on real servers.

use std::time::{Duration, Instant};

use anyhow::Result;
use holdfast_cache::{Origin, RecentList};
use holdfast_kafka::{Headers, RecordView};
use holdfast_keys::Keys;
use holdfast_message::{Message, UserId, record};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{unique, until};
use holdfast_worker::cleanup::{self, CleanupSettings};
use serde_json::json;

use crate::rig::message;
use crate::stack::{Stack, Worker};

#[tokio::test(flavor = "multi_thread")]
async fn published_messages_are_stored_once_each_and_committed_and_repeats_change_nothing() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    stack.publish(0..1000).await?;
    stack.publish(500..1500).await?;
    until("stored", async || stack.stored().await.unwrap() == 1500).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;
    let flushed = |result: &str| format!("holdfast_worker_flush_messages_total{{result=\"{result}\"}}");
    assert_eq!(worker.metric(&flushed("stored")).await?, 1500.0);
    assert_eq!(worker.metric(&flushed("duplicate")).await?, 500.0);
    until("empty", async || worker.says("/buffer/messages", 0).await).await;
    assert!(worker.says("/status", "active").await, "{}", worker.health().await?);
    assert!(worker.health().await?["lastFlushAt"].is_i64());
    until("lag", async || worker.metric("holdfast_worker_consumer_lag{partition=\"0\"}").await.unwrap() == 0.0).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_record_is_kept_whole_as_a_dead_letter_and_its_partition_moves_on() -> Result<()> {
    let stack = Stack::start().await?;
    stack.admin.ensure_topics().await?;
    stack.publish(0..50).await?;
    let bytes = b"\xff\xff no message";
    let offset = stack.publish_raw(2, bytes, &[("traceparent", Some(b"t")), ("odd", None)]).await?;
    stack.publish(50..100).await?;
    let worker = stack.worker(&[])?;
    until("committed", async || stack.lag().await.is_ok_and(|lag| lag == 0)).await;
    assert_eq!(stack.stored().await?, 100);
    let letters = stack.dead_letters().await?;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].payload(), letters[0].key()), (Some(bytes.as_slice()), Some(b"k".as_slice())));
    let header = |name: &str| {
        let headers = letters[0].headers().unwrap();
        headers
            .iter()
            .find(|header| header.key == name)
            .map(|header| header.value.map(|value| String::from_utf8_lossy(value).into_owned()))
    };
    assert_eq!((header("traceparent"), header("odd")), (Some(Some("t".into())), Some(None)));
    assert!(header("dlq-reason").unwrap().unwrap().starts_with("malformed: "));
    assert_eq!(header("dlq-topic").unwrap().unwrap(), stack.kafka.topic);
    assert_eq!(header("dlq-partition").unwrap().unwrap(), "2");
    assert_eq!(header("dlq-offset").unwrap().unwrap(), offset.to_string());
    assert!(header("dlq-time").unwrap().unwrap().parse::<i64>()? > 1_700_000_000_000);
    assert_eq!(worker.metric("holdfast_dlq_messages_total{reason=\"malformed\"}").await?, 1.0);
    until("it is counted in the topic", async || worker.series("holdfast_dlq_records").await == Some(1.0)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_records_are_all_kept_and_counted_and_do_not_flood_the_log() -> Result<()> {
    let stack = Stack::start().await?;
    stack.admin.ensure_topics().await?;
    let begun = Instant::now();
    for _ in 0..300 {
        stack.publish_raw(1, b"no message", &[]).await?;
    }
    let worker = stack.worker(&[])?;
    until("committed", async || stack.lag().await.is_ok_and(|lag| lag == 0)).await;
    assert_eq!(stack.dead_letters().await?.len(), 300);
    assert_eq!(worker.metric("holdfast_dlq_messages_total{reason=\"malformed\"}").await?, 300.0);
    let lines = worker.program.log_tail(10_000).matches("a record can't be decoded").count();
    // However slow this machine is.
    let most = 10 * (1 + usize::try_from(begun.elapsed().as_secs() / 60)?);
    assert!((1..=most).contains(&lines), "{lines} lines");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_dead_letters_off_an_undecodable_record_is_skipped() -> Result<()> {
    let stack = Stack::start().await?;
    stack.admin.ensure_topics().await?;
    stack.publish_raw(1, b"no message", &[]).await?;
    stack.publish(0..10).await?;
    let worker = stack.worker(&[("DLQ_ENABLED", "false")])?;
    until("committed", async || stack.lag().await.is_ok_and(|lag| lag == 0)).await;
    assert_eq!((stack.stored().await?, stack.dead_letters().await?.len()), (10, 0));
    assert!(worker.program.log_tail(200).contains("skipping a record"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_schema_holds_its_partition_and_no_other() -> Result<()> {
    let stack = Stack::start().await?;
    stack.admin.ensure_topics().await?;
    let plain = |number: usize| record::encode(&message(number));
    stack.publish_raw(0, &plain(1), &[]).await?;
    let held = stack.publish_raw(0, b"of the future", &[("schema-version", Some(b"2"))]).await?;
    for number in 2..200 {
        stack.publish_raw(0, &plain(number), &[("schema-version", Some(b"1"))]).await?;
    }
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    for number in 200..210 {
        stack.publish_raw(1, &plain(number), &[]).await?;
    }
    until("held", async || worker.says("/status", "degraded").await).await;
    until("stored", async || stack.stored().await.unwrap() == 11).await;
    until("committed", async || stack.committed().await.unwrap()[1].1 == Some(10)).await;
    assert_eq!(stack.committed().await?[0].1, Some(held), "up to the record, and not past it");
    assert_eq!(worker.metric("holdfast_worker_partitions_held").await?, 1.0);
    assert_eq!(worker.metric(r#"holdfast_degraded{reason="partition_held"}"#).await?, 1.0);
    let age = async |partition: i32| {
        let topic = &stack.kafka.topic;
        let series = format!(r#"holdfast_worker_backlog_age_seconds{{partition="{partition}",topic="{topic}"}}"#);
        worker.series(&series).await
    };
    until("a held partition's backlog has an age, and no other's", async || {
        age(0).await.is_some_and(|age| age > 0.0) && age(1).await == Some(0.0)
    })
    .await;
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    assert_eq!(stack.committed().await?[0].1, Some(held));
    Ok(())
}

const UNACKNOWLEDGED: &str = "holdfast_worker_loss_unacknowledged";
const SKIPPED: &str = "holdfast_worker_records_skipped_total";

/// Publishes these messages to partition 3.
async fn publish_to_3(stack: &Stack, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        stack.publish_raw(3, &record::encode(&message(number)), &[]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_on_a_trimmed_topic_begins_where_the_log_does_and_has_lost_nothing() -> Result<()> {
    let stack = Stack::start().await?;
    stack.admin.ensure_topics().await?;
    publish_to_3(&stack, 0..30).await?;
    assert_eq!(stack.admin.delete_records(&stack.kafka.topic, &[(3, 28)]).await?, [(3, 28)]);
    let worker = stack.worker(&[])?;
    until("stored", async || stack.stored().await.unwrap() == 2).await;
    let all = [(0, Some(0)), (1, Some(0)), (2, Some(0)), (3, Some(30))];
    until("committed, also where nothing was read", async || stack.committed().await.unwrap() == all).await;
    assert_eq!((worker.metric(SKIPPED).await?, worker.metric(SKIPPED).await?), (0.0, 0.0));
    assert!(worker.says("/status", "active").await, "{}", worker.health().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_unread_degrade_whoever_has_their_partition_until_an_operator_acknowledges_it()
-> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    publish_to_3(&stack, 0..10).await?;
    until("committed", async || stack.committed().await.unwrap()[3].1 == Some(10)).await;
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    publish_to_3(&stack, 10..30).await?;
    assert_eq!(stack.admin.delete_records(&stack.kafka.topic, &[(3, 17)]).await?, [(3, 17)]);
    let worker = stack.worker(&[])?;
    until("stored", async || stack.stored().await.unwrap() == 23).await;
    assert_eq!(worker.metric(SKIPPED).await?, 0.0, "the first export is the one that an increase is measured from");
    assert_eq!(worker.metric(SKIPPED).await?, 7.0);
    until("degraded", async || worker.says("/status", "degraded").await && worker.says("/lostRecords", 7).await).await;
    until("committed", async || stack.lag().await.unwrap() == 0).await;

    // Killed, so that it says nothing to anybody; the next one knows.
    worker.program.kill9().await?;
    let next = stack.worker(&[])?;
    until("degraded again", async || next.says("/lostRecords", 7).await && next.says("/status", "degraded").await)
        .await;
    assert_eq!(next.metric(UNACKNOWLEDGED).await?, 7.0);
    assert_eq!(next.metric(SKIPPED).await?, 0.0, "lost once");
    // What is read and stored meanwhile makes nobody forget it.
    publish_to_3(&stack, 30..40).await?;
    until("committed", async || stack.committed().await.unwrap()[3].1 == Some(40)).await;
    assert_eq!(stack.admin.commits(&stack.group, &stack.kafka.topic).await?[3].loss.records, 7);

    next.acknowledge_losses().await?;
    until("acknowledged", async || next.says("/status", "active").await && next.says("/lostRecords", 0).await).await;
    let kept = async || stack.admin.commits(&stack.group, &stack.kafka.topic).await.unwrap()[3].loss.records;
    until("and kept so", async || kept().await == 0).await;
    next.program.kill9().await?;
    let last = stack.worker(&[])?;
    until("has all partitions", async || last.says("/partitions", vec![0, 1, 2, 3]).await).await;
    assert!(last.says("/lostRecords", 0).await && last.says("/status", "active").await, "{}", last.health().await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loss_is_noticed_although_no_record_is_left_and_moves_with_its_partition() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    // Nothing was ever read of partition 3, but the group has had it.
    until("committed", async || stack.committed().await.unwrap()[3].1 == Some(0)).await;
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    publish_to_3(&stack, 0..5).await?;
    assert_eq!(stack.admin.delete_records(&stack.kafka.topic, &[(3, 5)]).await?, [(3, 5)]);
    let first = stack.worker(&[])?;
    until("noticed", async || first.says("/lostRecords", 5).await).await;
    until("committed", async || stack.committed().await.unwrap()[3].1 == Some(5)).await;
    let second = stack.worker(&[])?;
    until("shared", async || {
        let has = async |worker: &Worker| worker.health().await.is_ok_and(|health| health["partitions"] != json!([]));
        has(&first).await && has(&second).await
    })
    .await;
    assert_eq!(first.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    until("moved", async || second.says("/lostRecords", 5).await).await;
    assert_eq!(second.metric(UNACKNOWLEDGED).await?, 5.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_messages_are_added_to_the_recent_list() -> Result<()> {
    let stack = Stack::start().await?;
    let registry = prometheus::Registry::new();
    let connection = Connection::open("test", &stack.redis_url, RedisMetrics::register(&registry)?)?;
    let list = RecentList::new(connection, Keys::default(), Default::default(), Origin::random());
    let (carol, dave) = (UserId::parse(&unique("carol"))?, UserId::parse(&unique("dave"))?);
    let chat = holdfast_message::ChatId::direct(&carol, &dave).unwrap();
    let of_chat = |number: usize| Message {
        chat: chat.clone(),
        sender: carol.clone(),
        receiver: Some(dave.clone()),
        ..message(number)
    };
    let _worker = stack.worker(&[])?;
    stack.admin.ensure_topics().await?;
    stack.publish_all((0..3).map(of_chat), true).await?;
    stack.publish_all((3..5).map(of_chat), false).await?;
    until("stored", async || stack.stored().await.unwrap() == 5).await;
    let listed = async || list.read(&chat, Duration::from_secs(1)).await.unwrap().entries.len();
    until("listed", async || listed().await == 3).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cleaning_up_spares_what_a_group_has_not_read_and_what_is_young() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    for number in 0..20 {
        stack.publish_raw(0, &record::encode(&message(number)), &[]).await?;
    }
    until("committed", async || stack.committed().await.unwrap()[0].1 == Some(20)).await;
    let mut settings = CleanupSettings {
        topic: stack.kafka.topic.clone(),
        groups: vec![stack.group.clone()],
        margin: Duration::from_secs(3600),
        interval: Duration::from_secs(1),
    };
    assert_eq!(cleanup::once(&stack.admin, &settings).await?, [], "everything is young");
    settings.margin = Duration::ZERO;
    settings.groups.push(unique("unread"));
    assert_eq!(cleanup::once(&stack.admin, &settings).await?, [], "a group has read nothing");
    settings.groups.pop();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(cleanup::once(&stack.admin, &settings).await?, [(0, 20)]);
    let low = stack.admin.watermarks(&stack.kafka.topic).await?;
    assert!(low.contains(&(0, 20, 20)), "{low:?}");
    Ok(())
}
