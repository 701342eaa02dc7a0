//! The end: refuse new sends, answer those in progress, close the connections, finish background work, leave nothing in Kafka's client.
//! Each step has its share of `SHUTDOWN_GRACE_MS`.

use std::time::Duration;

use holdfast_kafka::Publisher;
use tokio_util::sync::CancellationToken;

use super::spawn::Serving;
use super::supervisor::Supervisor;
use crate::send::pipeline::Pipeline;
use crate::send::recent_retry::RecentRetryQueue;

/// The time that the last answers have to reach the wire before connections are closed.
const ANSWERS_OUT: Duration = Duration::from_millis(200);

/// What the end needs.
pub(super) struct Ending {
    /// Cancelled first: sends are refused from then on.
    pub(super) draining: CancellationToken,
    pub(super) pipeline: Pipeline,
    pub(super) recent_retry: RecentRetryQueue,
    pub(super) publisher: Publisher,
    pub(super) max_sends_in_flight: usize,
    /// The time for all of it.
    pub(super) grace: Duration,
}

impl Ending {
    /// Ends a gateway in order.
    pub(super) async fn drain(self, serving: Serving, supervisor: Supervisor) {
        let retractions_end = tokio::time::Instant::now() + self.grace * 5 / 8;
        self.draining.cancel();
        let close = async {
            self.pipeline.drained(self.max_sends_in_flight).await;
            tokio::time::sleep(ANSWERS_OUT).await;
            serving.close().await;
        };
        if tokio::time::timeout(self.grace / 2, close).await.is_err() {
            tracing::warn!("connections were still open when their time was up");
        }
        // Process retractions to the end if the cache returns in time: a refused message must not stay listed.
        let _ = tokio::time::timeout_at(retractions_end, self.recent_retry.emptied()).await;
        self.recent_retry.give_up();
        if tokio::time::timeout(self.grace / 4, supervisor.end()).await.is_err() {
            tracing::warn!("background work was still going on when its time was up");
        }
        let unreported = self.publisher.flush(self.grace / 16).await;
        if unreported > 0 {
            tracing::warn!(
                unreported,
                "kafka's client still held records; what of them was acknowledged to its sender is in the failed queue"
            );
        }
    }
}
