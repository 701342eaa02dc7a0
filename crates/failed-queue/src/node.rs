//! What is known about each queue server: its last check, and the way to its confirmed pushes.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use holdfast_redis::server_info::{ServerFacts, ServerState};
use holdfast_redis::{Connection, Live, Node, Sent};
use tokio::time::{Instant, timeout_at};

use crate::durability::{CompleteFile, Confirmations, DurabilityCheck};
use crate::outcome::{PushOutcome, Refusal};
use crate::replication::{Pushed, ReplicationWait};
use crate::settings::FailedQueueSettings;
use crate::warning::Warning;

/// The servers, by name.
pub(crate) struct QueueNodes {
    settings: FailedQueueSettings,
    known: Mutex<HashMap<Arc<str>, Arc<QueueNode>>>,
    warned: Arc<Mutex<HashSet<Warning>>>,
}

/// One server.
pub(crate) struct QueueNode {
    node: Node,
    settings: FailedQueueSettings,
    /// The last check; `None`: the next push checks the server again.
    last_check: Mutex<Option<Arc<DurabilityCheck>>>,
    complete_file: Mutex<Option<CompleteFile>>,
    /// Held during a check, so that concurrent pushes share one.
    asking: tokio::sync::Mutex<()>,
    replication_wait: OnceLock<ReplicationWait>,
    /// Warnings that were logged already.
    warned: Arc<Mutex<HashSet<Warning>>>,
}

impl QueueNodes {
    pub(crate) fn new(settings: FailedQueueSettings) -> Self {
        Self { settings, known: Mutex::default(), warned: Arc::default() }
    }

    /// What is known about this server.
    pub(crate) fn of(&self, node: &Node) -> Arc<QueueNode> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let node = known.entry(node.name().clone()).or_insert_with(|| {
            Arc::new(QueueNode {
                node: node.clone(),
                settings: self.settings,
                last_check: Mutex::default(),
                complete_file: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
                replication_wait: OnceLock::new(),
                warned: self.warned.clone(),
            })
        });
        node.clone()
    }

    /// Forgets all servers but these.
    pub(crate) fn retain(&self, nodes: &[Node]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| nodes.iter().any(|node| node.name() == name));
    }

    /// Fails if the last check of any server found that it would lose entries.
    pub(crate) fn none_refuses(&self) -> Result<(), Refusal> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = known.values().filter_map(|node| node.known()?.would_lose().cloned());
        refusals.into_iter().next().map_or(Ok(()), Err)
    }

    /// What an operator should know about the servers, as of their last check.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings = Vec::new();
        for warning in known.values().filter_map(|node| node.known()).flat_map(|check| check.warnings.clone()) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

impl QueueNode {
    fn known(&self) -> Option<Arc<DurabilityCheck>> {
        self.last_check.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the next push check the server again.
    pub(crate) fn forget(&self) {
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The check of the server on this connection. It is made again after every reconnect and when it is too old.
    pub(crate) async fn check(&self, live: &Live, deadline: Instant) -> Result<Arc<DurabilityCheck>, Refusal> {
        self.check_if(live, deadline, |_| true).await
    }

    /// The same, for a server that is in this state now.
    async fn check_in(
        &self,
        live: &Live,
        seen: &ServerState,
        deadline: Instant,
    ) -> Result<Arc<DurabilityCheck>, Refusal> {
        self.check_if(live, deadline, |check| check.state == *seen).await
    }

    /// The same, after reading the current state of the server.
    pub(crate) async fn check_now(&self, live: &Live, deadline: Instant) -> Result<Arc<DurabilityCheck>, Refusal> {
        let calls = ServerState::calls();
        let sent: Vec<_> = calls.iter().map(Sent::plainly).collect();
        let seen = ServerState::answered(live.send(&sent, deadline).await?);
        self.check_in(live, &seen, deadline).await
    }

    async fn check_if(
        &self,
        live: &Live,
        deadline: Instant,
        fits: impl Fn(&DurabilityCheck) -> bool,
    ) -> Result<Arc<DurabilityCheck>, Refusal> {
        let holds = |check: &Arc<DurabilityCheck>| check.is_valid_for(live) && fits(check);
        if let Some(check) = self.known().filter(holds) {
            return Ok(check);
        }
        let Ok(_asking) = timeout_at(deadline, self.asking.lock()).await else {
            return Err(Refusal::Unreachable("no answer in time".into()));
        };
        let before = self.known();
        if let Some(check) = before.clone().filter(holds) {
            return Ok(check);
        }
        let found = ServerFacts::read_on(live, deadline).await?;
        let complete = self.complete(&found);
        let check = Arc::new(DurabilityCheck::of(live, found, self.settings, complete));
        if let Err(refusal) = &check.verdict
            && before.is_none_or(|before| before.verdict.is_ok())
        {
            tracing::error!(server = &**self.node.name(), reason = %refusal, "the failed queue takes nothing");
        }
        for warning in &check.warnings {
            if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone()) {
                tracing::warn!(server = &**self.node.name(), "{warning}");
            }
        }
        *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = Some(check.clone());
        Ok(check)
    }

    /// Whether the server's append-only file is complete. Remembers the answer for the next check.
    fn complete(&self, found: &ServerFacts) -> bool {
        let mut complete = self.complete_file.lock().unwrap_or_else(PoisonError::into_inner);
        *complete = CompleteFile::after(found, complete.take());
        complete.is_some()
    }

    /// Decides on a push that these confirmations were reached for, and after which the server was in the state `seen`.
    pub(crate) async fn judge(
        &self,
        live: &Live,
        check: &DurabilityCheck,
        seen: &ServerState,
        reached: Confirmations,
        deadline: Instant,
    ) -> Pushed {
        if check.state == *seen {
            return Pushed::Ended(PushOutcome::Accepted);
        }
        let now = match self.check_in(live, seen, deadline).await {
            Ok(now) if now.run_id == check.run_id => now,
            Ok(_) => return Pushed::Ended(PushOutcome::Unknown("the queue server was replaced".into())),
            Err(why) => return Pushed::Ended(PushOutcome::Unknown(why.to_string())),
        };
        match &now.verdict {
            Err(refusal) => Pushed::Ended(PushOutcome::Refused(refusal.clone())),
            Ok(required) => match required.missed(reached) {
                None => Pushed::Ended(PushOutcome::Accepted),
                // There was no wait, because a moment ago none was required.
                Some(_) if !reached.is_needed() => Pushed::Unconfirmed,
                Some(refusal) => Pushed::Ended(PushOutcome::Refused(refusal)),
            },
        }
    }

    /// The way to the connection on which pushes wait for confirmations. `connection` is the ordinary one.
    pub(crate) fn replication_wait(&self, connection: &Connection) -> &ReplicationWait {
        self.replication_wait.get_or_init(|| ReplicationWait::start(self.node.another(), connection.clone()))
    }
}
