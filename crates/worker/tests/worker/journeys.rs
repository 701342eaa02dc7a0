//! What becomes of records, on real servers.

use std::time::Duration;

use anyhow::Result;
use holdfast_cache::{CacheMetrics, Connection, Keys, Origin, RecentList};
use holdfast_kafka::{Headers, RecordView};
use holdfast_message::{Message, UserId, record};
use holdfast_testkit::unique;
use holdfast_worker::cleanup::{self, CleanupSettings};

use crate::rig::{message, until};
use crate::stack::Stack;

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
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    assert_eq!(stack.committed().await?[0].1, Some(held));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_were_deleted_unread_are_counted_and_make_the_worker_degraded() -> Result<()> {
    let stack = Stack::start().await?;
    let worker = stack.worker(&[])?;
    worker.ready().await?;
    for number in 0..10 {
        stack.publish_raw(3, &record::encode(&message(number)), &[]).await?;
    }
    until("committed", async || stack.committed().await.unwrap()[3].1 == Some(10)).await;
    assert_eq!(worker.program.term_and_wait(Duration::from_secs(20)).await?, 0);
    for number in 10..30 {
        stack.publish_raw(3, &record::encode(&message(number)), &[]).await?;
    }
    assert_eq!(stack.admin.delete_records(&stack.kafka.topic, &[(3, 17)]).await?, [(3, 17)]);
    let worker = stack.worker(&[])?;
    until("stored", async || stack.stored().await.unwrap() == 23).await;
    assert_eq!(worker.metric("holdfast_worker_records_skipped_total").await?, 7.0);
    until("degraded", async || worker.says("/status", "degraded").await).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uncached_messages_are_added_to_the_recent_list() -> Result<()> {
    let stack = Stack::start().await?;
    let registry = prometheus::Registry::new();
    let connection = Connection::open("test", &stack.redis_url, CacheMetrics::register(&registry)?)?;
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
