//! The way to Redis: one server, or a cluster of them. Lazy, reconnecting, and every call within its caller's deadline.
//!
//! redis-rs would answer late after 500 ms on its own. That is switched off here: the caller's deadline is the only clock, and it
//! alone decides what a late answer means. A call that runs into its deadline after it was sent may have happened, or may happen
//! yet, and says so ([`CacheError::Unavailable`]). Nothing is ever sent twice behind the caller's back, but for what a server
//! answered that it did not do: a script that it doesn't know, a key that another node has.
//!
//! `connection/node.rs` is the one connection to one server. `connection/cluster.rs` sends each call to the node that has its key; calls
//! to a node that is known to be away fail at once ([`CacheError::NodeUnavailable`]), so that the others' keys stay within reach.

mod cluster;
mod map;
mod node;
mod slot;

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;
use tokio::time::Instant;

use crate::CacheError;
use crate::metrics::CacheMetrics;
use crate::script::Call;

use cluster::Cluster;
pub(crate) use cluster::Place;
pub(crate) use node::{Live, Node, Sent, connection_config};
pub(crate) use slot::slot_of;

/// A connection to one server, or to each master of a cluster. Cheap to clone; all clones share the connections.
#[derive(Clone)]
pub struct Connection {
    servers: Servers,
    metrics: CacheMetrics,
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
    /// A connection that is made when it is first needed. `name` is for logs.
    ///
    /// # Errors
    /// [`CacheError::Address`] if the URL is none; never because the server is away.
    pub fn open(name: &'static str, url: &str, metrics: CacheMetrics) -> Result<Self, CacheError> {
        Ok(Self { servers: Servers::One(Node::open(name, node::settings(url)?)?), metrics })
    }

    /// As [`Connection::open`] without `cluster`; with it, a connection to a cluster that is found through any of these nodes, each
    /// `host:port`, or without any through the URL's own. The URL has user and password, and says whether TLS is spoken.
    ///
    /// # Errors
    /// [`CacheError::Address`] if an address is none, or the URL names another database of a cluster than 0.
    pub fn open_at(
        name: &'static str,
        url: &str,
        cluster: Option<&[String]>,
        metrics: CacheMetrics,
    ) -> Result<Self, CacheError> {
        let Some(nodes) = cluster else { return Self::open(name, url, metrics) };
        Ok(Self { servers: Servers::Cluster(Cluster::open(name, url, nodes)?), metrics })
    }

    /// Asks for a sign of life: of the server, or of any node of a cluster.
    pub async fn ping(&self, budget: Duration) -> Result<(), CacheError> {
        self.run_one("ping", Call::new("PING"), budget).await.map(drop)
    }

    /// Whether every key is within reach: as [`Connection::ping`], but every master of a cluster has to answer.
    pub async fn ping_all(&self, budget: Duration) -> Result<(), CacheError> {
        let deadline = Instant::now() + budget;
        let masters = self.every_master(deadline).await?;
        let pings = masters.iter().map(|node| self.run_at("ping", node, Call::new("PING"), deadline));
        join_all(pings).await.into_iter().try_for_each(|pong| pong.map(drop))
    }

    /// Whether there is a connection now. It may break at the next moment.
    pub fn is_connected(&self) -> bool {
        match &self.servers {
            Servers::One(node) => node.is_connected(),
            Servers::Cluster(cluster) => cluster.is_connected(),
        }
    }

    /// Whether it leads to a cluster.
    pub fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    pub(crate) fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }

    /// Sends calls, in a cluster each to the node that has its key, those for one node as one pipeline; each has a result of its own.
    /// Calls for one key are made in their order.
    pub(crate) async fn run(
        &self,
        op: &'static str,
        calls: Vec<Call>,
        budget: Duration,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
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
            Ok(results) => results.iter().find_map(|result| result.as_ref().err()).map_or("ok", CacheError::label),
            Err(error) => error.label(),
        };
        self.metrics.operation(op, label, started.elapsed());
        result
    }

    /// Sends one call.
    pub(crate) async fn run_one(&self, op: &'static str, call: Call, budget: Duration) -> Result<Value, CacheError> {
        let mut results = self.run(op, vec![call], budget).await?;
        results.pop().unwrap_or_else(|| Err(CacheError::unexpected("no answer")))
    }

    /// Sends one call to this node, whatever its key.
    pub(crate) async fn run_at(
        &self,
        op: &'static str,
        node: &Node,
        call: Call,
        deadline: Instant,
    ) -> Result<Value, CacheError> {
        let live = match &self.servers {
            Servers::One(_) => node.live(deadline).await,
            Servers::Cluster(_) => node.live_or_away(deadline).await,
        };
        let started = Instant::now();
        let result = match live {
            Ok(live) => live.run(&[call], deadline).await.map(|mut results| results.pop()),
            Err(error) => Err(error),
        };
        let result = result.and_then(|answer| answer.unwrap_or_else(|| Err(CacheError::unexpected("no answer"))));
        if result.is_err() {
            self.look_again();
        }
        self.metrics.operation(op, result.as_ref().err().map_or("ok", CacheError::label), started.elapsed());
        result
    }

    /// Sends calls on this very connection; in a cluster to wherever their keys are.
    pub(crate) async fn run_beside(
        &self,
        live: &Live,
        calls: Vec<Call>,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        match &self.servers {
            Servers::One(_) => live.run(&calls, deadline).await,
            Servers::Cluster(cluster) => cluster.run(&calls, deadline).await,
        }
    }

    /// The node that has a key and the established connection to it, for calls that have to be made on one connection and nowhere
    /// else. Waited for until the deadline, in a cluster also for another node to take the key over.
    pub(crate) async fn reach(&self, key: &str, deadline: Instant) -> Result<(Place, Live), CacheError> {
        match &self.servers {
            Servers::One(node) => Ok((Place { node: node.clone(), asking: false }, node.live(deadline).await?)),
            Servers::Cluster(cluster) => cluster.reach(slot_of(key.as_bytes()), deadline).await,
        }
    }

    /// A node is not what it was taken for.
    pub(crate) fn look_again(&self) {
        if let Servers::Cluster(cluster) = &self.servers {
            cluster.refresh();
        }
    }

    /// Where a node's answer to a call with this key sends its caller: `None` if it is the answer, `Some(None)` to the same place, a
    /// little later.
    pub(crate) fn detour(&self, key: &str, node: &Node, answer: &Value) -> Option<Result<Option<Place>, CacheError>> {
        let Servers::Cluster(cluster) = &self.servers else { return None };
        Some(cluster.follow(slot_of(key.as_bytes()), &cluster.detour(node, answer)?))
    }

    /// The server, or the masters of the cluster.
    pub(crate) async fn masters(&self, deadline: Instant) -> Result<Vec<Node>, CacheError> {
        Ok(match &self.servers {
            Servers::One(node) => vec![node.clone()],
            Servers::Cluster(cluster) => cluster.map(deadline).await?.masters().to_vec(),
        })
    }

    /// [`Connection::masters`], which have every slot between them; else an error.
    pub(crate) async fn every_master(&self, deadline: Instant) -> Result<Vec<Node>, CacheError> {
        if let Servers::Cluster(cluster) = &self.servers
            && let unserved @ 1.. = cluster.map(deadline).await?.unserved()
        {
            cluster.refresh();
            let reason = format!("no node of the cluster serves {unserved} of its slots");
            return Err(CacheError::NodeUnavailable { maybe_applied: false, reason });
        }
        self.masters(deadline).await
    }

    /// [`Connection::masters`], and replicas.
    pub(crate) async fn nodes(&self, deadline: Instant) -> Result<Vec<Node>, CacheError> {
        let mut nodes = self.masters(deadline).await?;
        if let Servers::Cluster(cluster) = &self.servers {
            let map = cluster.map(deadline).await?;
            for replica in map.replicas() {
                nodes.push(cluster.node(replica)?);
            }
        }
        Ok(nodes)
    }

    /// The server, or some master of the cluster.
    pub(crate) async fn any(&self, deadline: Instant) -> Result<Node, CacheError> {
        match &self.servers {
            Servers::One(node) => Ok(node.clone()),
            Servers::Cluster(cluster) => {
                let map = cluster.map(deadline).await?;
                map.any().cloned().ok_or_else(|| CacheError::unexpected("a cluster without nodes"))
            }
        }
    }

    /// A number that changes when keys get another master.
    pub(crate) async fn layout(&self, deadline: Instant) -> Result<u64, CacheError> {
        match &self.servers {
            Servers::One(_) => Ok(0),
            Servers::Cluster(cluster) => Ok(cluster.map(deadline).await?.fingerprint()),
        }
    }

    /// The first of these whose key is on the server, or on each master of the cluster.
    pub(crate) async fn one_on_each<T>(
        &self,
        keyed: impl Iterator<Item = (String, T)>,
        deadline: Instant,
    ) -> Result<Vec<T>, CacheError> {
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
