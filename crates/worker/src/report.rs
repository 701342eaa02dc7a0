//! Reports from work that runs on the runtime: each carries the outcome back to the loop and wakes its thread.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use tokio::runtime::Handle;

use crate::dead_letter::Posted;
use crate::flush::Flushed;

/// The end of work that ran outside of the loop.
#[derive(Debug)]
pub enum Report {
    /// A flush ended.
    Flushed(Flushed),
    /// A batch of dead letters was published, or failed.
    Posted(Posted),
    /// The work panicked and its records are lost to this process. Only a restart reads them again.
    Died,
}

/// Wakes the loop's thread.
#[derive(Debug, Clone, Default)]
pub struct Waker(Arc<OnceLock<Thread>>);

impl Waker {
    /// Registers the calling thread as the one to wake. The first call counts; a second loop on the same waker would only tick.
    pub(crate) fn is_here(&self) {
        let _ = self.0.set(std::thread::current());
    }

    /// Wakes the loop, or makes its next sleep end at once.
    pub fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// Runs work on the runtime and sends its reports to the loop. The channel needs no bound: at most one flush and one batch of dead
/// letters are in progress.
#[derive(Debug, Clone)]
pub struct Reports {
    sender: mpsc::Sender<Report>,
    runtime: Handle,
    waker: Waker,
}

impl Reports {
    /// Makes the channel: work runs on `runtime`, and its reports arrive at the receiver.
    pub(crate) fn channel(runtime: Handle, waker: Waker) -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel();
        (Self { sender, runtime, waker }, receiver)
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Runs work whose report the loop waits for. A report is sent even if the work panics.
    pub fn run(&self, work: impl Future<Output = Report> + Send + 'static) {
        let reporter = Reporter { reports: self.clone(), report: Report::Died };
        self.runtime.spawn(async move { reporter.end(work.await) });
    }
}

/// Reports, and wakes the loop, when it is dropped: at the end of the work or at its panic.
struct Reporter {
    reports: Reports,
    report: Report,
}

impl Reporter {
    fn end(mut self, report: Report) {
        self.report = report;
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Fails only when the loop has ended, and with it everything that a report could change.
        let _ = self.reports.sender.send(std::mem::replace(&mut self.report, Report::Died));
        self.reports.waker.wake();
    }
}
