//! What a hit in the first level costs: `cargo run --release -p holdfast-cache --example memory`.

#![allow(clippy::print_stdout, reason = "it prints what it measured")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, Instant};

use holdfast_cache::aside::backend::{Backend, LEASE};
use holdfast_cache::aside::{Aside, PATIENCE, Policy, Source};
use holdfast_cache::keys::Cached;
use holdfast_cache::{Breaker, BreakerSettings, CacheMetrics, Client, ClientSettings, Connection, Keys};
use holdfast_message::UserId;
use holdfast_testkit::Redis;

const KEYS: usize = 1000;
const HITS: u32 = 2_000_000;

struct Names;

impl Source for Names {
    type Key = UserId;
    type Value = String;
    type Error = Infallible;
    const NAME: &'static str = "name";
    const SHAPE: u8 = 1;

    fn cached(&self, key: &UserId) -> Cached {
        Cached::Profile(key.clone())
    }

    async fn load(&self, keys: &[UserId]) -> Result<HashMap<UserId, String>, Infallible> {
        Ok(keys.iter().map(|key| (key.clone(), key.to_string())).collect())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let redis = Redis::cache().await?;
    let metrics = CacheMetrics::register(&prometheus::Registry::new())?;
    let connection = Connection::open("cache", &redis.url(), metrics.clone())?;
    let breaker = Breaker::new("redis", BreakerSettings::default(), Some(&metrics));
    let backend = Backend::start(Client::new(connection, breaker, ClientSettings::default()), Keys::default(), LEASE);
    let hour = Duration::from_secs(3600);
    let policy = Policy {
        fresh: hour,
        ttl: hour,
        negative: hour,
        jitter: 0.0,
        memory_bytes: 16 << 20,
        patience: PATIENCE,
        unheard: Duration::ZERO,
    };
    let names = Aside::new(&backend, Names, policy);
    while !backend.hears() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let keys = (0..KEYS).map(|number| UserId::parse(&format!("user-{number}"))).collect::<Result<Vec<_>, _>>()?;
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
