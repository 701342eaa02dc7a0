//! What the modules share: servers, connections, and names of keys.

use std::time::Duration;

use holdfast_redis::aside::Names;
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{Redis, RedisOptions, Role, connect_redis};
use tokio::sync::OnceCell;

/// Far more than any call takes, so that no test rests on speed.
pub(crate) const BUDGET: Duration = Duration::from_secs(10);

/// Names of cached values, by a text each.
#[derive(Clone)]
pub(crate) struct TestNames;

impl Names for TestNames {
    type Value = String;

    fn value(&self, value: &String) -> String {
        format!("test:value:{{{value}}}")
    }

    fn lease(&self, value: &str) -> String {
        format!("{value}:lease")
    }

    fn invalidations(&self) -> String {
        "test:invalidations".into()
    }

    fn beacon(&self, process: &str) -> String {
        format!("test:beacon:{process}")
    }
}

pub(crate) async fn cache_url() -> String {
    static CACHE: OnceCell<Redis> = OnceCell::const_new();
    CACHE.get_or_init(|| async { Redis::cache().await.unwrap() }).await.url()
}

pub(crate) async fn server(role: Role, args: &[&str]) -> Redis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Redis::start(RedisOptions { role, args, ..RedisOptions::default() }).await.unwrap()
}

pub(crate) fn connect(url: &str) -> Connection {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    Connection::open("test", url, metrics).unwrap()
}

/// A connection of the test's own.
pub(crate) async fn raw(url: &str) -> redis::aio::MultiplexedConnection {
    connect_redis(url).await.unwrap()
}
