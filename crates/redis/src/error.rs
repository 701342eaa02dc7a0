//! Why a call to Redis failed, by what its caller can conclude.

use std::fmt;

use holdfast_breaker::{CallError, Outage};

/// Why a call has no result, by what its caller can conclude.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The server did not answer in time, or could not be reached.
    #[error("redis is unavailable ({reason}{})", Ambiguity(*maybe_applied))]
    Unavailable {
        /// Whether the command may have been applied, or may be applied later: it was sent when the caller stopped waiting.
        maybe_applied: bool,
        /// What happened, for logs.
        reason: String,
    },
    /// One node of a cluster did not answer in time, could not be reached, or does not serve the key's slot now. Other nodes do.
    #[error("a node of the redis cluster is unavailable ({reason}{})", Ambiguity(*maybe_applied))]
    NodeUnavailable {
        /// As above. `false` while the slot is moving to another node.
        maybe_applied: bool,
        /// What happened, for logs.
        reason: String,
    },
    /// The server answered with an error. A plain command had no effect.
    #[error("redis refused: {0}")]
    Refused(String),
    /// The answer has another shape than that of the command.
    #[error("redis answered unexpectedly: {0}")]
    Unexpected(String),
    /// The value can't be encoded; nothing was sent.
    #[error(transparent)]
    Encode(#[from] crate::codec::EncodeError),
    /// The address can't be used.
    #[error("redis address: {0}")]
    Address(String),
}

impl RedisError {
    /// Whether the command may have been applied although there is no result.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Unavailable { maybe_applied, .. } | Self::NodeUnavailable { maybe_applied, .. } => *maybe_applied,
            Self::Unexpected(_) => true,
            Self::Refused(_) | Self::Encode(_) | Self::Address(_) => false,
        }
    }

    /// Whether the server itself is away, so that a circuit breaker counts it. One node of a cluster does not count: calls to it fail at
    /// once while it is known to be away, and the keys of the other nodes must stay reachable.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NodeUnavailable { .. })
    }

    /// An answer of an unexpected shape.
    pub fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected(what.into())
    }

    /// The `result` label of the metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } | Self::NodeUnavailable { .. } => "unavailable",
            Self::Refused(_) => "refused",
            Self::Unexpected(_) => "unexpected",
            Self::Encode(_) => "encode",
            Self::Address(_) => "address",
        }
    }
}

impl Outage for RedisError {
    fn is_outage(&self) -> bool {
        self.is_unavailable()
    }
}

/// A call that the breaker rejected was not made.
impl From<CallError<Self>> for RedisError {
    fn from(error: CallError<Self>) -> Self {
        match error {
            CallError::Rejected(rejected) => Self::Unavailable { maybe_applied: false, reason: rejected.to_string() },
            CallError::Failed(error) => error,
        }
    }
}

struct Ambiguity(bool);

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "; the command may have been applied" } else { "" })
    }
}
