//! Reads the map of a cluster, and replaces the known one.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::{Shared, unserved};
use crate::RedisError;
use crate::connection::backoff::connect_backoff;
use crate::connection::map::Map;
use crate::connection::node::Node;
use crate::connection::slot::ranges;
use crate::script::Call;

/// How long one node has to answer with the map.
const ASK_TIMEOUT: Duration = Duration::from_millis(500);
/// The shortest time between two readings of the map.
const REST: Duration = Duration::from_millis(200);

impl Shared {
    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why there is no map.
    pub(super) fn why_no_map(&self) -> String {
        let said = "no node of the cluster reports its slots";
        self.failure().as_ref().map_or_else(|| said.into(), |reason| format!("{said}: {reason}"))
    }

    /// Reads the map until a node has answered with one; after the first failure with growing pauses.
    pub(super) async fn keep_reading(shared: Weak<Self>) {
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
                    tracing::warn!(cluster = this.name, %reason, "no node of the cluster reports its slots, retrying");
                }
                Err(_) => {}
            }
            drop(this);
            tokio::time::sleep(connect_backoff(attempt)).await;
        }
    }

    /// Asks one node after the other for the map, connected nodes first.
    async fn read(&self) -> Result<(), RedisError> {
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

    async fn read_from(&self, node: &Node) -> Result<Map, RedisError> {
        let read_at = Instant::now();
        let deadline = read_at + ASK_TIMEOUT;
        let asked = node.address().ok_or_else(unserved)?;
        let live = node.live_or_away(deadline).await?;
        let slots = [Call::new("CLUSTER").arg("SLOTS")];
        let answer = live.run(&slots, deadline).await?.pop().ok_or_else(unserved)??;
        let ranges = ranges(&answer, asked).ok_or_else(|| RedisError::unexpected("no map of a cluster's slots"))?;
        if ranges.is_empty() {
            return Err(RedisError::Refused(format!("{asked} knows of no slots")));
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

    /// Notes that a slot has moved to a node, without reading the whole map.
    pub(super) fn moved(&self, slot: u16, node: &Node) {
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
