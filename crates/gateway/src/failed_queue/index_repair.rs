//! Mends the failed queue's index: finds queues that it lacks, those whose gateway died between the two steps of a push.
//!
//! A *round* looks at all keys of all the queue's servers, all servers at the same time. It is walked in runs of a bounded number of steps; the next
//! run goes on where this one stopped, so that a server of any size is walked to its end. A server that does not answer keeps its cursor while
//! the others come to their ends, and costs one call a run until it is back. A server that becomes a master is walked with the next run; one that
//! is no longer a master is forgotten. The next round begins a while after the end of the last.
//!
//! A server that was restarted within a round may have keys that the round misses: the next one finds them.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_cache::failed::Cursor;
use holdfast_cache::{CacheError, FailedQueue};
use tokio::time::{Instant, sleep};

use crate::failed_queue::replay::BUDGET;

/// What a step leaves to the server's other clients.
const BREATH: Duration = Duration::from_millis(5);

/// How much is looked at, and how often.
#[derive(Debug, Clone, Copy)]
pub struct RepairPace {
    /// Keys that one step looks at.
    pub keys: usize,
    /// Steps of one run, on each server.
    pub steps: usize,
    /// From a round's end to the next one.
    pub rest: Duration,
}

impl Default for RepairPace {
    fn default() -> Self {
        Self { keys: 500, steps: 200, rest: Duration::from_secs(600) }
    }
}

/// The index's repair.
pub struct IndexRepair {
    queue: FailedQueue,
    pace: RepairPace,
    /// The round's, one for each server.
    walks: Vec<Walk>,
    next_round: Option<Instant>,
}

/// How far a round has come on one server.
struct Walk {
    server: String,
    /// `None`: to its end.
    at: Option<Cursor>,
}

impl IndexRepair {
    /// Begins its first round with the first run.
    pub fn new(queue: FailedQueue, pace: RepairPace) -> Self {
        Self { queue, pace, walks: Vec::new(), next_round: None }
    }

    /// Goes on with the round, or begins the next one when it is time. Whether servers did not answer is the result of the whole, but
    /// keeps no other from being mended.
    pub async fn run(&mut self) -> Result<(), CacheError> {
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
        let walked = join_all(self.walks.iter_mut().map(|walk| walk.go_on(&self.queue, self.pace))).await;
        if self.walks.iter().all(|walk| walk.at.is_none()) && self.next_round.is_none() {
            self.next_round = Some(Instant::now() + self.pace.rest);
        }
        walked.into_iter().collect()
    }
}

impl Walk {
    async fn go_on(&mut self, queue: &FailedQueue, pace: RepairPace) -> Result<(), CacheError> {
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
