//! Refusals: the negative answers of the wire contract, over Socket.IO ([`Refusal`]) and REST (`Problem`).

mod problem;

use holdfast_message::Invalid;
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

pub(crate) use problem::{Document, Problem, Problems, ProblemsOfBody, ProblemsOfChat};

/// The codes of the wire contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// The request breaks a rule; repeating it changes nothing.
    Validation,
    /// No token, or one that is not valid any more.
    Unauthenticated,
    /// Known, and not allowed.
    Forbidden,
    /// No such thing.
    NotFound,
    /// Too many requests.
    RateLimited,
    /// The request is larger than any server takes.
    TooLarge,
    /// What it needs is away; a repeat may succeed.
    Unavailable,
    /// A fault of ours.
    Internal,
}

impl Code {
    /// All codes, for metrics.
    pub const ALL: [Self; 8] = [
        Self::Validation,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::RateLimited,
        Self::TooLarge,
        Self::Unavailable,
        Self::Internal,
    ];

    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "VALIDATION",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::RateLimited => "RATE_LIMITED",
            Self::TooLarge => "TOO_LARGE",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }
}

/// An answer that is not positive: `{ code, message, retryable, retryAfterMs? }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// A sentence for the developer of the client.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When a repeat makes sense, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_after_ms: Option<u64>,
}

impl Refusal {
    /// A refusal that no repeat changes.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retryable: false, retry_after_ms: None }
    }

    /// What it needs is away.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(Code::Unavailable, message) }
    }

    /// Too many requests; when the next one may come.
    pub fn rate_limited(after: Duration) -> Self {
        let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1);
        Self { retryable: true, retry_after_ms: Some(millis), ..Self::new(Code::RateLimited, "too many requests") }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::new(Code::Validation, invalid.to_string())
    }
}
