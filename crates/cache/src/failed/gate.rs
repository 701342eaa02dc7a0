//! Whether the queue server keeps what it is given: read from the server, judged by the rule, bound to one connection.

use std::time::Duration;

use tokio::time::Instant;

use super::{Durability, FailedQueueSettings, Refusal};
use crate::CacheError;
use crate::connection::Live;
use crate::inspect::ServerFacts;

/// What a push needs to be able to wait for a disk that is synced every second: for the sync that others wait for, then for its own. With
/// less, `everysec` is taken at its word.
const SYNC_WITHIN: Duration = Duration::from_millis(2500);
/// Settings may change under a living connection: they are read again after this long.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Replicas come and go by themselves: too few of them are looked for again after this long.
const REPLICAS_MAX_AGE: Duration = Duration::from_secs(1);

/// What was found on one connection.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    generation: u64,
    read_at: Instant,
    /// The server process that was asked.
    pub(super) run_id: String,
    pub(super) verdict: Result<Fence, Refusal>,
    /// Accepted, but a power failure may take the last second.
    pub(super) everysec: bool,
}

/// What has to be waited for after a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fence {
    /// So many replicas must have it.
    pub(super) replicas: u32,
    /// The server can say when its own disk has it.
    pub(super) disk: bool,
}

impl Fence {
    /// What satisfies both.
    pub(super) fn and(self, other: Self) -> Self {
        Self { replicas: self.replicas.max(other.replicas), disk: self.disk || other.disk }
    }

    pub(super) fn is_needed(self) -> bool {
        self != Self::default()
    }
}

impl Gate {
    /// Whether it still speaks for this connection.
    pub(super) fn holds(&self, live: &Live) -> bool {
        let max_age = match self.verdict {
            Err(Refusal::TooFewReplicas { .. }) => REPLICAS_MAX_AGE,
            _ => MAX_AGE,
        };
        self.generation == live.generation && self.read_at.elapsed() < max_age
    }

    /// Why the server would not keep what it is given, if that was seen lately.
    pub(super) fn forgets(&self) -> Option<&Refusal> {
        let lately = self.read_at.elapsed() < 2 * MAX_AGE;
        // A replica takes nothing, and says so; its master is asked instead. And one that is short of replicas forgets nothing.
        let forgets = |refusal: &&Refusal| !matches!(refusal, Refusal::Replica | Refusal::TooFewReplicas { .. });
        self.verdict.as_ref().err().filter(|refusal| lately && forgets(refusal))
    }

    /// Asks the server on this very connection.
    pub(super) async fn read(
        live: &Live,
        settings: FailedQueueSettings,
        deadline: Instant,
    ) -> Result<Self, CacheError> {
        let found = ServerFacts::read_on(live, deadline).await?;
        let verdict = judge(&found, settings);
        Ok(Self {
            generation: live.generation,
            read_at: Instant::now(),
            everysec: found.fsync.as_deref() == Some("everysec") && verdict.as_ref().is_ok_and(|fence| !fence.disk),
            run_id: found.run_id,
            verdict,
        })
    }
}

/// The rule: an append-only file that is synced at least every second, no eviction, a server that takes writes, and as many replicas
/// as the operator wants. Without that number a server that has lost its replicas looks like one that never had any.
fn judge(found: &ServerFacts, settings: FailedQueueSettings) -> Result<Fence, Refusal> {
    let readable = |value: &Option<String>, name: &'static str| match (value, settings.durability) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Durability::Assumed) => Ok(None),
        (None, Durability::Checked) => Err(Refusal::Unreadable(name)),
    };
    if let Some(role) = readable(&found.role, "role")?
        && role != "master"
    {
        return Err(Refusal::Replica);
    }
    if let Some(policy) = readable(&found.policy, "maxmemory-policy")?
        && policy != "noeviction"
    {
        return Err(Refusal::Evicts(policy));
    }
    if let Some(aof) = readable(&found.aof, "appendonly")?
        && aof != "yes"
    {
        return Err(Refusal::NoAppendOnlyFile);
    }
    let disk = match readable(&found.fsync, "appendfsync")?.as_deref() {
        None | Some("always") => false,
        Some("everysec") => found.version >= (7, 2) && settings.timeout >= SYNC_WITHIN,
        Some(_) => return Err(Refusal::NeverSynced),
    };
    if found.replicas < settings.min_replicas {
        return Err(Refusal::TooFewReplicas { online: found.replicas, wanted: settings.min_replicas });
    }
    Ok(Fence { replicas: found.replicas, disk })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED: FailedQueueSettings =
        FailedQueueSettings { timeout: Duration::from_secs(1), durability: Durability::Checked, min_replicas: 0 };
    const ASSUMED: FailedQueueSettings = FailedQueueSettings { durability: Durability::Assumed, ..CHECKED };

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn durable() -> ServerFacts {
        ServerFacts {
            policy: some("noeviction"),
            aof: some("yes"),
            fsync: some("always"),
            role: some("master"),
            version: (7, 0),
            ..ServerFacts::default()
        }
    }

    #[test]
    fn only_a_synced_file_without_eviction_on_a_master_will_do() {
        let judge = |found: ServerFacts| judge(&found, CHECKED);
        assert_eq!(judge(durable()), Ok(Fence::default()));
        assert_eq!(judge(ServerFacts { aof: some("no"), ..durable() }), Err(Refusal::NoAppendOnlyFile));
        assert_eq!(judge(ServerFacts { fsync: some("no"), ..durable() }), Err(Refusal::NeverSynced));
        assert_eq!(judge(ServerFacts { role: some("slave"), ..durable() }), Err(Refusal::Replica));
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let refusal = Refusal::Evicts(policy.into());
            assert_eq!(judge(ServerFacts { policy: some(policy), ..durable() }), Err(refusal));
        }
        assert_eq!(judge(ServerFacts { aof: None, ..durable() }), Err(Refusal::Unreadable("appendonly")));
    }

    #[test]
    fn what_cannot_be_read_may_be_assumed_but_nothing_that_was_read() {
        assert_eq!(judge(&ServerFacts::default(), ASSUMED), Ok(Fence::default()));
        let found = ServerFacts { aof: some("no"), ..ServerFacts::default() };
        assert_eq!(judge(&found, ASSUMED), Err(Refusal::NoAppendOnlyFile));
    }

    #[test]
    fn replicas_and_the_disk_are_waited_for_where_that_can_be_done() {
        let everysec = ServerFacts { fsync: some("everysec"), replicas: 2, ..durable() };
        assert_eq!(judge(&everysec, CHECKED), Ok(Fence { replicas: 2, disk: false }));
        let newer = ServerFacts { version: (7, 2), ..everysec.clone() };
        let patient = FailedQueueSettings { timeout: SYNC_WITHIN, ..CHECKED };
        assert_eq!(judge(&newer, patient), Ok(Fence { replicas: 2, disk: true }));
        let demanding = |min_replicas| FailedQueueSettings { min_replicas, ..CHECKED };
        assert_eq!(judge(&everysec, demanding(1)), Ok(Fence { replicas: 2, disk: false }), "all that are there");
        assert_eq!(judge(&everysec, demanding(3)), Err(Refusal::TooFewReplicas { online: 2, wanted: 3 }));
        let silent = judge(&ServerFacts::default(), FailedQueueSettings { min_replicas: 1, ..ASSUMED });
        assert_eq!(silent, Err(Refusal::TooFewReplicas { online: 0, wanted: 1 }), "nobody vouches for replicas");
        let late = Ok(Fence { replicas: 2, disk: false });
        assert_eq!(judge(&newer, CHECKED), late, "a sync may come after the deadline");
    }
}
