//! The connection to Redis: to one server or to a cluster. It connects lazily, reconnects, and ends every call by its caller's deadline.
//!
//! The deadline is the only timeout: the one of redis-rs (500 ms) is switched off. A call that passes its deadline after it was sent may
//! have been applied, or may be applied later, and its error says so ([`RedisError::Unavailable`]). No call is ever sent twice, unless
//! the server has answered that it did not execute it: it does not know the script, or another node has the key.
//!
//! `connection/node.rs` holds the one connection to one server. `connection/cluster.rs` sends each call to the node that has its key.
//! Calls to a node that is known to be away fail at once ([`RedisError::NodeUnavailable`]), so that the keys of the other nodes stay
//! reachable.

mod backoff;
mod cluster;
mod map;
mod node;
mod slot;

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::time::Instant;

use crate::RedisError;
use crate::hash_slot::slot_of;
use crate::metrics::RedisMetrics;
use crate::script::Call;

use cluster::Cluster;
pub use cluster::Route;
pub(crate) use node::connection_config;
pub use node::{Live, Node, Sent};

/// A connection to one server, or to each master of a cluster. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Connection {
    servers: Servers,
    metrics: RedisMetrics,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.servers {
            Servers::One(_) => "Connection(one server)",
            Servers::Cluster(_) => "Connection(a cluster)",
        })
    }
}

#[derive(Clone)]
enum Servers {
    One(Node),
    Cluster(Cluster),
}

impl Connection {
    /// A connection to one server, established with the first call. `name` is used in logs.
    ///
    /// # Errors
    /// [`RedisError::Address`]: the URL can't be used. A server that is away is no error here.
    pub fn open(name: &'static str, url: &str, metrics: RedisMetrics) -> Result<Self, RedisError> {
        Ok(Self { servers: Servers::One(Node::open(name, node::settings(url)?)?), metrics })
    }

    /// Without `cluster` the same as [`Connection::open`]. With it, a connection to a cluster, which is discovered through any of these
    /// nodes (`host:port`), or if there are none through the host of the URL. User, password and TLS are those of the URL.
    ///
    /// # Errors
    /// [`RedisError::Address`]: an address can't be used, or the URL of a cluster names a database other than 0.
    pub fn open_at(
        name: &'static str,
        url: &str,
        cluster: Option<&[String]>,
        metrics: RedisMetrics,
    ) -> Result<Self, RedisError> {
        let Some(nodes) = cluster else { return Self::open(name, url, metrics) };
        Ok(Self { servers: Servers::Cluster(Cluster::open(name, url, nodes)?), metrics })
    }

    /// Sends `PING` to the server, or to any node of a cluster.
    pub async fn ping(&self, budget: Duration) -> Result<(), RedisError> {
        self.run_one("ping", Call::new("PING"), budget).await.map(drop)
    }

    /// Sends `PING` to every master. Succeeds only if all keys can be reached.
    pub async fn ping_all(&self, budget: Duration) -> Result<(), RedisError> {
        let deadline = Instant::now() + budget;
        let masters = self.every_master(deadline).await?;
        let pings = masters.iter().map(|node| self.run_at("ping", node, Call::new("PING"), deadline));
        join_all(pings).await.into_iter().try_for_each(|pong| pong.map(drop))
    }

    /// Whether a connection is established now. It may break at any moment.
    pub fn is_connected(&self) -> bool {
        match &self.servers {
            Servers::One(node) => node.is_connected(),
            Servers::Cluster(cluster) => cluster.is_connected(),
        }
    }

    /// Whether this is a connection to a cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// The metrics that this connection counts in.
    pub fn metrics(&self) -> &RedisMetrics {
        &self.metrics
    }

    /// Sends calls as one pipeline, in a cluster one for each node. Each call has a result of its own; calls for one key are executed in
    /// their order. `op` labels the metrics.
    ///
    /// # Errors
    /// No call has a result: the server or the whole cluster is unavailable.
    pub async fn run(
        &self,
        op: &'static str,
        calls: Vec<Call>,
        budget: Duration,
    ) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let deadline = Instant::now() + budget;
        let mut started = Instant::now();
        let result = match &self.servers {
            Servers::One(node) => match node.live(deadline).await {
                Ok(live) => {
                    started = Instant::now();
                    live.run(&calls, deadline).await
                }
                Err(error) => Err(error),
            },
            Servers::Cluster(cluster) => cluster.run(&calls, deadline).await,
        };
        let label = match &result {
            Ok(results) => results.iter().find_map(|result| result.as_ref().err()).map_or("ok", RedisError::label),
            Err(error) => error.label(),
        };
        self.metrics.operation(op, label, started.elapsed());
        result
    }

    /// Sends one call. `op` labels the metrics.
    ///
    /// # Errors
    /// The call failed.
    pub async fn run_one(&self, op: &'static str, call: Call, budget: Duration) -> Result<Value, RedisError> {
        let mut results = self.run(op, vec![call], budget).await?;
        results.pop().unwrap_or_else(|| Err(RedisError::unexpected("no answer")))
    }

    /// Sends one call to this node, whichever key it has. `op` labels the metrics.
    ///
    /// # Errors
    /// The call failed.
    pub async fn run_at(
        &self,
        op: &'static str,
        node: &Node,
        call: Call,
        deadline: Instant,
    ) -> Result<Value, RedisError> {
        let live = match &self.servers {
            Servers::One(_) => node.live(deadline).await,
            Servers::Cluster(_) => node.live_or_away(deadline).await,
        };
        let started = Instant::now();
        let result = match live {
            Ok(live) => live.run(&[call], deadline).await.map(|mut results| results.pop()),
            Err(error) => Err(error),
        };
        let result = result.and_then(|answer| answer.unwrap_or_else(|| Err(RedisError::unexpected("no answer"))));
        if result.is_err() {
            self.refresh_map();
        }
        self.metrics.operation(op, result.as_ref().err().map_or("ok", RedisError::label), started.elapsed());
        result
    }

    /// Sends calls on the connection `live`; in a cluster to the nodes that have their keys.
    ///
    /// # Errors
    /// No call has a result.
    pub async fn run_beside(
        &self,
        live: &Live,
        calls: Vec<Call>,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        match &self.servers {
            Servers::One(_) => live.run(&calls, deadline).await,
            Servers::Cluster(cluster) => cluster.run(&calls, deadline).await,
        }
    }

    /// The node that has a key, with the established connection to it: for calls that must be made on exactly this connection. Waits
    /// until the deadline, in a cluster also for a failover.
    ///
    /// # Errors
    /// The node could not be reached by the deadline.
    pub async fn reach(&self, key: &str, deadline: Instant) -> Result<(Route, Live), RedisError> {
        match &self.servers {
            Servers::One(node) => Ok((Route { node: node.clone(), asking: false }, node.live(deadline).await?)),
            Servers::Cluster(cluster) => cluster.reach(slot_of(key.as_bytes()), deadline).await,
        }
    }

    /// Reports that a node is not what the map says: in a cluster the map is read again.
    pub fn refresh_map(&self) {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.refresh();
        }
    }

    /// Where a node's answer to a call with this key sends the caller. `None`: the answer is the result. `Some(Ok(None))`: to the same
    /// node, a little later.
    pub fn detour(&self, key: &str, node: &Node, answer: &Value) -> Option<Result<Option<Route>, RedisError>> {
        let Servers::Cluster(cluster) = &self.servers else { return None };
        Some(cluster.follow(slot_of(key.as_bytes()), &cluster.detour(node, answer)?))
    }

    /// The server, or the masters of the cluster.
    ///
    /// # Errors
    /// The map of the cluster is not known by the deadline.
    pub async fn masters(&self, deadline: Instant) -> Result<Vec<Node>, RedisError> {
        Ok(match &self.servers {
            Servers::One(node) => vec![node.clone()],
            Servers::Cluster(cluster) => cluster.map(deadline).await?.masters().to_vec(),
        })
    }

    /// The masters, if every slot has one.
    ///
    /// # Errors
    /// A slot has no master, or the map of the cluster is not known by the deadline.
    pub async fn every_master(&self, deadline: Instant) -> Result<Vec<Node>, RedisError> {
        if let Servers::Cluster(cluster) = &self.servers
            && let unserved @ 1.. = cluster.map(deadline).await?.unserved()
        {
            cluster.refresh();
            let reason = format!("no node of the cluster serves {unserved} of its slots");
            return Err(RedisError::NodeUnavailable { maybe_applied: false, reason });
        }
        self.masters(deadline).await
    }

    /// All nodes: masters and replicas.
    ///
    /// # Errors
    /// The map of the cluster is not known by the deadline.
    pub async fn nodes(&self, deadline: Instant) -> Result<Vec<Node>, RedisError> {
        let mut nodes = self.masters(deadline).await?;
        if let Servers::Cluster(cluster) = &self.servers {
            let map = cluster.map(deadline).await?;
            for replica in map.replicas() {
                nodes.push(cluster.node(replica)?);
            }
        }
        Ok(nodes)
    }

    /// The server, or any master of the cluster.
    ///
    /// # Errors
    /// The map of the cluster is not known by the deadline.
    pub async fn any(&self, deadline: Instant) -> Result<Node, RedisError> {
        match &self.servers {
            Servers::One(node) => Ok(node.clone()),
            Servers::Cluster(cluster) => {
                let map = cluster.map(deadline).await?;
                map.any().cloned().ok_or_else(|| RedisError::unexpected("a cluster without nodes"))
            }
        }
    }

    /// A number that changes when a slot gets another master.
    ///
    /// # Errors
    /// The map of the cluster is not known by the deadline.
    pub async fn layout(&self, deadline: Instant) -> Result<u64, RedisError> {
        match &self.servers {
            Servers::One(_) => Ok(0),
            Servers::Cluster(cluster) => Ok(cluster.map(deadline).await?.fingerprint()),
        }
    }

    /// For the server, or for each master of the cluster, the first of these whose key it has.
    ///
    /// # Errors
    /// The map of the cluster is not known by the deadline.
    pub async fn one_on_each<T>(
        &self,
        keyed: impl Iterator<Item = (String, T)>,
        deadline: Instant,
    ) -> Result<Vec<T>, RedisError> {
        let Servers::Cluster(cluster) = &self.servers else {
            return Ok(keyed.take(1).map(|(_, one)| one).collect());
        };
        let map = cluster.map(deadline).await?;
        let mut without = map.masters().to_vec();
        let mut found = Vec::with_capacity(without.len());
        for (key, one) in keyed {
            if without.is_empty() {
                break;
            }
            let owner = map.owner(slot_of(key.as_bytes())).and_then(Node::address);
            if let Some(index) = without.iter().position(|node| node.address() == owner) {
                without.swap_remove(index);
                found.push(one);
            }
        }
        Ok(found)
    }
}
