//! Scans over the keys of all queue servers, in bounded steps. Nothing on the path of a request scans.

use std::time::Duration;

use holdfast_redis::{Call, Node, Page, RedisError, parse};
use tokio::time::Instant;

use crate::queue::FailedQueue;

/// A position in the scan over one server's keys.
#[derive(Debug, Clone)]
pub struct Cursor {
    node: Node,
    at: u64,
}

impl Cursor {
    /// The name of the server that is scanned.
    pub fn server(&self) -> &str {
        self.node.name()
    }
}

impl FailedQueue {
    /// The start positions: one for the keys of each server. Together the scans find every key that stays on its node; a key that moves
    /// to another node meanwhile may be missed.
    pub async fn cursors(&self, budget: Duration) -> Result<Vec<Cursor>, RedisError> {
        let masters = self.connection.masters(Instant::now() + budget).await?;
        Ok(masters.into_iter().map(|node| Cursor { node, at: 0 }).collect())
    }

    /// Examines about `keys` keys. Returns the next position, and the keys of queues and dead lists that it found.
    pub(crate) async fn scan(
        &self,
        cursor: Cursor,
        keys: usize,
        deadline: Instant,
    ) -> Result<(Option<Cursor>, Vec<String>), RedisError> {
        let Cursor { node, at } = cursor;
        let scan = Call::new("SCAN").arg(at).arg("MATCH").arg(self.keys.failed_pattern()).arg("COUNT").arg(keys.max(1));
        let (next, found) = parse(self.connection.run_at("failed_scan", &node, scan, deadline).await?)?;
        Ok(((next != 0).then_some(Cursor { node, at: next }), Page::of(found).names))
    }
}
