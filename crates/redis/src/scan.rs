//! Scans over the keys of all servers: for operators and repairs, never on the path of a request.

use std::time::Duration;

use tokio::time::Instant;

use crate::RedisError;
use crate::connection::{Connection, Node};
use crate::script::{Call, parse};

/// The keys that one step of a scan found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The names of the keys.
    pub names: Vec<String>,
    /// How many further keys have names that are not UTF-8: they are not Holdfast's.
    pub foreign: usize,
}

/// A scan over the keys that match a pattern, on every server. It finds each key that exists throughout and stays on its node. A key that
/// moves to another node meanwhile may be missed, and any key may be found twice.
pub struct Scan {
    connection: Connection,
    pattern: String,
    /// The next cursor on each server that is not finished.
    ahead: Vec<(Node, u64)>,
}

impl Scan {
    /// Starts a scan.
    ///
    /// # Errors
    /// A slot of the cluster has no master, or the map can't be read within `budget`.
    pub async fn start(
        connection: &Connection,
        pattern: impl Into<String>,
        budget: Duration,
    ) -> Result<Self, RedisError> {
        let masters = connection.every_master(Instant::now() + budget).await?;
        let ahead = masters.into_iter().map(|node| (node, 0)).collect();
        Ok(Self { connection: connection.clone(), pattern: pattern.into(), ahead })
    }

    /// Examines about `keys` more keys and returns those that match; `None` at the end.
    ///
    /// # Errors
    /// There was no answer within `budget`. The scan can't be continued on that server.
    pub async fn next(&mut self, keys: usize, budget: Duration) -> Result<Option<Page>, RedisError> {
        let Some((node, at)) = self.ahead.pop() else { return Ok(None) };
        let scan = Call::new("SCAN").arg(at).arg("MATCH").arg(&self.pattern).arg("COUNT").arg(keys.max(1));
        let answer = self.connection.run_at("sweep", &node, scan, Instant::now() + budget).await;
        let (next, found) = parse::<(u64, Vec<Vec<u8>>)>(answer?)?;
        if next != 0 {
            self.ahead.push((node, next));
        }
        Ok(Some(Page::of(found)))
    }
}

impl Page {
    /// From the names in an answer to `SCAN`. On a server that others use, too, names may be any bytes.
    pub fn of(found: Vec<Vec<u8>>) -> Self {
        let all = found.len();
        let names: Vec<_> = found.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        Self { foreign: all - names.len(), names }
    }

    /// How many keys it found.
    pub fn len(&self) -> usize {
        self.names.len() + self.foreign
    }

    /// Whether it found none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
