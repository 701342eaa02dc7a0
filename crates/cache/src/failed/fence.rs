//! Waiting until replicas, or the disk, have what was pushed.
//!
//! `WAIT` and `WAITAOF` block their connection, and vouch only for what that same connection has written. So what has to be waited
//! for is pushed on a connection of the fence's own. Its server's run id is compared with that of the server whose settings were
//! looked at, so that two connections to two servers are noticed. Requests that arrive while others are waited for are the next
//! batch. Each server of a cluster has a fence of its own.
//!
//! A batch is waited for until the earliest of its deadlines, then on until the next one: each request is answered by its own.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::gate::Fence;
use super::{PushOutcome, Pushed, no_answer};
use crate::CacheError;
use crate::connection::{Connection, Live, Node, Sent};
use crate::inspect::{self, ServerState};
use crate::script::{Call, parse};

/// Requests that may wait; when it is full a push is refused.
pub(super) const QUEUE: usize = 4096;
/// Requests that share one wait.
const BATCH: usize = 512;
/// What is left of a deadline for the answer to travel: the server looks at its blocked clients ten times a second.
const MARGIN: Duration = Duration::from_millis(150);

/// One entry that is to be pushed and fenced.
pub(super) struct Request {
    pub(super) write: Write,
    pub(super) waiting: Waiting,
}

/// What is to be written.
pub(super) struct Write {
    pub(super) push: Call,
    /// The slot is on its way here.
    pub(super) asking: bool,
    pub(super) touch: Call,
}

/// Who waits for it.
pub(super) struct Waiting {
    pub(super) run_id: Arc<str>,
    pub(super) fence: Fence,
    pub(super) deadline: Instant,
    pub(super) outcome: oneshot::Sender<Pushed>,
}

/// Serves requests until their sender is gone. `connection` is the ordinary one, to the same server or cluster.
pub(super) async fn serve(node: Node, connection: Connection, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|request| !request.waiting.outcome.is_closed());
        let (writes, mut waiting): (Vec<_>, _) =
            batch.drain(..).map(|request| (request.write, request.waiting)).unzip();
        if let Err(error) = settle(&node, &connection, writes, &mut waiting).await {
            waiting.into_iter().for_each(|waiting| waiting.end(PushOutcome::Unknown(error.to_string())));
        }
    }
}

/// Pushes, touches, and answers everybody as soon as it is known that they are safe, or that they are not by their deadline. Whoever
/// is left when this fails has to be told.
async fn settle(
    node: &Node,
    connection: &Connection,
    writes: Vec<Write>,
    waiting: &mut Vec<Waiting>,
) -> Result<(), CacheError> {
    let Some(last) = waiting.iter().map(|waiting| waiting.deadline).max() else { return Ok(()) };
    // This one connection for all of it: the waits vouch for what it wrote.
    let live = node.live(last).await?;
    let [replication, persistence] = ServerState::calls();
    let who = [Call::new("INFO").arg("server"), replication, persistence];
    let pushes = writes.iter().map(|write| Sent { call: &write.push, asking: write.asking });
    let mut pushed = live.send(&pushes.chain(who.iter().map(Sent::plainly)).collect::<Vec<_>>(), last).await?;
    let mut who = pushed.split_off(writes.len()).into_iter();
    let run_id = inspect::run_id(who.next());
    let seen = ServerState::answered(who);
    let mut touches = Vec::with_capacity(writes.len());
    let all = std::mem::take(waiting);
    for ((write, mut one), answer) in writes.into_iter().zip(all).zip(pushed) {
        if let Value::ServerError(error) = &answer {
            if error.code() == "READONLY" {
                live.give_up();
            }
            one.settle(Pushed::Refused(answer));
        } else if run_id.as_deref() != Some(&*one.run_id) {
            // The next push finds the one that there is now.
            live.give_up();
            one.end(PushOutcome::Unknown("the queue server was replaced".into()));
        } else {
            touches.push(write.touch);
            one.fence.replicas = one.fence.replicas.max(seen.replicas);
            waiting.push(one);
        }
    }
    let mut touched = connection.run_beside(&live, touches, last).await?.into_iter();
    let all = std::mem::take(waiting);
    for one in all {
        match touched.next().unwrap_or_else(no_answer) {
            Ok(_) => waiting.push(one),
            Err(error) => one.end(PushOutcome::Unknown(error.to_string())),
        }
    }
    while let Some(first) = waiting.iter().map(|waiting| waiting.deadline).min() {
        let wanted = waiting.iter().fold(Fence::default(), |all, waiting| all.and(waiting.fence));
        let reached = wait(&live, wanted, first, last).await?;
        let now = Instant::now();
        let is_due = |waiting: &mut Waiting| {
            waiting.fence.missed(reached).is_none() || waiting.deadline.saturating_duration_since(now) <= MARGIN
        };
        for waiting in waiting.extract_if(.., is_due) {
            let outcome = match waiting.fence.missed(reached) {
                None => Pushed::Fenced { seen: seen.clone(), reached },
                Some(refusal) => Pushed::Ended(PushOutcome::Refused(refusal)),
            };
            waiting.settle(outcome);
        }
    }
    Ok(())
}

impl Waiting {
    fn end(self, outcome: PushOutcome) {
        self.settle(Pushed::Ended(outcome));
    }

    fn settle(self, pushed: Pushed) {
        // Whoever asked may have stopped waiting.
        let _ = self.outcome.send(pushed);
    }
}

/// Waits for what is wanted, no longer than the first deadline allows.
async fn wait(live: &Live, wanted: Fence, first: Instant, last: Instant) -> Result<Fence, CacheError> {
    let ask = async |call: Call| {
        let left = first.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
        // A wait of 0 would be one without end.
        let call = call.arg((left.as_millis() as u64).max(1));
        live.run(&[call], last).await?.pop().unwrap_or_else(no_answer)
    };
    let mut reached = Fence::default();
    if wanted.replicas > 0 {
        reached.replicas = parse(ask(Call::new("WAIT").arg(wanted.replicas)).await?)?;
    }
    if wanted.disk {
        reached.disk = is_synced(ask(Call::new("WAITAOF").arg(1).arg(0)).await?)?;
    }
    Ok(reached)
}

/// `WAITAOF` answers how many local files, which is one at most, and how many replicas' have synced it.
fn is_synced(answer: Value) -> Result<bool, CacheError> {
    let (local, _): (u32, u32) = parse(answer)?;
    Ok(local >= 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failed::Refusal;

    // The servers that tests run on may be older than 7.2, which brought `WAITAOF`.
    #[test]
    fn a_disk_that_has_not_synced_is_a_refusal() {
        let answered = |local, replicas| is_synced(Value::Array(vec![Value::Int(local), Value::Int(replicas)]));
        assert_eq!(answered(1, 0), Ok(true));
        assert_eq!(answered(0, 2), Ok(false), "a replica's disk is not this server's");
        assert!(is_synced(Value::Int(1)).is_err());

        let fence = Fence { replicas: 1, disk: true };
        assert_eq!(fence.missed(fence), None);
        assert_eq!(fence.missed(Fence { replicas: 1, disk: false }), Some(Refusal::NotSynced));
        let short = Refusal::Replicas { reached: 0, wanted: 1 };
        assert_eq!(fence.missed(Fence { replicas: 0, disk: true }), Some(short));
        assert_eq!(Fence::default().missed(Fence::default()), None);
    }
}
