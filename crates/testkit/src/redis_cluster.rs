//! A Redis Cluster: three masters, with a replica each if wanted.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, cmd};
use tokio::time::{Instant, sleep};

use crate::child::POLL;
use crate::ports::free_port;
use crate::redis::{Redis, RedisOptions, Role, connect_redis};

const MASTERS: usize = 3;
const SLOTS: usize = 16_384;
/// How long the nodes may take to agree on something.
const AGREE: Duration = Duration::from_secs(30);
/// How long a node may be away before the others take it for dead. A busy machine must not make them do so.
const NODE_TIMEOUT_MS: &str = "2000";

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct RedisClusterOptions {
    /// What it is for.
    pub role: Role,
    /// A replica for each master.
    pub replicas: bool,
    /// More of every node's command line.
    pub args: Vec<String>,
}

/// A running cluster. Slots that a dead master had are away; the others go on.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters of the beginning, then their replicas in the same order.
    nodes: Vec<Redis>,
}

/// A slot on its way from one node to another.
#[derive(Debug)]
#[must_use = "a move has to be finished"]
pub struct Move<'a> {
    cluster: &'a RedisCluster,
    slot: u16,
    from: usize,
    to: usize,
}

impl RedisCluster {
    /// Starts one and waits until every node knows all slots.
    ///
    /// # Errors
    /// A node can't be started, or they do not agree in time.
    pub async fn start(options: RedisClusterOptions) -> Result<Self> {
        let count = if options.replicas { 2 * MASTERS } else { MASTERS };
        let mut nodes = Vec::with_capacity(count);
        for _ in 0..count {
            let own = ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", "--cluster-node-timeout"];
            let mut args: Vec<String> = own.map(str::to_owned).into();
            // A port of its own for the bus: ten thousand above may be anybody's.
            args.extend([NODE_TIMEOUT_MS.into(), "--cluster-port".into(), free_port()?.to_string()]);
            args.extend(["--repl-diskless-sync-delay".into(), "0".into()]);
            args.extend(options.args.iter().cloned());
            nodes.push(Redis::start(RedisOptions { role: options.role, args, ..RedisOptions::default() }).await?);
        }
        let cluster = Self { nodes };
        cluster.form().await?;
        Ok(cluster)
    }

    /// Three masters without replicas.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn of(role: Role) -> Result<Self> {
        Self::start(RedisClusterOptions { role, ..RedisClusterOptions::default() }).await
    }

    async fn form(&self) -> Result<()> {
        for (index, range) in ranges().enumerate() {
            let range = (range.start().to_string(), range.end().to_string());
            self.ask::<()>(index, &["CLUSTER", "ADDSLOTSRANGE", &range.0, &range.1]).await?;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.ask::<()>(index, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]).await?;
            let bus = self.ask::<Vec<String>>(index, &["CONFIG", "GET", "cluster-port"]).await?;
            let bus = bus.get(1).context("a node without a bus port")?;
            self.ask::<()>(0, &["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus]).await?;
        }
        self.agreed("know each other", async |index| {
            let known: String = self.ask(index, &["CLUSTER", "INFO"]).await?;
            Ok(known.contains(&format!("cluster_known_nodes:{}\r", self.nodes.len())))
        })
        .await?;
        for index in MASTERS..self.nodes.len() {
            let master: String = self.ask(index - MASTERS, &["CLUSTER", "MYID"]).await?;
            self.ask::<()>(index, &["CLUSTER", "REPLICATE", &master]).await?;
        }
        self.agreed("are whole", async |index| {
            let info: String = self.ask(index, &["CLUSTER", "INFO"]).await?;
            let linked: String = self.ask(index, &["INFO", "replication"]).await?;
            let slots = info.contains("cluster_state:ok") && info.contains(&format!("cluster_slots_ok:{SLOTS}\r"));
            let replicated = if index < MASTERS {
                self.nodes.len() == MASTERS || linked.contains("state=online")
            } else {
                linked.contains("master_link_status:up")
            };
            Ok(slots && replicated)
        })
        .await
    }

    async fn agreed(&self, what: &str, is: impl AsyncFn(usize) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + AGREE;
        for index in 0..self.nodes.len() {
            while !is(index).await? {
                if Instant::now() > deadline {
                    let log = self.nodes[index].log_tail(40);
                    bail!("the nodes of the cluster don't {what} after {AGREE:?}; the end of one's log:\n{log}");
                }
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// A node: 0 to 2 are the masters of the beginning, 3 to 5 their replicas.
    pub fn node(&self, index: usize) -> &Redis {
        &self.nodes[index]
    }

    /// The first node's address; for user, password and TLS.
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The masters of the beginning, as settings name them.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().take(MASTERS).map(|node| format!("127.0.0.1:{}", node.port())).collect()
    }

    /// A key's slot.
    ///
    /// # Errors
    /// No node answers.
    pub async fn slot_of(&self, key: &str) -> Result<u16> {
        let running = self.nodes.iter().position(|node| node.is_running()).context("no node runs")?;
        self.ask(running, &["CLUSTER", "KEYSLOT", key]).await
    }

    /// Which node has a slot, by the nodes' own word.
    ///
    /// # Errors
    /// No node that answers has it.
    pub async fn owner_of(&self, slot: u16) -> Result<usize> {
        for index in (0..self.nodes.len()).filter(|&index| self.nodes[index].is_running()) {
            let known: String = self.ask(index, &["CLUSTER", "NODES"]).await?;
            let own = known.lines().find(|line| line.contains("myself,master"));
            let slots = own.into_iter().flat_map(|line| line.split(' ').skip(8));
            if slots.filter_map(range).any(|range| range.contains(&slot)) {
                return Ok(index);
            }
        }
        bail!("no node has slot {slot}")
    }

    /// Begins to move a slot: from now on a key that its old node does not have is asked for at the new one.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn begin_move(&self, slot: u16, to: usize) -> Result<Move<'_>> {
        let from = self.owner_of(slot).await?;
        let (source, target) = (self.id(from).await?, self.id(to).await?);
        self.ask::<()>(to, &["CLUSTER", "SETSLOT", &slot.to_string(), "IMPORTING", &source]).await?;
        self.ask::<()>(from, &["CLUSTER", "SETSLOT", &slot.to_string(), "MIGRATING", &target]).await?;
        Ok(Move { cluster: self, slot, from, to })
    }

    /// Moves a slot with all its keys.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn move_slot(&self, slot: u16, to: usize) -> Result<()> {
        let under_way = self.begin_move(slot, to).await?;
        while under_way.keys(10).await? > 0 {}
        under_way.finish().await
    }

    async fn id(&self, index: usize) -> Result<String> {
        self.ask(index, &["CLUSTER", "MYID"]).await
    }

    /// Sends one command to one node.
    ///
    /// # Errors
    /// It does not answer, or with an error, or with something else.
    pub async fn ask<T: FromRedisValue>(&self, index: usize, command: &[&str]) -> Result<T> {
        let [name, args @ ..] = command else { bail!("no command") };
        let mut connection = self.raw(index).await?;
        let answer = cmd(name).arg(args).query_async(&mut connection).await;
        answer.with_context(|| format!("{} to node {index}", command.join(" ")))
    }

    async fn raw(&self, index: usize) -> Result<MultiplexedConnection> {
        connect_redis(&self.nodes[index].url()).await.with_context(|| format!("node {index} does not answer"))
    }
}

impl Move<'_> {
    /// Moves so many keys; says how many it moved.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn keys(&self, count: usize) -> Result<usize> {
        let (slot, count) = (self.slot.to_string(), count.to_string());
        let keys: Vec<String> = self.cluster.ask(self.from, &["CLUSTER", "GETKEYSINSLOT", &slot, &count]).await?;
        if !keys.is_empty() {
            let port = self.cluster.node(self.to).port().to_string();
            let mut command = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            command.extend(keys.iter().map(String::as_str));
            self.cluster.ask::<()>(self.from, &command).await?;
        }
        Ok(keys.len())
    }

    /// Gives the slot to its new node; no key may be left.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn finish(self) -> Result<()> {
        let (slot, target) = (self.slot.to_string(), self.cluster.id(self.to).await?);
        for index in [self.to, self.from] {
            self.cluster.ask::<()>(index, &["CLUSTER", "SETSLOT", &slot, "NODE", &target]).await?;
        }
        Ok(())
    }
}

/// Equal shares of all slots.
fn ranges() -> impl Iterator<Item = RangeInclusive<usize>> {
    (0..MASTERS).map(|index| index * SLOTS / MASTERS..=(index + 1) * SLOTS / MASTERS - 1)
}

/// `7`, `0-5460`; what is on its way stands in brackets.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(first.parse().ok()?..=last.parse().ok()?)
}
