//! Walking through the servers' keys, in bounded steps. Nothing on a request's path does.

use std::time::Duration;

use tokio::time::Instant;

use super::FailedQueue;
use crate::CacheError;
use crate::connection::Node;
use crate::script::{Call, parse};
use crate::sweep::Page;

/// How far a walk through one server's keys has come.
#[derive(Debug, Clone)]
pub struct Cursor {
    node: Node,
    at: u64,
}

impl Cursor {
    /// The name of the server that is walked through.
    pub fn server(&self) -> &str {
        self.node.name()
    }
}

impl FailedQueue {
    /// Where walks begin: one through the keys of each server. Together they meet every key that stays where it is; one that moves
    /// to another node meanwhile may be met by none.
    pub async fn cursors(&self, budget: Duration) -> Result<Vec<Cursor>, CacheError> {
        let masters = self.connection.masters(Instant::now() + budget).await?;
        Ok(masters.into_iter().map(|node| Cursor { node, at: 0 }).collect())
    }

    /// Looks at about so many keys for those of queues and dead lists; says where to go on.
    pub(super) async fn scan(
        &self,
        cursor: Cursor,
        keys: usize,
        deadline: Instant,
    ) -> Result<(Option<Cursor>, Vec<String>), CacheError> {
        let Cursor { node, at } = cursor;
        let scan = Call::new("SCAN").arg(at).arg("MATCH").arg(self.keys.failed_pattern()).arg("COUNT").arg(keys.max(1));
        let (next, found) = parse(self.connection.run_at("failed_scan", &node, scan, deadline).await?)?;
        Ok(((next != 0).then_some(Cursor { node, at: next }), Page::of(found).names))
    }
}
