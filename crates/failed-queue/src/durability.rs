//! Whether a queue server retains what is pushed: its settings and state, judged by the rule of [`judge`].
//!
//! A check is bound to one connection and to the state that the server was in. Settings are read again after every reconnect and every half
//! minute. The state, which changes by itself (the replicas, the role, the append-only file), is read in the same pipeline as each push,
//! after it; if it differs from that of the check, the server is checked again before the push is answered.
//!
//! **An append-only file that is switched on while the server runs retains nothing before its first rewrite is complete**, although the
//! server says `yes` at once, and from outside that rewrite looks like any later one. A rewrite counts as a later one only in two cases:
//! this process of the server, with the same replication history and no setting changed since, was seen with a complete file
//! ([`CompleteFile`]); or nobody has changed a setting since the server started.
//!
//! See `docs/decisions/append-only-file.md` and `docs/decisions/waiting-for-the-disk.md`.

use std::time::Duration;

use holdfast_redis::Live;
use holdfast_redis::server_info::{ConfigCalls, ServerFacts, ServerState};
use tokio::time::Instant;

use crate::outcome::Refusal;
use crate::settings::{Durability, FailedQueueSettings};
use crate::warning::Warning;

/// The least timeout with which a push can wait for a disk that is synced every second: for the sync in progress, then for its own. With a
/// shorter one, `everysec` is not waited for.
const SYNC_WITHIN: Duration = Duration::from_millis(2500);
/// The age at which settings are read again on a connection that is still established.
const MAX_AGE: Duration = Duration::from_secs(30);
/// The age at which a server is checked again after a refusal that can pass by itself: a rewrite, too few replicas.
const PASSING_MAX_AGE: Duration = Duration::from_secs(1);

/// The result of checking a server on one connection.
#[derive(Debug, Clone)]
pub(crate) struct DurabilityCheck {
    generation: u64,
    read_at: Instant,
    /// The id of the server process.
    pub(crate) run_id: String,
    /// The state that the server was in.
    pub(crate) state: ServerState,
    /// The confirmations that each push has to wait for, or why pushes are refused.
    pub(crate) verdict: Result<Confirmations, Refusal>,
    /// What an operator should know, with either verdict.
    pub(crate) warnings: Vec<Warning>,
}

/// A server process that was seen with a complete append-only file. The file is complete for as long as all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CompleteFile {
    run_id: String,
    /// A server that becomes a replica starts a new file.
    replication_id: Option<String>,
    /// How often its settings were changed.
    config_calls: Option<ConfigCalls>,
}

impl CompleteFile {
    /// What is known after these facts were read, given what was known before. `None`: the file may be incomplete.
    pub(crate) fn after(found: &ServerFacts, before: Option<Self>) -> Option<Self> {
        let ServerState { role, replication_id, append_only, .. } = &found.state;
        let now = Self {
            run_id: found.run_id.clone(),
            replication_id: replication_id.clone(),
            config_calls: found.config_calls,
        };
        let append_only = append_only.filter(|append_only| append_only.enabled && role.as_deref() != Some("slave"))?;
        let complete = !append_only.rewriting || found.append_only_since_start() || before.as_ref() == Some(&now);
        complete.then_some(now)
    }
}

/// Who has to confirm a push, or who has confirmed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Confirmations {
    /// The number of replicas that have it.
    pub(crate) replicas: u32,
    /// Whether the server's own disk has synced it.
    pub(crate) disk: bool,
}

impl Confirmations {
    /// The confirmations that satisfy both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { replicas: self.replicas.max(other.replicas), disk: self.disk || other.disk }
    }

    /// Whether a push has to wait at all.
    pub(crate) fn is_needed(self) -> bool {
        self != Self::default()
    }

    /// Why `reached` is not enough; `None`: it is.
    pub(crate) fn missed(self, reached: Self) -> Option<Refusal> {
        if reached.replicas < self.replicas {
            return Some(Refusal::Replicas { reached: reached.replicas, wanted: self.replicas });
        }
        (self.disk && !reached.disk).then_some(Refusal::NotSynced)
    }
}

impl DurabilityCheck {
    /// Whether the check still holds for this connection.
    pub(crate) fn is_valid_for(&self, live: &Live) -> bool {
        let max_age = match self.verdict {
            Err(
                Refusal::TooFewReplicas { .. } | Refusal::FirstRewrite | Refusal::WritesFail | Refusal::SyncSuspended,
            ) => PASSING_MAX_AGE,
            _ => MAX_AGE,
        };
        self.generation == live.generation && self.read_at.elapsed() < max_age
    }

    /// Why the server would lose entries, if a recent check found that.
    pub(crate) fn would_lose(&self) -> Option<&Refusal> {
        let recent = self.read_at.elapsed() < 2 * MAX_AGE;
        // A replica takes no writes and says so, and a server that lacks replicas loses nothing.
        let loses = |refusal: &&Refusal| !matches!(refusal, Refusal::Replica | Refusal::TooFewReplicas { .. });
        self.verdict.as_ref().err().filter(|refusal| recent && loses(refusal))
    }

    /// The check of a server with these facts on this connection.
    pub(crate) fn of(live: &Live, found: ServerFacts, settings: FailedQueueSettings, complete: bool) -> Self {
        let verdict = judge(&found, settings, complete);
        Self {
            generation: live.generation,
            read_at: Instant::now(),
            warnings: Warning::all(&found, verdict.as_ref().is_ok_and(|required| required.disk)),
            run_id: found.run_id,
            state: found.state,
            verdict,
        }
    }
}

/// The rule: an append-only file that is synced at least every second, no eviction, a server that takes writes, and as many replicas as
/// the operator demands. Without that number a server that has lost its replicas looks like one that never had any. `complete`: the
/// append-only file is complete.
fn judge(found: &ServerFacts, settings: FailedQueueSettings, complete: bool) -> Result<Confirmations, Refusal> {
    let readable = |value: &Option<String>, name: &'static str| match (value, settings.durability) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Durability::Assumed) => Ok(None),
        (None, Durability::Checked) => Err(Refusal::Unreadable(name)),
    };
    let ServerState { role, replicas, append_only, .. } = &found.state;
    if let Some(role) = readable(role, "role")?
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
    match append_only {
        None if settings.durability == Durability::Checked => return Err(Refusal::Unreadable("INFO persistence")),
        // If the setting can't be read, the operator vouches for something other than this server's file.
        Some(append_only) if !append_only.enabled && found.aof.is_some() => return Err(Refusal::NoAppendOnlyFile),
        Some(append_only) if append_only.enabled && !complete => return Err(Refusal::FirstRewrite),
        Some(append_only) if append_only.write_failed => return Err(Refusal::WritesFail),
        // This equals `appendfsync no` meanwhile. If pushes wait for the disk, the wait itself notices it.
        Some(append_only) if append_only.has_child && found.no_sync_on_rewrite == Some(true) && !disk => {
            return Err(Refusal::SyncSuspended);
        }
        _ => {}
    }
    if *replicas < settings.min_replicas {
        return Err(Refusal::TooFewReplicas { online: *replicas, wanted: settings.min_replicas });
    }
    Ok(Confirmations { replicas: *replicas, disk })
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_redis::server_info::AppendOnly;

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
            state: state("master", 0, WRITTEN),
            version: (7, 0),
            ..ServerFacts::default()
        }
    }

    const WRITTEN: AppendOnly = AppendOnly {
        enabled: true,
        rewriting: false,
        rewrites: 0,
        has_child: false,
        write_failed: false,
        rewrite_failed: false,
    };
    const REWRITING: AppendOnly = AppendOnly { rewriting: true, rewrites: 1, has_child: true, ..WRITTEN };

    fn state(role: &str, replicas: u32, append_only: AppendOnly) -> ServerState {
        ServerState { role: some(role), replicas, replication_id: some("history"), append_only: Some(append_only) }
    }

    fn with(append_only: AppendOnly) -> ServerFacts {
        ServerFacts { state: state("master", 0, append_only), run_id: "process".into(), ..durable() }
    }

    #[test]
    fn only_a_synced_file_without_eviction_on_a_master_will_do() {
        let judge = |found: ServerFacts| judge(&found, CHECKED, true);
        assert_eq!(judge(durable()), Ok(Confirmations::default()));
        assert_eq!(judge(ServerFacts { aof: some("no"), ..durable() }), Err(Refusal::NoAppendOnlyFile));
        assert_eq!(judge(ServerFacts { fsync: some("no"), ..durable() }), Err(Refusal::NeverSynced));
        assert_eq!(judge(ServerFacts { state: state("slave", 0, WRITTEN), ..durable() }), Err(Refusal::Replica));
        for policy in ["allkeys-lru", "volatile-ttl"] {
            let refusal = Refusal::Evicts(policy.into());
            assert_eq!(judge(ServerFacts { policy: some(policy), ..durable() }), Err(refusal));
        }
        assert_eq!(judge(ServerFacts { aof: None, ..durable() }), Err(Refusal::Unreadable("appendonly")));
    }

    #[test]
    fn what_cannot_be_read_may_be_assumed_but_nothing_that_was_read() {
        assert_eq!(judge(&ServerFacts::default(), ASSUMED, false), Ok(Confirmations::default()));
        let found = ServerFacts { aof: some("no"), ..ServerFacts::default() };
        assert_eq!(judge(&found, ASSUMED, true), Err(Refusal::NoAppendOnlyFile));
    }

    #[test]
    fn replicas_and_the_disk_are_waited_for_where_that_can_be_done() {
        let everysec = ServerFacts { fsync: some("everysec"), state: state("master", 2, WRITTEN), ..durable() };
        assert_eq!(judge(&everysec, CHECKED, true), Ok(Confirmations { replicas: 2, disk: false }));
        let newer = ServerFacts { version: (7, 2), ..everysec.clone() };
        let patient = FailedQueueSettings { timeout: SYNC_WITHIN, ..CHECKED };
        assert_eq!(judge(&newer, patient, true), Ok(Confirmations { replicas: 2, disk: true }));
        let demanding = |min_replicas| FailedQueueSettings { min_replicas, ..CHECKED };
        assert_eq!(
            judge(&everysec, demanding(1), true),
            Ok(Confirmations { replicas: 2, disk: false }),
            "all that are there"
        );
        assert_eq!(judge(&everysec, demanding(3), true), Err(Refusal::TooFewReplicas { online: 2, wanted: 3 }));
        let silent = judge(&ServerFacts::default(), FailedQueueSettings { min_replicas: 1, ..ASSUMED }, true);
        assert_eq!(silent, Err(Refusal::TooFewReplicas { online: 0, wanted: 1 }), "nobody vouches for replicas");
        let late = Ok(Confirmations { replicas: 2, disk: false });
        assert_eq!(judge(&newer, CHECKED, true), late, "a sync may come after the deadline");
    }

    #[test]
    fn a_rewrite_is_a_later_one_only_if_the_file_was_seen_complete_and_nothing_has_changed_since() {
        let seen = CompleteFile::after(&with(WRITTEN), None);
        assert!(seen.is_some());
        assert_eq!(CompleteFile::after(&with(REWRITING), None), None, "it may have been switched on a moment ago");
        assert_eq!(CompleteFile::after(&with(REWRITING), seen.clone()), seen);
        let off = AppendOnly { enabled: false, ..WRITTEN };
        let forgotten = CompleteFile::after(&with(off), seen.clone());
        assert_eq!(CompleteFile::after(&with(REWRITING), forgotten), None, "off and on again");
        let was_replica =
            CompleteFile::after(&ServerFacts { state: state("slave", 0, WRITTEN), ..with(WRITTEN) }, seen.clone());
        assert_eq!(was_replica, None);
        let calls = |set, reset| Some(ConfigCalls { set, rewrite: 0, reset });
        for (what, unlike) in [
            ("another process", ServerFacts { run_id: "other".into(), ..with(REWRITING) }),
            ("another history", {
                let state = ServerState { replication_id: some("other"), ..state("master", 0, REWRITING) };
                ServerFacts { state, ..with(REWRITING) }
            }),
            ("off and on again, unseen", ServerFacts { config_calls: calls(2, 0), ..with(REWRITING) }),
        ] {
            assert_eq!(CompleteFile::after(&unlike, seen.clone()), None, "{what}");
        }
        // One that nobody has touched had its file from the start.
        let untouched = ServerFacts { config_calls: calls(0, 0), ..with(REWRITING) };
        assert!(CompleteFile::after(&untouched, None).is_some());
        for touched in [
            ServerFacts { was_replica: true, ..untouched.clone() },
            ServerFacts { config_calls: calls(0, 1), ..untouched.clone() },
            ServerFacts { config_calls: None, ..untouched },
        ] {
            assert_eq!(CompleteFile::after(&touched, None), None);
        }
    }

    #[test]
    fn a_file_that_does_not_hold_everything_or_is_not_written_is_refused() {
        assert_eq!(judge(&with(REWRITING), CHECKED, false), Err(Refusal::FirstRewrite));
        assert_eq!(judge(&with(REWRITING), ASSUMED, false), Err(Refusal::FirstRewrite), "it was read");
        assert_eq!(judge(&with(REWRITING), CHECKED, true), Ok(Confirmations::default()));
        let failing = with(AppendOnly { write_failed: true, ..WRITTEN });
        assert_eq!(judge(&failing, CHECKED, true), Err(Refusal::WritesFail));
        let growing = with(AppendOnly { rewrite_failed: true, ..WRITTEN });
        assert_eq!(
            judge(&growing, CHECKED, true),
            Ok(Confirmations::default()),
            "what is appended is retained all the same"
        );
        let off = with(AppendOnly { enabled: false, ..WRITTEN });
        assert_eq!(judge(&off, CHECKED, false), Err(Refusal::NoAppendOnlyFile), "whatever the setting says");
        assert_eq!(
            judge(&ServerFacts { aof: None, ..off }, ASSUMED, false),
            Ok(Confirmations::default()),
            "a managed server"
        );
        let silent = ServerFacts { state: ServerState { append_only: None, ..durable().state }, ..durable() };
        assert_eq!(judge(&silent, CHECKED, false), Err(Refusal::Unreadable("INFO persistence")));
        assert_eq!(judge(&silent, ASSUMED, false), Ok(Confirmations::default()));
    }

    #[test]
    fn a_file_that_is_not_synced_while_it_is_written_anew_is_refused_for_so_long() {
        let lax = |append_only| ServerFacts { no_sync_on_rewrite: Some(true), ..with(append_only) };
        assert_eq!(judge(&lax(WRITTEN), CHECKED, true), Ok(Confirmations::default()));
        assert_eq!(judge(&lax(REWRITING), CHECKED, true), Err(Refusal::SyncSuspended));
        let snapshot = AppendOnly { has_child: true, ..WRITTEN };
        assert_eq!(judge(&lax(snapshot), CHECKED, true), Err(Refusal::SyncSuspended), "any child stops the syncs");
        let newer = ServerFacts { fsync: some("everysec"), version: (7, 2), ..lax(REWRITING) };
        let patient = FailedQueueSettings { timeout: SYNC_WITHIN, ..CHECKED };
        assert_eq!(
            judge(&newer, patient, true),
            Ok(Confirmations { replicas: 0, disk: true }),
            "WAITAOF refuses by itself"
        );
    }
}
