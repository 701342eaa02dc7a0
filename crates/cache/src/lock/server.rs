//! What a lock needs of a server: Redis, or a model of it in tests.

use std::sync::LazyLock;
use std::time::Duration;

use crate::CacheError;
use crate::client::{Client, millis};
use crate::script::{Call, Script};

static EXTEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/lock_extend.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/lock_release.lua")));

/// Keeps keys with their owners' tokens. What has no answer within the server's own deadline is an error, and may have happened.
pub trait LockServer: Clone + Send + Sync + 'static {
    /// Writes the token to a key that is absent, for so long. Whether it did.
    fn take(&self, key: &str, token: &str, ttl: Duration) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Lets those keys live for so long from now that have this token. Whether all have.
    fn extend(
        &self,
        keys: &[String],
        token: &str,
        ttl: Duration,
    ) -> impl Future<Output = Result<bool, CacheError>> + Send;

    /// Deletes those keys that have this token. Whether all had.
    fn release(&self, keys: &[String], token: &str) -> impl Future<Output = Result<bool, CacheError>> + Send;
}

impl LockServer for Client {
    async fn take(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, CacheError> {
        let taken: Option<String> =
            self.one("lock", Call::new("SET").key(key).arg(token).arg("NX").arg("PX").arg(millis(ttl))).await?;
        Ok(taken.is_some())
    }

    async fn extend(&self, keys: &[String], token: &str, ttl: Duration) -> Result<bool, CacheError> {
        let call = |key: &String| EXTEND.call(&[key]).arg(token).arg(millis(ttl));
        all(self.each("lock", keys.iter().map(call).collect()).await)
    }

    async fn release(&self, keys: &[String], token: &str) -> Result<bool, CacheError> {
        let call = |key: &String| RELEASE.call(&[key]).arg(token);
        all(self.each("lock", keys.iter().map(call).collect()).await)
    }
}

/// A key that is another's decides, whatever else has no answer.
fn all(answers: Vec<Result<bool, CacheError>>) -> Result<bool, CacheError> {
    if answers.iter().any(|answer| matches!(answer, Ok(false))) {
        return Ok(false);
    }
    answers.into_iter().try_fold(true, |all, answer| Ok(all && answer?))
}
