//! The operations that locks need: of Redis, or of a model of it in tests.

use std::sync::LazyLock;
use std::time::Duration;

use crate::RedisError;
use crate::client::{Client, millis};
use crate::script::{Call, Script};

static EXTEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/lock_extend.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/lock_release.lua")));

/// Stores keys with their owners' tokens. A call without an answer within the server's own deadline fails, and may have been applied.
pub trait LockServer: Clone + Send + Sync + 'static {
    /// Writes the token to a key that is absent; it expires after `ttl`. Returns whether it did.
    fn take(&self, key: &str, token: &str, ttl: Duration) -> impl Future<Output = Result<bool, RedisError>> + Send;

    /// Sets the time to live of the keys that have this token. Returns whether all of them have it.
    fn extend(
        &self,
        keys: &[String],
        token: &str,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool, RedisError>> + Send;

    /// Deletes the keys that have this token. Returns whether all of them had it.
    fn release(&self, keys: &[String], token: &str) -> impl Future<Output = Result<bool, RedisError>> + Send;
}

impl LockServer for Client {
    async fn take(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, RedisError> {
        let taken: Option<String> =
            self.one("lock", Call::new("SET").key(key).arg(token).arg("NX").arg("PX").arg(millis(ttl))).await?;
        Ok(taken.is_some())
    }

    async fn extend(&self, keys: &[String], token: &str, ttl: Duration) -> Result<bool, RedisError> {
        let call = |key: &String| EXTEND.call(&[key]).arg(token).arg(millis(ttl));
        all(self.each("lock", keys.iter().map(call).collect()).await)
    }

    async fn release(&self, keys: &[String], token: &str) -> Result<bool, RedisError> {
        let call = |key: &String| RELEASE.call(&[key]).arg(token);
        all(self.each("lock", keys.iter().map(call).collect()).await)
    }
}

/// A key of another owner decides, even if other calls have no answer.
fn all(answers: Vec<Result<bool, RedisError>>) -> Result<bool, RedisError> {
    if answers.iter().any(|answer| matches!(answer, Ok(false))) {
        return Ok(false);
    }
    answers.into_iter().try_fold(true, |all, answer| Ok(all && answer?))
}
