//! Detects that a server has lost its data, by the epoch of a list without messages on each server.
//!
//! See `docs/decisions/cache-restarts.md` and `docs/decisions/moved-slots.md`.

use std::time::Duration;

use holdfast_message::ChatId;
use holdfast_redis::RedisError;
use tokio::time::Instant;

use super::RecentList;

/// Groups that no user can create, because the ids of groups are random. So many that every master of a cluster has one of them.
fn canaries() -> impl Iterator<Item = ChatId> {
    (0..4096).filter_map(|number| ChatId::parse(&format!("g_00000000-0000-0000-0000-{number:012x}")).ok())
}

impl RecentList {
    /// Identifies the data that the servers hold. When it changes, lists may have begun a new epoch: a server was restarted, replaced or
    /// flushed, or keys have moved to another master.
    pub async fn data_generation(&self, budget: Duration) -> Result<String, RedisError> {
        let deadline = Instant::now() + budget;
        let layout = self.connection.layout(deadline).await?;
        let canaries = canaries().map(|canary| (self.keys.recent(&canary), canary));
        let canaries = self.connection.one_on_each(canaries, deadline).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let mut name = format!("{layout:x}");
        for page in self.read_batch(&canaries.iter().collect::<Vec<_>>(), left).await {
            name.push(' ');
            name.push_str(&page?.position.epoch);
        }
        Ok(name)
    }
}
