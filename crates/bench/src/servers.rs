//! The servers that all subjects use in turn: two Redis, Kafka and MongoDB, started for one run and gone with it.
//!
//! They stay up from subject to subject, so that none of them pays for a cold one. What subjects write is kept apart: each measurement has
//! a topic, a consumer group and a database of its own, and begins with empty Redis and without what those before it have left, failed ones
//! included.

use std::time::Duration;

use anyhow::{Context, Result};
use holdfast_testkit::{Kafka, KafkaOptions, Mongo, Redis, connect_redis, unique};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tokio::sync::Mutex;

use crate::usage::Watched;

/// The partitions of a topic, as the services make them by default.
pub const PARTITIONS: i32 = 8;
/// How long Kafka may take to make or delete topics.
const ADMIN: Duration = Duration::from_secs(30);

/// The servers.
#[derive(Debug)]
pub struct Servers {
    /// The log.
    pub kafka: Kafka,
    /// The store.
    pub mongo: Mongo,
    /// The cache.
    pub cache: Redis,
    /// The failed queue's Redis.
    pub queue: Redis,
    /// The last measurement's.
    used: Mutex<Option<Place>>,
}

/// What belongs to one measurement on the servers.
#[derive(Debug, Clone)]
pub struct Place {
    /// The messages' topic.
    pub topic: String,
    /// The dead letters' topic.
    pub dlq_topic: String,
    /// The workers' consumer group.
    pub group: String,
    /// The database.
    pub database: String,
}

impl Servers {
    /// Starts all of them and waits until they answer.
    ///
    /// # Errors
    /// One can't be started; the end of its log is part of the error.
    pub async fn start() -> Result<Self> {
        // Otherwise a deleted topic's files would go a minute later, in the middle of another measurement.
        let settings = vec![("log.segment.delete.delay.ms".to_owned(), "1000".to_owned())];
        let kafka = Kafka::start_with(KafkaOptions { settings, ..KafkaOptions::default() });
        let (cache, queue, mongo, kafka) = tokio::try_join!(Redis::cache(), Redis::queue(), Mongo::start(), kafka)?;
        Ok(Self { kafka, mongo, cache, queue, used: Mutex::default() })
    }

    /// Starts what a failed measurement has left frozen or ended.
    ///
    /// # Errors
    /// It can't be started.
    pub async fn mend(&self) -> Result<()> {
        self.kafka.thaw()?;
        if !self.kafka.is_running() {
            self.kafka.start_again().await?;
        }
        Ok(())
    }

    /// All of them, to be watched.
    pub fn processes(&self) -> Vec<Watched> {
        vec![
            Watched::new("kafka", self.kafka.pid()),
            Watched::new("mongod", self.mongo.pid()),
            Watched::new("redis-cache", self.cache.pid()),
            Watched::new("redis-queue", self.queue.pid()),
        ]
    }

    /// Makes room for a measurement: new names, new topics, empty Redis, and nothing of the one before. Its services must have ended.
    ///
    /// # Errors
    /// A server does not do it.
    pub async fn make_place(&self) -> Result<Place> {
        let mut used = self.used.lock().await;
        if let Some(place) = used.take() {
            self.clear(&place).await?;
        }
        for redis in [&self.cache, &self.queue] {
            let mut connection = connect_redis(&redis.url()).await?;
            redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.context("emptying Redis")?;
        }
        let name = unique("bench");
        let place = Place {
            topic: format!("{name}-messages"),
            dlq_topic: format!("{name}-dlq"),
            group: format!("{name}-worker"),
            database: name,
        };
        let topics = [&place.topic, &place.dlq_topic].map(|topic| {
            let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
            topic.set("message.timestamp.type", "LogAppendTime")
        });
        for made in self.admin()?.create_topics(&topics, &admin_options()).await.context("making topics")? {
            made.map_err(|(topic, code)| anyhow::anyhow!("{topic} can't be made: {code}"))?;
        }
        *used = Some(place.clone());
        Ok(place)
    }

    async fn clear(&self, place: &Place) -> Result<()> {
        self.admin()?
            .delete_topics(&[&place.topic, &place.dlq_topic], &admin_options())
            .await
            .context("deleting topics")?;
        let client = mongodb::Client::with_uri_str(self.mongo.url()).await?;
        client.database(&place.database).drop().await.context("dropping a database")
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.kafka.brokers());
        config.create().context("a client of Kafka")
    }
}

fn admin_options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ADMIN)).request_timeout(Some(ADMIN))
}
