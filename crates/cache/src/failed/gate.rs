//! Whether the queue server keeps what it is given: read from the server, judged by the rule, bound to one connection.

use std::collections::HashMap;
use std::time::Duration;

use redis::Value;
use tokio::time::Instant;

use super::{Durability, FailedQueueSettings, Refusal};
use crate::CacheError;
use crate::connection::Live;
use crate::script::Call;

/// What a push needs to be able to wait for a disk that is synced every second. With less, `everysec` is taken at its word.
const SYNC_WITHIN: Duration = Duration::from_millis(1500);
/// Settings may change under a living connection: they are read again after this long.
const MAX_AGE: Duration = Duration::from_secs(30);

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

/// The server's settings, `None` where it does not tell.
#[derive(Debug, Clone, Default)]
struct Found {
    policy: Option<String>,
    aof: Option<String>,
    fsync: Option<String>,
    role: Option<String>,
    replicas: u32,
    version: (u32, u32),
}

impl Gate {
    /// Whether it still speaks for this connection.
    pub(super) fn holds(&self, live: &Live) -> bool {
        self.generation == live.generation && self.read_at.elapsed() < MAX_AGE
    }

    /// Asks the server on this very connection.
    pub(super) async fn read(
        live: &Live,
        settings: FailedQueueSettings,
        deadline: Instant,
    ) -> Result<Self, CacheError> {
        let config = |name: &str| Call::new("CONFIG").arg("GET").arg(name);
        let calls = vec![
            config("maxmemory-policy"),
            config("appendonly"),
            config("appendfsync"),
            Call::new("INFO").arg("replication"),
            Call::new("INFO").arg("server"),
        ];
        let mut answers = live.run(calls, deadline).await?.into_iter();
        let mut setting = |name: &str| -> Option<String> {
            let value = answers.next()?.ok()?;
            redis::from_redis_value::<HashMap<String, String>>(value).ok()?.remove(name)
        };
        let (policy, aof, fsync) = (setting("maxmemory-policy"), setting("appendonly"), setting("appendfsync"));
        let mut info = || text(answers.next()).unwrap_or_default();
        let (replication, server) = (info(), info());
        let found = Found {
            policy,
            aof,
            fsync,
            role: field(&replication, "role").map(str::to_owned),
            replicas: replication
                .lines()
                .filter(|line| line.starts_with("slave") && line.contains("state=online"))
                .count() as u32,
            version: version(field(&server, "redis_version").unwrap_or_default()),
        };
        let verdict = found.judge(settings);
        Ok(Self {
            generation: live.generation,
            read_at: Instant::now(),
            run_id: field(&server, "run_id").unwrap_or_default().to_owned(),
            everysec: found.fsync.as_deref() == Some("everysec") && verdict.as_ref().is_ok_and(|fence| !fence.disk),
            verdict,
        })
    }
}

impl Found {
    /// The rule: an append-only file that is synced at least every second, no eviction, and a server that takes writes.
    fn judge(&self, settings: FailedQueueSettings) -> Result<Fence, Refusal> {
        let readable = |value: &Option<String>, name: &'static str| match (value, settings.durability) {
            (Some(value), _) => Ok(Some(value.clone())),
            (None, Durability::Assumed) => Ok(None),
            (None, Durability::Checked) => Err(Refusal::Unreadable(name)),
        };
        if let Some(role) = readable(&self.role, "role")?
            && role != "master"
        {
            return Err(Refusal::Replica);
        }
        if let Some(policy) = readable(&self.policy, "maxmemory-policy")?
            && policy != "noeviction"
        {
            return Err(Refusal::Evicts(policy));
        }
        if let Some(aof) = readable(&self.aof, "appendonly")?
            && aof != "yes"
        {
            return Err(Refusal::NoAppendOnlyFile);
        }
        let disk = match readable(&self.fsync, "appendfsync")?.as_deref() {
            None | Some("always") => false,
            Some("everysec") => self.version >= (7, 2) && settings.timeout >= SYNC_WITHIN,
            Some(_) => return Err(Refusal::NeverSynced),
        };
        Ok(Fence { replicas: self.replicas, disk })
    }
}

fn text(answer: Option<Result<Value, CacheError>>) -> Option<String> {
    redis::from_redis_value(answer?.ok()?).ok()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED: FailedQueueSettings =
        FailedQueueSettings { timeout: Duration::from_secs(1), durability: Durability::Checked };
    const ASSUMED: FailedQueueSettings = FailedQueueSettings { durability: Durability::Assumed, ..CHECKED };

    fn durable() -> Found {
        let some = |text: &str| Some(text.to_owned());
        Found {
            policy: some("noeviction"),
            aof: some("yes"),
            fsync: some("always"),
            role: some("master"),
            replicas: 0,
            version: (7, 0),
        }
    }

    #[test]
    fn only_a_synced_file_without_eviction_on_a_master_will_do() {
        let judge = |found: Found| found.judge(CHECKED);
        assert_eq!(judge(durable()), Ok(Fence::default()));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(judge(Found { aof: some("no"), ..durable() }), Err(Refusal::NoAppendOnlyFile));
        assert_eq!(judge(Found { fsync: some("no"), ..durable() }), Err(Refusal::NeverSynced));
        assert_eq!(judge(Found { role: some("slave"), ..durable() }), Err(Refusal::Replica));
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let refusal = Refusal::Evicts(policy.into());
            assert_eq!(judge(Found { policy: some(policy), ..durable() }), Err(refusal));
        }
        assert_eq!(judge(Found { aof: None, ..durable() }), Err(Refusal::Unreadable("appendonly")));
    }

    #[test]
    fn what_cannot_be_read_may_be_assumed_but_nothing_that_was_read() {
        assert_eq!(Found::default().judge(ASSUMED), Ok(Fence::default()));
        let found = Found { aof: Some("no".into()), ..Found::default() };
        assert_eq!(found.judge(ASSUMED), Err(Refusal::NoAppendOnlyFile));
    }

    #[test]
    fn replicas_and_the_disk_are_waited_for_where_that_can_be_done() {
        let everysec = Found { fsync: Some("everysec".into()), replicas: 2, ..durable() };
        assert_eq!(everysec.judge(CHECKED), Ok(Fence { replicas: 2, disk: false }));
        let newer = Found { version: version("7.2.4"), ..everysec };
        let patient = FailedQueueSettings { timeout: SYNC_WITHIN, ..CHECKED };
        assert_eq!(newer.judge(patient), Ok(Fence { replicas: 2, disk: true }));
        assert_eq!(newer.judge(CHECKED), Ok(Fence { replicas: 2, disk: false }), "a sync may come after the deadline");
    }
}
