//! What the worker says of itself. Takes snapshots from the loop, and what the others find of their servers; asking costs nothing.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use holdfast_service::clock::unix_ms;
use holdfast_service::ops::{Health, Signals};
use serde_json::{Value, json};

/// A loop that did not come round for so long hangs. Its calls to librdkafka are bounded far below.
const HUNG_AFTER: Duration = Duration::from_secs(30);

/// Why a worker is degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Degraded {
    /// Records of a newer version wait for a worker that can read them.
    PartitionHeld,
    /// The log had dropped records before they were read, and no operator has acknowledged it.
    RecordsLost,
    /// Flushes fail.
    MongoDb,
    /// Offsets are not committed.
    CommitsBehind,
    /// What can't be stored waits.
    DeadLetters,
    /// The topic or the group is denied.
    Denied,
}

impl Degraded {
    const ALL: [Self; 6] =
        [Self::PartitionHeld, Self::RecordsLost, Self::MongoDb, Self::CommitsBehind, Self::DeadLetters, Self::Denied];

    /// The `reason` in the metrics.
    fn reason(self) -> &'static str {
        match self {
            Self::PartitionHeld => "partition_held",
            Self::RecordsLost => "records_lost",
            Self::MongoDb => "mongodb",
            Self::CommitsBehind => "commits_behind",
            Self::DeadLetters => "dead_letters",
            Self::Denied => "denied",
        }
    }

    /// The sentence in the health report.
    fn sentence(self) -> &'static str {
        match self {
            Self::PartitionHeld => "a partition waits for a newer worker",
            Self::RecordsLost => "records were deleted before they were read",
            Self::MongoDb => "mongodb does not take messages",
            Self::CommitsBehind => "the broker takes no commits",
            Self::DeadLetters => "the dead-letter topic can't be written",
            Self::Denied => "kafka refuses us the topic or the group",
        }
    }
}

/// The loop, as of a moment ago.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Messages held, dead letters included.
    pub messages: usize,
    /// About how many bytes they take.
    pub bytes: usize,
    /// Messages that may be held.
    pub capacity: usize,
    /// Whether fetching is paused as the buffer is full.
    pub paused: bool,
    /// When a flush last succeeded, in epoch milliseconds.
    pub last_flush_at: Option<i64>,
    /// The partitions assigned to this worker.
    pub partitions: Vec<i32>,
    /// Lost records of these partitions; 0 once an operator has acknowledged the loss.
    pub lost: u64,
    /// Why the worker is degraded.
    pub degraded: Vec<Degraded>,
}

/// The worker's health: the loop and the connections write it, the operators' port reads it.
#[derive(Debug, Default)]
pub struct State {
    /// When the loop last completed a pass, in Unix epoch milliseconds; 0: it has not begun.
    ticked_at: AtomicI64,
    joined: AtomicBool,
    refused: AtomicBool,
    draining: AtomicBool,
    acknowledged: AtomicBool,
    kafka: AtomicBool,
    mongodb: AtomicBool,
    redis: AtomicBool,
    snapshot: Mutex<Snapshot>,
}

impl State {
    /// The loop has completed a pass.
    pub fn tick(&self) {
        self.ticked_at.store(unix_ms(), Ordering::Relaxed);
    }

    /// Whether this worker is a member of the group.
    pub fn joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// Whether the brokers refuse what the work needs.
    pub fn refused(&self, refused: bool) {
        self.refused.store(refused, Ordering::Relaxed);
    }

    /// The process was asked to stop.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether a broker is connected, by the consumer's statistics: nothing else sets this.
    pub fn kafka(&self, up: bool) {
        self.kafka.store(up, Ordering::Relaxed);
    }

    /// Whether MongoDB takes messages.
    pub fn mongodb(&self, up: bool) {
        self.mongodb.store(up, Ordering::Relaxed);
    }

    /// Whether the cache answers.
    pub fn redis(&self, up: bool) {
        self.redis.store(up, Ordering::Relaxed);
    }

    /// Whether an operator has acknowledged the losses since this was asked last.
    pub fn take_acknowledgement(&self) -> bool {
        self.acknowledged.load(Ordering::Relaxed) && self.acknowledged.swap(false, Ordering::Relaxed)
    }

    /// Publishes the loop's state.
    pub fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }

    fn status(&self, snapshot: &Snapshot) -> &'static str {
        if self.draining.load(Ordering::Relaxed) {
            "draining"
        } else if !self.joined.load(Ordering::Relaxed) {
            "waiting"
        } else if snapshot.paused {
            "paused"
        } else if !snapshot.degraded.is_empty() {
            "degraded"
        } else {
            "active"
        }
    }
}

impl Health for State {
    fn live(&self) -> bool {
        // Before the loop begins there is nothing that could hang, only servers to wait for.
        let ticked_at = self.ticked_at.load(Ordering::Relaxed);
        ticked_at == 0 || unix_ms() - ticked_at < HUNG_AFTER.as_millis() as i64
    }

    fn unready(&self) -> Option<String> {
        let why = if self.draining.load(Ordering::Relaxed) {
            "draining"
        } else if self.refused.load(Ordering::Relaxed) {
            // A member that may not read the topic is none.
            "kafka refuses what the work needs"
        } else if !self.joined.load(Ordering::Relaxed) {
            "not a member of the group"
        } else {
            return None;
        };
        Some(why.to_owned())
    }

    fn signals(&self) -> Signals {
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Signals {
            ready: self.ready(),
            draining: self.draining.load(Ordering::Relaxed),
            dependencies: vec![
                ("kafka", self.kafka.load(Ordering::Relaxed)),
                ("mongodb", self.mongodb.load(Ordering::Relaxed)),
                ("redis", self.redis.load(Ordering::Relaxed)),
            ],
            degraded: Degraded::ALL.map(|why| (why.reason(), snapshot.degraded.contains(&why))).to_vec(),
        }
    }

    fn acknowledge_losses(&self) -> bool {
        self.acknowledged.store(true, Ordering::Relaxed);
        true
    }

    fn report(&self) -> Value {
        let snapshot = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "status": self.status(&snapshot),
            "degraded": snapshot.degraded.iter().map(|why| why.sentence()).collect::<Vec<_>>(),
            "buffer": { "messages": snapshot.messages, "bytes": snapshot.bytes, "capacity": snapshot.capacity },
            "lastFlushAt": snapshot.last_flush_at,
            "partitions": snapshot.partitions,
            "lostRecords": snapshot.lost,
            "dependencies": {
                "kafka": { "up": self.kafka.load(Ordering::Relaxed) },
                "mongodb": { "up": self.mongodb.load(Ordering::Relaxed) },
                "redis": { "up": self.redis.load(Ordering::Relaxed) },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_membership_that_is_not_refused_its_records_and_liveness_is_the_loops_own_progress() {
        let state = State::default();
        assert!(state.live() && !state.ready());
        assert_eq!(state.report()["status"], "waiting");
        state.joined(true);
        assert!(state.ready());
        assert_eq!(state.report()["status"], "active");
        state.refused(true);
        assert!(!state.ready() && state.live());
        state.refused(false);
        assert!(state.ready());
        state.ticked_at.store(unix_ms() - 31_000, Ordering::Relaxed);
        assert!(!state.live());
        state.tick();
        assert!(state.live());
        state.draining();
        assert!(!state.ready());
        assert_eq!(state.report()["status"], "draining");
    }

    #[test]
    fn a_paused_worker_says_so_and_says_why() {
        let state = State::default();
        state.joined(true);
        let degraded = vec![Degraded::MongoDb];
        state.publish(Snapshot { degraded: degraded.clone(), ..Snapshot::default() });
        assert_eq!(state.report()["status"], "degraded");
        state.publish(Snapshot { degraded, paused: true, messages: 7, capacity: 5, ..Snapshot::default() });
        let report = state.report();
        assert_eq!(
            (&report["status"], &report["degraded"][0]),
            (&json!("paused"), &json!("mongodb does not take messages"))
        );
        let degraded: Vec<_> = state.signals().degraded.into_iter().filter(|(_, is)| *is).collect();
        assert_eq!(degraded, [("mongodb", true)]);
        assert_eq!(report["buffer"], json!({ "messages": 7, "bytes": 0, "capacity": 5 }));
    }
}
