use std::fmt;

/// Why a call got no result, by what its caller may conclude.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    /// The server did not answer in time, or could not be reached.
    #[error("redis is unavailable ({reason}{})", Ambiguity(*maybe_applied))]
    Unavailable {
        /// Whether the command may have taken effect, or may still: it was on its way when the caller stopped waiting.
        maybe_applied: bool,
        /// What happened.
        reason: String,
    },
    /// One node of a cluster did not answer in time, could not be reached, or does not serve the key's slot now. Others do.
    #[error("a node of the redis cluster is unavailable ({reason}{})", Ambiguity(*maybe_applied))]
    NodeUnavailable {
        /// As above. A slot that is on its way to another node applies nothing.
        maybe_applied: bool,
        /// What happened.
        reason: String,
    },
    /// The server answered with an error. A plain command had no effect.
    #[error("redis refused: {0}")]
    Refused(String),
    /// The server's answer has another shape than the command's.
    #[error("redis answered unexpectedly: {0}")]
    Unexpected(String),
    /// The value can't be cached; nothing was sent.
    #[error(transparent)]
    Encode(#[from] crate::codec::EncodeError),
    /// The address can't be used.
    #[error("redis address: {0}")]
    Address(String),
}

impl CacheError {
    /// Whether the command may have taken effect although there is no result.
    pub fn maybe_applied(&self) -> bool {
        match self {
            Self::Unavailable { maybe_applied, .. } | Self::NodeUnavailable { maybe_applied, .. } => *maybe_applied,
            Self::Unexpected(_) => true,
            Self::Refused(_) | Self::Encode(_) | Self::Address(_) => false,
        }
    }

    /// Whether the server itself is the trouble, so that a circuit breaker should count it. One node of a cluster is not: calls to
    /// it fail at once while it is known to be away, and the keys of the others must stay within reach.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::NodeUnavailable { .. })
    }

    pub(crate) fn unexpected(what: impl Into<String>) -> Self {
        Self::Unexpected(what.into())
    }

    /// A short word for a metric's label.
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

struct Ambiguity(bool);

impl fmt::Display for Ambiguity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "; the command may have been applied" } else { "" })
    }
}
