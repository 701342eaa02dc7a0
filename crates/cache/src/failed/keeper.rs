//! What is known of each server that keeps pushes: its gate, and the way to its fence.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::gate::Gate;
use super::{FailedQueueSettings, Refusal, fence, unreachable};
use crate::connection::{Connection, Live, Node};

/// The servers, by their names.
pub(super) struct Keepers {
    settings: FailedQueueSettings,
    known: Mutex<HashMap<Arc<str>, Arc<Keeper>>>,
    warned: Arc<AtomicBool>,
}

/// One server.
pub(super) struct Keeper {
    node: Node,
    settings: FailedQueueSettings,
    gate: Mutex<Option<Arc<Gate>>>,
    /// Held while the server is asked, so that it is asked once.
    asking: tokio::sync::Mutex<()>,
    fence: OnceLock<mpsc::Sender<fence::Request>>,
    warned: Arc<AtomicBool>,
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
        let holds = |gate: &Arc<Gate>| gate.holds(live);
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
        let gate = Arc::new(Gate::read(live, self.settings, deadline).await.map_err(unreachable)?);
        if let Err(refusal) = &gate.verdict
            && before.is_none_or(|before| before.verdict.is_ok())
        {
            tracing::error!(server = &**self.node.name(), reason = %refusal, "the failed queue takes nothing");
        }
        if gate.everysec && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the queue server syncs its file every second: a power failure may take the last second's messages; appendfsync always, or Redis 7.2 and a FAILED_QUEUE_TIMEOUT_MS of 2500, keep them"
            );
        }
        *self.gate.lock().unwrap_or_else(PoisonError::into_inner) = Some(gate.clone());
        Ok(gate)
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
