//! What servers tell of themselves.

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::CacheError;
use crate::connection::{Connection, Live, Node};
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
    /// It has had replicas, was one, or was told not to write without any (`min-replicas-to-write`): it is one of several.
    pub has_had_replicas: bool,
    /// Its version's first two numbers.
    pub version: (u32, u32),
    /// Its clock, in Unix epoch milliseconds.
    pub clock: Option<i64>,
}

/// One server of those that a connection leads to.
#[derive(Debug, Clone)]
pub struct Server {
    connection: Connection,
    node: Node,
}

/// The servers that a connection leads to: one, or the masters of a cluster, by name.
pub async fn servers(connection: &Connection, budget: Duration) -> Result<Vec<Server>, CacheError> {
    let mut nodes = connection.masters(Instant::now() + budget).await?;
    nodes.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(nodes.into_iter().map(|node| Server { connection: connection.clone(), node }).collect())
}

/// Whether a cluster's masters have every slot between them; one server has.
pub async fn covers_every_slot(connection: &Connection, budget: Duration) -> Result<bool, CacheError> {
    match connection.every_master(Instant::now() + budget).await {
        Ok(_) => Ok(true),
        Err(CacheError::NodeUnavailable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Server {
    /// `host:port`; `None`: a socket file.
    pub fn address(&self) -> Option<String> {
        self.node.address().map(ToString::to_string)
    }

    /// Asks it for a sign of life.
    pub async fn ping(&self, budget: Duration) -> Result<(), CacheError> {
        self.connection.run_at("ping", &self.node, Call::new("PING"), Instant::now() + budget).await.map(drop)
    }

    /// Asks it for its settings and state.
    pub async fn facts(&self, budget: Duration) -> Result<ServerFacts, CacheError> {
        let deadline = Instant::now() + budget;
        ServerFacts::read_on(&self.node.live(deadline).await?, deadline).await
    }
}

impl ServerFacts {
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
            config("min-replicas-to-write"),
            Call::new("INFO").arg("replication"),
            Call::new("INFO").arg("server"),
        ];
        let mut answers = live.run(&calls, deadline).await?.into_iter();
        let clock = answers.next().and_then(|answer| parse::<(i64, i64)>(answer.ok()?).ok());
        let mut setting = |name: &str| -> Option<String> {
            parse::<HashMap<String, String>>(answers.next()?.ok()?).ok()?.remove(name)
        };
        let (policy, aof, fsync) = (setting("maxmemory-policy"), setting("appendonly"), setting("appendfsync"));
        let max_memory = setting("maxmemory").and_then(|text| text.parse().ok());
        let min_replicas = setting("min-replicas-to-write").and_then(|text| text.parse::<u32>().ok());
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
            // A backlog is made for the first replica; the offset is set when a replica becomes a master.
            has_had_replicas: min_replicas.unwrap_or_default() > 0
                || field(&replication, "connected_slaves").is_some_and(|count| count != "0")
                || field(&replication, "repl_backlog_active").is_some_and(|active| active != "0")
                || field(&replication, "second_repl_offset").is_some_and(|offset| offset != "-1"),
            version: version(field(&server, "redis_version").unwrap_or_default()),
            clock: clock.map(|(seconds, micros)| seconds * 1000 + micros / 1000),
        })
    }
}

/// What `INFO server` says of who answers.
pub(crate) fn run_id(info: Option<Value>) -> Option<String> {
    let info: String = parse(info?).ok()?;
    field(&info, "run_id").map(str::to_owned)
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
