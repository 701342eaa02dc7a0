use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast_kafka::{
    Failure, Headers, KafkaSettings, PublishError, PublishRecord, Publisher, RangeReader, RecordView,
};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::cluster;

fn record<'a>(chat: &'a str, value: &'a [u8]) -> PublishRecord<'a> {
    PublishRecord { chat, value, traceparent: None, uncached: false }
}

fn failure(error: PublishError) -> Failure {
    match error {
        PublishError::Unavailable(failure) => failure,
        PublishError::TooLarge(reason) => panic!("taken for too large: {reason}"),
    }
}

#[tokio::test]
async fn the_order_of_calls_is_the_order_in_the_log_whoever_is_awaited_first() {
    let (_cluster, settings) = cluster(4);
    let publisher = Publisher::new(&settings).unwrap();
    let published: Vec<_> =
        (0..200u8).map(|i| publisher.publish(PublishRecord { uncached: i == 7, ..record("a:b", &[i]) })).collect();
    let mut last = None;
    for future in published.into_iter().rev() {
        let taken = future.await.unwrap();
        let place = (taken.partition, taken.offset);
        assert!(last.is_none_or(|last| place < last), "{place:?} after {last:?}");
        last = Some(place);
    }
    let partition = last.unwrap().0;
    let values = tokio::task::spawn_blocking(move || {
        let reader = RangeReader::new(&settings, "messages", &[(partition, 0)]).unwrap();
        let records: Vec<_> =
            (0..200).map(|_| reader.next(Duration::from_secs(10)).unwrap().expect("a record")).collect();
        let eighth = records[7].headers().unwrap();
        let names: Vec<_> = eighth.iter().map(|header| header.key.to_owned()).collect();
        assert_eq!(names, ["content-type", "schema-version", "uncached"]);
        assert_eq!(records[8].headers().unwrap().count(), 2);
        records.iter().map(|record| record.payload().unwrap()[0]).collect::<Vec<_>>()
    });
    assert_eq!(values.await.unwrap(), (0..200).collect::<Vec<u8>>());
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_within_the_delivery_timeout() {
    let (cluster, settings) = cluster(1);
    let publisher = Publisher::new(&settings).unwrap();
    publisher.publish(record("a:b", b"1")).await.unwrap();
    cluster.broker_down(1).unwrap();
    let started = Instant::now();
    let failure = failure(publisher.publish(record("a:b", b"2")).await.unwrap_err());
    assert!(failure.possibly_persisted, "{failure}");
    assert!(started.elapsed() < settings.delivery_timeout + Duration::from_millis(900), "{:?}", started.elapsed());
    cluster.broker_up(1).unwrap();
    let mut answer = publisher.publish(record("a:b", b"3")).await;
    for _ in 0..5 {
        if answer.is_ok() {
            break;
        }
        answer = publisher.publish(record("a:b", b"3")).await;
    }
    answer.expect("published again once the broker is back");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let (cluster, settings) = cluster(1);
    cluster.broker_down(1).unwrap();
    let publisher = Publisher::new(&KafkaSettings { queue_messages: 10, ..settings }).unwrap();
    let waiting: Vec<_> = (0..10).map(|_| publisher.publish(record("a:b", b"x"))).collect();
    let started = Instant::now();
    let failure = failure(publisher.publish(record("a:b", b"x")).await.unwrap_err());
    assert!(!failure.possibly_persisted, "{failure}");
    assert!(started.elapsed() < Duration::from_millis(100));
    assert_eq!(publisher.in_flight(), 10);
    assert_eq!(publisher.flush(Duration::from_millis(20)).await, 10, "and a flush says what it left");
    drop(waiting);
}

#[tokio::test]
async fn a_record_is_too_large_only_if_it_is_to_blame_itself() {
    let (cluster, settings) = cluster(1);
    let settings = KafkaSettings { max_record_bytes: 300_000, ..settings };
    let publisher = Publisher::new(&settings).unwrap();
    let at_once = publisher.publish(record("a:b", &[0; 300_001])).await.unwrap_err();
    assert!(matches!(at_once, PublishError::TooLarge(_)), "{at_once}");
    Publisher::dead_letters(&settings)
        .unwrap()
        .publish_raw("dead", Some(0), None, Some(&[0; 300_001]), &[("dlq-reason", Some(b"x"))])
        .await
        .expect("the dead-letter publisher takes what the main one can hold, and its headers");

    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    let small = failure(publisher.publish(record("a:b", b"small")).await.unwrap_err());
    assert!(!small.possibly_persisted, "{small}");
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    let alone = publisher.publish(record("a:b", &[0; 200_000])).await.unwrap_err();
    assert!(matches!(alone, PublishError::TooLarge(_)), "{alone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_died_is_replaced_and_what_it_held_fails_at_once() {
    let (cluster, settings) = cluster(1);
    // What a missing right to write idempotently comes to.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied, denied]);
    // Nothing here ends by this time's passing.
    let publisher = Publisher::new(&KafkaSettings { delivery_timeout: Duration::from_secs(600), ..settings }).unwrap();
    let held: Vec<_> = (0..10).map(|_| publisher.publish(record("a:b", b"1"))).collect();
    let rebuilds = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let (publisher, rebuilds) = (publisher.clone(), Arc::clone(&rebuilds));
        async move { publisher.keep_alive(|| drop(rebuilds.fetch_add(1, Ordering::Relaxed))).await }
    });
    for report in held {
        let failure = failure(report.await.unwrap_err());
        assert!(!failure.reason.contains("no delivery report"), "{failure}");
    }
    // Until the next one is there nothing is held.
    let refused = publisher.publish(record("a:b", b"2")).await;
    assert!(refused.is_err());
    assert!(publisher.ping(Duration::from_secs(5)).await.is_err(), "it does not work");
    let started = Instant::now();
    while publisher.publish(record("a:b", b"3")).await.is_err() {
        assert!(started.elapsed() < Duration::from_secs(60), "it is not replaced");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rebuilds.load(Ordering::Relaxed), 2);
    publisher.ping(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn ping_tells_a_cluster_from_none() {
    let (cluster, settings) = cluster(1);
    let publisher = Publisher::new(&settings).unwrap();
    publisher.ping(Duration::from_secs(5)).await.unwrap();
    cluster.broker_down(1).unwrap();
    publisher.ping(Duration::from_millis(500)).await.unwrap_err();
}
