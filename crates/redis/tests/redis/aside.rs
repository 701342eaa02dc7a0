//! Cache-aside on a real Redis. The source is another Redis, so that several processes share it and count its loads together.

mod bounds;
mod fresh;
mod one_process;
mod two_processes;

use std::collections::HashMap;
use std::time::Duration;

use holdfast_breaker::{Breaker, BreakerMetrics, BreakerSettings};
use holdfast_redis::aside::{Answer, Aside, Backend, Freshness, LEASE, Policy, Source};
use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
use holdfast_testkit::{Redis, unique, until};
use prometheus::Registry;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, TestNames, raw};

/// Everything is fresh for a minute, and kept for an hour.
const POLICY: Policy = Policy {
    fresh: Duration::from_secs(60),
    ttl: Duration::from_secs(3600),
    negative: Duration::from_secs(60),
    jitter: 0.1,
    memory_bytes: 1 << 20,
    // On a busy machine a call may take its time.
    patience: BUDGET,
    unsubscribed_ttl: Duration::ZERO,
};

/// A source whose values, gates and failures lie in a Redis of its own. `batches` counts its loads, `loads:{key}` those of a key.
#[derive(Clone)]
struct Database {
    raw: MultiplexedConnection,
    delay: Duration,
}

impl Source for Database {
    type Key = String;
    type Value = String;
    type Error = String;
    type Names = TestNames;
    const NAME: &'static str = "test";
    const SHAPE: u8 = 1;

    fn cached(&self, key: &String) -> String {
        key.clone()
    }

    async fn load(&self, keys: &[String]) -> Result<HashMap<String, String>, String> {
        let mut raw = self.raw.clone();
        let _: u64 = raw.incr("batches", 1).await.unwrap();
        let mut values = HashMap::new();
        for key in keys {
            let _: u64 = raw.incr(format!("loads:{key}"), 1).await.unwrap();
        }
        for key in keys {
            if let Some(value) = raw.get::<_, Option<String>>(format!("value:{key}")).await.unwrap() {
                values.insert(key.clone(), value);
            }
        }
        tokio::time::sleep(self.delay).await;
        while raw.exists("gate").await.unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if raw.exists("panicking").await.unwrap() {
            panic!("as told");
        }
        if raw.exists("failing").await.unwrap() { Err("as told".into()) } else { Ok(values) }
    }
}

impl Database {
    async fn at(url: &str) -> Self {
        Self { raw: raw(url).await, delay: Duration::ZERO }
    }

    fn slow(&self, delay: Duration) -> Self {
        Self { delay, ..self.clone() }
    }

    async fn set(&self, key: &String, value: &str) {
        let _: () = self.raw.clone().set(format!("value:{key}"), value).await.unwrap();
    }

    /// `gate`: loads wait at their end. `failing`: they fail. `panicking`: they panic.
    async fn switch(&self, what: &str, on: bool) {
        let mut raw = self.raw.clone();
        let _: () = if on { raw.set(what, 1).await.unwrap() } else { raw.del(what).await.unwrap() };
    }

    async fn loads(&self, key: &String) -> u64 {
        self.raw.clone().get::<_, Option<u64>>(format!("loads:{key}")).await.unwrap().unwrap_or_default()
    }

    async fn batches(&self) -> u64 {
        self.raw.clone().get::<_, Option<u64>>("batches").await.unwrap().unwrap_or_default()
    }
}

/// A cache and a source, each on a server of its own.
struct Servers {
    cache: Redis,
    source: Redis,
}

impl Servers {
    async fn start() -> Self {
        let (cache, source) = tokio::join!(Redis::cache(), Redis::cache());
        Self { cache: cache.unwrap(), source: source.unwrap() }
    }

    async fn database(&self) -> Database {
        Database::at(&self.source.url()).await
    }
}

/// What one process has.
struct Process {
    backend: Backend<TestNames>,
    breaker: Breaker,
    registry: Registry,
}

impl Process {
    /// With far more time for each call than it needs.
    fn new(cache: &str) -> Self {
        Self::with(cache, BUDGET, BreakerSettings::default())
    }

    fn with(cache: &str, budget: Duration, breaker: BreakerSettings) -> Self {
        let registry = Registry::new();
        let metrics = RedisMetrics::register(&registry).unwrap();
        let breaker = Breaker::new("redis", breaker, Some(&BreakerMetrics::register(&registry).unwrap()));
        let connection = Connection::open("test", cache, metrics).unwrap();
        // On a busy machine an answer may be slow, which says nothing against the server here.
        let settings = ClientSettings { budget, max_latency: budget, ..ClientSettings::default() };
        let client = Client::new(connection, breaker.clone(), settings);
        let backend = Backend::start(client, TestNames, LEASE);
        Self { backend, breaker, registry }
    }

    /// Waits until memory is used.
    async fn hearing(self) -> Self {
        until("invalidations are heard", async || self.backend.is_live()).await;
        self
    }

    fn aside(&self, source: &Database, policy: Policy) -> Aside<Database> {
        Aside::new(&self.backend, source.clone(), policy)
    }

    /// A counter or gauge, by its name and labels as they are printed.
    fn metric(&self, sample: &str) -> f64 {
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    fn reads_by(&self, by: &str) -> f64 {
        self.metric(&format!("cache_aside_reads_total{{by=\"{by}\",kind=\"test\"}}"))
    }
}

fn key() -> String {
    unique("k")
}

/// The value and whether it is said to be stale.
fn seen(answer: &Answer<Database>) -> (Option<&str>, bool) {
    let found = answer.as_ref().unwrap();
    (found.value.as_deref().map(String::as_str), found.freshness != Freshness::Fresh)
}
