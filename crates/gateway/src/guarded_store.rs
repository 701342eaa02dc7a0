//! MongoDB on a request's path, behind its breaker.
//!
//! A request must not wait for as long as a driver looks for a server that is known to be away: after a few such waits the breaker
//! opens, and the request goes on at once without what is stored. Real requests probe whether MongoDB is back. What runs in the
//! background asks the store itself.

use std::time::{Duration, Instant};

use holdfast_cache::Breaker;
use holdfast_store::{Store, StoreError};
use tokio::time::timeout;

use crate::refusal::{Code, Refusal};

/// What one request has for all that it asks of the store, so that it is answered in time with or without.
const WITHIN: Duration = Duration::from_secs(2);

/// What is stored. Cheap to clone.
#[derive(Clone)]
pub struct Stored {
    store: Store,
    breaker: Breaker,
}

impl Stored {
    /// The store behind this breaker.
    pub fn new(store: Store, breaker: Breaker) -> Self {
        Self { store, breaker }
    }

    /// Asks the store, unless it is known to be away; that is [`StoreError::Unavailable`], as if it had been asked.
    pub async fn ask<T>(&self, call: impl AsyncFnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.ask_within(WITHIN, call).await
    }

    /// As [`Stored::ask`], with a limit of its own.
    pub async fn ask_within<T>(
        &self,
        within: Duration,
        call: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let permit = self.breaker.acquire(Instant::now()).map_err(|open| StoreError::Unavailable(open.to_string()))?;
        let answer = timeout(within, call(&self.store)).await;
        let answer = answer.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())));
        match &answer {
            Err(error @ StoreError::Unavailable(_)) => {
                tracing::warn!(%error, "a request goes on without what is stored");
                permit.failure(Instant::now());
            }
            // A refusal is an answer.
            Ok(_) | Err(StoreError::Rejected { .. }) => permit.success(),
        }
        answer
    }
}

/// Does this in a task of its own: whoever hangs up in the middle of a change must not keep the rest from learning of it.
pub async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let changed = tokio::spawn(change).await;
    changed.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "a fault of the server")))
}
