//! Errors by what the caller must do.

use holdfast_breaker::Outage;
use mongodb::error::{Error, ErrorKind, WriteFailure};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Ask again later: MongoDB is away, electing, overloaded, or did not answer in time. A write may have happened.
    #[error("MongoDB is unavailable: {0}")]
    Unavailable(String),
    /// Asked in the same way it will answer the same: a setting, a right or a program is wrong.
    #[error("MongoDB refuses (code {}): {reason}", .code.map_or("none".into(), |code| code.to_string()))]
    Rejected {
        /// The server's error code; absent where the driver refused.
        code: Option<i32>,
        /// In the server's or the driver's words.
        reason: String,
    },
}

/// Command errors that pass by themselves, by `src/mongo/base/error_codes.yml`: network, elections and shutdowns, time limits
/// and interruptions, stale routing, and a server short of something.
const PASSING: [i32; 27] = [
    6, 7, 24, 43, 46, 50, 63, 64, 70, 100, 112, 133, 134, 146, 150, 175, 202, 237, 249, 262, 279, 462, 9001, 10058,
    11601, 13388, 14031,
];
/// The server is not the primary, or stops being it.
const STEPPING_DOWN: [i32; 8] = [89, 91, 189, 10107, 11600, 11602, 13435, 13436];

/// Whether an error with this code passes by itself: it says nothing of the document that it names.
pub fn is_passing(code: i32) -> bool {
    PASSING.contains(&code) || STEPPING_DOWN.contains(&code)
}

/// A rejection is an answer.
impl Outage for StoreError {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl StoreError {
    pub(crate) fn late() -> Self {
        Self::Unavailable("no answer within the time allowed".into())
    }

    pub(crate) fn of_code(code: i32, reason: impl Into<String>) -> Self {
        if is_passing(code) {
            Self::Unavailable(format!("{} (code {code})", reason.into()))
        } else {
            Self::Rejected { code: Some(code), reason: reason.into() }
        }
    }
}

/// A broken connection or a primary that stepped down: another may answer already.
pub(crate) fn may_be_repeated_at_once(error: &Error) -> bool {
    match error.kind.as_ref() {
        ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. } => true,
        ErrorKind::Command(command) => STEPPING_DOWN.contains(&command.code),
        _ => false,
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error.kind.as_ref() {
            ErrorKind::Command(command) => Self::of_code(command.code, command.message.clone()),
            ErrorKind::Write(WriteFailure::WriteError(error)) => Self::of_code(error.code, error.message.clone()),
            // It is written, and an election may take it back.
            ErrorKind::Write(WriteFailure::WriteConcernError(error)) => {
                Self::Unavailable(format!("the write concern was not met: {}", error.message))
            }
            ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::InvalidResponse { .. } => Self::Unavailable(error.kind.to_string()),
            kind => Self::Rejected { code: None, reason: kind.to_string() },
        }
    }
}
