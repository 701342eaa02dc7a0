//! Runs the tasks of the gateway: one that ends early, by a panic or otherwise, ends the process.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs tasks, none of which may end before all of them do.
#[derive(Default)]
pub(super) struct Supervisor {
    tasks: TaskTracker,
    /// Cancelled at the end.
    ended: CancellationToken,
    /// Cancelled when a task ended before that.
    broken: CancellationToken,
}

impl Supervisor {
    /// The token that ends the tasks.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Runs a task that must not end before the end, not by a panic either.
    pub(super) fn run<T: Send + 'static>(&self, name: &'static str, work: impl Future<Output = T> + Send + 'static) {
        let (ended, broken) = (self.ended.clone(), self.broken.clone());
        self.tasks.spawn(async move {
            // A task of its own, so that its panic is seen.
            let _ = tokio::spawn(work).await;
            if !ended.is_cancelled() {
                tracing::error!(name, "a part of the gateway ended unexpectedly");
                broken.cancel();
            }
        });
    }

    /// Runs a task that may end at any time.
    pub(super) fn run_once<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) {
        self.tasks.spawn(self.ended.clone().run_until_cancelled_owned(work));
    }

    /// Waits until a task has ended that must not.
    pub(super) async fn failed(&self) {
        self.broken.cancelled().await;
    }

    /// Ends the tasks and waits for them.
    pub(super) async fn end(self) {
        self.ended.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
