//! Journeys end to end: the real programs between real servers, driven by real clients. Development only.
//!
//! * [`Stack`]: gateways and workers, isolated from other stacks on the same servers.
//! * [`Peer`]: the official Socket.IO client in a process of its own.
//! * [`Stored`]: what MongoDB holds, asked directly.
//! * [`ledger`]: what clients did and saw, written down and judged; [`load`] makes them do it.
//! * [`faults`]: the faults under which it runs, case by case. `scripts/faults` runs them.

pub mod faults;
pub mod ledger;
pub mod load;
mod peer;
mod stack;
mod stored;

pub use peer::{Peer, Report};
pub use stack::{Backends, SECRET, Service, Stack, StackOptions};
pub use stored::Stored;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use holdfast_testkit::{Response, request};
use tokio::time::{Instant, sleep};

/// How long tests wait for what must happen, however busy the machine is. It is no statement about speed.
pub const LIVENESS: Duration = Duration::from_secs(120);

/// A REST request that is repeated for as long as the answer says that it may succeed later, as clients do. One that creates something needs an
/// `Idempotency-Key`.
///
/// # Errors
/// No answer, or none but refusals that may pass, within [`LIVENESS`].
pub async fn insist(url: &str, method: &str, path: &str, headers: &[String], body: &str) -> Result<Response> {
    eventually(path, LIVENESS, async || {
        let answer = request(url, method, path, headers, body).await?;
        ensure!(answer.body["retryable"] != true, "{}", answer.body);
        Ok(answer)
    })
    .await
}

/// Waits until something holds; the error names it, with the last answer that it did not.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match holds().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => bail!("{what}: not within {limit:?}: {error:#}"),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}
