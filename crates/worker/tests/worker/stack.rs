//! A worker on real servers: what tests say to Kafka, and what they ask Kafka and MongoDB.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_kafka::{Admin, KafkaSettings, OwnedMessage, PublishRecord, Publisher, RangeReader};
use holdfast_message::{Message, record};
use holdfast_testkit::{Program, free_port, http_get, shared, unique};
use mongodb::bson::{Document, doc};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::message;

/// One test's topics, group and database, and how a worker is told of them.
pub(crate) struct Stack {
    pub(crate) kafka: KafkaSettings,
    pub(crate) group: String,
    pub(crate) mongo_url: String,
    pub(crate) db: String,
    pub(crate) redis_url: String,
    pub(crate) admin: Admin,
    publisher: Publisher,
}

impl Stack {
    /// On the servers that all tests share.
    pub(crate) async fn start() -> Result<Self> {
        let shared = shared().await;
        Self::on(&shared.kafka_brokers, &shared.mongo_url).await
    }

    /// On servers of the test's own.
    pub(crate) async fn on(brokers: &str, mongo_url: &str) -> Result<Self> {
        let kafka = KafkaSettings {
            brokers: brokers.to_owned(),
            topic: unique("messages"),
            dlq_topic: unique("dead"),
            partitions: 4,
            delivery_timeout: Duration::from_secs(10),
            ..KafkaSettings::default()
        };
        let admin = Admin::new(&kafka, Duration::from_secs(10))?;
        let publisher = Publisher::new(&kafka)?;
        let redis_url = shared().await.redis_cache_url.clone();
        Ok(Self {
            kafka,
            group: unique("workers"),
            mongo_url: mongo_url.to_owned(),
            db: unique("chat"),
            redis_url,
            admin,
            publisher,
        })
    }

    pub(crate) fn environment(&self, ops: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = [
            ("KAFKA_BROKERS", self.kafka.brokers.as_str()),
            ("KAFKA_TOPIC", &self.kafka.topic),
            ("KAFKA_DLQ_TOPIC", &self.kafka.dlq_topic),
            ("KAFKA_PARTITIONS", "4"),
            ("KAFKA_REPLICATION_FACTOR", "1"),
            ("KAFKA_GROUP", &self.group),
            ("KAFKA_SESSION_TIMEOUT_MS", "6000"),
            ("MONGO_URL", &self.mongo_url),
            ("MONGO_DB", &self.db),
            ("REDIS_URL", &self.redis_url),
            ("OPS_ADDR", ops),
            ("FLUSH_INTERVAL_MS", "200"),
            ("BULK_THRESHOLD", "100"),
            ("LOG_LEVEL", "info"),
            ("LOG_FORMAT", "text"),
        ];
        let wins = |name: &str| more.iter().any(|(other, _)| *other == name);
        let own = own.iter().filter(|(name, _)| !wins(name));
        own.chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// Starts a worker's process.
    pub(crate) fn worker(&self, more: &[(&str, &str)]) -> Result<Worker> {
        let ops = format!("127.0.0.1:{}", free_port()?);
        let program = Program::start("holdfast-worker", self.environment(&ops, more))?;
        Ok(Worker { program, ops })
    }

    /// Publishes these messages and waits until Kafka has them.
    pub(crate) async fn publish(&self, numbers: std::ops::Range<usize>) -> Result<()> {
        self.publish_all(numbers.map(message), false).await
    }

    pub(crate) async fn publish_all(&self, messages: impl IntoIterator<Item = Message>, uncached: bool) -> Result<()> {
        let publish = |message: Message| {
            let value = record::encode(&message);
            let (chat, value) = (&message.chat.to_string(), &value);
            self.publisher.publish(PublishRecord { chat, value, traceparent: None, uncached })
        };
        let sent: Vec<_> = messages.into_iter().map(publish).collect();
        for acknowledged in sent {
            acknowledged.await?;
        }
        Ok(())
    }

    /// Publishes bytes as they are.
    pub(crate) async fn publish_raw(
        &self,
        partition: i32,
        value: &[u8],
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<i64> {
        let sent = self.publisher.publish_raw(&self.kafka.topic, Some(partition), Some(b"k"), Some(value), headers);
        Ok(sent.await?.offset)
    }

    /// What MongoDB holds.
    pub(crate) async fn stored(&self) -> Result<u64> {
        let client = mongodb::Client::with_uri_str(&self.mongo_url).await?;
        Ok(client.database(&self.db).collection::<Document>("messages").count_documents(doc! {}).await?)
    }

    /// What the group has committed, by partition.
    pub(crate) async fn committed(&self) -> Result<Vec<(i32, Option<i64>)>> {
        Ok(self.admin.committed(&self.group, &self.kafka.topic).await?)
    }

    /// Records that the group has not committed.
    pub(crate) async fn lag(&self) -> Result<i64> {
        let committed = self.committed().await?;
        let watermarks = self.admin.watermarks(&self.kafka.topic).await?;
        let of = |partition| committed.iter().find(|(id, _)| *id == partition).and_then(|(_, offset)| *offset);
        Ok(watermarks.iter().map(|(partition, low, high)| high - of(*partition).unwrap_or(*low)).sum())
    }

    /// Everything in the dead-letter topic.
    pub(crate) async fn dead_letters(&self) -> Result<Vec<OwnedMessage>> {
        let watermarks = self.admin.watermarks(&self.kafka.dlq_topic).await?;
        let count: i64 = watermarks.iter().map(|(_, low, high)| high - low).sum();
        let from: Vec<_> = watermarks.iter().map(|(partition, low, _)| (*partition, *low)).collect();
        let (settings, topic) = (self.kafka.clone(), self.kafka.dlq_topic.clone());
        tokio::task::spawn_blocking(move || {
            let reader = RangeReader::new(&settings, &topic, &from)?;
            (0..count).map(|_| reader.next(Duration::from_secs(20))?.context("a dead letter is missing")).collect()
        })
        .await?
    }
}

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

pub(crate) struct Worker {
    pub(crate) program: Program,
    ops: String,
}

impl Worker {
    pub(crate) async fn ready(&self) -> Result<()> {
        self.program.wait_ready(&self.ops, Duration::from_secs(60)).await
    }

    pub(crate) async fn is_ready(&self) -> bool {
        http_get(&self.ops, "/health/ready").await.is_ok_and(|(status, _)| status == 200)
    }

    /// As an operator would.
    pub(crate) async fn acknowledge_losses(&self) -> Result<()> {
        let mut stream = TcpStream::connect(&self.ops).await?;
        stream
            .write_all(
                b"POST /losses/acknowledge HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            )
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        ensure!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        Ok(())
    }

    pub(crate) async fn health(&self) -> Result<Value> {
        Ok(serde_json::from_str(&http_get(&self.ops, "/health").await?.1)?)
    }

    /// The value of a series; 0 while it is not there.
    pub(crate) async fn metric(&self, series: &str) -> Result<f64> {
        let (_, text) = http_get(&self.ops, "/metrics").await?;
        Ok(value(&text, series).unwrap_or_default())
    }

    /// The value of a series, if it is there.
    pub(crate) async fn series(&self, series: &str) -> Option<f64> {
        let (_, text) = http_get(&self.ops, "/metrics").await.ok()?;
        value(&text, series)
    }

    /// Whether the operators' port says so; not while it does not answer.
    pub(crate) async fn says(&self, path: &str, value: impl Into<Value>) -> bool {
        let value = value.into();
        self.health().await.is_ok_and(|health| health.pointer(path) == Some(&value))
    }
}
