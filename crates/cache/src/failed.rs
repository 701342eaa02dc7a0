//! The failed queue: what Kafka did not take, kept until it does.
//!
//! Takes an encoded record from the gateway's publish step and answers [`PushOutcome::Accepted`] only when the server that took it
//! keeps it by the rule of `failed/gate.rs`; gives the retry service chats to work on. Losing nothing rests on this order:
//!
//! 1. push: append to the chat's list, *then* touch the index, then answer. The touch always changes the chat's score.
//! 2. lease: a chat whose score is due gets the lease's end as its score.
//! 3. publish, and after Kafka's acknowledgement pop, by comparing bytes: two retriers can only publish twice.
//! 4. finish: a list that was seen empty leaves the index only if the score is still the lease, that is, if nothing was pushed.
//!
//! Each script touches keys of one slot, takes its time from the server and works at `maxmemory`, where a plain push is refused: a
//! full queue drains. Deadlines are the only limits here; the queue is never behind a circuit breaker.

mod entry;
mod fence;
mod gate;
mod operate;
mod retry;

use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_message::ChatId;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

pub use entry::{DeadEntry, EntryError, QueueEntry};
pub use operate::{Buried, ChatQueue, Found};
pub use retry::{FURTHEST, FinishAs, Head, Lease, Peeked, QueueStats, RepairStep, Taken};

use crate::CacheError;
use crate::connection::{Connection, Live};
use crate::keys::Keys;
use crate::script::{Call, Script, parse};
use gate::{Fence, Gate};

static TOUCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/failed_touch.lua")));

/// What to do when the server does not tell its settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Refuse.
    #[default]
    Checked,
    /// Take the operator's word for what can't be read; what can be is still checked.
    Assumed,
}

/// Settings of the failed queue.
#[derive(Debug, Clone, Copy)]
pub struct FailedQueueSettings {
    /// How long a push may take altogether.
    pub timeout: Duration,
    /// What to do when the server does not tell its settings.
    pub durability: Durability,
}

impl Default for FailedQueueSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), durability: Durability::Checked }
    }
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The server has it and keeps it, and it will be retried.
    Accepted,
    /// It is not durably queued. After [`Refusal::Replicas`] and [`Refusal::NotSynced`] it is queued nevertheless, and may turn up.
    Refused(Refusal),
    /// Nobody knows: it may be queued or not.
    Unknown(String),
}

/// Why the queue does not take a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `appendonly` is off: a crash would lose it.
    #[error("the queue server has no append-only file")]
    NoAppendOnlyFile,
    /// `appendfsync no`.
    #[error("the queue server leaves syncing its file to chance")]
    NeverSynced,
    /// `maxmemory-policy` is not `noeviction`.
    #[error("the queue server may evict what it holds ({0})")]
    Evicts(String),
    /// A setting can't be read, and is not assumed either.
    #[error("the queue server does not tell {0}; FAILED_QUEUE_DURABILITY=assumed takes your word for it")]
    Unreadable(&'static str),
    /// It is a replica now.
    #[error("the queue server is a replica")]
    Replica,
    /// Fewer replicas confirmed the push than are connected.
    #[error("{reached} of {wanted} replicas of the queue server have it")]
    Replicas {
        /// How many confirmed.
        reached: u32,
        /// How many are connected.
        wanted: u32,
    },
    /// The server's own disk did not have it in time.
    #[error("the queue server's disk has not synced it")]
    NotSynced,
    /// The server answered with an error, as when its memory is full.
    #[error("the queue server refused: {0}")]
    Server(String),
    /// It could not be reached in time; nothing was sent.
    #[error("the queue server is unreachable: {0}")]
    Unreachable(String),
}

/// The failed queues of all chats. Cheap to clone.
#[derive(Clone)]
pub struct FailedQueue {
    connection: Connection,
    keys: Keys,
    settings: FailedQueueSettings,
    gate: Arc<Mutex<Option<Arc<Gate>>>>,
    warned: Arc<AtomicBool>,
    fence: mpsc::Sender<fence::Request>,
}

impl FailedQueue {
    /// Failed queues on the queue server. Must be called within a Tokio runtime.
    pub fn new(connection: Connection, keys: Keys, settings: FailedQueueSettings) -> Self {
        let (fence, requests) = mpsc::channel(fence::QUEUE);
        tokio::spawn(fence::serve(connection.another(), requests));
        Self { connection, keys, settings, gate: Arc::default(), warned: Arc::default(), fence }
    }

    /// Queues an entry, within the settings' timeout altogether.
    pub async fn push(&self, chat: &ChatId, entry: &QueueEntry) -> PushOutcome {
        let started = Instant::now();
        let outcome = self.try_push(chat, entry, started + self.settings.timeout).await;
        let label = match &outcome {
            PushOutcome::Accepted => "ok",
            PushOutcome::Refused(Refusal::Unreachable(_)) | PushOutcome::Unknown(_) => "unavailable",
            PushOutcome::Refused(_) => "refused",
        };
        self.connection.metrics().operation("failed_push", label, started.elapsed());
        outcome
    }

    /// Whether a push would be taken now, as far as the server's settings tell.
    pub async fn check(&self, budget: Duration) -> Result<(), Refusal> {
        let deadline = Instant::now() + budget;
        let live = self.live(deadline).await?;
        self.gate(&live, deadline).await?.verdict.clone().map(drop)
    }

    async fn try_push(&self, chat: &ChatId, entry: &QueueEntry, deadline: Instant) -> PushOutcome {
        let permitted = async {
            let live = self.live(deadline).await?;
            let gate = self.gate(&live, deadline).await?;
            let fence = gate.verdict.clone()?;
            Ok((live, gate, fence))
        };
        // The push goes to the connection that the gate was read on, or nowhere.
        let (live, gate, fence) = match permitted.await {
            Ok(permitted) => permitted,
            Err(refusal) => return PushOutcome::Refused(refusal),
        };
        let push = Call::new("RPUSH").arg(self.keys.failed(chat)).arg(&*entry.encode());
        match live.run(vec![push], deadline).await.map(|mut results| results.pop()) {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return PushOutcome::Refused(Refusal::Server(error.to_string())),
            Ok(None) => return PushOutcome::Unknown("no answer".into()),
            Err(error) => return PushOutcome::Unknown(error.to_string()),
        }
        let touch = TOUCH.call(&[&self.keys.failed_index()]).arg(chat.as_str());
        if fence.is_needed() {
            return self.fenced(touch, &gate, fence, deadline).await;
        }
        let touched = live.run(vec![touch], deadline).await.and_then(|mut results| {
            let value = results.pop().unwrap_or_else(|| Err(CacheError::unexpected("no answer")))?;
            parse::<String>(value)
        });
        match touched {
            Ok(run_id) if run_id == gate.run_id => PushOutcome::Accepted,
            Ok(_) => {
                live.give_up();
                PushOutcome::Unknown("the queue server was replaced".into())
            }
            Err(error) => PushOutcome::Unknown(error.to_string()),
        }
    }

    async fn fenced(&self, touch: Call, gate: &Gate, fence: Fence, deadline: Instant) -> PushOutcome {
        let (outcome, answer) = oneshot::channel();
        let waiting = fence::Waiting { run_id: gate.run_id.as_str().into(), fence, deadline, outcome };
        if self.fence.try_send(fence::Request { touch, waiting }).is_err() {
            return PushOutcome::Unknown("too many pushes wait for the queue server's replicas or disk".into());
        }
        let outcome = match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => PushOutcome::Unknown("shutting down".into()),
            Err(_) => PushOutcome::Unknown("no answer in time".into()),
        };
        if outcome != PushOutcome::Accepted {
            // Replicas may have come or gone.
            *self.gate.lock().await = None;
        }
        outcome
    }

    async fn live(&self, deadline: Instant) -> Result<Live, Refusal> {
        self.connection.live(deadline).await.map_err(|error| Refusal::Unreachable(error.to_string()))
    }

    /// What the server on this connection promises, asked again after every reconnect and now and then.
    async fn gate(&self, live: &Live, deadline: Instant) -> Result<Arc<Gate>, Refusal> {
        let unreachable = |error: CacheError| Refusal::Unreachable(error.to_string());
        let Ok(mut known) = timeout_at(deadline, self.gate.lock()).await else {
            return Err(Refusal::Unreachable("no answer in time".into()));
        };
        if let Some(gate) = known.as_ref().filter(|gate| gate.holds(live)) {
            return Ok(gate.clone());
        }
        let gate = Arc::new(Gate::read(live, self.settings, deadline).await.map_err(unreachable)?);
        let before = known.as_ref().map(|gate| &gate.verdict);
        if let Err(refusal) = &gate.verdict
            && before.is_none_or(|before| before.is_ok())
        {
            tracing::error!(reason = %refusal, "the failed queue takes nothing");
        }
        if gate.everysec && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the queue server syncs its file every second: a power failure may take the last second's messages; appendfsync always, or Redis 7.2 and a FAILED_QUEUE_TIMEOUT_MS of 2500, keep them"
            );
        }
        *known = Some(gate.clone());
        Ok(gate)
    }
}
