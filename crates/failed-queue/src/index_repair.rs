//! The repair of the index: finds queues that the index lacks, because a gateway died between the two steps of a push.
//!
//! A *round* scans all keys of all queue servers, one server beside the other. It consists of runs of a bounded number of steps; the next run
//! continues where the last one stopped, so that servers of any size are scanned to the end. A server that does not answer keeps its position
//! while the others go on, and costs one call for each run until it is back. A new master is scanned from the next run on; a server that is
//! no longer a master is forgotten. The next round begins some time after the end of the last one.
//!
//! A server that restarts during a round may have keys that the round misses; the next round finds them.
//!
//! See `docs/decisions/failed-queue-index.md`.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_redis::{RedisError, Script, parse};
use tokio::time::{Instant, sleep};

use crate::BUDGET;
use crate::queue::FailedQueue;
use crate::scan::Cursor;

static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/restore.lua")));

/// The pause after each step, for the server's other clients.
const BREATH: Duration = Duration::from_millis(5);

/// How much is scanned, and how often.
#[derive(Debug, Clone, Copy)]
pub struct RepairPace {
    /// The number of keys of one step.
    pub keys: usize,
    /// The number of steps of one run, on each server.
    pub steps: usize,
    /// The time from the end of a round to the next one.
    pub rest: Duration,
}

impl Default for RepairPace {
    fn default() -> Self {
        Self { keys: 500, steps: 200, rest: Duration::from_secs(600) }
    }
}

/// The state of the repair.
pub struct IndexRepair {
    queue: FailedQueue,
    pace: RepairPace,
    /// The positions of the current round, one for each server.
    walks: Vec<Walk>,
    next_round: Option<Instant>,
}

/// The position of the current round on one server.
struct Walk {
    server: String,
    /// The next position; `None`: the server is finished.
    at: Option<Cursor>,
}

impl IndexRepair {
    /// A repair whose first round begins with the first run.
    pub fn new(queue: FailedQueue, pace: RepairPace) -> Self {
        Self { queue, pace, walks: Vec::new(), next_round: None }
    }

    /// Continues the round, or begins the next one when it is due.
    ///
    /// # Errors
    /// A server did not answer; the others were repaired all the same.
    pub async fn run(&mut self) -> Result<(), RedisError> {
        if self.next_round.is_some_and(|at| Instant::now() >= at) {
            self.walks.clear();
            self.next_round = None;
        }
        let starts = self.queue.cursors(BUDGET).await?;
        self.walks.retain(|walk| starts.iter().any(|start| start.server() == walk.server));
        for start in starts {
            if self.walks.iter().all(|walk| walk.server != start.server()) {
                self.walks.push(Walk { server: start.server().to_owned(), at: Some(start) });
            }
        }
        let walked = join_all(self.walks.iter_mut().map(|walk| walk.advance(&self.queue, self.pace))).await;
        if self.walks.iter().all(|walk| walk.at.is_none()) && self.next_round.is_none() {
            self.next_round = Some(Instant::now() + self.pace.rest);
        }
        walked.into_iter().collect()
    }
}

impl Walk {
    async fn advance(&mut self, queue: &FailedQueue, pace: RepairPace) -> Result<(), RedisError> {
        for _ in 0..pace.steps {
            let Some(at) = self.at.clone() else { break };
            let step = queue.repair_index(at, pace.keys, BUDGET).await?;
            if step.added > 0 {
                tracing::warn!(chats = step.added, "the failed queue's index had lost chats; they are back");
            }
            self.at = step.next;
            sleep(BREATH).await;
        }
        Ok(())
    }
}

/// The result of one step of the repair.
#[derive(Debug, Clone)]
pub struct RepairStep {
    /// The next position; `None`: all keys of the server were scanned.
    pub next: Option<Cursor>,
    /// How many chats had a queue and were not in the index.
    pub added: usize,
}

impl FailedQueue {
    /// Examines about `keys` of a server's keys from `cursor` (first one of [`FailedQueue::cursors`]), and adds the queues that the index
    /// lacks.
    pub async fn repair_index(&self, cursor: Cursor, keys: usize, budget: Duration) -> Result<RepairStep, RedisError> {
        let deadline = Instant::now() + budget;
        let (next, found) = self.scan(cursor, keys, deadline).await?;
        let chats: Vec<_> = found.iter().filter_map(|key| self.keys.chat_of_failed(key)).collect();
        let mut added = 0;
        if !chats.is_empty() {
            let mut call = RESTORE.call(&[&self.keys.failed_index()]);
            for chat in &chats {
                call = call.arg(chat.as_str());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            added = parse(self.connection.run_one("failed_restore", call, left).await?)?;
        }
        Ok(RepairStep { next, added })
    }
}
