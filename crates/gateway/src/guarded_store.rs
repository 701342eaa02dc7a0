//! MongoDB on a request's path, behind its breaker.
//!
//! A driver looks for a lost server for seconds, for every call again. Behind the breaker only the first calls wait for that; later requests go on at
//! once without what is stored. Real requests probe whether MongoDB is back. Background work calls the store itself.
//!
//! See `docs/decisions/mongodb-breaker.md`.

use std::time::Duration;

use holdfast_breaker::{Breaker, CallError, Outage};
use holdfast_store::{Store, StoreError};
use tokio::time::timeout;

use crate::refusal::{Code, Refusal};

/// The time that one call has, so that a request is answered in time with the store or without.
const WITHIN: Duration = Duration::from_secs(2);

/// The store behind a breaker. Cheap to clone.
#[derive(Clone)]
pub struct GuardedStore {
    store: Store,
    breaker: Breaker,
}

impl GuardedStore {
    /// The store behind this breaker.
    pub fn new(store: Store, breaker: Breaker) -> Self {
        Self { store, breaker }
    }

    /// Calls the store, unless the breaker is open: that is [`StoreError::Unavailable`], as if the store had been called.
    pub async fn call<T>(&self, call: impl AsyncFnOnce(&Store) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.call_within(WITHIN, call).await
    }

    /// [`GuardedStore::call`] with a time limit of its own.
    pub async fn call_within<T>(
        &self,
        within: Duration,
        call: impl AsyncFnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let call = async {
            let answer = timeout(within, call(&self.store)).await;
            answer.unwrap_or_else(|_| Err(StoreError::Unavailable("no answer in time".to_owned())))
        };
        self.breaker.call(call).await.map_err(|error| match error {
            CallError::Rejected(open) => StoreError::Unavailable(open.to_string()),
            CallError::Failed(error) => {
                if error.is_outage() {
                    tracing::warn!(%error, "the store does not answer a request");
                }
                error
            }
        })
    }
}

/// The refusal of a request whose call to the store failed. `unavailable` says what can't be read or written now.
pub(crate) fn refusal_of(error: &StoreError, unavailable: &'static str) -> Refusal {
    match error {
        StoreError::Unavailable(_) => Refusal::unavailable(unavailable),
        StoreError::Rejected { .. } => {
            tracing::error!(%error, unavailable, "the store rejects a call");
            Refusal::new(Code::Internal, "a fault of the server")
        }
    }
}

/// Carries out a change in a task of its own, so that a disconnect halfway does not stop it before other gateways learn of it.
pub async fn run_detached<T: Send + 'static>(
    change: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let changed = tokio::spawn(change).await;
    changed.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "a fault of the server")))
}
