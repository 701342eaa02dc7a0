//! The loop: one thread that owns the consumer, the buffer and the ledger by value.
//!
//! # Why a thread
//!
//! librdkafka's calls block, most of them for microseconds (assign, poll), a few for up to a second (committed offsets,
//! watermarks). On a thread of its own they delay no other task, and no other task's long poll delays the loop. [`Loop::run`] shows that
//! it never stops polling. Whatever waits for a server (flush, dead letters) runs on the runtime and reports back
//! through a channel; librdkafka's commits have a thread of their own. All of them wake the loop by unparking its thread, as does
//! librdkafka when its queue is no longer empty, so nothing waits for a tick.
//!
//! # The order of one pass
//!
//! 1. Reports first: they free the buffer and move commit points, which everything below looks at.
//! 2. Records and events, a bounded number, so that the rest is not starved by a full topic. Polling is never skipped:
//!    backpressure is pausing partitions.
//! 3. A rebalance in progress, which decides whether flushes hurry.
//! 4. Flush and dead letters, then commits, which they may have made due.
//! 5. Backpressure last, as it follows from all of this.
//!
//! See `docs/decisions/failed-group-answers.md`.

pub mod assignment;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use holdfast_kafka::{Event, GroupConsumer, Loss, Polled};
use holdfast_service::clock::unix_ms;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use self::assignment::Rebalance;
use crate::authorization::Authorization;
use crate::backpressure::{Backpressure, Capacity};
use crate::buffer::{Buffer, RecordMeta};
use crate::commit::Commits;
use crate::conversations::Conversations;
use crate::dead_letter::{DeadLetters, Letter};
use crate::decode::{self, Content, Incoming};
use crate::flush::{Flusher, Sink};
use crate::gaps::{Gap, Gaps};
use crate::heal::Healer;
use crate::health::State;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::report::{Report, Reports, Waker};

/// Records taken in one pass.
const PASS: usize = 256;
/// How long the broker may accept no commit before the worker counts as degraded.
const COMMITS_WITHIN: Duration = Duration::from_secs(30);
/// How long a request for the start of a log may take. The loop waits for it.
const LOG_START_WITHIN: Duration = Duration::from_secs(1);
/// How long a metadata request for a hidden topic may take. The loop waits for it, as it has nothing to read.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
/// The longest sleep: timers and gauges are looked at this often.
const TICK: Duration = Duration::from_millis(100);

/// How the loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Asked to stop: everything received is stored and committed.
    Drained,
    /// Asked to stop: this many messages were left uncommitted at the deadline, for the next worker to read again.
    LeftBehind(usize),
    /// The client is dead or did not do as the group asked, or a flush panicked: only another process can go on.
    Fatal(String),
}

/// The loop's limits.
#[derive(Debug, Clone, Copy)]
pub struct LoopSettings {
    /// What may be held.
    pub capacity: Capacity,
    /// How long a revoked partition may be flushed.
    pub revoke_within: Duration,
    /// How long everything may be flushed when the process is asked to stop.
    pub drain_within: Duration,
}

/// What the loop works with.
pub struct Wiring<S> {
    /// The member of the group.
    pub consumer: GroupConsumer,
    /// Wakes this loop; the consumer has a copy.
    pub waker: Waker,
    /// The runtime that flushes and dead letters run on.
    pub runtime: Handle,
    /// Where messages are stored.
    pub sink: Arc<S>,
    /// Decides when a flush is due.
    pub flusher: Flusher,
    /// Takes records that can't be stored.
    pub letters: DeadLetters,
    /// Takes messages that the recent lists may lack.
    pub healer: Healer,
    /// Takes stored messages for the view of chats by last message.
    pub conversations: Conversations,
    /// The worker's metrics.
    pub metrics: Metrics,
    /// The state that health checks read.
    pub state: Arc<State>,
    /// Asks the loop to stop.
    pub stop: CancellationToken,
    /// The loop's limits.
    pub settings: LoopSettings,
}

/// The loop and all its state.
pub struct Loop<S> {
    pub(crate) consumer: GroupConsumer,
    pub(crate) ledger: Ledger,
    pub(crate) buffer: Buffer,
    pub(crate) letters: DeadLetters,
    pub(crate) gaps: Gaps,
    pub(crate) backpressure: Backpressure,
    pub(crate) commits: Commits,
    pub(crate) rebalance: Option<Rebalance>,
    pub(crate) authorization: Authorization,
    pub(crate) metrics: Metrics,
    pub(crate) state: Arc<State>,
    pub(crate) settings: LoopSettings,
    flusher: Flusher,
    sink: Arc<S>,
    healer: Healer,
    conversations: Conversations,
    stop: CancellationToken,
    draining_until: Option<Instant>,
    reports: Reports,
    incoming: mpsc::Receiver<Report>,
    pub(crate) high_watermarks: BTreeMap<i32, i64>,
    published_at: Option<Instant>,
    last_flush_at: Option<i64>,
}

impl<S: Sink> Loop<S> {
    /// Puts the loop together. It does nothing until it is run.
    pub fn new(wiring: Wiring<S>) -> Self {
        let (reports, incoming) = Reports::channel(wiring.runtime, wiring.waker);
        Self {
            consumer: wiring.consumer,
            ledger: Ledger::default(),
            buffer: Buffer::default(),
            letters: wiring.letters,
            gaps: Gaps::default(),
            backpressure: Backpressure::new(wiring.settings.capacity),
            commits: Commits::default(),
            rebalance: None,
            authorization: Authorization::default(),
            metrics: wiring.metrics,
            state: wiring.state,
            settings: wiring.settings,
            flusher: wiring.flusher,
            sink: wiring.sink,
            healer: wiring.healer,
            conversations: wiring.conversations,
            stop: wiring.stop,
            draining_until: None,
            reports,
            incoming,
            high_watermarks: BTreeMap::new(),
            published_at: None,
            last_flush_at: None,
        }
    }

    /// Runs until asked to stop, or until the client is dead. Gives the consumer back: leaving the group blocks, and is the
    /// caller's to bound.
    pub fn run(mut self) -> (Ending, GroupConsumer) {
        self.reports.waker().is_here();
        loop {
            let now = Instant::now();
            let idle = match self.take_reports(now).and_then(|()| self.poll(now)) {
                Ok(idle) => idle,
                Err(reason) => return (Ending::Fatal(reason), self.consumer),
            };
            self.judge_gaps(now);
            self.notice_stop(now);
            self.notice_acknowledgement();
            if let Err(reason) = self.advance_rebalance(now) {
                return (Ending::Fatal(reason), self.consumer);
            }
            let hurry = self.draining_until.is_some() || self.is_revoking();
            self.flusher.begin(now, hurry, &mut self.buffer, &self.sink, &self.reports);
            self.letters.begin(now, &self.reports);
            self.commits.begin(now, &self.ledger, |offsets| self.consumer.commit(offsets));
            let (held, bytes) = self.held();
            let resumed = self.backpressure.apply(held, bytes, &self.ledger, &mut self.consumer);
            self.publish_state(now);
            if let Some(ending) = self.ending(now) {
                return (ending, self.consumer);
            }
            if idle && !resumed {
                std::thread::park_timeout(TICK);
            }
        }
    }

    fn held(&self) -> (usize, usize) {
        (self.buffer.len() + self.letters.len(), self.buffer.bytes() + self.letters.bytes())
    }

    fn take_reports(&mut self, now: Instant) -> Result<(), String> {
        while let Ok(report) = self.incoming.try_recv() {
            match report {
                Report::Flushed(flushed) => {
                    let settled = self.flusher.settle(now, flushed, &mut self.buffer, &mut self.ledger, &self.metrics);
                    self.state.mongodb(!self.flusher.is_failing());
                    if !self.flusher.is_failing() {
                        self.last_flush_at = Some(unix_ms());
                    }
                    for letter in settled.letters {
                        self.letters.push(letter, &mut self.ledger, &self.metrics);
                    }
                    self.conversations.offer(settled.stored);
                }
                Report::Posted(posted) => self.letters.settle(now, posted, &mut self.ledger, &self.metrics),
                Report::Died => return Err("a flush panicked".into()),
            }
        }
        Ok(())
    }

    /// Returns whether there is nothing more to poll now. An error means that the client is dead.
    fn poll(&mut self, now: Instant) -> Result<bool, String> {
        for _ in 0..PASS {
            let incoming = match self.consumer.poll() {
                Polled::Record(record) => decode::read(&record),
                Polled::Event(Event::Fatal(reason)) => return Err(reason),
                Polled::Event(event) => {
                    self.on_event(now, event);
                    continue;
                }
                Polled::Idle => return Ok(true),
            };
            self.receive(now, incoming);
        }
        Ok(false)
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Assigned(partitions) => self.rebalance = Some(Rebalance::assign(partitions)),
            Event::Revoked { partitions, lost } => {
                self.rebalance = Some(Rebalance::revoke(partitions, lost, now + self.settings.revoke_within));
            }
            Event::Committed { result, .. } => {
                if result.is_ok() {
                    self.authorization.committed();
                }
                self.commits.settle(now, result, &mut self.ledger, &self.metrics);
            }
            Event::Statistics { high_watermarks, broker_up } => {
                self.state.kafka(broker_up);
                self.authorization.fetched(&high_watermarks);
                if self.authorization.is_topic_hidden() && self.consumer.sees_topic(SEEN_WITHIN).is_ok_and(|seen| seen)
                {
                    self.authorization.topic_is_seen();
                }
                self.high_watermarks.extend(high_watermarks);
            }
            Event::Trouble { kind, partition } => {
                self.metrics.consumer_error(kind);
                self.authorization.denied(kind, partition);
            }
            Event::PollIntervalExceeded => {
                tracing::error!("polls came too late: the group has given our partitions away");
                self.state.joined(false);
            }
            Event::Fatal(_) => {}
        }
    }

    fn receive(&mut self, now: Instant, incoming: Incoming) {
        let Incoming { partition, offset, content } = incoming;
        // Not received, hence not committed: the next worker reads it.
        if self.draining_until.is_some() || self.backpressure.held().contains(&partition) {
            self.ledger.drop_record(partition);
            return;
        }
        let Some(received) = self.ledger.receive(partition, offset) else { return };
        let generation = received.generation;
        if let Some(expected) = received.expected.filter(|expected| offset > *expected) {
            self.ledger.doubt(partition, expected);
            self.gaps.push(Gap { partition, generation, expected, offset });
        }
        match content {
            Content::Message { message, trace, uncached } => {
                self.healer.offer(&message, uncached);
                let meta = RecordMeta { partition, generation, offset, received: now, trace, refused_since: None };
                self.buffer.push(message, meta);
            }
            Content::Undecodable { reason, detail, original } => {
                tracing::error!(partition, offset, reason, detail, "a record can't be decoded");
                let letter = Letter::new(partition, generation, offset, reason, detail, original);
                self.letters.push(letter, &mut self.ledger, &self.metrics);
            }
            Content::Newer { version } => {
                // Never done, so the commit point stays here until a newer worker has the partition.
                tracing::error!(
                    partition,
                    offset,
                    version,
                    "a record of a newer schema: holding its partition for a newer worker"
                );
                self.backpressure.hold(partition);
            }
        }
    }

    /// Offsets are missing: gone with the log's beginning, or never records at all (a transaction's markers, an aborted one).
    fn judge_gaps(&mut self, now: Instant) {
        let consumer = &self.consumer;
        let log_start = |partition| Some(consumer.watermarks(partition, LOG_START_WITHIN).ok()?.0);
        for (Gap { partition, generation, expected, offset }, lost) in self.gaps.judge(now, log_start) {
            if lost > 0 {
                self.lose(partition, expected, offset, lost);
            }
            self.ledger.done(partition, generation, expected);
        }
    }

    /// Whatever lies between the last record and where polling is was no record.
    fn advance(&mut self) {
        if self.draining_until.is_none() {
            for (partition, position) in self.consumer.positions() {
                self.ledger.advance(partition, position);
            }
        }
    }

    /// Records between two offsets were deleted before anybody of the group had read them.
    pub(crate) fn lose(&mut self, partition: i32, expected: i64, offset: i64, lost: u64) {
        self.ledger.lose(partition, offset, Loss { records: lost, since: unix_ms() });
        self.metrics.records_skipped.inc_by(lost);
        tracing::error!(
            partition,
            expected,
            offset,
            lost,
            "records were deleted before they were read: messages are lost"
        );
    }

    fn notice_acknowledgement(&mut self) {
        if self.state.take_acknowledgement() {
            let Loss { records, since } = self.ledger.lost();
            self.ledger.acknowledge_losses();
            tracing::warn!(records, since, "an operator acknowledged that records were lost");
        }
    }

    fn notice_stop(&mut self, now: Instant) {
        if self.draining_until.is_none() && self.stop.is_cancelled() {
            let (held, _) = self.held();
            tracing::info!(held, "draining");
            self.advance();
            self.draining_until = Some(now + self.settings.drain_within);
            self.state.draining();
            self.backpressure.stop();
        }
    }

    fn ending(&self, now: Instant) -> Option<Ending> {
        let until = self.draining_until?;
        let (held, _) = self.held();
        if held == 0 && self.gaps.is_empty() && !self.commits.is_busy() && self.ledger.due().is_empty() {
            return Some(Ending::Drained);
        }
        (now >= until).then_some(Ending::LeftBehind(held))
    }
}

#[cfg(test)]
mod tests;
