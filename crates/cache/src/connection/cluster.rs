//! Several servers that share the keys: every call goes to the node that has its key.
//!
//! A thin layer over [`Node`], where redis-rs has a cluster client of its own. That one counts redirects and broken connections as
//! the same kind of retry: to follow a `MOVED` it has to be allowed to send a call again that may have been applied, and it would
//! not say so. It also refuses a pipeline of several slots. Here a call is repeated only after a node has said that it did nothing.
//!
//! The *map* says who has which slot. It is read from any node that answers when it is first needed, when a node says that a slot
//! has moved, when a node does not answer, and every ten seconds; a burst of reasons costs one reading. A slot that is just moving
//! is asked for where it goes (`ASK`); a call whose keys lie apart meanwhile is repeated until its deadline.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use redis::{ConnectionAddr, ConnectionInfo, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::map::Map;
use super::node::{Live, Node, Sent, answered, connect_backoff, settings};
use super::slot::{Address, Detour, ranges};
use crate::CacheError;
use crate::script::Call;

/// How long one node has to tell the map.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// The map is not read more often than this.
const REST: Duration = Duration::from_millis(200);
/// A map that is older than this is read again.
const STALE: Duration = Duration::from_secs(10);
/// The first and the longest wait before a call is repeated whose slot is moving.
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
    /// Those of the map, and whoever was named since.
    nodes: Mutex<HashMap<Address, Node>>,
    map: watch::Sender<Option<Arc<Map>>>,
    /// Why the last reading of the map failed, if it did.
    failure: Mutex<Option<String>>,
    refreshing: AtomicBool,
}

/// Where a call goes.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) node: Node,
    /// The slot is on its way there.
    pub(crate) asking: bool,
}

impl Place {
    /// The established connection.
    pub(crate) async fn live(&self, deadline: Instant) -> Result<Live, CacheError> {
        self.node.live_or_away(deadline).await
    }
}

/// Calls for one node, by their places in the pipeline.
struct Group {
    node: Node,
    calls: Vec<(usize, bool)>,
}

impl Cluster {
    /// A cluster that is found through these nodes, `host:port`, or else through the URL's own; the URL has user, password and whether
    /// TLS is spoken.
    pub(super) fn open(name: &'static str, url: &str, nodes: &[String]) -> Result<Self, CacheError> {
        let template = settings(url)?;
        if template.redis_settings().db() != 0 {
            return Err(CacheError::Address("a cluster has database 0 only".into()));
        }
        let own = Address::of(template.addr())
            .ok_or_else(|| CacheError::Address("a cluster is reached by TCP, not by a socket file".into()))?;
        let parse = |(number, node): (usize, &String)| {
            Address::parse(node).ok_or_else(|| CacheError::Address(format!("node {number} is no host:port")))
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

    /// Sends calls, each to the node that has its key and those of one node as one pipeline; each has a result of its own.
    pub(super) async fn run(
        &self,
        calls: &[Call],
        deadline: Instant,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let mut map = self.map(deadline).await?;
        let mut results: Vec<Result<Value, CacheError>> = calls.iter().map(|_| Err(unserved())).collect();
        let mut open: Vec<usize> = (0..calls.len()).collect();
        // By slot, not by call, so that calls for one key keep their order.
        let mut detours: HashMap<u16, Place> = HashMap::new();
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
                        Ok(place) => {
                            moving |= place.is_none();
                            detours.extend(place.map(|place| (slot, place)));
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

    /// The established connection to whoever has a slot, waited for until the deadline, also for another node to take the slot over.
    pub(super) async fn reach(&self, slot: u16, deadline: Instant) -> Result<(Place, Live), CacheError> {
        loop {
            let map = self.map(deadline).await?;
            let failed = match map.owner(slot) {
                Some(node) => match node.live_or_away(deadline).await {
                    Ok(live) => return Ok((Place { node: node.clone(), asking: false }, live)),
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

    /// Where a slot is after a node's word for it; `None`: where it was, a little later.
    pub(super) fn follow(&self, slot: u16, detour: &Detour) -> Result<Option<Place>, CacheError> {
        match detour {
            Detour::Moved(to) => {
                let node = self.node(to)?;
                self.shared.moved(slot, &node);
                self.refresh();
                Ok(Some(Place { node, asking: false }))
            }
            Detour::Ask(to) => Ok(Some(Place { node: self.node(to)?, asking: true })),
            Detour::TryAgain => Ok(None),
            Detour::Down(reason) => {
                self.refresh();
                // Without its coverage a cluster serves nobody; a single slot, or a node that loads, is less.
                let whole = reason.contains("The cluster is down");
                let (maybe_applied, reason) = (false, reason.clone());
                Err(if whole {
                    CacheError::Unavailable { maybe_applied, reason }
                } else {
                    CacheError::NodeUnavailable { maybe_applied, reason }
                })
            }
        }
    }

    /// Where an answer sends its caller, if it does.
    pub(super) fn detour(&self, node: &Node, answer: &Value) -> Option<Detour> {
        Detour::of(answer, node.address()?)
    }

    /// The map, waited for until the deadline.
    pub(super) async fn map(&self, deadline: Instant) -> Result<Arc<Map>, CacheError> {
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
            _ => Err(CacheError::Unavailable { maybe_applied: false, reason: self.shared.why_no_map() }),
        }
    }

    /// Whether the map is known and some master is connected.
    pub(super) fn is_connected(&self) -> bool {
        self.shared.map.borrow().as_ref().is_some_and(|map| map.masters().iter().any(Node::is_connected))
    }

    /// The node at an address.
    pub(super) fn node(&self, address: &Address) -> Result<Node, CacheError> {
        self.shared.node(address)
    }

    /// Reads the map again in the background.
    pub(super) fn refresh(&self) {
        if !self.shared.refreshing.swap(true, Ordering::AcqRel) {
            tokio::spawn(Shared::keep_asking(Arc::downgrade(&self.shared)));
        }
    }

    fn groups(&self, map: &Map, calls: &[Call], open: &[usize], detours: &HashMap<u16, Place>) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut anywhere = Vec::new();
        for &index in open {
            let Some(slot) = calls[index].slot else {
                anywhere.push((index, false));
                continue;
            };
            let place = detours.get(&slot).map(|place| (&place.node, place.asking));
            let Some((node, asking)) = place.or_else(|| Some((map.owner(slot)?, false))) else {
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

    /// What a node's silence says of the cluster: only that node is away if another one is there.
    fn of_one_node(&self, map: &Map, node: &Node, error: CacheError) -> CacheError {
        let another = |other: &Node| other.address() != node.address() && other.is_connected();
        match error {
            CacheError::Unavailable { maybe_applied, reason } if map.masters().iter().any(another) => {
                CacheError::NodeUnavailable { maybe_applied, reason: format!("{}: {reason}", node.name()) }
            }
            error => error,
        }
    }
}

impl Group {
    async fn ask(&self, calls: &[Call], deadline: Instant) -> Result<Vec<Value>, CacheError> {
        let live = self.node.live_or_away(deadline).await?;
        let sent: Vec<_> = self.calls.iter().map(|&(index, asking)| Sent { call: &calls[index], asking }).collect();
        live.send(&sent, deadline).await
    }
}

impl Shared {
    fn node(&self, address: &Address) -> Result<Node, CacheError> {
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

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nobody knows where to send a call.
    fn why_no_map(&self) -> String {
        let said = "no node of the cluster tells who has what";
        self.failure().as_ref().map_or_else(|| said.into(), |reason| format!("{said}: {reason}"))
    }

    async fn keep_asking(shared: Weak<Self>) {
        for attempt in 0_u32.. {
            let Some(this) = shared.upgrade() else { return };
            let rested = this.map.borrow().as_ref().map(|map| map.read_at() + REST);
            drop(this);
            tokio::time::sleep_until(rested.unwrap_or_else(Instant::now)).await;
            let Some(this) = shared.upgrade() else { return };
            let read = this.read().await;
            *this.failure() = read.as_ref().err().map(ToString::to_string);
            match read {
                Ok(()) => {
                    this.refreshing.store(false, Ordering::Release);
                    return;
                }
                Err(reason) if attempt == 0 => {
                    tracing::warn!(cluster = this.name, %reason, "no node tells who has what, trying on");
                }
                Err(_) => {}
            }
            drop(this);
            tokio::time::sleep(connect_backoff(attempt)).await;
        }
    }

    /// Asks one node after the other for the map, those first that are connected.
    async fn read(&self) -> Result<(), CacheError> {
        let known = self.map.borrow().clone();
        let mut candidates: Vec<Node> = known.iter().flat_map(|map| map.masters().to_vec()).collect();
        fastrand::shuffle(&mut candidates);
        candidates.sort_by_cached_key(|node| !node.is_connected());
        let seeds = self.seeds.iter().chain(known.iter().flat_map(|map| map.replicas()));
        candidates.extend(seeds.filter_map(|address| self.node(address).ok()));
        let mut failure = unserved();
        for node in candidates {
            match self.read_from(&node).await {
                Ok(map) => {
                    self.install(map);
                    return Ok(());
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn read_from(&self, node: &Node) -> Result<Map, CacheError> {
        let read_at = Instant::now();
        let deadline = read_at + ASK_TIMEOUT;
        let asked = node.address().ok_or_else(unserved)?;
        let live = node.live_or_away(deadline).await?;
        let slots = [Call::new("CLUSTER").arg("SLOTS")];
        let answer = live.run(&slots, deadline).await?.pop().ok_or_else(unserved)??;
        let ranges = ranges(&answer, asked).ok_or_else(|| CacheError::unexpected("no map of a cluster's slots"))?;
        if ranges.is_empty() {
            return Err(CacheError::Refused(format!("{asked} knows of no slots")));
        }
        Map::new(ranges, read_at, |address| self.node(address))
    }

    fn install(&self, map: Map) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|address, _| map.masters().iter().any(|node| node.address() == Some(address)));
        drop(nodes);
        map.masters().iter().for_each(Node::wake);
        self.map.send_replace(Some(Arc::new(map)));
    }

    /// Takes a node's word for one slot.
    fn moved(&self, slot: u16, node: &Node) {
        self.map.send_if_modified(|map| {
            let Some(known) = map.as_mut() else { return false };
            if known.owner(slot).is_some_and(|owner| owner.address() == node.address()) {
                return false;
            }
            Arc::make_mut(known).set(slot, node);
            true
        });
    }
}

fn unserved() -> CacheError {
    CacheError::NodeUnavailable { maybe_applied: false, reason: "no node of the cluster serves the slot".into() }
}

fn on_its_way() -> CacheError {
    CacheError::NodeUnavailable { maybe_applied: false, reason: "the slot is on its way to another node".into() }
}
