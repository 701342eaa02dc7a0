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
    /// `no-appendfsync-on-rewrite`: whether it stops syncing its append-only file while a child writes one anew.
    pub no_sync_on_rewrite: Option<bool>,
    /// `maxmemory` in bytes; 0 for no limit.
    pub max_memory: Option<u64>,
    /// What changes by itself.
    pub state: ServerState,
    /// It has had replicas, was one, or was told not to write without any (`min-replicas-to-write`): it is one of several.
    pub has_had_replicas: bool,
    /// It was a replica, and was made a master.
    pub was_replica: bool,
    /// The file that it was started with; empty if it was started without one.
    pub config_file: Option<String>,
    /// What was done to its settings while it ran (Redis 7.0 and later).
    pub config_calls: Option<ConfigCalls>,
    /// Its version's first two numbers.
    pub version: (u32, u32),
    /// Its clock, in Unix epoch milliseconds.
    pub clock: Option<i64>,
}

/// What may change from one moment to the next without anybody changing a setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerState {
    /// `master` or `slave`.
    pub role: Option<String>,
    /// Replicas that are online.
    pub replicas: u32,
    /// Names the history of its data: another whenever a replica is made a master.
    pub replication_id: Option<String>,
    /// What it does with its append-only file.
    pub append_only: Option<AppendOnly>,
}

/// What a server does with its append-only file (`INFO persistence`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AppendOnly {
    /// It has one. It says so at once when it is switched on, although nothing is retained until the first rewrite is done.
    pub enabled: bool,
    /// The file is being written anew, or is about to be: the first time since it was switched on, or because it has grown.
    pub rewriting: bool,
    /// How often that was begun (Redis 7.0 and later).
    pub rewrites: u64,
    /// A child writes to the disk: that file, or a snapshot.
    pub has_child: bool,
    /// The last write to the file failed, as when the disk is full.
    pub write_failed: bool,
    /// The last attempt to write it anew failed: it only grows.
    pub rewrite_failed: bool,
}

/// How often the server's settings were changed, by its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConfigCalls {
    /// `CONFIG SET`.
    pub set: u64,
    /// `CONFIG REWRITE`, which writes the settings to the file.
    pub rewrite: u64,
    /// `CONFIG RESETSTAT`, which forgets the other counts.
    pub reset: u64,
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
            config("no-appendfsync-on-rewrite"),
            config("maxmemory"),
            config("min-replicas-to-write"),
            info("server"),
            // Before what they are remembered with: what changes in between must look like a change.
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

    /// Whether the append-only file has been there ever since the server was started: nobody has changed a setting, and the server was never
    /// given another's data.
    pub fn append_only_since_start(&self) -> bool {
        let unchanged = self.config_calls.is_some_and(|calls| (calls.set, calls.reset) == (0, 0));
        unchanged && !self.was_replica && self.aof.as_deref() == Some("yes")
    }
}

impl ServerState {
    /// What to ask for it, as the calls of a pipeline.
    pub(crate) fn calls() -> [Call; 2] {
        [info("replication"), info("persistence")]
    }

    /// From the answers to [`Self::calls`].
    pub(crate) fn answered(answers: impl IntoIterator<Item = Value>) -> Self {
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
