//! The outcome of a push, and why the queue refuses messages.

use holdfast_redis::RedisError;

/// The outcome of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The entry is queued durably, and will be replayed.
    Accepted,
    /// The entry is not queued durably. It may be replayed nevertheless: a change of the server is noticed only after the push.
    Refused(Refusal),
    /// It is not known whether the entry is queued.
    Unknown(String),
}

/// Why the queue refuses a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `appendonly` is off: a crash would lose the entry.
    #[error("the queue server has no append-only file")]
    NoAppendOnlyFile,
    /// `appendonly` was switched on and the first rewrite is not complete: an entry that is pushed now would not survive a crash.
    #[error("the queue server's append-only file retains nothing before its first rewrite is done")]
    FirstRewrite,
    /// `aof_last_write_status` is not `ok`.
    #[error("the queue server can't write to its append-only file; its disk may be full")]
    WritesFail,
    /// `no-appendfsync-on-rewrite` is `yes`, and a child process is writing to the disk.
    #[error("the queue server does not sync its append-only file while it writes it anew (no-appendfsync-on-rewrite)")]
    SyncSuspended,
    /// `appendfsync` is `no`.
    #[error("the queue server leaves syncing its file to chance")]
    NeverSynced,
    /// `maxmemory-policy` is not `noeviction`.
    #[error("the queue server may evict what it holds ({0})")]
    Evicts(String),
    /// A setting can't be read, and [`Durability`](crate::Durability) is not `Assumed`.
    #[error("the queue server does not report {0}; FAILED_QUEUE_DURABILITY=assumed takes your word for it")]
    Unreadable(&'static str),
    /// The server is a replica.
    #[error("the queue server is a replica")]
    Replica,
    /// Fewer replicas are connected than [`FailedQueueSettings::min_replicas`](crate::FailedQueueSettings::min_replicas).
    #[error("{online} replicas of the queue server are online, where FAILED_QUEUE_MIN_REPLICAS wants {wanted}")]
    TooFewReplicas {
        /// How many are online.
        online: u32,
        /// How many are wanted.
        wanted: u32,
    },
    /// Fewer replicas have confirmed the push than are connected.
    #[error("{reached} of {wanted} replicas of the queue server have it")]
    Replicas {
        /// How many confirmed.
        reached: u32,
        /// How many are connected.
        wanted: u32,
    },
    /// The server's own disk had not synced the entry in time.
    #[error("the queue server's disk has not synced it")]
    NotSynced,
    /// The server answered with an error, for example because its memory is full.
    #[error("the queue server refused: {0}")]
    Server(String),
    /// The server could not be reached in time; nothing was sent.
    #[error("the queue server is unreachable: {0}")]
    Unreachable(String),
}

impl Refusal {
    /// Whether the server's settings are the reason, so that only an operator can change it.
    pub fn is_by_settings(&self) -> bool {
        matches!(self, Self::NoAppendOnlyFile | Self::NeverSynced | Self::Evicts(_) | Self::Unreadable(_))
    }

    /// Every [`Refusal::reason`].
    pub const REASONS: [&'static str; 12] = [
        "failed_queue_no_aof",
        "failed_queue_first_rewrite",
        "failed_queue_writes_fail",
        "failed_queue_sync_suspended",
        "failed_queue_never_synced",
        "failed_queue_evicts",
        "failed_queue_unreadable",
        "failed_queue_replica",
        "failed_queue_replicas",
        "failed_queue_not_synced",
        "failed_queue_server",
        "failed_queue_unreachable",
    ];

    /// The `reason` by which a service that sees this is degraded.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAppendOnlyFile => "failed_queue_no_aof",
            Self::FirstRewrite => "failed_queue_first_rewrite",
            Self::WritesFail => "failed_queue_writes_fail",
            Self::SyncSuspended => "failed_queue_sync_suspended",
            Self::NeverSynced => "failed_queue_never_synced",
            Self::Evicts(_) => "failed_queue_evicts",
            Self::Unreadable(_) => "failed_queue_unreadable",
            Self::Replica => "failed_queue_replica",
            Self::TooFewReplicas { .. } | Self::Replicas { .. } => "failed_queue_replicas",
            Self::NotSynced => "failed_queue_not_synced",
            Self::Server(_) => "failed_queue_server",
            Self::Unreachable(_) => "failed_queue_unreachable",
        }
    }
}

impl From<RedisError> for Refusal {
    fn from(error: RedisError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_named() {
        let refusals = [
            Refusal::NoAppendOnlyFile,
            Refusal::FirstRewrite,
            Refusal::WritesFail,
            Refusal::SyncSuspended,
            Refusal::NeverSynced,
            Refusal::Evicts(String::new()),
            Refusal::Unreadable(""),
            Refusal::Replica,
            Refusal::TooFewReplicas { online: 0, wanted: 1 },
            Refusal::NotSynced,
            Refusal::Server(String::new()),
            Refusal::Unreachable(String::new()),
        ];
        assert_eq!(refusals.map(|refusal| refusal.reason()), Refusal::REASONS);
    }
}
