//! What a hit in the first level costs: `cargo run --release -p holdfast-redis --example memory`.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, Instant};

use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_redis::aside::{self, Aside, Backend, LEASE, Names, PATIENCE, Policy};
use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
use holdfast_testkit::Redis;

const KEYS: usize = 1000;
const HITS: u32 = 2_000_000;

/// The names in Redis.
#[derive(Clone)]
struct Keys;

impl Names for Keys {
    type Value = String;

    fn value(&self, value: &String) -> String {
        format!("example:name:{{{value}}}")
    }

    fn lease(&self, value: &str) -> String {
        format!("{value}:lease")
    }

    fn invalidations(&self) -> String {
        "example:invalidations".into()
    }

    fn beacon(&self, process: &str) -> String {
        format!("example:beacon:{process}")
    }
}

/// A source that knows every name.
struct Source;

impl aside::Source for Source {
    type Key = String;
    type Value = String;
    type Error = Infallible;
    type Names = Keys;
    const NAME: &'static str = "name";
    const SHAPE: u8 = 1;

    fn cached(&self, key: &String) -> String {
        key.clone()
    }

    async fn load(&self, keys: &[String]) -> Result<HashMap<String, String>, Infallible> {
        Ok(keys.iter().map(|key| (key.clone(), key.to_string())).collect())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis = Redis::cache().await?;
    let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
    let connection = Connection::open("cache", &redis.url(), metrics.clone())?;
    let breaker = Breaker::new("redis", BreakerSettings::default(), None);
    let backend = Backend::start(Client::new(connection, breaker, ClientSettings::default()), Keys, LEASE);
    let hour = Duration::from_secs(3600);
    let policy = Policy {
        fresh: hour,
        ttl: hour,
        negative: hour,
        jitter: 0.0,
        memory_bytes: 16 << 20,
        patience: PATIENCE,
        unsubscribed_ttl: Duration::ZERO,
    };
    let names = Aside::new(&backend, Source, policy);
    while !backend.is_live() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let keys = (0..KEYS).map(|number| format!("user-{number}")).collect::<Vec<_>>();
    names.warm(&keys).await;
    let (started, mut found) = (Instant::now(), 0_u32);
    for key in keys.iter().cycle().take(HITS as usize) {
        found += u32::from(names.peek(key).is_some_and(|found| found.value.is_some()));
    }
    let peeks = started.elapsed() / HITS;
    let started = Instant::now();
    for key in keys.iter().cycle().take(HITS as usize) {
        found += u32::from(names.get(key).await?.value.is_some());
    }
    let gets = started.elapsed() / HITS;
    println!("{KEYS} keys, {HITS} hits: peek {} ns, get {} ns ({found} found)", peeks.as_nanos(), gets.as_nanos());
    Ok(())
}
