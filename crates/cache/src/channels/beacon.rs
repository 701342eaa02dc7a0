//! The state of the process's own beacon, for each server.
//!
//! In a cluster a publication travels from the node where it is made to the node that is subscribed to. The beacon is published through each
//! master, so that a broken link between two nodes is noticed: a beacon that a node has taken and that is not received counts as silence. A
//! master that was restarted or replaced may have lost publications; a subscriber to another node would not notice that by itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The beacons of all servers.
#[derive(Default)]
pub(super) struct Beacons {
    servers: Mutex<HashMap<Arc<str>, Beacon>>,
    /// Notified when a server was lost, and perhaps publications with it.
    pub(super) lost: Notify,
}

struct Beacon {
    /// The generation of the connection that it was published on.
    generation: u64,
    /// When the first beacon was published that was not received yet.
    unheard: Option<Instant>,
}

impl Beacons {
    /// Notes that a server has taken the beacon on this connection.
    pub(super) fn taken(&self, server: &Arc<str>, generation: u64) {
        let now = Instant::now();
        let mut servers = self.lock();
        let beacon = servers.entry(server.clone()).or_insert(Beacon { generation, unheard: None });
        if beacon.generation != generation {
            *beacon = Beacon { generation, unheard: None };
            self.lost.notify_one();
        }
        beacon.unheard.get_or_insert(now);
    }

    /// Removes servers that no longer exist.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut servers = self.lock();
        let before = servers.len();
        servers.retain(|server, _| is_there(server));
        if servers.len() < before {
            self.lost.notify_one();
        }
    }

    /// Notes that the beacon of a server was received.
    pub(super) fn heard(&self, server: &[u8]) {
        let mut servers = self.lock();
        if let Some(beacon) = std::str::from_utf8(server).ok().and_then(|server| servers.get_mut(server)) {
            beacon.unheard = None;
        }
    }

    /// Ignores what was published before, because a new subscription can't receive it.
    pub(super) fn listen_anew(&self) {
        self.lock().values_mut().for_each(|beacon| beacon.unheard = None);
    }

    /// Whether any server has taken beacons for this long without one being received.
    pub(super) fn is_silent(&self, for_long: Duration) -> bool {
        self.lock().values().any(|beacon| beacon.unheard.is_some_and(|since| since.elapsed() > for_long))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Beacon>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_lost(beacons: &Beacons) -> bool {
        beacons.lost.notified().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn one_node_that_is_not_heard_is_silence_whoever_else_is() {
        let beacons = Beacons::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        for _ in 0..4 {
            beacons.taken(&one, 1);
            beacons.taken(&other, 2);
            beacons.heard(b"one");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(beacons.is_silent(Duration::from_secs(3)));
        assert!(!beacons.is_silent(Duration::from_secs(5)));
        beacons.heard(b"other");
        assert!(!beacons.is_silent(Duration::from_secs(3)));
        beacons.heard(b"nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_behind_another_connection_or_gone_may_have_lost_something() {
        let beacons = Beacons::default();
        let (one, other): (Arc<str>, Arc<str>) = ("one".into(), "other".into());
        beacons.taken(&one, 1);
        beacons.taken(&other, 2);
        beacons.retain(|_| true);
        assert!(!is_lost(&beacons));
        beacons.taken(&one, 3);
        assert!(is_lost(&beacons));
        beacons.retain(|server| server == "one");
        assert!(is_lost(&beacons));
        assert!(!is_lost(&beacons));
    }
}
