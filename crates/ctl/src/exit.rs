//! The outcomes of a command and their exit codes.

use anyhow::{Error, Result};
use holdfast_kafka::{AdminError, ClientError, PublishError};
use holdfast_redis::RedisError;
use holdfast_store::StoreError;

/// Something was wrong, or could not be done.
pub const WRONG: u8 = 1;
/// The command line or the settings can't be used. Nothing was done.
pub const USAGE: u8 = 2;
/// A server could not be reached. What was done before that is done.
pub const UNREACHABLE: u8 = 3;

/// What a command that came to its end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// All is as it should be, or was done.
    Fine,
    /// It found something wrong, or left something undone, and has said what.
    Wrong,
    /// It could not ask everything that it had to, and has said what.
    Unreachable,
}

/// The command can't be done as it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The process's exit code.
pub fn code(result: &Result<Verdict>) -> u8 {
    match result {
        Ok(Verdict::Fine) => 0,
        Ok(Verdict::Wrong) => WRONG,
        Ok(Verdict::Unreachable) => UNREACHABLE,
        Err(error) if reader_left(error) => 0,
        Err(error) if error.chain().any(|cause| cause.is::<Usage>()) => USAGE,
        Err(error) if is_unreachable(error) => UNREACHABLE,
        Err(_) => WRONG,
    }
}

/// Whether the error is only a closed pipe, as after `head`.
pub fn reader_left(error: &Error) -> bool {
    let closed = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(closed))
}

/// Whether the error means that a server was unreachable, not that it refused.
pub fn is_unreachable(error: &Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(RedisError::Unavailable { .. } | RedisError::NodeUnavailable { .. }))
            || matches!(cause.downcast_ref(), Some(StoreError::Unavailable(_)))
            || matches!(cause.downcast_ref(), Some(PublishError::Unavailable(_)))
            || matches!(cause.downcast_ref(), Some(AdminError::Unavailable(_)))
            || cause.is::<ClientError>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_classified_by_its_cause_whatever_was_said_above_it() {
        let away = Error::new(StoreError::Unavailable("x".into())).context("looking up messages");
        assert_eq!(code(&Err(away)), UNREACHABLE);
        let refused = Error::new(StoreError::Rejected { code: Some(13), reason: "x".into() });
        assert_eq!(code(&Err(refused)), WRONG);
        assert_eq!(code(&Err(Error::new(Usage("x".into())).context("y"))), USAGE);
        let pipe = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(code(&Err(Error::new(pipe).context("writing"))), 0);
    }
}
