//! What the modules share: an environment of a test's own, the binary, services, messages.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use holdfast_ctl::log_range::{LogRange, Span};
use holdfast_ctl::settings::Settings;
use holdfast_failed_queue::{PushOutcome, QueueEntry};
use holdfast_kafka::{OwnedMessage, PublishRecord};
use holdfast_message::{ChatId, Draft, Message, UserId, record};
use holdfast_service::settings::Source;
use holdfast_testkit::{shared, unique};
use mongodb::Collection;
use mongodb::bson::Document;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "tests-of-the-command-line-need-32-bytes";

/// Settings that share topics, keys and a database with nobody else.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) env: BTreeMap<String, String>,
}

/// What a run of the binary ended with.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output as JSON, a value a line.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The audit log.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let lines = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["target"] == "audit").collect()
    }

    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

impl World {
    /// The records of the main topic, all that are there.
    pub(crate) async fn records(&self) -> Vec<OwnedMessage> {
        let settings = self.settings();
        let (admin, kafka) = (settings.admin().unwrap(), settings.kafka());
        let watermarks = admin.watermarks(&kafka.topic).await.unwrap();
        let spans = watermarks.into_iter().map(|(partition, from, to)| Span { partition, from, to });
        let mut range = LogRange::read(&kafka, &admin, &kafka.topic, &spans.collect::<Vec<_>>());
        let mut records = Vec::new();
        while let Some(found) = range.next().await.unwrap() {
            records.push(found);
        }
        records
    }

    /// On the shared servers; nothing is there yet.
    pub(crate) async fn new() -> Self {
        let (servers, name) = (shared().await, unique("ctl"));
        let pairs = [
            ("KAFKA_BROKERS", servers.kafka_brokers.clone()),
            ("KAFKA_TOPIC", format!("{name}-messages")),
            ("KAFKA_DLQ_TOPIC", format!("{name}-dlq")),
            ("KAFKA_GROUP", format!("{name}-workers")),
            ("KAFKA_PARTITIONS", "2".into()),
            ("KAFKA_REPLICATION_FACTOR", "1".into()),
            ("REDIS_URL", servers.redis_cache_url.clone()),
            ("REDIS_QUEUE_URL", servers.redis_queue_url.clone()),
            ("MONGO_URL", servers.mongo_url.clone()),
            ("MONGO_DB", name.clone()),
            ("CACHE_KEY_PREFIX", name),
            ("JWT_SECRET", SECRET.into()),
            ("PROFILE", "testing".into()),
            ("FLUSH_INTERVAL_MS", "50".into()),
        ];
        Self { env: pairs.map(|(name, value)| (name.to_owned(), value)).into() }
    }

    /// With both topics.
    pub(crate) async fn with_topics() -> Self {
        let world = Self::new().await;
        world.settings().admin().unwrap().ensure_topics().await.unwrap();
        world
    }

    pub(crate) fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    pub(crate) fn name(&self, setting: &str) -> &str {
        &self.env[setting]
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings::read(Source::new(self.env.clone())).unwrap()
    }

    /// Runs the binary as a script would: nobody can be asked.
    pub(crate) async fn ctl(&self, args: &[&str]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfastctl"))
            .args(args)
            .env_clear()
            .envs(&self.env)
            .env("USER", "ops")
            .stdin(Stdio::null())
            .output();
        let output = tokio::time::timeout(Duration::from_secs(120), output).await.expect("it ends").unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub(crate) async fn messages(&self) -> Collection<Document> {
        mongodb::Client::with_uri_str(self.name("MONGO_URL"))
            .await
            .unwrap()
            .database(self.name("MONGO_DB"))
            .collection("messages")
    }

    /// Publishes to the main topic.
    pub(crate) async fn publish(&self, messages: &[Message]) {
        let publisher = self.settings().topics().await.unwrap().publisher;
        for message in messages {
            let value = record::encode(message);
            let record =
                PublishRecord { chat: message.chat.as_str(), value: &value, traceparent: None, uncached: false };
            publisher.publish(record).await.unwrap();
        }
    }

    /// Pushes to the failed queue.
    pub(crate) async fn push(&self, message: &Message) {
        let entry = QueueEntry { queued_at: 5, traceparent: None, record: record::encode(message).into() };
        let queue = self.settings().failed_queue().unwrap();
        assert_eq!(queue.push(&message.chat, &entry).await, PushOutcome::Accepted);
    }

    /// Lets a worker work until everything that is in the topic now is committed.
    pub(crate) async fn work(&self) {
        let running = self.worker();
        let (settings, begun) = (self.settings(), std::time::Instant::now());
        let (admin, topic) = (settings.admin().unwrap(), settings.kafka().topic);
        let ends = admin.watermarks(&topic).await.unwrap();
        loop {
            let committed = admin.committed(settings.group(), &topic).await.unwrap();
            let done = |&(partition, low, end): &(i32, i64, i64)| {
                low == end || committed.iter().any(|&(of, offset)| of == partition && offset >= Some(end))
            };
            if ends.iter().all(done) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "the worker is not done: {committed:?} of {ends:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running.stop().await;
    }

    pub(crate) fn worker(&self) -> Running {
        let source = Source::new(self.env.clone());
        let config = holdfast_worker::config::Config::read(source).unwrap().value;
        let stop = CancellationToken::new();
        let ended = stop.clone();
        let task = tokio::spawn(async move {
            let ops = TcpListener::bind("127.0.0.1:0").await.unwrap();
            holdfast_worker::run(config, ops, ended).await.unwrap();
        });
        Running { stop, task }
    }

    /// Starts a gateway; its clients' address.
    pub(crate) async fn gateway(&self) -> (Running, std::net::SocketAddr) {
        let config = holdfast_gateway::Config::read(Source::new(self.env.clone())).unwrap().value;
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let operators = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (stop, address) = (CancellationToken::new(), clients.local_addr().unwrap());
        let ended = stop.clone();
        let task = tokio::spawn(async move { holdfast_gateway::run(config, clients, operators, ended).await.unwrap() });
        (Running { stop, task }, address)
    }
}

/// A service in this process.
pub(crate) struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

pub(crate) fn chat() -> ChatId {
    ChatId::direct(&user(&unique("a")), &user(&unique("b"))).unwrap()
}

/// A message from the chat's first user.
pub(crate) fn message(chat: &ChatId, number: u32) -> Message {
    let sender = user(chat.as_str().split(':').next().unwrap());
    let (temp_id, content) = (Some(format!("t{number}")), format!("the content of {number}"));
    Draft::new(sender, chat.clone(), temp_id, content, None, None).unwrap().stamp(1_700_000_000_000 + i64::from(number))
}

pub(crate) fn messages(chat: &ChatId, count: u32) -> Vec<Message> {
    (1..=count).map(|number| message(chat, number)).collect()
}

/// Creates a topic as an operator might have: two partitions, one replica.
pub(crate) async fn create_topic(world: &World, name: &str, settings: &[(&str, &str)]) {
    let client: AdminClient<_> =
        ClientConfig::new().set("bootstrap.servers", world.name("KAFKA_BROKERS")).create().unwrap();
    let topic = NewTopic::new(name, 2, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let made = client.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    made.into_iter().for_each(|made| drop(made.unwrap()));
}
