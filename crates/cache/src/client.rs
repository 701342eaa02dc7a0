//! Typed operations on the cache server, each within a deadline and behind the breaker.
//!
//! Takes keys of [`crate::keys`] and bytes, or values with their [`Codec`]. An error means that the cache did not help: the caller goes
//! to the source. While the breaker is open no call is made, and each is [`CacheError::Unavailable`] at once. A call that took longer
//! than `max_latency` counts against the breaker although it succeeded: a cache that is slower than its source is no help.
//!
//! Every command touches one key, so that it can be sent to the node that has it. Many keys go as pipelines of `batch_size`, one
//! after the other under one deadline: a pipeline's answers are held in memory whole, and a longer one would make others wait.
//! Collections never live for ever: each write gives the key a [`Life`] in the same step.

mod collections;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use redis::{FromRedisValue, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::breaker::{Breaker, Permit};
use crate::codec::Codec;
use crate::metrics::CacheMetrics;
use crate::script::{Call, Script, parse};
use crate::{CacheError, Connection};

pub use collections::{End, Scores};

static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/write_life.lua")));

/// What calls may cost.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings {
    /// How long one operation may take, a batch of many keys as a whole included.
    pub budget: Duration,
    /// How many commands go as one pipeline.
    pub batch_size: usize,
    /// A slower call counts against the breaker.
    pub max_latency: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { budget: Duration::from_millis(50), batch_size: 100, max_latency: Duration::from_millis(100) }
    }
}

/// How long a key lives that is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// This long from now, whatever was left to it.
    Renewed(Duration),
    /// This long from the write that made it; later ones do not prolong it.
    Once(Duration),
}

/// The cache server's operations. Cheap to clone.
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

    /// The same with another deadline, for what no request waits for.
    #[must_use]
    pub fn within(&self, budget: Duration) -> Self {
        let settings = ClientSettings { budget, ..self.settings };
        Self { settings, ..self.clone() }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// The metrics of its connection.
    pub fn metrics(&self) -> &CacheMetrics {
        self.connection.metrics()
    }

    /// The bytes at a key.
    pub async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.one("get", call("GET", key)).await
    }

    /// The bytes at each key, in their order.
    pub async fn get_many(&self, keys: &[impl AsRef<str>]) -> Vec<Result<Option<Vec<u8>>, CacheError>> {
        self.each("get", keys.iter().map(|key| call("GET", key.as_ref())).collect()).await
    }

    /// The value at a key; what this build can't read is absent.
    pub async fn get_as<T>(&self, codec: &Codec<T>, key: &str) -> Result<Option<T>, CacheError>
    where
        T: Serialize + DeserializeOwned,
    {
        Ok(self.get(key).await?.and_then(|bytes| codec.decode(&bytes)))
    }

    /// Stores bytes for so long.
    pub async fn set(&self, key: &str, value: &[u8], ttl: Duration) -> Result<(), CacheError> {
        self.one("set", set(key, value, ttl)).await
    }

    /// Stores bytes at each key, all for so long; results in their order.
    pub async fn set_many(
        &self,
        entries: &[(impl AsRef<str>, impl AsRef<[u8]>)],
        ttl: Duration,
    ) -> Vec<Result<(), CacheError>> {
        self.each("set", entries.iter().map(|(key, value)| set(key.as_ref(), value.as_ref(), ttl)).collect()).await
    }

    /// Stores bytes for so long if there are none. Says whether it did.
    pub async fn set_if_absent(&self, key: &str, value: &[u8], ttl: Duration) -> Result<bool, CacheError> {
        let stored: Option<String> = self.one("set", set(key, value, ttl).arg("NX")).await?;
        Ok(stored.is_some())
    }

    /// Stores a value for so long.
    pub async fn set_as<T>(&self, codec: &Codec<T>, key: &str, value: &T, ttl: Duration) -> Result<(), CacheError>
    where
        T: Serialize + DeserializeOwned,
    {
        self.set(key, &codec.encode(value)?, ttl).await
    }

    /// Whether there is anything at a key.
    pub async fn exists(&self, key: &str) -> Result<bool, CacheError> {
        self.one("exists", call("EXISTS", key)).await
    }

    /// Deletes a key of any type. Says whether it was there.
    pub async fn delete(&self, key: &str) -> Result<bool, CacheError> {
        self.one("delete", call("UNLINK", key)).await
    }

    /// Deletes keys; says of each whether it was there.
    pub async fn delete_many(&self, keys: &[impl AsRef<str>]) -> Vec<Result<bool, CacheError>> {
        self.each("delete", keys.iter().map(|key| call("UNLINK", key.as_ref())).collect()).await
    }

    /// Lets a key live for so long from now. Says whether it was there.
    pub async fn expire(&self, key: &str, ttl: Duration) -> Result<bool, CacheError> {
        self.one("expire", call("PEXPIRE", key).arg(millis(ttl))).await
    }

    /// Adds to a counter and answers what it is then. A counter that was absent was 0.
    pub async fn increment(&self, key: &str, by: i64, life: Life) -> Result<i64, CacheError> {
        self.one("count", write("INCRBY", key, life).arg(by)).await
    }

    /// A counter, if it is there.
    pub async fn count(&self, key: &str) -> Result<Option<i64>, CacheError> {
        self.one("count", call("GET", key)).await
    }

    /// Sends one call.
    pub(crate) async fn one<T: FromRedisValue>(&self, op: &'static str, call: Call) -> Result<T, CacheError> {
        let permit = self.permit()?;
        let started = Instant::now();
        let answer = self.connection.run_one(op, call, self.settings.budget).await;
        self.judge(permit, started, answer.as_ref().err());
        parse(answer?)
    }

    /// Sends calls, batch by batch; the results are in their order.
    pub(crate) async fn each<T: FromRedisValue>(
        &self,
        op: &'static str,
        calls: Vec<Call>,
    ) -> Vec<Result<T, CacheError>> {
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
                    // The next ones would wait for nothing.
                    let unsent = CacheError::Unavailable { maybe_applied: false, reason: "not sent".into() };
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
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let permit = self.permit()?;
        let started = Instant::now();
        let answer = self.connection.run(op, batch, deadline.saturating_duration_since(started)).await;
        self.judge(permit, started, answer.as_ref().err());
        answer
    }

    fn permit(&self) -> Result<Permit, CacheError> {
        let open = |rejected: crate::breaker::Rejected| CacheError::Unavailable {
            maybe_applied: false,
            reason: rejected.to_string(),
        };
        self.breaker.acquire(Instant::now()).map_err(open)
    }

    /// A refusal that the server makes on good grounds is an answer.
    fn judge(&self, permit: Permit, started: Instant, error: Option<&CacheError>) {
        let now = Instant::now();
        let slow = now.saturating_duration_since(started) > self.settings.max_latency;
        if slow || error.is_some_and(CacheError::is_unavailable) { permit.failure(now) } else { permit.success() }
    }
}

fn call(name: &str, key: &str) -> Call {
    Call::new(name).key(key)
}

fn set(key: &str, value: &[u8], ttl: Duration) -> Call {
    call("SET", key).arg(value).arg("PX").arg(millis(ttl))
}

/// A command that writes, its life with it; its further arguments follow.
fn write(command: &str, key: &str, life: Life) -> Call {
    with_life(&WRITE, key, life).arg(command)
}

fn with_life(script: &'static Script, key: &str, life: Life) -> Call {
    let (ttl, renewed) = match life {
        Life::Renewed(ttl) => (ttl, 1),
        Life::Once(ttl) => (ttl, 0),
    };
    script.call(&[key]).arg(millis(ttl)).arg(renewed)
}

/// Redis counts in milliseconds, and takes no life of none.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)
}
