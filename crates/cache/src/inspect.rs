//! What a server tells of itself.

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::CacheError;
use crate::connection::{Connection, Live};
use crate::script::{Call, parse};

/// A server's settings and state; `None` where it does not tell, as managed servers do.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// Names the server's process.
    pub run_id: String,
    /// `maxmemory-policy`.
    pub policy: Option<String>,
    /// `appendonly`.
    pub aof: Option<String>,
    /// `appendfsync`.
    pub fsync: Option<String>,
    /// `maxmemory` in bytes; 0 for no limit.
    pub max_memory: Option<u64>,
    /// `master` or `slave`.
    pub role: Option<String>,
    /// Replicas that are online.
    pub replicas: u32,
    /// Its version's first two numbers.
    pub version: (u32, u32),
    /// Its clock, in Unix epoch milliseconds.
    pub clock: Option<i64>,
}

impl ServerFacts {
    /// Asks the server.
    pub async fn read(connection: &Connection, budget: Duration) -> Result<Self, CacheError> {
        let deadline = Instant::now() + budget;
        Self::read_on(&connection.live(deadline).await?, deadline).await
    }

    /// Asks the server on this very connection.
    pub(crate) async fn read_on(live: &Live, deadline: Instant) -> Result<Self, CacheError> {
        let config = |name: &str| Call::new("CONFIG").arg("GET").arg(name);
        let calls = vec![
            // First, so that the time it took to ask is a round trip and little more.
            Call::new("TIME"),
            config("maxmemory-policy"),
            config("appendonly"),
            config("appendfsync"),
            config("maxmemory"),
            Call::new("INFO").arg("replication"),
            Call::new("INFO").arg("server"),
        ];
        let mut answers = live.run(calls, deadline).await?.into_iter();
        let clock = answers.next().and_then(|answer| parse::<(i64, i64)>(answer.ok()?).ok());
        let mut setting = |name: &str| -> Option<String> {
            parse::<HashMap<String, String>>(answers.next()?.ok()?).ok()?.remove(name)
        };
        let (policy, aof, fsync) = (setting("maxmemory-policy"), setting("appendonly"), setting("appendfsync"));
        let max_memory = setting("maxmemory").and_then(|text| text.parse().ok());
        let mut info = || text(answers.next()).unwrap_or_default();
        let (replication, server) = (info(), info());
        Ok(Self {
            run_id: field(&server, "run_id").unwrap_or_default().to_owned(),
            policy,
            aof,
            fsync,
            max_memory,
            role: field(&replication, "role").map(str::to_owned),
            replicas: replication
                .lines()
                .filter(|line| line.starts_with("slave") && line.contains("state=online"))
                .count() as u32,
            version: version(field(&server, "redis_version").unwrap_or_default()),
            clock: clock.map(|(seconds, micros)| seconds * 1000 + micros / 1000),
        })
    }
}

fn text(answer: Option<Result<Value, CacheError>>) -> Option<String> {
    parse(answer?.ok()?).ok()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
