//! What the modules share: a gateway with its settings, and waiting for something.

use std::time::Duration;

use anyhow::Result;
use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_failed_queue::{FailedQueue, FailedQueueSettings, PushOutcome, QueueEntry};
use holdfast_gateway::Config;
use holdfast_keys::{Cached, Keys, MAX_KEY_LENGTH};
use holdfast_message::{ChatId, Message, MessageId, UserId, record};
use holdfast_redis::aside::Entries;
use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
use holdfast_service::settings::Source;
use holdfast_socketio_client::{Client as Socket, Events};
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Program, Response, free_port, http_get, request, shared, token, unique, until};
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const SECRET: &str = "tests-of-a-gateway-need-a-secret-of-32-bytes";

/// A running gateway. Dropped, it is cut short.
pub(crate) struct Gateway {
    pub(crate) url: String,
    ops: String,
    ended: JoinHandle<Result<()>>,
}

/// Settings that several gateways share, and nobody else: the shared servers, unless others are named.
pub(crate) async fn settings(own: &[(&'static str, &str)]) -> Vec<(String, String)> {
    let (shared, name) = (shared().await, unique("gw"));
    let common = [
        ("PROFILE", "testing"),
        ("JWT_SECRET", SECRET),
        ("KAFKA_BROKERS", &shared.kafka_brokers),
        ("KAFKA_TOPIC", &format!("{name}-messages")),
        ("KAFKA_DLQ_TOPIC", &format!("{name}-dlq")),
        ("KAFKA_PARTITIONS", "1"),
        ("KAFKA_REPLICATION_FACTOR", "1"),
        ("REDIS_URL", &shared.redis_cache_url),
        ("REDIS_QUEUE_URL", &shared.redis_queue_url),
        ("MONGO_URL", &shared.mongo_url),
        ("MONGO_DB", &name),
        ("CACHE_KEY_PREFIX", &name),
        // A busy machine is no cache that is away.
        ("REDIS_BUDGET_MS", "1000"),
        ("SEND_DEADLINE_MS", "10000"),
    ];
    let common = common.iter().filter(|(name, _)| own.iter().all(|(other, _)| other != name));
    common.chain(own).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The same with one setting replaced.
pub(crate) fn with(settings: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let kept = settings.iter().filter(|(other, _)| other != name).cloned();
    kept.chain([(name.to_owned(), value.to_owned())]).collect()
}

impl Gateway {
    /// Starts one and waits until it is ready.
    pub(crate) async fn start(settings: Vec<(String, String)>) -> Self {
        let gateway = Self::begin(settings).await;
        until("ready", async || http_get(&gateway.ops, "/health/ready").await.is_ok_and(|(status, _)| status == 200))
            .await;
        gateway
    }

    /// Starts one, which may never be ready.
    pub(crate) async fn begin(settings: Vec<(String, String)>) -> Self {
        let config = Config::read(Source::new(settings)).unwrap().value;
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let operators = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", clients.local_addr().unwrap());
        let ops = operators.local_addr().unwrap().to_string();
        let ended = tokio::spawn(holdfast_gateway::run(config, clients, operators, CancellationToken::new()));
        Self { url, ops, ended }
    }

    /// Why it is not ready; empty if it is.
    pub(crate) async fn unready(&self) -> String {
        let (status, why) = http_get(&self.ops, "/health/ready").await.unwrap();
        assert_eq!(status == 503, !why.is_empty(), "{status} {why}");
        why
    }

    pub(crate) async fn connect(&self, user: &str) -> (Socket, Events) {
        Socket::connect(&self.url, &self.token(user)).await.unwrap()
    }

    pub(crate) fn token(&self, user: &str) -> String {
        token(user, SECRET, Duration::from_secs(3600))
    }

    /// What a user gets by a `GET`.
    pub(crate) async fn get(&self, user: &str, path: &str) -> Response {
        let token = format!("authorization: Bearer {}", self.token(user));
        request(&self.url, "GET", path, &[token], "").await.unwrap()
    }

    /// The operators' port.
    pub(crate) fn ops_url(&self) -> String {
        format!("http://{}", self.ops)
    }

    /// A part of its health report.
    pub(crate) async fn health(&self, pointer: &str) -> Value {
        let (_, report) = http_get(&self.ops, "/health").await.unwrap();
        serde_json::from_str::<Value>(&report).unwrap().pointer(pointer).cloned().unwrap_or_default()
    }

    /// One sample of its metrics, by its name and labels as they are printed.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let (_, text) = http_get(&self.ops, "/metrics").await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.ended.abort();
    }
}

/// A gateway in a process of its own, as an operator runs it.
pub(crate) struct Process {
    program: Program,
    pub(crate) url: String,
    pub(crate) ops: String,
}

impl Process {
    /// Starts one with these settings and waits until it is ready.
    pub(crate) async fn start(own: &[(&'static str, &str)]) -> Self {
        let (port, ops) = (free_port().unwrap(), format!("127.0.0.1:{}", free_port().unwrap()));
        let port_text = port.to_string();
        let place = [("PORT", &*port_text), ("BIND", "127.0.0.1"), ("OPS_ADDR", &*ops), ("LOG_LEVEL", "info")];
        let program = Program::start("holdfast-gateway", settings(&[&place[..], own].concat()).await).unwrap();
        program.wait_ready(&ops, Duration::from_secs(60)).await.unwrap();
        Self { program, url: format!("http://127.0.0.1:{port}"), ops }
    }

    pub(crate) fn token(&self, user: &str) -> String {
        token(user, SECRET, Duration::from_secs(3600))
    }

    pub(crate) async fn connect(&self, user: &str) -> (Socket, Events) {
        Socket::connect(&self.url, &self.token(user)).await.unwrap()
    }

    /// One sample of its metrics, by its name and labels as they are printed.
    pub(crate) async fn metric(&self, sample: &str) -> f64 {
        let (_, text) = http_get(&self.ops, "/metrics").await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.program.pid())).unwrap();
        statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }
}

/// Has every gateway with these settings forget a cached value.
pub(crate) async fn invalidate(settings: &[(String, String)], cached: Cached) {
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let connection = Connection::open("test", value("REDIS_URL"), metrics).unwrap();
    let budget = ClientSettings { budget: Duration::from_secs(20), ..ClientSettings::default() };
    let client = Client::new(connection, Breaker::new("redis", BreakerSettings::default(), None), budget);
    let keys = Keys::new(value("CACHE_KEY_PREFIX"), "v1", ":", MAX_KEY_LENGTH).unwrap();
    let name = keys.value(&cached);
    assert!(Entries::new(client, keys).drop([name.as_str()]).await[0].is_ok());
}

/// Puts a message into a failed queue.
pub(crate) async fn queue_failed(queue: &FailedQueue, message: &Message) {
    let entry = QueueEntry { queued_at: 1, traceparent: None, record: record::encode(message).into() };
    assert_eq!(queue.push(&message.chat, &entry).await, PushOutcome::Accepted);
}

/// The failed queue that a gateway with these settings has.
pub(crate) fn failed_queue(settings: &[(String, String)]) -> FailedQueue {
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let connection = Connection::open("test", value("REDIS_QUEUE_URL"), metrics).unwrap();
    let keys = Keys::new(value("CACHE_KEY_PREFIX"), "v1", ":", MAX_KEY_LENGTH).unwrap();
    let rule = FailedQueueSettings { timeout: Duration::from_secs(60), ..FailedQueueSettings::default() };
    FailedQueue::new(connection, keys, rule)
}

/// What is stored under these settings.
pub(crate) async fn store(settings: &[(String, String)]) -> Store {
    let value = |name: &str| settings.iter().find(|(other, _)| other == name).unwrap().1.as_str();
    Store::new(StoreSettings::new(value("MONGO_URL"), value("MONGO_DB"))).await.unwrap()
}

/// Sends a message, and gives it back as it was answered.
pub(crate) async fn send(client: &Socket, friend: &str, content: &str) -> Value {
    let answer = client.emit_with_ack("sendMessage", &json!({ "friendId": friend, "content": content })).await.unwrap();
    assert_eq!(answer["ok"], true, "{answer}");
    answer["message"].clone()
}

/// A message as it was answered.
pub(crate) fn message(answered: &Value) -> Message {
    let text = |name: &str| answered[name].as_str().unwrap();
    let (chat, sender) = (ChatId::parse(text("chatId")).unwrap(), UserId::parse(text("senderId")).unwrap());
    Message {
        id: MessageId::parse(text("messageId")).unwrap(),
        temp_id: None,
        receiver: chat.other(&sender),
        chat,
        sender,
        content: text("content").into(),
        image_url: None,
        public_id: None,
        timestamp: answered["timestamp"].as_i64().unwrap(),
    }
}
