//! Membership, back-pressure and commits, on a mock cluster where that is enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_service::ops::Health;
use holdfast_testkit::until;
use holdfast_worker::consume::Ending;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::rig::{Cluster, Memory, Options, PARTITIONS, Worker};

#[tokio::test(flavor = "multi_thread")]
async fn everything_published_is_stored_once_and_committed() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    let worker = Worker::start(&cluster, &sink, &Options::default());
    until("ready", async || worker.state.ready()).await;
    let count = cluster.publish(2000).await;
    until("stored", async || sink.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    assert_eq!(worker.stop().await, Ending::Drained);
    assert!(sink.stored.lock().unwrap().values().all(|times| *times == 1));
    assert!(sink.largest.load(Ordering::Relaxed) <= 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_the_broker_refuses_is_no_success_and_is_sent_again() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    let worker = Worker::start(&cluster, &sink, &Options::default());
    until("ready", async || worker.state.ready()).await;
    // Where it begins.
    until("committed", async || worker.metrics.commits_ok.get() == 1).await;
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    cluster.mock().request_errors(RDKafkaApiKey::OffsetCommit, &[refusal; 3]);
    let count = cluster.publish(10).await;
    until("refused", async || worker.metrics.commits_failed.get() > 0).await;
    assert_eq!(worker.metrics.commits_ok.get(), 1);
    until("committed", async || cluster.committed().await == count as i64).await;
    assert!(worker.metrics.commits_failed.get() >= 3);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_store_is_away_for_longer_than_a_poll_may_wait_the_worker_pauses_stays_and_loses_nothing() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    sink.away.store(true, Ordering::Relaxed);
    let options = Options { max_poll: Duration::from_secs(6), ..Options::default() };
    let worker = Worker::start(&cluster, &sink, &options);
    until("ready", async || worker.state.ready()).await;
    let count = cluster.publish(3000).await;
    until("paused", async || worker.state.report()["status"] == "paused").await;
    assert_eq!(worker.metrics.paused.get(), 1);
    let held = || worker.state.report()["buffer"]["messages"].as_u64().unwrap();
    let at_pause = held();
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(worker.state.live() && worker.state.ready(), "still a member after the poll interval");
    assert_eq!(worker.partitions(), PARTITIONS as usize);
    assert!(held() <= at_pause + 300, "held {} and then {}", at_pause, held());
    assert_eq!(cluster.committed().await, 0);
    assert_eq!(worker.state.report()["degraded"][0], "mongodb does not take messages");
    sink.away.store(false, Ordering::Relaxed);
    until("stored", async || sink.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    until("active", async || worker.state.report()["status"] == "active").await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_flush_does_not_hold_up_consuming() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    sink.takes_ms.store(1500, Ordering::Relaxed);
    let worker = Worker::start(&cluster, &sink, &Options { capacity: 5000, ..Options::default() });
    until("ready", async || worker.state.ready()).await;
    cluster.publish(1000).await;
    let held = || worker.state.report()["buffer"]["messages"].as_u64().unwrap();
    until("consumed", async || held() > 800).await;
    assert!(sink.distinct() <= 100, "most of it was consumed while the first flushes were in flight");
    sink.takes_ms.store(0, Ordering::Relaxed);
    until("stored", async || sink.distinct() == 1000).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_go_are_flushed_and_committed_first_so_that_nothing_is_read_twice() {
    let (cluster, sink) = (Cluster::real().await, Arc::new(Memory::default()));
    sink.takes_ms.store(300, Ordering::Relaxed);
    // So large a threshold and so slow a store that much is held when the partitions go.
    let options = Options { threshold: 2000, capacity: 5000, ..Options::default() };
    let first = Worker::start(&cluster, &sink, &options);
    until("all partitions", async || first.partitions() == PARTITIONS as usize).await;
    let mut count = cluster.publish(1000).await;
    let second = Worker::start(&cluster, &sink, &options);
    while second.partitions() < PARTITIONS as usize / 2 {
        count = cluster.publish(50).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("stored", async || sink.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    assert_eq!(first.partitions() + second.partitions(), PARTITIONS as usize);
    assert_eq!((first.stop().await, second.stop().await), (Ending::Drained, Ending::Drained));
    let twice = sink.stored.lock().unwrap().values().filter(|times| **times > 1).count();
    assert_eq!(twice, 0, "nothing was read again by the second worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_deadline_partitions_go_with_their_records_uncommitted_and_the_next_owner_stores_them() {
    let cluster = Cluster::start();
    let (stuck, sound) = (Arc::new(Memory::default()), Arc::new(Memory::default()));
    stuck.away.store(true, Ordering::Relaxed);
    let options =
        Options { revoke_within: Duration::from_secs(1), drain_within: Duration::from_secs(1), ..Options::default() };
    let first = Worker::start(&cluster, &stuck, &options);
    until("all partitions", async || first.partitions() == PARTITIONS as usize).await;
    let count = cluster.publish(1500).await;
    until("paused", async || first.metrics.paused.get() == 1).await;
    let second = Worker::start(&cluster, &sound, &options);
    until("shared", async || second.partitions() == PARTITIONS as usize / 2).await;
    assert!(matches!(first.stop().await, Ending::LeftBehind(1..)));
    until("stored", async || sound.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    assert_eq!(stuck.distinct(), 0);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_paused_when_it_went_is_consumed_when_it_comes_back() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    sink.away.store(true, Ordering::Relaxed);
    let options = Options { revoke_within: Duration::from_millis(500), ..Options::default() };
    let first = Worker::start(&cluster, &sink, &options);
    until("all partitions", async || first.partitions() == PARTITIONS as usize).await;
    cluster.publish(2000).await;
    until("paused", async || first.metrics.paused.get() == 1).await;
    let second = Worker::start(&cluster, &sink, &options);
    until("shared", async || second.partitions() == PARTITIONS as usize / 2).await;
    let leaving = tokio::spawn(second.stop());
    until("back", async || first.partitions() == PARTITIONS as usize).await;
    sink.away.store(false, Ordering::Relaxed);
    leaving.await.unwrap();
    let count = cluster.publish(100).await;
    until("stored", async || sink.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    assert_eq!(first.stop().await, Ending::Drained);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_client_ends_the_worker_instead_of_leaving_it_ready_and_idle() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    let worker = Worker::start(&cluster, &sink, &Options::default());
    until("ready", async || worker.state.ready()).await;
    let fenced = RDKafkaRespErr::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID;
    cluster.mock().request_errors(RDKafkaApiKey::Heartbeat, &[fenced]);
    let ending = worker.ended().await;
    assert!(
        matches!(&ending, Ending::Fatal(reason) if reason.contains("Fenced") || reason.contains("fenced")),
        "{ending:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_panics_ends_the_worker_and_its_records_are_read_again() {
    let (cluster, sink) = (Cluster::start(), Arc::new(Memory::default()));
    sink.panics.store(true, Ordering::Relaxed);
    let worker = Worker::start(&cluster, &sink, &Options::default());
    until("ready", async || worker.state.ready()).await;
    let count = cluster.publish(100).await;
    assert!(matches!(worker.ended().await, Ending::Fatal(_)));
    assert_eq!(cluster.committed().await, 0);
    sink.panics.store(false, Ordering::Relaxed);
    let next = Worker::start(&cluster, &sink, &Options::default());
    until("stored", async || sink.distinct() == count).await;
    until("committed", async || cluster.committed().await == count as i64).await;
    next.stop().await;
}
