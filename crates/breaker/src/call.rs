//! A guarded call: asks the breaker, makes the call, reports the result.

use std::time::{Duration, Instant};

use crate::{Breaker, Permit, Rejected};

/// Whether an error means that the dependency is out of order. Any other error is an answer: the dependency works.
pub trait Outage {
    /// Whether a breaker counts this error as a failure.
    fn is_outage(&self) -> bool;
}

/// Why a guarded call has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// The breaker rejected the call; it was not made.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The call was made and failed.
    #[error("{0}")]
    Failed(E),
}

impl<E> CallError<E> {
    /// The call's own error; `None`: the breaker rejected the call.
    pub fn failed(self) -> Option<E> {
        match self {
            Self::Rejected(_) => None,
            Self::Failed(error) => Some(error),
        }
    }
}

impl Breaker {
    /// Makes a call if the breaker lets it through, and reports its result: an [`Outage`] as a failure, anything else as a success. A
    /// call that is dropped before it ends counts as not made.
    ///
    /// # Errors
    /// The breaker rejected the call, or the call failed.
    // None of these calls another: each layer would double the size of the call's future.
    pub async fn call<T, E: Outage>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, CallError<E>> {
        let permit = self.acquire(Instant::now())?;
        let result = call.await;
        permit.report(is_outage(&result));
        result.map_err(CallError::Failed)
    }

    /// As [`Breaker::call`]; a call that takes longer than `max_latency` counts as a failure, whatever its result.
    ///
    /// # Errors
    /// The breaker rejected the call, or the call failed.
    pub async fn call_within<T, E: Outage>(
        &self,
        max_latency: Duration,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, CallError<E>> {
        let started = Instant::now();
        let permit = self.acquire(started)?;
        let result = call.await;
        permit.report(started.elapsed() > max_latency || is_outage(&result));
        result.map_err(CallError::Failed)
    }

    /// As [`Breaker::call`], for a call that has a result for each of its parts. It counts as one failure if any part is an outage.
    ///
    /// # Errors
    /// The breaker rejected the call.
    pub async fn call_batch<T, E: Outage>(
        &self,
        call: impl Future<Output = Vec<Result<T, E>>>,
    ) -> Result<Vec<Result<T, E>>, Rejected> {
        let permit = self.acquire(Instant::now())?;
        let results = call.await;
        permit.report(results.iter().any(is_outage));
        Ok(results)
    }
}

impl Permit {
    fn report(self, failed: bool) {
        if failed { self.failure(Instant::now()) } else { self.success() }
    }
}

fn is_outage<T, E: Outage>(result: &Result<T, E>) -> bool {
    result.as_ref().err().is_some_and(Outage::is_outage)
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::{BreakerSettings, BreakerState};

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Failure {
        Away,
        Refused,
    }

    impl Outage for Failure {
        fn is_outage(&self) -> bool {
            *self == Self::Away
        }
    }

    fn breaker() -> Breaker {
        Breaker::new("test", BreakerSettings { failure_threshold: 2, ..BreakerSettings::default() }, None)
    }

    /// The result of a future that is ready at once.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => panic!("it waits for something"),
        }
    }

    #[test]
    fn outages_open_the_breaker_and_other_errors_do_not() {
        let breaker = breaker();
        for _ in 0..5 {
            assert_eq!(
                now(breaker.call(ready(Err::<(), _>(Failure::Refused)))),
                Err(CallError::Failed(Failure::Refused))
            );
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
        for _ in 0..2 {
            assert_eq!(now(breaker.call(ready(Err::<(), _>(Failure::Away)))), Err(CallError::Failed(Failure::Away)));
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        let mut made = false;
        let rejected = now(breaker.call(async {
            made = true;
            Ok::<(), Failure>(())
        }));
        assert!(matches!(rejected, Err(CallError::Rejected(_))), "{rejected:?}");
        assert!(!made, "an open breaker makes no call");
    }

    #[test]
    fn a_batch_with_an_outage_is_one_failure_and_its_results_are_kept() {
        let breaker = breaker();
        let results = vec![Ok(1), Err(Failure::Away), Err(Failure::Away), Err(Failure::Refused)];
        assert_eq!(now(breaker.call_batch(ready(results.clone()))), Ok(results.clone()));
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert_eq!(now(breaker.call_batch(ready(results.clone()))), Ok(results));
        assert_eq!(breaker.state(), BreakerState::Open);
    }
}
