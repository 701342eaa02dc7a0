//! How what runs elsewhere tells the loop that it has ended, and ends its sleep.

use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use tokio::runtime::Handle;

use crate::dead_letter::Posted;
use crate::flush::Flushed;

/// Something that ran elsewhere has ended.
#[derive(Debug)]
pub enum Report {
    /// A flush.
    Flushed(Flushed),
    /// A batch of dead letters.
    Posted(Posted),
    /// One of these panicked, and its records with it. Only a new start reads them again.
    Died,
}

/// Wakes the loop's thread.
#[derive(Debug, Clone, Default)]
pub struct Waker(Arc<OnceLock<Thread>>);

impl Waker {
    /// This thread is the one to be woken. Said once; a second loop on the same waker would only tick.
    pub(crate) fn is_here(&self) {
        let _ = self.0.set(std::thread::current());
    }

    /// Ends the loop's sleep, or its next one.
    pub fn wake(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }
}

/// The way back to the loop, for what runs on the runtime. Its channel needs no bound: at most one flush and one batch of letters
/// are on their way.
#[derive(Debug, Clone)]
pub struct Reports {
    sender: mpsc::Sender<Report>,
    runtime: Handle,
    waker: Waker,
}

impl Reports {
    /// Work runs on the runtime, and its reports come out of the receiver.
    pub(crate) fn channel(runtime: Handle, waker: Waker) -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel();
        (Self { sender, runtime, waker }, receiver)
    }

    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Runs work whose report the loop waits for. There is a report in any case.
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
