//! Walking over the cache's keys: for operators, never on a request's path.

use std::time::Duration;

use tokio::time::Instant;

use crate::CacheError;
use crate::connection::{Connection, Node};
use crate::script::{Call, parse};

/// What one step of a walk met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys, by name.
    pub names: Vec<String>,
    /// Further keys whose names are no UTF-8, as none of [`Keys`](crate::Keys) is.
    pub foreign: usize,
}

/// A walk over the keys that match a pattern, on every server. It meets each key that is there all the while and stays where it is;
/// one that moves to another node meanwhile may be met by none, and any may be met twice.
pub struct Sweep {
    connection: Connection,
    pattern: String,
    /// Where it goes on, on each server that it has not come to the end of.
    ahead: Vec<(Node, u64)>,
}

impl Sweep {
    /// Starts a walk.
    pub async fn start(
        connection: &Connection,
        pattern: impl Into<String>,
        budget: Duration,
    ) -> Result<Self, CacheError> {
        let masters = connection.every_master(Instant::now() + budget).await?;
        let ahead = masters.into_iter().map(|node| (node, 0)).collect();
        Ok(Self { connection: connection.clone(), pattern: pattern.into(), ahead })
    }

    /// Looks at about so many keys more, and gives those that match; `None` at the end.
    pub async fn next(&mut self, keys: usize, budget: Duration) -> Result<Option<Page>, CacheError> {
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
    /// Names that `SCAN` answered: a server that others use, too, may hold any bytes.
    pub(crate) fn of(found: Vec<Vec<u8>>) -> Self {
        let all = found.len();
        let names: Vec<_> = found.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect();
        Self { foreign: all - names.len(), names }
    }

    /// How many keys it met.
    pub fn len(&self) -> usize {
        self.names.len() + self.foreign
    }

    /// Whether it met none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
