//! A Redis Cluster: sends every call to the node that has its key.
//!
//! This is a thin layer over [`Node`] instead of the cluster client of redis-rs, for two reasons. That client treats redirects and
//! broken connections as the same kind of retry: to follow a `MOVED` it has to be allowed to repeat a call that may have been applied,
//! without telling its caller. And it refuses pipelines over several slots. Here a call is repeated only after a node has answered that
//! it did not execute it.
//!
//! The *map* says which node has which slot. It is read from any node that answers: at the first call, when a node says that a slot has
//! moved, when a node does not answer, and every ten seconds. Many reasons at once cause one reading. While a slot is moving, calls
//! follow it (`ASK`); a call whose keys are on both nodes meanwhile (`TRYAGAIN`) is repeated until its deadline.
//!
//! See `docs/decisions/cluster-client.md`, and `docs/decisions/redis-client.md` for why it is not fred.

mod refresh;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::map::Map;
use super::node::{Live, Node, Sent, answered, settings};
use super::slot::{Address, Detour};
use crate::RedisError;
use crate::script::Call;

/// The age at which the map is read again.
const STALE: Duration = Duration::from_secs(10);
/// The first and the longest wait before a call whose slot is moving is repeated.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// The nodes of one cluster. Cheap to clone.
#[derive(Clone)]
pub(super) struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    /// User, password, TLS: the same for every node.
    template: ConnectionInfo,
    seeds: Vec<Address>,
    /// The masters of the map, and nodes that redirects have named since it was read.
    nodes: Mutex<HashMap<Address, Node>>,
    map: watch::Sender<Option<Arc<Map>>>,
    /// Why the last reading of the map failed, if it did.
    failure: Mutex<Option<String>>,
    refreshing: AtomicBool,
}

/// The node that a call is sent to, and how.
#[derive(Clone)]
pub struct Route {
    /// The node.
    pub node: Node,
    /// The slot is still moving to this node: each call has to be preceded by `ASKING`.
    pub asking: bool,
}

impl Route {
    /// The established connection to the node. See [`Node::live_or_away`].
    pub async fn live(&self, deadline: Instant) -> Result<Live, RedisError> {
        self.node.live_or_away(deadline).await
    }
}

/// The calls for one node, as indexes into the pipeline; `true`: with `ASKING`.
struct Group {
    node: Node,
    calls: Vec<(usize, bool)>,
}

impl Cluster {
    /// A cluster that is discovered through these nodes (`host:port`), or without any through the host of the URL. User, password and
    /// TLS are those of the URL.
    pub(super) fn open(name: &'static str, url: &str, nodes: &[String]) -> Result<Self, RedisError> {
        let template = settings(url)?;
        if template.redis_settings().db() != 0 {
            return Err(RedisError::Address("a cluster has database 0 only".into()));
        }
        let own = Address::of(template.addr())
            .ok_or_else(|| RedisError::Address("a cluster is reached by TCP, not by a socket file".into()))?;
        let parse = |(number, node): (usize, &String)| {
            Address::parse(node).ok_or_else(|| RedisError::Address(format!("node {number} is no host:port")))
        };
        let seeds = if nodes.is_empty() { vec![own] } else { (1..).zip(nodes).map(parse).collect::<Result<_, _>>()? };
        let (map, _) = watch::channel(None);
        let shared = Shared {
            name,
            template,
            seeds,
            nodes: Mutex::default(),
            map,
            failure: Mutex::default(),
            refreshing: AtomicBool::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Sends each call to the node that has its key; the calls for one node form one pipeline. Each call has a result of its own.
    pub(super) async fn run(
        &self,
        calls: &[Call],
        deadline: Instant,
    ) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let mut map = self.map(deadline).await?;
        let mut results: Vec<Result<Value, RedisError>> = calls.iter().map(|_| Err(unserved())).collect();
        let mut open: Vec<usize> = (0..calls.len()).collect();
        // By slot, not by call, so that calls for one key keep their order.
        let mut detours: HashMap<u16, Route> = HashMap::new();
        let mut pause = PAUSE.0;
        for round in 0_u32.. {
            let groups = self.groups(&map, calls, &open, &detours);
            let asked = join_all(groups.iter().map(|group| group.ask(calls, deadline))).await;
            open.clear();
            let mut moving = round > 0;
            for (group, answers) in groups.iter().zip(asked) {
                let answers = match answers {
                    Ok(answers) => answers,
                    Err(error) => {
                        self.refresh();
                        let error = self.of_one_node(&map, &group.node, error);
                        group.calls.iter().for_each(|&(index, _)| results[index] = Err(error.clone()));
                        continue;
                    }
                };
                for (&(index, _), answer) in group.calls.iter().zip(answers) {
                    let (detour, slot) = match (self.detour(&group.node, &answer), calls[index].slot) {
                        (Some(detour), Some(slot)) => (detour, slot),
                        _ => {
                            results[index] = answered(answer);
                            continue;
                        }
                    };
                    match self.follow(slot, &detour) {
                        Ok(route) => {
                            moving |= route.is_none();
                            detours.extend(route.map(|route| (slot, route)));
                            results[index] = Err(on_its_way());
                            open.push(index);
                        }
                        Err(error) => results[index] = Err(error),
                    }
                }
            }
            if open.is_empty() {
                break;
            }
            open.sort_unstable();
            // The first redirect is followed at once.
            if moving {
                tokio::time::sleep_until((Instant::now() + pause).min(deadline)).await;
                pause = (pause * 2).min(PAUSE.1);
            }
            if Instant::now() >= deadline {
                break;
            }
            map = self.map(deadline).await?;
        }
        Ok(results)
    }

    /// The node that has a slot, with the established connection to it. Waits until the deadline, also for a failover.
    pub(super) async fn reach(&self, slot: u16, deadline: Instant) -> Result<(Route, Live), RedisError> {
        loop {
            let map = self.map(deadline).await?;
            let failed = match map.owner(slot) {
                Some(node) => match node.live_or_away(deadline).await {
                    Ok(live) => return Ok((Route { node: node.clone(), asking: false }, live)),
                    Err(error) => self.of_one_node(&map, node, error),
                },
                None => unserved(),
            };
            self.refresh();
            if Instant::now() + PAUSE.1 >= deadline {
                return Err(failed);
            }
            tokio::time::sleep(PAUSE.1).await;
        }
    }

    /// The route that a detour leads to; `None`: the same route, a little later.
    pub(super) fn follow(&self, slot: u16, detour: &Detour) -> Result<Option<Route>, RedisError> {
        match detour {
            Detour::Moved(to) => {
                let node = self.node(to)?;
                self.shared.moved(slot, &node);
                self.refresh();
                Ok(Some(Route { node, asking: false }))
            }
            Detour::Ask(to) => Ok(Some(Route { node: self.node(to)?, asking: true })),
            Detour::TryAgain => Ok(None),
            Detour::Down(reason) => {
                self.refresh();
                // A cluster without full coverage serves no key at all; an unserved slot or a loading node concerns only some.
                let whole = reason.contains("The cluster is down");
                let (maybe_applied, reason) = (false, reason.clone());
                Err(if whole {
                    RedisError::Unavailable { maybe_applied, reason }
                } else {
                    RedisError::NodeUnavailable { maybe_applied, reason }
                })
            }
        }
    }

    /// The detour that an answer asks for, if it does.
    pub(super) fn detour(&self, node: &Node, answer: &Value) -> Option<Detour> {
        Detour::of(answer, node.address()?)
    }

    /// The map. Waits until the deadline for the first one.
    pub(super) async fn map(&self, deadline: Instant) -> Result<Arc<Map>, RedisError> {
        let mut map = self.shared.map.subscribe();
        let wait = async {
            loop {
                if let Some(map) = &*map.borrow_and_update() {
                    if map.read_at().elapsed() > STALE {
                        self.refresh();
                    }
                    return Some(map.clone());
                }
                self.refresh();
                // The sender lives in `self`.
                map.changed().await.ok()?;
            }
        };
        match timeout_at(deadline, wait).await {
            Ok(Some(map)) => Ok(map),
            _ => Err(RedisError::Unavailable { maybe_applied: false, reason: self.shared.why_no_map() }),
        }
    }

    /// Whether the map is known and any master is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.shared.map.borrow().as_ref().is_some_and(|map| map.masters().iter().any(Node::is_connected))
    }

    /// The node at an address.
    pub(super) fn node(&self, address: &Address) -> Result<Node, RedisError> {
        self.shared.node(address)
    }

    /// Starts to read the map again in the background, unless that is in progress.
    pub(super) fn refresh(&self) {
        if !self.shared.refreshing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Shared::keep_reading(Arc::downgrade(&self.shared)));
        }
    }

    fn groups(&self, map: &Map, calls: &[Call], open: &[usize], detours: &HashMap<u16, Route>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut anywhere = Vec::new();
        for &index in open {
            let Some(slot) = calls[index].slot else {
                anywhere.push((index, false));
                continue;
            };
            let detour = detours.get(&slot).map(|route| (&route.node, route.asking));
            let Some((node, asking)) = detour.or_else(|| Some((map.owner(slot)?, false))) else {
                self.refresh();
                continue;
            };
            match groups.iter_mut().find(|group| group.node.address() == node.address()) {
                Some(group) => group.calls.push((index, asking)),
                None => groups.push(Group { node: node.clone(), calls: vec![(index, asking)] }),
            }
        }
        if !anywhere.is_empty() {
            match groups.iter_mut().find(|group| group.node.is_connected()) {
                Some(group) => group.calls.extend(anywhere),
                None => groups.extend(map.any().map(|node| Group { node: node.clone(), calls: anywhere })),
            }
        }
        groups
    }

    /// Turns the failure of one node into that of the cluster, unless another master is connected.
    fn of_one_node(&self, map: &Map, node: &Node, error: RedisError) -> RedisError {
        let another = |other: &Node| other.address() != node.address() && other.is_connected();
        match error {
            RedisError::Unavailable { maybe_applied, reason } if map.masters().iter().any(another) => {
                RedisError::NodeUnavailable { maybe_applied, reason: format!("{}: {reason}", node.name()) }
            }
            error => error,
        }
    }
}

impl Group {
    async fn ask(&self, calls: &[Call], deadline: Instant) -> Result<Vec<Value>, RedisError> {
        let live = self.node.live_or_away(deadline).await?;
        let sent: Vec<_> = self.calls.iter().map(|&(index, asking)| Sent { call: &calls[index], asking }).collect();
        live.send(&sent, deadline).await
    }
}

impl Shared {
    fn node(&self, address: &Address) -> Result<Node, RedisError> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(node) = nodes.get(address) {
            return Ok(node.clone());
        }
        let host = address.host.to_string();
        let at = match self.template.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port: address.port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, address.port),
        };
        let node = Node::open(&format!("{} {address}", self.name), self.template.clone().set_addr(at))?;
        nodes.insert(address.clone(), node.clone());
        Ok(node)
    }
}

fn unserved() -> RedisError {
    RedisError::NodeUnavailable { maybe_applied: false, reason: "no node of the cluster serves the slot".into() }
}

fn on_its_way() -> RedisError {
    RedisError::NodeUnavailable { maybe_applied: false, reason: "the slot is on its way to another node".into() }
}
