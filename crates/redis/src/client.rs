//! Typed operations on a cache server, each within a deadline and behind a circuit breaker.
//!
//! Values are bytes, or have a [`Codec`]. After an error the caller goes to the source. While the breaker is open no call is made, and
//! every operation fails at once with [`RedisError::Unavailable`]. A call that took longer than `max_latency` counts as a failure of the
//! server even if it succeeded: a cache that is slower than its source does not help.
//!
//! Every command touches one key, so that it can be sent to the node that has it. Operations on many keys are sent as pipelines of
//! `batch_size` commands, one after the other under one deadline: the answers to a pipeline are held in memory as a whole, and a longer
//! one would delay other callers. No collection lives for ever: each write sets the key's [`Ttl`] in the same step.

mod collections;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use holdfast_breaker::Breaker;
use redis::{FromRedisValue, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::Codec;
use crate::metrics::RedisMetrics;
use crate::script::{Call, Script, parse};
use crate::{Connection, RedisError};

pub use collections::{End, Scores};

static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/write_ttl.lua")));

/// Limits of each operation.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings {
    /// The time for one operation; one on many keys has it as a whole.
    pub budget: Duration,
    /// How many commands are sent as one pipeline.
    pub batch_size: usize,
    /// A call that takes longer counts as a failure for the breaker.
    pub max_latency: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { budget: Duration::from_millis(50), batch_size: 100, max_latency: Duration::from_millis(100) }
    }
}

/// When a key expires that a write creates or changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttl {
    /// This long after the write: each write begins the time to live anew.
    Refresh(Duration),
    /// This long after the write that created the key; later writes do not extend it.
    Fixed(Duration),
}

/// The operations on one server or cluster. Cheap to clone.
///
/// Values and counters, here; collections further below.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::Ttl;
///
/// let minute = Duration::from_secs(60);
/// client.set("greeting", b"hello", minute).await?;
/// assert_eq!(client.get("greeting").await?, Some(b"hello".to_vec()));
/// assert!(!client.set_if_absent("greeting", b"good day", minute).await?);
/// client.set_many(&[("one", "1"), ("two", "2")], minute).await.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let found: Vec<_> = client.get_many(&["one", "three"]).await.into_iter().collect::<Result<_, _>>()?;
/// assert_eq!(found, [Some(b"1".to_vec()), None]);
/// assert!(client.exists("two").await? && client.expire("two", minute).await?);
/// assert!(client.delete("two").await?);
/// let deleted: Vec<_> = client.delete_many(&["one", "two"]).await.into_iter().collect::<Result<_, _>>()?;
/// assert_eq!(deleted, [true, false]);
///
/// assert_eq!(client.increment("visits", 2, Ttl::Refresh(minute)).await?, 2);
/// assert_eq!(client.count("visits").await?, Some(2));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    connection: Connection,
    breaker: Breaker,
    settings: ClientSettings,
}

impl Client {
    /// Operations over this connection, behind this breaker.
    pub fn new(connection: Connection, breaker: Breaker, settings: ClientSettings) -> Self {
        Self { connection, breaker, settings }
    }

    /// The same operations with another time limit, for work that no request waits for.
    #[must_use]
    pub fn within(&self, budget: Duration) -> Self {
        let settings = ClientSettings { budget, ..self.settings };
        Self { settings, ..self.clone() }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The breaker that guards it.
    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The metrics of its connection.
    pub fn metrics(&self) -> &RedisMetrics {
        self.connection.metrics()
    }

    /// The bytes at a key; `None` if it is absent.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, RedisError> {
        self.one("get", call("GET", key)).await
    }

    /// The bytes at each key, in their order.
    pub async fn get_many(&self, keys: &[impl AsRef<str>]) -> Vec<Result<Option<Vec<u8>>, RedisError>> {
        self.each("get", keys.iter().map(|key| call("GET", key.as_ref())).collect()).await
    }

    /// The value at a key; `None` if it is absent or this build can't read it.
    pub async fn get_as<T>(&self, codec: &Codec<T>, key: &str) -> Result<Option<T>, RedisError>
    where
        T: Serialize + DeserializeOwned,
    {
        Ok(self.get(key).await?.and_then(|bytes| codec.decode(&bytes)))
    }

    /// Stores bytes, which expire after `ttl`.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), RedisError> {
        self.one("set", set(key, value, ttl)).await
    }

    /// Stores bytes at each key, which expire after `ttl`; the results are in the order of the entries.
    pub async fn set_many(
        &self,
        entries: &[(impl AsRef<str>, impl AsRef<[u8]>)],
        ttl: Duration,
    ) -> Vec<Result<(), RedisError>> {
        self.each("set", entries.iter().map(|(key, value)| set(key.as_ref(), value.as_ref(), ttl)).collect()).await
    }

    /// Stores bytes if the key is absent. Returns whether it did.
    pub async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, RedisError> {
        let stored: Option<String> = self.one("set", set(key, value, ttl).arg("NX")).await?;
        Ok(stored.is_some())
    }

    /// Stores a value, which expires after `ttl`.
    pub async fn set_as<T>(&self, codec: &Codec<T>, key: &str, value: &T, ttl: Duration) -> Result<(), RedisError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.set(key, &codec.encode(value)?, ttl).await
    }

    /// Whether a key exists.
    pub async fn exists(&self, key: &str) -> Result<bool, RedisError> {
        self.one("exists", call("EXISTS", key)).await
    }

    /// Deletes a key of any type. Returns whether it existed.
    pub async fn delete(&self, key: &str) -> Result<bool, RedisError> {
        self.one("delete", call("UNLINK", key)).await
    }

    /// Deletes keys. Returns for each whether it existed.
    pub async fn delete_many(&self, keys: &[impl AsRef<str>]) -> Vec<Result<bool, RedisError>> {
        self.each("delete", keys.iter().map(|key| call("UNLINK", key.as_ref())).collect()).await
    }

    /// Sets the time to live of a key, counted from now. Returns whether the key exists.
    pub async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, RedisError> {
        self.one("expire", call("PEXPIRE", key).arg(millis(ttl))).await
    }

    /// Adds to a counter and returns its new value. An absent counter is 0.
    pub async fn increment(&self, key: &str, by: i64, ttl: Ttl) -> Result<i64, RedisError> {
        self.one("count", write("INCRBY", key, ttl).arg(by)).await
    }

    /// The value of a counter; `None` if it is absent.
    pub async fn count(&self, key: &str) -> Result<Option<i64>, RedisError> {
        self.one("count", call("GET", key)).await
    }

    /// Sends one call.
    pub(crate) async fn one<T: FromRedisValue>(&self, op: &'static str, call: Call) -> Result<T, RedisError> {
        let call = self.connection.run_one(op, call, self.settings.budget);
        parse(self.breaker.call_within(self.settings.max_latency, call).await?)
    }

    /// Sends calls, batch by batch; the results are in their order.
    pub(crate) async fn each<T: FromRedisValue>(
        &self,
        op: &'static str,
        calls: Vec<Call>,
    ) -> Vec<Result<T, RedisError>> {
        let deadline = Instant::now() + self.settings.budget;
        let mut results = Vec::with_capacity(calls.len());
        let mut calls = calls.into_iter();
        while calls.len() > 0 {
            let batch: Vec<Call> = calls.by_ref().take(self.settings.batch_size.max(1)).collect();
            let size = batch.len();
            match self.batch(op, batch, deadline).await {
                Ok(answers) => results.extend(answers.into_iter().map(|answer| parse(answer?))),
                Err(error) => {
                    results.extend((0..size).map(|_| Err(error.clone())));
                    // The next batches would fail as well.
                    let unsent = RedisError::Unavailable { maybe_applied: false, reason: "not sent".into() };
                    results.extend(calls.by_ref().map(|_| Err(unsent.clone())));
                }
            }
        }
        results
    }

    async fn batch(
        &self,
        op: &'static str,
        batch: Vec<Call>,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let left = deadline.saturating_duration_since(Instant::now());
        let call = self.connection.run(op, batch, left);
        Ok(self.breaker.call_within(self.settings.max_latency, call).await?)
    }
}

fn call(name: &str, key: &str) -> Call {
    Call::new(name).key(key)
}

fn set(key: &str, value: &[u8], ttl: Duration) -> Call {
    call("SET", key).arg(value).arg("PX").arg(millis(ttl))
}

/// A command that writes and sets the time to live; its further arguments follow.
fn write(command: &str, key: &str, ttl: Ttl) -> Call {
    with_ttl(&WRITE, key, ttl).arg(command)
}

fn with_ttl(script: &'static Script, key: &str, ttl: Ttl) -> Call {
    let (ttl, refresh) = match ttl {
        Ttl::Refresh(ttl) => (ttl, 1),
        Ttl::Fixed(ttl) => (ttl, 0),
    };
    script.call(&[key]).arg(millis(ttl)).arg(refresh)
}

/// A time to live as Redis takes it: in milliseconds, at least 1.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
