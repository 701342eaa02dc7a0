use holdfast_kafka::{ConsumerSettings, KafkaSettings, Trouble};
use holdfast_message::Message;
use holdfast_service::ops::Health;
use holdfast_store::{BatchFailed, StoreError, Touched, Written};
use prometheus::Registry;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::flush::LONE_REFUSAL;
use crate::heal::Recent;
use crate::ledger::Start;

struct Nowhere;

impl Sink for Nowhere {
    async fn insert(&self, messages: &[Message]) -> Result<Vec<Written>, BatchFailed> {
        Ok(messages.iter().map(|_| Written::Stored).collect())
    }
    async fn touch_conversations(&self, _: &[Message]) -> Result<Touched, StoreError> {
        Ok(Touched::default())
    }
}

impl Recent for Nowhere {
    async fn data_generation(&self) -> Result<String, String> {
        Ok("one".into())
    }
    async fn add(&self, messages: &[Message]) -> Vec<Result<bool, String>> {
        messages.iter().map(|_| Ok(true)).collect()
    }
}

/// A loop that is not run, on a cluster of one partition.
fn desk() -> (MockCluster<'static, DefaultProducerContext>, Loop<Nowhere>) {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("messages", 1, 1).unwrap();
    let settings =
        KafkaSettings { brokers: cluster.bootstrap_servers(), topic: "messages".into(), ..KafkaSettings::default() };
    // Statistics are the tests' own.
    let group = ConsumerSettings { statistics_interval: Duration::from_secs(3600), ..ConsumerSettings::default() };
    let (metrics, state) = (Metrics::register(&Registry::new()).unwrap(), Arc::new(State::default()));
    let wiring = Wiring {
        consumer: GroupConsumer::subscribe(&settings, &group, || {}).unwrap(),
        waker: Waker::default(),
        runtime: Handle::current(),
        sink: Arc::new(Nowhere),
        flusher: Flusher::new(1, Duration::ZERO, LONE_REFUSAL),
        letters: DeadLetters::new(None),
        healer: Healer::start(Arc::new(Nowhere), Arc::clone(&state), metrics.clone(), CancellationToken::new()),
        conversations: Conversations::start(Arc::new(Nowhere), metrics.clone()).0,
        metrics,
        state,
        stop: CancellationToken::new(),
        settings: LoopSettings {
            capacity: Capacity { messages: 10, bytes: 1 << 20 },
            revoke_within: Duration::ZERO,
            drain_within: Duration::ZERO,
        },
    };
    (cluster, Loop::new(wiring))
}

impl Loop<Nowhere> {
    /// Goes on until the group has been answered, or the answer failed.
    fn answer(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.rebalance.is_none() {
            assert!(Instant::now() < deadline, "no rebalance within 30 s");
            self.poll(Instant::now())?;
            std::thread::sleep(Duration::from_millis(5));
        }
        while self.rebalance.is_some() {
            assert!(Instant::now() < deadline, "not answered within 30 s");
            self.advance_rebalance(Instant::now())?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn an_answer_to_the_group_that_fails_is_the_end_and_not_an_idle_worker() {
    let (_cluster, mut worker) = desk();
    worker.answer().unwrap();
    assert!(worker.state.ready());
    // What librdkafka refuses: what is ours already, and what is not ours.
    worker.rebalance = Some(Rebalance::assign(vec![0]));
    let refused = worker.answer().unwrap_err();
    assert!(refused.contains("assigning partitions"), "{refused}");
    worker.rebalance = Some(Rebalance::revoke(vec![7], false, Instant::now()));
    let refused = worker.answer().unwrap_err();
    assert!(refused.contains("giving up partitions"), "{refused}");
}

#[tokio::test]
async fn a_worker_that_may_not_read_its_partition_is_not_ready_and_reports_why() {
    let (cluster, mut worker) = desk();
    let denied = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED; 100];
    cluster.request_errors(RDKafkaApiKey::Fetch, &denied);
    worker.answer().unwrap();
    assert!(worker.state.ready());
    let deadline = Instant::now() + Duration::from_secs(30);
    while worker.metrics.consumer_errors(Trouble::TopicAuthorization) == 0 {
        assert!(Instant::now() < deadline, "no error is reported within 30 s");
        worker.poll(Instant::now()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    worker.publish_state(Instant::now());
    assert!(!worker.state.ready());
    assert_eq!(worker.state.report()["degraded"][0], "kafka refuses us the topic or the group");
    worker.on_event(Instant::now(), Event::Statistics { high_watermarks: vec![(0, 0)], broker_up: true });
    worker.publish_state(Instant::now() + TICK);
    assert!(worker.state.ready());
}

#[tokio::test]
async fn a_hidden_topic_is_asked_for_until_it_is_seen() {
    let (_cluster, mut worker) = desk();
    worker.answer().unwrap();
    worker.on_event(Instant::now(), Event::Trouble { kind: Trouble::TopicAuthorization, partition: None });
    worker.publish_state(Instant::now());
    assert!(!worker.state.ready());
    let deadline = Instant::now() + Duration::from_secs(30);
    while worker.authorization.is_denied() {
        assert!(Instant::now() < deadline, "not seen within 30 s");
        worker.on_event(Instant::now(), Event::Statistics { high_watermarks: Vec::new(), broker_up: true });
    }
    worker.publish_state(Instant::now() + TICK);
    assert!(worker.state.ready());
}

#[tokio::test]
async fn a_refused_commit_does_not_say_that_kafka_is_away() {
    let (_cluster, mut worker) = desk();
    let up = |worker: &Loop<Nowhere>| worker.state.report()["dependencies"]["kafka"]["up"] == true;
    worker.on_event(Instant::now(), Event::Statistics { high_watermarks: Vec::new(), broker_up: true });
    worker.on_event(Instant::now(), Event::Committed { offsets: vec![(0, 1)], result: Err("rebalancing".into()) });
    assert!(up(&worker));
    worker.on_event(Instant::now(), Event::Statistics { high_watermarks: Vec::new(), broker_up: false });
    worker.on_event(Instant::now(), Event::Committed { offsets: vec![(0, 1)], result: Ok(()) });
    assert!(!up(&worker));
}

#[tokio::test]
async fn the_lag_is_what_the_next_worker_would_read_whatever_is_stored_here() {
    let (_cluster, mut worker) = desk();
    let generation = worker.ledger.assign(0, Start::after(Some(10)));
    for offset in 10..30 {
        worker.ledger.receive(0, offset);
        worker.ledger.done(0, generation, offset);
    }
    worker.on_event(Instant::now(), Event::Statistics { high_watermarks: vec![(0, 50)], broker_up: true });
    worker.publish_state(Instant::now());
    assert_eq!(worker.metrics.lag_of(0), 40);
}

#[tokio::test]
async fn commits_that_are_not_taken_for_long_degrade_the_worker() {
    let (_cluster, mut worker) = desk();
    let generation = worker.ledger.assign(0, Start::after(Some(0)));
    worker.ledger.receive(0, 0);
    worker.ledger.done(0, generation, 0);
    worker.state.joined(true);
    let start = Instant::now();
    worker.commits.begin(start, &worker.ledger, drop);
    worker.publish_state(start + COMMITS_WITHIN);
    assert_eq!(worker.state.report()["status"], "active");
    worker.publish_state(start + COMMITS_WITHIN + Duration::from_secs(1));
    assert_eq!(worker.state.report()["degraded"][0], "the broker takes no commits");
    assert_eq!(worker.metrics.commit_behind.get(), 31.0);
}
