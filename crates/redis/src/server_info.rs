//! What a server says about itself: its settings (`CONFIG GET`) and its state (`INFO`).

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use crate::RedisError;
use crate::connection::{Connection, Live, Node};
use crate::script::{Call, parse};

/// A server's settings and state. `None`: the server does not allow this to be read, as managed servers do.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// The id of the server's process; another after each restart.
    pub run_id: String,
    /// `maxmemory-policy`.
    pub policy: Option<String>,
    /// `appendonly`.
    pub aof: Option<String>,
    /// `appendfsync`.
    pub fsync: Option<String>,
    /// `no-appendfsync-on-rewrite`: whether the server does not sync its append-only file while a child process rewrites it.
    pub no_sync_on_rewrite: Option<bool>,
    /// `maxmemory` in bytes; 0 for no limit.
    pub max_memory: Option<u64>,
    /// The part that changes without anybody changing a setting.
    pub state: ServerState,
    /// Whether it has had replicas, was a replica, or has `min-replicas-to-write` set: it is not a single server.
    pub has_had_replicas: bool,
    /// Whether it was a replica before it became a master.
    pub was_replica: bool,
    /// The configuration file that it was started with; empty if it was started without one.
    pub config_file: Option<String>,
    /// How often its settings were changed since it started (Redis 7.0 and later).
    pub config_calls: Option<ConfigCalls>,
    /// Major and minor version.
    pub version: (u32, u32),
    /// The server's clock, in Unix epoch milliseconds.
    pub clock: Option<i64>,
}

/// The part of a server's state that changes without anybody changing a setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerState {
    /// `master` or `slave`.
    pub role: Option<String>,
    /// How many replicas are online.
    pub replicas: u32,
    /// The id of the server's replication history; another whenever a replica becomes a master.
    pub replication_id: Option<String>,
    /// The state of its append-only file.
    pub append_only: Option<AppendOnly>,
}

/// The state of a server's append-only file (`INFO persistence`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppendOnly {
    /// The server has one. This is true as soon as `appendonly` is switched on, although nothing is retained before the first rewrite is
    /// complete.
    pub enabled: bool,
    /// The file is being rewritten, or a rewrite is scheduled: the first one since it was switched on, or a later one because it has grown.
    pub rewriting: bool,
    /// How many rewrites have started (Redis 7.0 and later).
    pub rewrites: u64,
    /// A child process is writing to the disk: the rewritten file, or a snapshot.
    pub has_child: bool,
    /// The last write to the file failed, for example because the disk is full.
    pub write_failed: bool,
    /// The last rewrite failed: the file only grows.
    pub rewrite_failed: bool,
}

/// How often the server's settings were changed, as counted by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigCalls {
    /// Calls of `CONFIG SET`.
    pub set: u64,
    /// Calls of `CONFIG REWRITE`, which writes the settings to the configuration file.
    pub rewrite: u64,
    /// Calls of `CONFIG RESETSTAT`, which resets the other counts.
    pub reset: u64,
}

/// One of the servers behind a connection.
#[derive(Debug, Clone)]
pub struct Server {
    connection: Connection,
    node: Node,
}

/// The servers behind a connection: one, or the masters of a cluster, sorted by name.
///
/// # Errors
/// The map of the cluster can't be read within `budget`.
pub async fn servers(connection: &Connection, budget: Duration) -> Result<Vec<Server>, RedisError> {
    let mut nodes = connection.masters(Instant::now() + budget).await?;
    nodes.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(nodes.into_iter().map(|node| Server { connection: connection.clone(), node }).collect())
}

/// Whether every slot of a cluster has a master. True for a single server.
///
/// # Errors
/// The map of the cluster can't be read within `budget`.
pub async fn covers_every_slot(connection: &Connection, budget: Duration) -> Result<bool, RedisError> {
    match connection.every_master(Instant::now() + budget).await {
        Ok(_) => Ok(true),
        Err(RedisError::NodeUnavailable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Server {
    /// The address as `host:port`; `None`: a socket file.
    pub fn address(&self) -> Option<String> {
        self.node.address().map(ToString::to_string)
    }

    /// Sends `PING`.
    ///
    /// # Errors
    /// There was no answer within `budget`.
    pub async fn ping(&self, budget: Duration) -> Result<(), RedisError> {
        self.connection.run_at("ping", &self.node, Call::new("PING"), Instant::now() + budget).await.map(drop)
    }

    /// Reads its settings and its state.
    ///
    /// # Errors
    /// There was no answer within `budget`.
    pub async fn facts(&self, budget: Duration) -> Result<ServerFacts, RedisError> {
        let deadline = Instant::now() + budget;
        ServerFacts::read_on(&self.node.live(deadline).await?, deadline).await
    }
}

impl ServerFacts {
    /// Reads them on this connection.
    ///
    /// # Errors
    /// There was no answer by the deadline.
    pub async fn read_on(live: &Live, deadline: Instant) -> Result<Self, RedisError> {
        let config = |name: &str| Call::new("CONFIG").arg("GET").arg(name);
        let calls = vec![
            // First, so that the clock is read about one round trip before the answer arrives.
            Call::new("TIME"),
            config("maxmemory-policy"),
            config("appendonly"),
            config("appendfsync"),
            config("no-appendfsync-on-rewrite"),
            config("maxmemory"),
            config("min-replicas-to-write"),
            info("server"),
            // Before the state that the counts are compared with: a change in between must be seen as a change.
            info("commandstats"),
            info("replication"),
            info("persistence"),
        ];
        let mut answers = live.run(&calls, deadline).await?.into_iter();
        let clock = answers.next().and_then(|answer| parse::<(i64, i64)>(answer.ok()?).ok());
        let mut setting = |name: &str| -> Option<String> {
            parse::<HashMap<String, String>>(answers.next()?.ok()?).ok()?.remove(name)
        };
        let (policy, aof, fsync) = (setting("maxmemory-policy"), setting("appendonly"), setting("appendfsync"));
        let no_sync_on_rewrite = setting("no-appendfsync-on-rewrite").map(|text| text == "yes");
        let max_memory = setting("maxmemory").and_then(|text| text.parse().ok());
        let min_replicas = setting("min-replicas-to-write").and_then(|text| text.parse::<u32>().ok());
        let mut info = || text(answers.next()).unwrap_or_default();
        let (server, commands, replication, persistence) = (info(), info(), info(), info());
        let version = version(field(&server, "redis_version").unwrap_or_default());
        let was_replica = field(&replication, "second_repl_offset").is_some_and(|offset| offset != "-1");
        Ok(Self {
            run_id: field(&server, "run_id").unwrap_or_default().to_owned(),
            policy,
            aof,
            fsync,
            no_sync_on_rewrite,
            max_memory,
            // A backlog is made for the first replica; the offset is set when a replica becomes a master.
            has_had_replicas: min_replicas.unwrap_or_default() > 0
                || field(&replication, "connected_slaves").is_some_and(|count| count != "0")
                || field(&replication, "repl_backlog_active").is_some_and(|active| active != "0")
                || was_replica,
            was_replica,
            config_file: field(&server, "config_file").map(str::to_owned),
            // Older servers have one count for all of `CONFIG`.
            config_calls: (version >= (7, 0) && !commands.is_empty()).then(|| ConfigCalls::of(&commands)),
            state: ServerState::of(&replication, &persistence),
            version,
            clock: clock.map(|(seconds, micros)| seconds * 1000 + micros / 1000),
        })
    }

    /// Whether the append-only file was on ever since the server started: no setting was changed, and the server never was a
    /// replica.
    pub fn append_only_since_start(&self) -> bool {
        let unchanged = self.config_calls.is_some_and(|calls| (calls.set, calls.reset) == (0, 0));
        unchanged && !self.was_replica && self.aof.as_deref() == Some("yes")
    }
}

impl ServerState {
    /// The calls that read it, for a pipeline.
    pub fn calls() -> [Call; 2] {
        [info("replication"), info("persistence")]
    }

    /// Parses the answers to [`Self::calls`].
    pub fn answered(answers: impl IntoIterator<Item = Value>) -> Self {
        let mut texts = answers.into_iter().map(|answer| parse::<String>(answer).unwrap_or_default());
        Self::of(&texts.next().unwrap_or_default(), &texts.next().unwrap_or_default())
    }

    fn of(replication: &str, persistence: &str) -> Self {
        let is = |name: &str, value: &str| field(persistence, name) == Some(value);
        let append_only = field(persistence, "aof_enabled").map(|enabled| AppendOnly {
            enabled: enabled != "0",
            rewriting: is("aof_rewrite_in_progress", "1") || is("aof_rewrite_scheduled", "1"),
            rewrites: field(persistence, "aof_rewrites").and_then(|count| count.parse().ok()).unwrap_or_default(),
            has_child: is("aof_rewrite_in_progress", "1") || is("rdb_bgsave_in_progress", "1"),
            write_failed: is("aof_last_write_status", "err"),
            rewrite_failed: is("aof_last_bgrewrite_status", "err"),
        });
        Self {
            role: field(replication, "role").map(str::to_owned),
            replicas: replication
                .lines()
                .filter(|line| line.starts_with("slave") && line.contains("state=online"))
                .count() as u32,
            replication_id: field(replication, "master_replid").map(str::to_owned),
            append_only,
        }
    }
}

impl ConfigCalls {
    fn of(commands: &str) -> Self {
        let calls = |name: &str| {
            let counted = field(commands, name)?.strip_prefix("calls=")?.split(',').next()?;
            counted.parse().ok()
        };
        let count = |name: &str| calls(name).unwrap_or_default();
        Self {
            set: count("cmdstat_config|set"),
            rewrite: count("cmdstat_config|rewrite"),
            reset: count("cmdstat_config|resetstat"),
        }
    }
}

fn info(section: &str) -> Call {
    Call::new("INFO").arg(section)
}

/// The run id in an answer to `INFO server`.
pub fn run_id(info: Option<Value>) -> Option<String> {
    let info: String = parse(info?).ok()?;
    field(&info, "run_id").map(str::to_owned)
}

fn text(answer: Option<Result<Value, RedisError>>) -> Option<String> {
    parse(answer?.ok()?).ok()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}
