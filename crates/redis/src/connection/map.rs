//! The map of a cluster: which node has which slot.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use super::node::Node;
use super::slot::{Address, Range};
use crate::RedisError;
use crate::hash_slot::SLOTS;

/// Which node has which slot.
#[derive(Clone)]
pub(super) struct Map {
    /// For each slot the index of its master in `masters`.
    owners: Box<[Option<u16>]>,
    masters: Vec<Node>,
    replicas: Vec<Address>,
    read_at: Instant,
}

impl Map {
    /// Builds the map from the answer to `CLUSTER SLOTS`; `node` gives the node at an address.
    pub(super) fn new(
        ranges: Vec<Range>,
        read_at: Instant,
        node: impl Fn(&Address) -> Result<Node, RedisError>,
    ) -> Result<Self, RedisError> {
        let owners = vec![None; usize::from(SLOTS)].into_boxed_slice();
        let mut map = Self { owners, masters: Vec::new(), replicas: Vec::new(), read_at };
        for range in ranges {
            let master = node(&range.master)?;
            range.slots.for_each(|slot| map.set(slot, &master));
            for replica in range.replicas {
                if !map.replicas.contains(&replica) {
                    map.replicas.push(replica);
                }
            }
        }
        Ok(map)
    }

    /// Assigns a slot to a master.
    pub(super) fn set(&mut self, slot: u16, master: &Node) {
        let owner = self.index(master);
        if let Some(slot) = self.owners.get_mut(usize::from(slot)) {
            *slot = Some(owner);
        }
    }

    /// When the map was requested.
    pub(super) fn read_at(&self) -> Instant {
        self.read_at
    }

    /// The masters that have slots.
    pub(super) fn masters(&self) -> &[Node] {
        &self.masters
    }

    /// The addresses of the replicas.
    pub(super) fn replicas(&self) -> &[Address] {
        &self.replicas
    }

    /// How many slots have no master.
    pub(super) fn unserved(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_none()).count()
    }

    /// A number that changes when a slot gets another master.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for range in self.owners.chunk_by(|one, next| one == next) {
            let owner = range[0].map(|owner| self.masters[usize::from(owner)].address());
            (range.len(), owner).hash(&mut hasher);
        }
        hasher.finish()
    }

    pub(super) fn owner(&self, slot: u16) -> Option<&Node> {
        self.masters.get(usize::from((*self.owners.get(usize::from(slot))?)?))
    }

    /// A random master, a connected one if there is one.
    pub(super) fn any(&self) -> Option<&Node> {
        let start = fastrand::usize(..self.masters.len().max(1));
        let mut around = self.masters.iter().cycle().skip(start).take(self.masters.len());
        around.clone().find(|node| node.is_connected()).or_else(|| around.next())
    }

    /// The index of a master; adds a node that is not in `masters` yet.
    fn index(&mut self, node: &Node) -> u16 {
        let known = self.masters.iter().position(|master| master.address() == node.address());
        known.unwrap_or_else(|| {
            self.masters.push(node.clone());
            self.masters.len() - 1
        }) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::settings;
    use super::*;

    fn map(ranges: &[(u16, u16, &str)]) -> Map {
        let range = |&(first, last, master): &(u16, u16, &str)| Range {
            slots: first..=last,
            master: Address::new(master, 1),
            replicas: vec![Address::new("replica", 1)],
        };
        let node = |address: &Address| Node::open("test", settings(&format!("redis://{address}"))?);
        Map::new(ranges.iter().map(range).collect(), Instant::now(), node).unwrap()
    }

    fn owner(map: &Map, slot: u16) -> Option<&str> {
        Some(&*map.owner(slot)?.address()?.host)
    }

    #[tokio::test]
    async fn each_slot_has_the_master_of_its_range_or_none() {
        let mut map = map(&[(0, 99, "a"), (100, 199, "b"), (300, 16_383, "a")]);
        assert_eq!(["a", "b", "a"].map(Some), [99, 100, 300].map(|slot| owner(&map, slot)));
        assert_eq!((owner(&map, 250), owner(&map, u16::MAX)), (None, None));
        assert_eq!((map.unserved(), map.masters().len(), map.replicas().len()), (100, 2, 1));
        let b = map.owner(100).unwrap().clone();
        map.set(250, &b);
        assert_eq!((owner(&map, 250), map.unserved()), (Some("b"), 99));
        assert!(map.any().is_some());
    }

    #[tokio::test]
    async fn the_fingerprint_tells_one_layout_from_another() {
        let fingerprints = [
            map(&[(0, 99, "a"), (100, 16_383, "b")]),
            map(&[(0, 100, "a"), (101, 16_383, "b")]),
            map(&[(0, 99, "b"), (100, 16_383, "a")]),
            map(&[(0, 99, "a"), (100, 16_382, "b")]),
        ]
        .map(|map| map.fingerprint());
        let again = map(&[(100, 16_383, "b"), (0, 50, "a"), (51, 99, "a")]).fingerprint();
        assert_eq!(again, fingerprints[0]);
        assert!(fingerprints.iter().skip(1).all(|other| *other != fingerprints[0]));
    }
}
