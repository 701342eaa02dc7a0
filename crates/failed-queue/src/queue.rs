//! The failed queue: messages that Kafka did not take, stored until it does.
//!
//! Takes an encoded record from the gateway's publish step. Answers [`PushOutcome::Accepted`] only if the server that took it retains it
//! by the rule of `durability.rs`. Gives the retry service chats to work on. That no message is lost depends on this order:
//!
//! 1. Push: append to the chat's list, *then* touch the index, then answer. The touch always changes the chat's score.
//! 2. Lease: a chat whose score is due gets the end of the lease as its score.
//! 3. Publish; after Kafka's acknowledgement pop the entries, which are compared by their bytes. Two retriers can only publish an entry
//!    twice.
//! 4. Finish: a list that was seen empty is removed from the index only if the score is still that of the lease, that is, if nothing was
//!    pushed meanwhile.
//!
//! Each script touches keys of one slot, takes the time from the server, and works at `maxmemory`, where a plain push is refused: a full
//! queue can be drained. Deadlines are the only limits here; the queue is never behind a circuit breaker.
//!
//! In a cluster a chat's list and the index are on different nodes. An acknowledgement depends on the list: it is pushed on a connection
//! to a server that was checked, and that server's replicas and disk are waited for. The index is touched wherever it is; what a failing
//! master loses of it, the index repair restores. A master that would lose entries closes the queue for all chats, because any slot may
//! move to it; a master that is away or lacks replicas closes it for its own chats only.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_redis::server_info::ServerState;
use holdfast_redis::{Call, Connection, Live, Route, Script, Sent, Value};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::durability::{Confirmations, DurabilityCheck};
use crate::entry::QueueEntry;
use crate::node::{QueueNode, QueueNodes};
use crate::outcome::{PushOutcome, Refusal};
use crate::replication::{self, Pushed, no_answer};
use crate::settings::FailedQueueSettings;
use crate::warning::Warning;

static TOUCH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/touch.lua")));

/// The failed queues of all chats. Cheap to clone.
#[derive(Clone)]
pub struct FailedQueue {
    pub(crate) connection: Connection,
    pub(crate) keys: Keys,
    nodes: Arc<QueueNodes>,
    timeout: Duration,
}

impl FailedQueue {
    /// The failed queues on a server or cluster. Must be called within a Tokio runtime.
    pub fn new(connection: Connection, keys: Keys, settings: FailedQueueSettings) -> Self {
        Self { connection, keys, nodes: Arc::new(QueueNodes::new(settings)), timeout: settings.timeout }
    }

    /// Queues an entry, within [`FailedQueueSettings::timeout`].
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

    /// What an operator should know about the servers, as of their last check.
    pub fn warnings(&self) -> Vec<Warning> {
        self.nodes.warnings()
    }

    /// Whether the queue would accept a push now, for any chat, as far as the settings and the state of the servers say.
    ///
    /// # Errors
    /// Why it would refuse.
    pub async fn check(&self, budget: Duration) -> Result<(), Refusal> {
        let deadline = Instant::now() + budget;
        let masters = self.connection.every_master(deadline).await?;
        self.nodes.retain(&masters);
        let checks = masters.iter().map(async |node| {
            let live = node.live(deadline).await?;
            self.nodes.of(node).check_now(&live, deadline).await?.verdict.clone()
        });
        join_all(checks).await.into_iter().try_for_each(|verdict| verdict.map(drop))
    }

    async fn try_push(&self, chat: &ChatId, entry: &QueueEntry, deadline: Instant) -> PushOutcome {
        let key = self.keys.failed(chat);
        let entry = entry.encode();
        let (mut known, mut pause): (Option<Route>, _) = (None, Duration::ZERO);
        loop {
            let found = match known.take() {
                Some(route) => route.live(deadline).await.map(|live| (route, live)),
                None => self.connection.reach(&key, deadline).await,
            };
            let (route, live) = match found {
                Ok(found) => found,
                Err(error) => return PushOutcome::Refused(error.into()),
            };
            let push = Call::new("RPUSH").key(&key).arg(&*entry);
            let refusal = match self.push_at(&route, &live, chat, push, deadline).await {
                Pushed::Ended(PushOutcome::Refused(Refusal::Replica)) if self.connection.is_cluster() => {
                    self.connection.refresh_map();
                    Refusal::Replica
                }
                Pushed::Ended(outcome) => return outcome,
                Pushed::Unconfirmed | Pushed::Confirmed { .. } => {
                    known = Some(route);
                    Refusal::Unreachable("its replicas have changed".into())
                }
                Pushed::Refused(answer) => match self.connection.detour(&key, &route.node, &answer) {
                    None => return PushOutcome::Refused(Refusal::Server(server_error(answer))),
                    Some(Err(error)) => error.into(),
                    Some(Ok(next)) => {
                        known = next;
                        Refusal::Unreachable("the chat's slot is on its way to another node".into())
                    }
                },
            };
            // The server has done nothing. The first redirect is followed at once.
            tokio::time::sleep(pause).await;
            if Instant::now() >= deadline {
                return PushOutcome::Refused(refusal);
            }
            pause = (pause * 2).clamp(Duration::from_millis(2), Duration::from_millis(50));
        }
    }

    /// Pushes on the connection that was checked, or not at all.
    async fn push_at(&self, route: &Route, live: &Live, chat: &ChatId, push: Call, deadline: Instant) -> Pushed {
        let node = self.nodes.of(&route.node);
        let permitted = async {
            let check = node.check(live, deadline).await?;
            if check.verdict == Err(Refusal::Replica) {
                // It may become a master at any time.
                node.forget();
            }
            let required = check.verdict.clone()?;
            self.nodes.none_refuses()?;
            Ok((check, required))
        };
        let (check, required) = match permitted.await {
            Ok(permitted) => permitted,
            Err(refusal) => return Pushed::Ended(PushOutcome::Refused(refusal)),
        };
        let touch = TOUCH.call(&[&self.keys.failed_index()]).arg(chat.as_str());
        if required.is_needed() {
            return self
                .push_confirmed(
                    &node,
                    live,
                    replication::Write { push, asking: route.asking, touch },
                    &check,
                    required,
                    deadline,
                )
                .await;
        }
        let calls = ServerState::calls();
        let sent = [Sent { call: &push, asking: route.asking }].into_iter().chain(calls.iter().map(Sent::plainly));
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
            Ok(_) => node.judge(live, &check, &seen, Confirmations::default(), deadline).await,
            Err(error) => Pushed::Ended(PushOutcome::Unknown(error.to_string())),
        }
    }

    /// Pushes on the connection that waits for replicas and disk, and waits for its answer.
    async fn push_confirmed(
        &self,
        node: &QueueNode,
        live: &Live,
        write: replication::Write,
        check: &DurabilityCheck,
        required: Confirmations,
        deadline: Instant,
    ) -> Pushed {
        let (outcome, answer) = oneshot::channel();
        let waiting = replication::Waiting { run_id: check.run_id.as_str().into(), required, deadline, outcome };
        if !node.replication_wait(&self.connection).submit(replication::Request { write, waiting }) {
            let reason = "too many pushes wait for the queue server's replicas or disk".to_owned();
            return Pushed::Ended(PushOutcome::Refused(Refusal::Unreachable(reason)));
        }
        let pushed = match timeout_at(deadline, answer).await {
            Ok(Ok(Pushed::Confirmed { seen, reached })) => node.judge(live, check, &seen, reached, deadline).await,
            Ok(Ok(pushed)) => pushed,
            Ok(Err(_)) => Pushed::Ended(PushOutcome::Unknown("shutting down".into())),
            Err(_) => Pushed::Ended(PushOutcome::Unknown("no answer in time".into())),
        };
        if !matches!(pushed, Pushed::Ended(PushOutcome::Accepted)) {
            // Replicas may have come or gone.
            node.forget();
        }
        pushed
    }
}

fn server_error(answer: Value) -> String {
    match answer {
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        _ => "nothing that can be understood".into(),
    }
}
