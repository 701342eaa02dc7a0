//! A loop on a mock cluster or the shared broker, with a store that does as it is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_kafka::{Admin, ConsumerSettings, GroupConsumer, KafkaSettings, PublishRecord, Publisher};
use holdfast_message::{ChatId, Message, MessageId, UserId, record};
use holdfast_service::ops::Health;
use holdfast_store::{BatchFailed, StoreError, Touched, Written};
use holdfast_testkit::{shared, unique};
use holdfast_worker::backpressure::Capacity;
use holdfast_worker::consume::{Ending, Loop, LoopSettings, Wiring};
use holdfast_worker::conversations::Conversations;
use holdfast_worker::dead_letter::{DeadLetterTopic, DeadLetters};
use holdfast_worker::flush::{Flusher, LONE_REFUSAL, Sink};
use holdfast_worker::heal::{Healer, Recent};
use holdfast_worker::health::State;
use holdfast_worker::metrics::Metrics;
use holdfast_worker::report::Waker;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

pub(crate) const PARTITIONS: i32 = 4;

/// A topic and a group of workers on it.
pub(crate) struct Cluster {
    pub(crate) settings: KafkaSettings,
    group: ConsumerSettings,
    published: AtomicUsize,
    mock: Option<MockCluster<'static, DefaultProducerContext>>,
}

impl Cluster {
    /// On a mock cluster. It refuses commits while a rebalance is in progress, and its sessions can't be longer than this.
    pub(crate) fn start() -> Self {
        let mock = MockCluster::new(1).unwrap();
        let settings = KafkaSettings {
            brokers: mock.bootstrap_servers(),
            topic: "messages".into(),
            dlq_topic: "dead".into(),
            ..KafkaSettings::default()
        };
        mock.create_topic(&settings.topic, PARTITIONS, 1).unwrap();
        mock.create_topic(&settings.dlq_topic, 1, 1).unwrap();
        let group = ConsumerSettings { session_timeout: Duration::from_secs(6), ..ConsumerSettings::default() };
        Self { settings, group, published: AtomicUsize::new(0), mock: Some(mock) }
    }

    /// On the broker that all tests share.
    pub(crate) async fn real() -> Self {
        let settings = KafkaSettings {
            brokers: shared().await.kafka_brokers.clone(),
            topic: unique("messages"),
            dlq_topic: unique("dead"),
            partitions: PARTITIONS,
            replication_factor: 1,
            ..KafkaSettings::default()
        };
        let admin = Admin::new(&settings, Duration::from_secs(10)).unwrap();
        admin.ensure_topics().await.unwrap();
        let group = ConsumerSettings { group: unique("workers"), ..ConsumerSettings::default() };
        Self { settings, group, published: AtomicUsize::new(0), mock: None }
    }

    pub(crate) fn mock(&self) -> &MockCluster<'static, DefaultProducerContext> {
        self.mock.as_ref().expect("a mock cluster")
    }

    /// Publishes messages over all partitions; returns how many there are by now.
    pub(crate) async fn publish(&self, count: usize) -> usize {
        let publisher = Publisher::new(&self.settings).unwrap();
        let sent: Vec<_> = (0..count)
            .map(|_| {
                let message = message(self.published.fetch_add(1, Ordering::Relaxed));
                let value = record::encode(&message);
                let (chat, value) = (&message.chat.to_string(), &value);
                publisher.publish(PublishRecord { chat, value, traceparent: None, uncached: false })
            })
            .collect();
        for acknowledged in sent {
            acknowledged.await.unwrap();
        }
        self.published.load(Ordering::Relaxed)
    }

    /// What the group has committed, all partitions together.
    pub(crate) async fn committed(&self) -> i64 {
        let admin = Admin::new(&self.settings, Duration::from_secs(10)).unwrap();
        let committed = admin.committed(&self.group.group, &self.settings.topic).await.unwrap();
        committed.into_iter().filter_map(|(_, offset)| offset).sum()
    }
}

/// A message that no other number has, in one of some chats.
pub(crate) fn message(number: usize) -> Message {
    let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse(&format!("bob{}", number % 37)).unwrap());
    Message {
        id: MessageId::from_bytes(uuid_bytes(number)),
        temp_id: None,
        chat: ChatId::direct(&alice, &bob).unwrap(),
        sender: alice,
        receiver: Some(bob),
        content: format!("message {number}"),
        image_url: None,
        public_id: None,
        timestamp: 1_700_000_000_000 + number as i64,
    }
}

fn uuid_bytes(number: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

/// Counts how often each message was stored.
#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) stored: Mutex<HashMap<MessageId, usize>>,
    pub(crate) away: AtomicBool,
    pub(crate) panics: AtomicBool,
    pub(crate) takes_ms: AtomicUsize,
    pub(crate) largest: AtomicUsize,
}

impl Memory {
    pub(crate) fn distinct(&self) -> usize {
        self.stored.lock().unwrap().len()
    }
}

impl Sink for Memory {
    async fn insert(&self, messages: &[Message]) -> Result<Vec<Written>, BatchFailed> {
        tokio::time::sleep(Duration::from_millis(self.takes_ms.load(Ordering::Relaxed) as u64)).await;
        if self.away.load(Ordering::Relaxed) {
            return Err(BatchFailed(StoreError::Unavailable("away".into())));
        }
        assert!(!self.panics.load(Ordering::Relaxed), "as the test wants it");
        self.largest.fetch_max(messages.len(), Ordering::Relaxed);
        let mut stored = self.stored.lock().unwrap();
        let mut write = |message: &Message| {
            let times = stored.entry(message.id).or_default();
            *times += 1;
            if *times == 1 { Written::Stored } else { Written::Duplicate }
        };
        Ok(messages.iter().map(&mut write).collect())
    }

    async fn touch_conversations(&self, _: &[Message]) -> Result<Touched, StoreError> {
        Ok(Touched::default())
    }
}

struct NoLists;

impl Recent for NoLists {
    async fn data_generation(&self) -> Result<String, String> {
        Ok("one".into())
    }
    async fn add(&self, messages: &[Message]) -> Vec<Result<bool, String>> {
        messages.iter().map(|_| Ok(true)).collect()
    }
}

#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) threshold: usize,
    pub(crate) capacity: usize,
    pub(crate) max_poll: Duration,
    pub(crate) revoke_within: Duration,
    pub(crate) drain_within: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 50,
            capacity: 400,
            max_poll: Duration::from_secs(60),
            revoke_within: Duration::from_secs(10),
            drain_within: Duration::from_secs(10),
        }
    }
}

/// A running loop.
pub(crate) struct Worker {
    pub(crate) state: Arc<State>,
    pub(crate) metrics: Metrics,
    stop: CancellationToken,
    waker: Waker,
    ending: oneshot::Receiver<Ending>,
    left: oneshot::Receiver<()>,
}

impl Worker {
    pub(crate) fn start(cluster: &Cluster, sink: &Arc<Memory>, options: &Options) -> Self {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (state, stop, waker) = (Arc::new(State::default()), CancellationToken::new(), Waker::default());
        let group = ConsumerSettings {
            max_poll_interval: options.max_poll,
            statistics_interval: Duration::from_millis(500),
            ..cluster.group.clone()
        };
        let wake = waker.clone();
        let consumer = GroupConsumer::subscribe(&cluster.settings, &group, move || wake.wake()).unwrap();
        let wiring = Wiring {
            consumer,
            waker: waker.clone(),
            runtime: tokio::runtime::Handle::current(),
            sink: Arc::clone(sink),
            flusher: Flusher::new(options.threshold, Duration::from_millis(200), LONE_REFUSAL),
            letters: DeadLetters::new(Some(DeadLetterTopic {
                publisher: Publisher::dead_letters(&cluster.settings).unwrap(),
                topic: cluster.settings.dlq_topic.as_str().into(),
                source: cluster.settings.topic.as_str().into(),
            })),
            healer: Healer::start(Arc::new(NoLists), Arc::clone(&state), metrics.clone(), stop.clone()),
            conversations: Conversations::start(Arc::clone(sink), metrics.clone()).0,
            metrics: metrics.clone(),
            state: Arc::clone(&state),
            stop: stop.clone(),
            settings: LoopSettings {
                capacity: Capacity { messages: options.capacity, bytes: 64 << 20 },
                revoke_within: options.revoke_within,
                drain_within: options.drain_within,
            },
        };
        let (ending, left) = holdfast_worker::spawn(Loop::new(wiring)).unwrap();
        Self { state, metrics, stop, waker, ending, left }
    }

    pub(crate) fn partitions(&self) -> usize {
        self.state.report()["partitions"].as_array().unwrap().len()
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(self) -> Ending {
        tokio::time::timeout(Duration::from_secs(30), self.ending).await.expect("ended within 30 s").unwrap()
    }

    /// Asks it to stop, and waits until it has left the group.
    pub(crate) async fn stop(self) -> Ending {
        self.stop.cancel();
        self.waker.wake();
        let ending = self.ending.await.expect("the loop ended");
        tokio::time::timeout(Duration::from_secs(20), self.left).await.expect("left within 20 s").unwrap();
        ending
    }
}
