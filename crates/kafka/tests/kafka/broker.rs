use std::time::Duration;

use anyhow::Result;
use holdfast_kafka::{Admin, KafkaSettings, PublishError, PublishRecord, Publisher, RangeReader, RecordView};
use holdfast_testkit::{Kafka, shared, unique};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{FutureProducer, FutureRecord};

async fn settings() -> KafkaSettings {
    KafkaSettings {
        brokers: shared().await.kafka_brokers.clone(),
        topic: unique("messages"),
        dlq_topic: unique("dead"),
        partitions: 3,
        delivery_timeout: Duration::from_secs(10),
        ..KafkaSettings::default()
    }
}

#[tokio::test]
async fn topics_are_made_once_and_one_replica_is_warned_about() -> Result<()> {
    let settings = settings().await;
    let admin = Admin::new(&settings, Duration::from_secs(10))?;
    assert_eq!(admin.describe(&settings.topic).await?.partitions, 0);
    assert!(admin.check_topics().await?.warnings.contains(&format!("topic {} is missing", settings.topic)));
    let publisher = Publisher::new(&settings)?;
    publisher.ping(Duration::from_secs(5)).await.expect_err("the topic is missing");
    // As when several services start at once.
    let (first, second) = tokio::join!(admin.ensure_topics(), admin.ensure_topics());
    first?;
    second?;
    admin.ensure_topics().await?;
    let report = admin.check_topics().await?;
    assert_eq!((report.main.partitions, report.main.replication_factor), (3, 1));
    assert_eq!((report.main.retention_ms, report.main.cleanup_policy.as_deref()), (Some(604_800_000), Some("delete")));
    assert_eq!((report.dlq.retention_ms, report.dlq.retention_bytes), (Some(-1), Some(-1)));
    let largest = |bytes: Option<usize>| bytes.expect("the broker tells");
    assert_eq!(largest(report.dlq.max_message_bytes), largest(report.main.max_message_bytes) + 64 * 1024);
    assert!(report.warnings.iter().any(|warning| warning.contains("1 replica(s)")), "{:?}", report.warnings);
    publisher.ping(Duration::from_secs(5)).await?;
    Ok(())
}

/// A topic as somebody else made it.
async fn create(settings: &KafkaSettings, name: &str, own: &[(&str, &str)]) -> Result<()> {
    let client: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &settings.brokers).create()?;
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let topic = own.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let made = client.create_topics([&topic], &AdminOptions::new()).await?;
    made.into_iter().for_each(|made| drop(made.expect("the topic is created")));
    Ok(())
}

#[tokio::test]
async fn records_are_stamped_by_the_broker_however_wrong_the_producers_clock_is() -> Result<()> {
    let settings = settings().await;
    let admin = Admin::new(&settings, Duration::from_secs(10))?;
    admin.ensure_topics().await?;
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", &settings.brokers).create()?;
    for topic in [&settings.topic, &settings.dlq_topic] {
        // 1970: by this stamp, retention would delete it at once.
        let record = FutureRecord::<(), _>::to(topic).partition(0).payload("x").timestamp(1000);
        producer.send(record, Duration::from_secs(10)).await.map_err(|(error, _)| error)?;
        let (settings, topic) = (settings.clone(), topic.clone());
        let read = tokio::task::spawn_blocking(move || {
            RangeReader::new(&settings, &topic, &[(0, 0)])?.next(Duration::from_secs(20))
        });
        let stamp = read.await??.expect("the record within 20 s").timestamp().to_millis();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
        assert!(stamp.is_some_and(|stamp| (now - stamp).abs() < 3_600_000), "stamped {stamp:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_letter_topic_that_deletes_is_told_to_keep_and_the_rest_of_it_stays() -> Result<()> {
    for deleting in [("retention.ms", "604800000"), ("retention.bytes", "1000000")] {
        let settings = settings().await;
        let admin = Admin::new(&settings, Duration::from_secs(10))?;
        admin.ensure_topics().await?;
        let settings = KafkaSettings { dlq_topic: unique("dead"), ..settings };
        create(&settings, &settings.dlq_topic, &[deleting, ("max.message.bytes", "2000000"), ("segment.ms", "777777")])
            .await?;
        let admin = Admin::new(&settings, Duration::from_secs(10))?;
        // A broker tells of a new topic when it comes to it.
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !admin.describe(&settings.dlq_topic).await?.deletes_records() {
            assert!(std::time::Instant::now() < deadline, "the broker does not tell of the topic within 60 s");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // As when several services start at once.
        let (first, second) = tokio::join!(admin.ensure_topics(), admin.ensure_topics());
        first?;
        second?;
        let report = admin.check_topics().await?;
        // Without a setting of its own the topic has the broker's seven days.
        assert_eq!((report.dlq.retention_ms, report.dlq.retention_bytes), (Some(-1), Some(-1)), "{deleting:?}");
        assert_eq!(report.dlq.max_message_bytes, Some(2_000_000), "what was set stays");
        // The main topic's retention is its operator's business.
        assert_eq!(report.main.retention_ms, Some(604_800_000));
    }
    Ok(())
}

#[tokio::test]
async fn the_largest_record_that_passes_fits_the_dead_letter_topic_with_its_headers() -> Result<()> {
    let settings = settings().await;
    Admin::new(&settings, Duration::from_secs(10))?.ensure_topics().await?;
    let value: Vec<u8> = (0..settings.max_record_bytes - 200).map(|i| (i * i % 251) as u8).collect();
    let record = PublishRecord { chat: "a:b", value: &value, traceparent: None, uncached: true };
    let publisher = Publisher::new(&settings)?;
    publisher.publish(record).await?;
    let more = vec![0; settings.max_record_bytes];
    let refused = publisher.publish(PublishRecord { value: &more, ..record }).await;
    assert!(matches!(refused, Err(PublishError::TooLarge(_))), "{refused:?}");
    let reason = vec![b'x'; 60 * 1024];
    let headers: [(&str, Option<&[u8]>); 1] = [("dlq-reason", Some(&reason))];
    let letters = Publisher::dead_letters(&settings)?;
    letters.publish_raw(&settings.dlq_topic, None, Some(b"a:b"), Some(&value), &headers).await?;
    Ok(())
}

#[tokio::test]
async fn ranges_offsets_by_time_and_truncation_agree_with_the_log() -> Result<()> {
    let settings = settings().await;
    let admin = Admin::new(&settings, Duration::from_secs(10))?;
    admin.ensure_topics().await?;
    let publisher = Publisher::new(&settings)?;
    let publish = async |value: u8| {
        publisher.publish_raw(&settings.topic, Some(1), None, Some(&[value]), &[]).await.map(|taken| taken.offset)
    };
    for value in 0..5 {
        publish(value).await?;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let between = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as i64;
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(publish(5).await?, 5);
    let topic = settings.topic.as_str();
    assert_eq!(admin.offsets_at(topic, between).await?, [(0, None), (1, Some(5)), (2, None)]);
    assert_eq!(admin.committed(&unique("group"), topic).await?, [(0, None), (1, None), (2, None)]);
    assert_eq!(admin.delete_records(topic, &[(1, 2)]).await?, [(1, 2)]);
    assert_eq!(admin.watermarks(topic).await?, [(0, 0, 0), (1, 2, 6), (2, 0, 0)]);
    let values = tokio::task::spawn_blocking(move || -> Result<Vec<u8>> {
        // From before the truncation: starts at what is left.
        let reader = RangeReader::new(&settings, &settings.topic, &[(1, 0)])?;
        let mut values = Vec::new();
        while values.len() < 4 {
            let record = reader.next(Duration::from_secs(10))?.expect("a record within 10 s");
            values.push(record.payload().expect("a value")[0]);
        }
        assert!(reader.next(Duration::from_millis(300))?.is_none());
        Ok(values)
    });
    assert_eq!(values.await??, [2, 3, 4, 5]);
    Ok(())
}

#[tokio::test]
async fn what_a_broker_unpacks_goes_with_its_folder() -> Result<()> {
    let kafka = Kafka::start().await?;
    let settings = KafkaSettings { brokers: kafka.brokers(), ..settings().await };
    Admin::new(&settings, Duration::from_secs(10))?.ensure_topics().await?;
    // A broker reads into a compressed batch, for which it unpacks a native library.
    let record = PublishRecord { chat: "a:b", value: &[b'x'; 10_000], traceparent: None, uncached: false };
    Publisher::new(&settings)?.publish(record).await?;
    let unpacked = std::fs::read_dir(kafka.folder().path().join("tmp"))?;
    let names: Vec<_> = unpacked.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    assert!(names.iter().any(|name| name.to_string_lossy().starts_with("liblz4")), "{names:?}");
    Ok(())
}
