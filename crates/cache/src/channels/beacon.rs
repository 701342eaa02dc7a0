//! What is known of the process's own beacon, server by server.
//!
//! In a cluster a publication goes from the node where it is made to the one that is listened to. Each master publishes a beacon of
//! its own, so that a line between two nodes that carries nothing is noticed: what a node has taken, and is not heard, counts as
//! silence. A master that was restarted or replaced may have taken publications with it; whoever listens elsewhere would not know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The beacons of all servers.
#[derive(Default)]
pub(super) struct Beacons {
    servers: Mutex<HashMap<Arc<str>, Beacon>>,
    /// A server was lost, and perhaps publications with it.
    pub(super) lost: Notify,
}

struct Beacon {
    /// Of the connection that it was published on.
    generation: u64,
    /// The first publication since the last one that was heard.
    unheard: Option<Instant>,
}

impl Beacons {
    /// A server has taken the beacon, on this connection.
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

    /// There are no other servers than these.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut servers = self.lock();
        let before = servers.len();
        servers.retain(|server, _| is_there(server));
        if servers.len() < before {
            self.lost.notify_one();
        }
    }

    /// A server's beacon is heard.
    pub(super) fn heard(&self, server: &[u8]) {
        let mut servers = self.lock();
        if let Some(beacon) = std::str::from_utf8(server).ok().and_then(|server| servers.get_mut(server)) {
            beacon.unheard = None;
        }
    }

    /// A new subscription can't have heard what was published before.
    pub(super) fn listen_anew(&self) {
        self.lock().values_mut().for_each(|beacon| beacon.unheard = None);
    }

    /// Whether some server has taken beacons for so long without one being heard.
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
