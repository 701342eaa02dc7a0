//! What is known of each server that keeps pushes: its gate, and the way to its fence.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::gate::{Complete, Fence, Gate};
use super::{FailedQueueSettings, PushOutcome, Pushed, Refusal, Warning, fence, unreachable};
use crate::connection::{Connection, Live, Node, Sent};
use crate::inspect::{ServerFacts, ServerState};

/// The servers, by their names.
pub(super) struct Keepers {
    settings: FailedQueueSettings,
    known: Mutex<HashMap<Arc<str>, Arc<Keeper>>>,
    warned: Arc<Mutex<HashSet<Warning>>>,
}

/// One server.
pub(super) struct Keeper {
    node: Node,
    settings: FailedQueueSettings,
    gate: Mutex<Option<Arc<Gate>>>,
    complete: Mutex<Option<Complete>>,
    /// Held while the server is asked, so that it is asked once.
    asking: tokio::sync::Mutex<()>,
    fence: OnceLock<mpsc::Sender<fence::Request>>,
    warned: Arc<Mutex<HashSet<Warning>>>,
}

impl Keepers {
    pub(super) fn new(settings: FailedQueueSettings) -> Self {
        Self { settings, known: Mutex::default(), warned: Arc::default() }
    }

    /// What is known of this server.
    pub(super) fn of(&self, node: &Node) -> Arc<Keeper> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = known.entry(node.name().clone()).or_insert_with(|| {
            Arc::new(Keeper {
                node: node.clone(),
                settings: self.settings,
                gate: Mutex::default(),
                complete: Mutex::default(),
                asking: tokio::sync::Mutex::default(),
                fence: OnceLock::new(),
                warned: self.warned.clone(),
            })
        });
        keeper.clone()
    }

    /// Forgets all other servers, and ends their fences.
    pub(super) fn retain(&self, nodes: &[Node]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|name, _| nodes.iter().any(|node| node.name() == name));
    }

    /// Refuses if any server was seen lately that would not keep what it is given.
    pub(super) fn none_refuses(&self) -> Result<(), Refusal> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = known.values().filter_map(|keeper| keeper.known()?.forgets().cloned());
        refusals.into_iter().next().map_or(Ok(()), Err)
    }

    /// What an operator should know of the servers, as they were last seen.
    pub(super) fn warnings(&self) -> Vec<Warning> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut warnings = Vec::new();
        for warning in known.values().filter_map(|keeper| keeper.known()).flat_map(|gate| gate.warnings.clone()) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

impl Keeper {
    fn known(&self) -> Option<Arc<Gate>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next push asks the server anew.
    pub(super) fn forget(&self) {
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What the server on this connection promises, asked again after every reconnect and now and then.
    pub(super) async fn gate(&self, live: &Live, deadline: Instant) -> Result<Arc<Gate>, Refusal> {
        self.gate_if(live, deadline, |_| true).await
    }

    /// The same, for a server that was just seen in this state.
    async fn gate_in(&self, live: &Live, seen: &ServerState, deadline: Instant) -> Result<Arc<Gate>, Refusal> {
        self.gate_if(live, deadline, |gate| gate.state == *seen).await
    }

    /// The same, whatever was known.
    pub(super) async fn gate_now(&self, live: &Live, deadline: Instant) -> Result<Arc<Gate>, Refusal> {
        let calls = ServerState::calls();
        let sent: Vec<_> = calls.iter().map(Sent::plainly).collect();
        let seen = ServerState::answered(live.send(&sent, deadline).await.map_err(unreachable)?);
        self.gate_in(live, &seen, deadline).await
    }

    async fn gate_if(
        &self,
        live: &Live,
        deadline: Instant,
        fits: impl Fn(&Gate) -> bool,
    ) -> Result<Arc<Gate>, Refusal> {
        let holds = |gate: &Arc<Gate>| gate.holds(live) && fits(gate);
        if let Some(gate) = self.known().filter(holds) {
            return Ok(gate);
        }
        let Ok(_asking) = timeout_at(deadline, self.asking.lock()).await else {
            return Err(Refusal::Unreachable("no answer in time".into()));
        };
        let before = self.known();
        if let Some(gate) = before.clone().filter(holds) {
            return Ok(gate);
        }
        let found = ServerFacts::read_on(live, deadline).await.map_err(unreachable)?;
        let complete = self.complete(&found);
        let gate = Arc::new(Gate::of(live, found, self.settings, complete));
        if let Err(refusal) = &gate.verdict
            && before.is_none_or(|before| before.verdict.is_ok())
        {
            tracing::error!(server = &**self.node.name(), reason = %refusal, "the failed queue takes nothing");
        }
        for warning in &gate.warnings {
            if self.warned.lock().unwrap_or_else(PoisonError::into_inner).insert(warning.clone()) {
                tracing::warn!(server = &**self.node.name(), "{warning}");
            }
        }
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate.clone());
        Ok(gate)
    }

    /// Whether the server's append-only file holds everything that it should.
    fn complete(&self, found: &ServerFacts) -> bool {
        let mut complete = self.complete.lock().unwrap_or_else(PoisonError::into_inner);
        *complete = Complete::after(found, complete.take());
        complete.is_some()
    }

    /// What became of a push after which the server was seen in this state, and that replicas and disk have as far as `reached` says.
    pub(super) async fn judge(
        &self,
        live: &Live,
        gate: &Gate,
        seen: &ServerState,
        reached: Fence,
        deadline: Instant,
    ) -> Pushed {
        if gate.state == *seen {
            return Pushed::Ended(PushOutcome::Accepted);
        }
        let now = match self.gate_in(live, seen, deadline).await {
            Ok(now) if now.run_id == gate.run_id => now,
            Ok(_) => return Pushed::Ended(PushOutcome::Unknown("the queue server was replaced".into())),
            Err(why) => return Pushed::Ended(PushOutcome::Unknown(why.to_string())),
        };
        match &now.verdict {
            Err(refusal) => Pushed::Ended(PushOutcome::Refused(refusal.clone())),
            Ok(fence) => match fence.missed(reached) {
                None => Pushed::Ended(PushOutcome::Accepted),
                // Nothing was waited for, as nothing had to be until a moment ago.
                Some(_) if !reached.is_needed() => Pushed::Unfenced,
                Some(refusal) => Pushed::Ended(PushOutcome::Refused(refusal)),
            },
        }
    }

    /// The way to the server's fence, on a connection of its own. `connection` is the ordinary one.
    pub(super) fn fence(&self, connection: &Connection) -> &mpsc::Sender<fence::Request> {
        self.fence.get_or_init(|| {
            let (fence, requests) = mpsc::channel(fence::QUEUE);
            tokio::spawn(fence::serve(self.node.another(), connection.clone(), requests));
            fence
        })
    }
}
