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
//!
//! In a cluster a chat's list and the index lie on nodes of their own. What an acknowledgement rests on is the list: it is pushed on
//! a connection whose server was looked at, and that server's replicas and disk are waited for. The index is touched wherever it
//! is; what a failing master forgets of it, the repair finds again. One master that would not keep what it is given closes the
//! queue for all chats, for a slot may move to it at any time; one that is away, or short of replicas, closes it for its own.

mod entry;
mod fence;
mod gate;
mod keeper;
mod operate;
mod retry;
mod scan;
mod warning;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_message::ChatId;
use redis::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub use entry::{DeadEntry, EntryError, QueueEntry};
pub use operate::{Buried, ChatQueue, Found};
pub use retry::{FURTHEST, FinishAs, Head, Lease, Peeked, QueueStats, RepairStep, Taken};
pub use scan::Cursor;
pub use warning::Warning;

use crate::CacheError;
use crate::connection::{Connection, Live, Place, Sent};
use crate::inspect::ServerState;
use crate::keys::Keys;
use crate::script::{Call, Script};
use gate::{Fence, Gate};
use keeper::{Keeper, Keepers};

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
    /// So many replicas at least must have what is pushed, or it is refused; those that are connected beyond them must have it too.
    pub min_replicas: u32,
}

impl Default for FailedQueueSettings {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(1), durability: Durability::Checked, min_replicas: 0 }
    }
}

/// What became of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushOutcome {
    /// The server has it and keeps it, and it will be retried.
    Accepted,
    /// It is not durably queued. It may be queued nevertheless, and turn up: a server that has changed is noticed after the push.
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
    /// `appendonly` was switched on, and the file does not hold everything yet: nothing that is pushed now would survive a crash.
    #[error("the queue server's append-only file retains nothing before its first rewrite is done")]
    FirstRewrite,
    /// `aof_last_write_status` is not `ok`.
    #[error("the queue server can't write to its append-only file; its disk may be full")]
    WritesFail,
    /// `no-appendfsync-on-rewrite yes`, and a child writes.
    #[error("the queue server does not sync its append-only file while it writes it anew (no-appendfsync-on-rewrite)")]
    SyncSuspended,
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
    /// Fewer replicas are connected than [`FailedQueueSettings::min_replicas`].
    #[error("{online} replicas of the queue server are online, where FAILED_QUEUE_MIN_REPLICAS wants {wanted}")]
    TooFewReplicas {
        /// How many are online.
        online: u32,
        /// How many are wanted.
        wanted: u32,
    },
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
    keepers: Arc<Keepers>,
    timeout: Duration,
}

/// What one attempt to push came to.
enum Pushed {
    Ended(PushOutcome),
    /// The server did nothing: the error that it answered.
    Refused(Value),
    /// So many replicas, and the disk, have it. The server was seen in this state after the push.
    Fenced {
        seen: ServerState,
        reached: Fence,
    },
    /// It is there, and has to be waited for, which it was not: it is pushed again. Its id absorbs the second copy.
    Unfenced,
}

impl FailedQueue {
    /// Failed queues on the queue server. Must be called within a Tokio runtime.
    pub fn new(connection: Connection, keys: Keys, settings: FailedQueueSettings) -> Self {
        Self { connection, keys, keepers: Arc::new(Keepers::new(settings)), timeout: settings.timeout }
    }

    /// Queues an entry, within the settings' timeout altogether.
    pub async fn push(&self, chat: &ChatId, entry: &QueueEntry) -> PushOutcome {
        let started = Instant::now();
        let outcome = self.try_push(chat, entry, started + self.timeout).await;
        let label = match &outcome {
            PushOutcome::Accepted => "ok",
            PushOutcome::Refused(Refusal::Unreachable(_)) | PushOutcome::Unknown(_) => "unavailable",
            PushOutcome::Refused(_) => "refused",
        };
        self.connection.metrics().operation("failed_push", label, started.elapsed());
        outcome
    }

    /// What an operator should know of the servers, as they were last seen.
    pub fn warnings(&self) -> Vec<Warning> {
        self.keepers.warnings()
    }

    /// Whether a push would be taken now, whatever its chat, as far as the servers' settings and their state tell.
    pub async fn check(&self, budget: Duration) -> Result<(), Refusal> {
        let deadline = Instant::now() + budget;
        let masters = self.connection.every_master(deadline).await.map_err(unreachable)?;
        self.keepers.retain(&masters);
        let gates = masters.iter().map(async |node| {
            let live = node.live(deadline).await.map_err(unreachable)?;
            self.keepers.of(node).gate_now(&live, deadline).await?.verdict.clone()
        });
        join_all(gates).await.into_iter().try_for_each(|verdict| verdict.map(drop))
    }

    async fn try_push(&self, chat: &ChatId, entry: &QueueEntry, deadline: Instant) -> PushOutcome {
        let key = self.keys.failed(chat);
        let entry = entry.encode();
        let (mut known, mut pause): (Option<Place>, _) = (None, Duration::ZERO);
        loop {
            let found = match known.take() {
                Some(place) => place.live(deadline).await.map(|live| (place, live)),
                None => self.connection.reach(&key, deadline).await,
            };
            let (place, live) = match found {
                Ok(found) => found,
                Err(error) => return PushOutcome::Refused(unreachable(error)),
            };
            let push = Call::new("RPUSH").key(&key).arg(&*entry);
            let refusal = match self.push_at(&place, &live, chat, push, deadline).await {
                Pushed::Ended(PushOutcome::Refused(Refusal::Replica)) if self.connection.is_cluster() => {
                    self.connection.look_again();
                    Refusal::Replica
                }
                Pushed::Ended(outcome) => return outcome,
                Pushed::Unfenced | Pushed::Fenced { .. } => {
                    known = Some(place);
                    Refusal::Unreachable("its replicas have changed".into())
                }
                Pushed::Refused(answer) => match self.connection.detour(&key, &place.node, &answer) {
                    None => return PushOutcome::Refused(Refusal::Server(server_error(answer))),
                    Some(Err(error)) => unreachable(error),
                    Some(Ok(next)) => {
                        known = next;
                        Refusal::Unreachable("the chat's slot is on its way to another node".into())
                    }
                },
            };
            // Nothing was done. The first redirect is followed at once.
            tokio::time::sleep(pause).await;
            if Instant::now() >= deadline {
                return PushOutcome::Refused(refusal);
            }
            pause = (pause * 2).clamp(Duration::from_millis(2), Duration::from_millis(50));
        }
    }

    /// Pushes on the connection that the gate was read on, or nowhere.
    async fn push_at(&self, place: &Place, live: &Live, chat: &ChatId, push: Call, deadline: Instant) -> Pushed {
        let keeper = self.keepers.of(&place.node);
        let permitted = async {
            let gate = keeper.gate(live, deadline).await?;
            if gate.verdict == Err(Refusal::Replica) {
                // It may be made a master at any time.
                keeper.forget();
            }
            let fence = gate.verdict.clone()?;
            self.keepers.none_refuses()?;
            Ok((gate, fence))
        };
        let (gate, fence) = match permitted.await {
            Ok(permitted) => permitted,
            Err(refusal) => return Pushed::Ended(PushOutcome::Refused(refusal)),
        };
        let touch = TOUCH.call(&[&self.keys.failed_index()]).arg(chat.as_str());
        if fence.is_needed() {
            return self
                .fenced(&keeper, live, fence::Write { push, asking: place.asking, touch }, &gate, fence, deadline)
                .await;
        }
        let calls = ServerState::calls();
        let sent = [Sent { call: &push, asking: place.asking }].into_iter().chain(calls.iter().map(Sent::plainly));
        let mut answers = match live.send(&sent.collect::<Vec<_>>(), deadline).await {
            Ok(answers) => answers.into_iter(),
            Err(error) => return Pushed::Ended(PushOutcome::Unknown(error.to_string())),
        };
        match answers.next() {
            Some(refused @ Value::ServerError(_)) => return Pushed::Refused(refused),
            Some(_) => {}
            None => return Pushed::Ended(PushOutcome::Unknown("no answer".into())),
        }
        let seen = ServerState::answered(answers);
        let touched = self.connection.run_beside(live, vec![touch], deadline).await;
        match touched.and_then(|mut touched| touched.pop().unwrap_or_else(no_answer)) {
            Ok(_) => keeper.judge(live, &gate, &seen, Fence::default(), deadline).await,
            Err(error) => Pushed::Ended(PushOutcome::Unknown(error.to_string())),
        }
    }

    async fn fenced(
        &self,
        keeper: &Keeper,
        live: &Live,
        write: fence::Write,
        gate: &Gate,
        fence: Fence,
        deadline: Instant,
    ) -> Pushed {
        let (outcome, answer) = oneshot::channel();
        let waiting = fence::Waiting { run_id: gate.run_id.as_str().into(), fence, deadline, outcome };
        if keeper.fence(&self.connection).try_send(fence::Request { write, waiting }).is_err() {
            let reason = "too many pushes wait for the queue server's replicas or disk".to_owned();
            return Pushed::Ended(PushOutcome::Refused(Refusal::Unreachable(reason)));
        }
        let pushed = match timeout_at(deadline, answer).await {
            Ok(Ok(Pushed::Fenced { seen, reached })) => keeper.judge(live, gate, &seen, reached, deadline).await,
            Ok(Ok(pushed)) => pushed,
            Ok(Err(_)) => Pushed::Ended(PushOutcome::Unknown("shutting down".into())),
            Err(_) => Pushed::Ended(PushOutcome::Unknown("no answer in time".into())),
        };
        if !matches!(pushed, Pushed::Ended(PushOutcome::Accepted)) {
            // Replicas may have come or gone.
            keeper.forget();
        }
        pushed
    }
}

fn unreachable(error: CacheError) -> Refusal {
    Refusal::Unreachable(error.to_string())
}

fn no_answer() -> Result<Value, CacheError> {
    Err(CacheError::unexpected("no answer"))
}

fn server_error(answer: Value) -> String {
    match answer {
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        _ => "nothing that can be understood".into(),
    }
}
