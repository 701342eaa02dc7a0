//! One set of servers for all tests of a binary.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;

use crate::kafka::Kafka;
use crate::mongo::Mongo;
use crate::redis::Redis;

/// Where the servers are.
#[derive(Debug, Clone)]
pub struct Shared {
    /// The cache.
    pub redis_cache_url: String,
    /// The failed queue.
    pub redis_queue_url: String,
    /// The store.
    pub mongo_url: String,
    /// The log.
    pub kafka_brokers: String,
}

/// The servers that `HOLDFAST_TEST_REDIS`, `HOLDFAST_TEST_REDIS_QUEUE`, `HOLDFAST_TEST_MONGO` and `HOLDFAST_TEST_KAFKA` name; those of
/// them that are not named are started, once, and live as long as the process.
///
/// Tests must not stop them, and must name what they use with [`unique`](crate::unique).
///
/// # Panics
/// A server can't be started.
pub async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(|| async {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            // In a runtime of its own: the first test's ends before the others'.
            std::thread::spawn(move || sender.send(start()));
            match receiver.await {
                Ok(Ok(shared)) => shared,
                Ok(Err(error)) => panic!("the shared servers can't be started: {error:#}"),
                Err(_) => panic!("the thread that starts the shared servers panicked"),
            }
        })
        .await
}

fn start() -> Result<Shared> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("can't start a runtime")?;
    runtime.block_on(async {
        let (redis_cache_url, redis_queue_url, mongo_url, kafka_brokers) = tokio::try_join!(
            named_or("HOLDFAST_TEST_REDIS", async {
                static CACHE: OnceLock<Redis> = OnceLock::new();
                let redis = Redis::cache().await?;
                Ok(CACHE.get_or_init(|| redis).url())
            }),
            named_or("HOLDFAST_TEST_REDIS_QUEUE", async {
                static QUEUE: OnceLock<Redis> = OnceLock::new();
                let redis = Redis::queue().await?;
                Ok(QUEUE.get_or_init(|| redis).url())
            }),
            named_or("HOLDFAST_TEST_MONGO", async {
                static MONGO: OnceLock<Mongo> = OnceLock::new();
                let mongo = Mongo::start().await?;
                Ok(MONGO.get_or_init(|| mongo).url())
            }),
            named_or("HOLDFAST_TEST_KAFKA", async {
                static KAFKA: OnceLock<Kafka> = OnceLock::new();
                let kafka = Kafka::start().await?;
                Ok(KAFKA.get_or_init(|| kafka).brokers())
            }),
        )?;
        Ok(Shared { redis_cache_url, redis_queue_url, mongo_url, kafka_brokers })
    })
}

async fn named_or(variable: &str, start: impl Future<Output = Result<String>>) -> Result<String> {
    match std::env::var(variable) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => start.await,
    }
}
