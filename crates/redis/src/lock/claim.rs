//! The keys that an owner has taken. They are released however the owner ends.

use std::sync::Arc;
use std::time::Duration;

use super::server::LockServer;
use crate::RedisError;

/// The owner of keys on a server.
#[derive(Clone)]
pub(super) struct Owner<S> {
    server: S,
    /// Random, so that no other owner has the same.
    pub(super) token: Arc<str>,
    pub(super) keys: Vec<String>,
    pub(super) ttl: Duration,
}

impl<S: LockServer> Owner<S> {
    /// Refreshes the keys. Returns whether all of them were still the owner's.
    pub(super) async fn extend(&self) -> Result<bool, RedisError> {
        self.server.extend(&self.keys, &self.token, self.ttl).await
    }
}

/// Keys that are released when this is dropped.
pub(super) struct Claim<S: LockServer>(Owner<S>);

impl<S: LockServer> Claim<S> {
    /// A claim without keys.
    pub(super) fn new(server: S, ttl: Duration) -> Self {
        let token = format!("{:032x}", fastrand::u128(..)).into();
        Self(Owner { server, token, keys: Vec::new(), ttl })
    }

    /// Takes a key if it is free. A call without an answer may have taken it.
    pub(super) async fn take(&mut self, key: String) -> Result<bool, RedisError> {
        let Owner { server, token, keys, ttl } = &mut self.0;
        keys.push(key);
        let taken = match keys.last() {
            Some(key) => server.take(key, token, *ttl).await?,
            None => false,
        };
        if !taken {
            keys.pop();
        }
        Ok(taken)
    }

    /// Releases the keys. Returns whether all of them were still the owner's.
    pub(super) async fn release(&mut self) -> Result<bool, RedisError> {
        let Owner { server, token, keys, .. } = &mut self.0;
        let all = server.release(keys, token).await?;
        keys.clear();
        Ok(all)
    }

    pub(super) fn owner(&self) -> &Owner<S> {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn forget(&mut self) {
        self.0.keys.clear();
    }
}

impl<S: LockServer> Drop for Claim<S> {
    fn drop(&mut self) {
        let keys = std::mem::take(&mut self.0.keys);
        // Without a runtime, or without an answer, they expire.
        if !keys.is_empty()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (server, token) = (self.0.server.clone(), Arc::clone(&self.0.token));
            runtime.spawn(async move { drop(server.release(&keys, &token).await) });
        }
    }
}
