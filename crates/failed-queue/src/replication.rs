//! Pushes that replicas, or the disk, have to confirm.
//!
//! `WAIT` and `WAITAOF` block their connection, and count only what that same connection has written. Therefore these pushes are made on a
//! connection of their own ([`ReplicationWait`]). Its server's run id is compared with that of the server whose settings were checked, so
//! that two connections to two servers are noticed. Requests that arrive during a wait form the next batch. Each server of a cluster has a
//! connection of its own.
//!
//! A batch waits until the earliest of its deadlines, then until the next one: each request is answered by its own deadline.
//!
//! See `docs/decisions/waiting-for-the-disk.md`.

use std::sync::Arc;
use std::time::Duration;

use holdfast_redis::server_info::{self, ServerState};
use holdfast_redis::{Call, Connection, Live, Node, RedisError, Sent, Value, parse};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::durability::Confirmations;
use crate::outcome::PushOutcome;

/// How many requests can wait; when the queue is full a push is refused.
const CAPACITY: usize = 4096;
/// The largest number of requests that share one wait.
const BATCH: usize = 512;
/// The part of a deadline that is reserved for the answer's way back: the server looks at its blocked clients ten times a second.
const MARGIN: Duration = Duration::from_millis(150);

/// The result of one attempt to push.
pub(crate) enum Pushed {
    /// The push has an outcome.
    Ended(PushOutcome),
    /// The server did nothing, and answered this error.
    Refused(Value),
    /// This many replicas, and the disk, have the entry. The server was in the state `seen` after the push.
    Confirmed { seen: ServerState, reached: Confirmations },
    /// The server has the entry, and should have waited for confirmations but did not. The entry is pushed again; its id makes the second
    /// copy harmless.
    Unconfirmed,
}

/// The way to the connection on which pushes wait for confirmations. The connection is closed when this is dropped.
pub(crate) struct ReplicationWait(mpsc::Sender<Request>);

impl ReplicationWait {
    /// Starts the task that owns the connection. `connection` is the ordinary one, to the same server or cluster.
    pub(crate) fn start(node: Node, connection: Connection) -> Self {
        let (sender, requests) = mpsc::channel(CAPACITY);
        tokio::spawn(serve(node, connection, requests));
        Self(sender)
    }

    /// Hands over a request; `false`: too many are waiting.
    pub(crate) fn submit(&self, request: Request) -> bool {
        self.0.try_send(request).is_ok()
    }
}

/// One entry that has to be pushed and confirmed.
pub(crate) struct Request {
    pub(crate) write: Write,
    pub(crate) waiting: Waiting,
}

/// The calls that write it.
pub(crate) struct Write {
    pub(crate) push: Call,
    /// The slot is still moving to this node.
    pub(crate) asking: bool,
    pub(crate) touch: Call,
}

/// The caller that waits for it.
pub(crate) struct Waiting {
    pub(crate) run_id: Arc<str>,
    pub(crate) required: Confirmations,
    pub(crate) deadline: Instant,
    pub(crate) outcome: oneshot::Sender<Pushed>,
}

/// Serves requests until their sender is dropped.
async fn serve(node: Node, connection: Connection, mut requests: mpsc::Receiver<Request>) {
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

/// Pushes the entries, touches the index, and answers each caller as soon as its entry is confirmed, or by its deadline if it is not.
/// When this fails, the callers left in `waiting` have no answer yet.
async fn settle(
    node: &Node,
    connection: &Connection,
    writes: Vec<Write>,
    waiting: &mut Vec<Waiting>,
) -> Result<(), RedisError> {
    let Some(last) = waiting.iter().map(|waiting| waiting.deadline).max() else { return Ok(()) };
    // One connection for everything: the waits count only what it wrote.
    let live = node.live(last).await?;
    let [replication, persistence] = ServerState::calls();
    let who = [Call::new("INFO").arg("server"), replication, persistence];
    let pushes = writes.iter().map(|write| Sent { call: &write.push, asking: write.asking });
    let mut pushed = live.send(&pushes.chain(who.iter().map(Sent::plainly)).collect::<Vec<_>>(), last).await?;
    let mut who = pushed.split_off(writes.len()).into_iter();
    let run_id = server_info::run_id(who.next());
    let seen = ServerState::answered(who);
    let mut touches = Vec::with_capacity(writes.len());
    let all = std::mem::take(waiting);
    for ((write, mut one), answer) in writes.into_iter().zip(all).zip(pushed) {
        if let Value::ServerError(error) = &answer {
            if error.code() == "READONLY" {
                live.close();
            }
            one.settle(Pushed::Refused(answer));
        } else if run_id.as_deref() != Some(&*one.run_id) {
            // The next push connects to the new server.
            live.close();
            one.end(PushOutcome::Unknown("the queue server was replaced".into()));
        } else {
            touches.push(write.touch);
            one.required.replicas = one.required.replicas.max(seen.replicas);
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
        let wanted = waiting.iter().fold(Confirmations::default(), |all, waiting| all.and(waiting.required));
        let reached = wait(&live, wanted, first, last).await?;
        let now = Instant::now();
        let is_due = |waiting: &mut Waiting| {
            waiting.required.missed(reached).is_none() || waiting.deadline.saturating_duration_since(now) <= MARGIN
        };
        for waiting in waiting.extract_if(.., is_due) {
            let outcome = match waiting.required.missed(reached) {
                None => Pushed::Confirmed { seen: seen.clone(), reached },
                Some(refusal) => Pushed::Ended(PushOutcome::Refused(refusal)),
            };
            waiting.settle(outcome);
        }
    }
    Ok(())
}

pub(crate) fn no_answer() -> Result<Value, RedisError> {
    Err(RedisError::unexpected("no answer"))
}

impl Waiting {
    fn end(self, outcome: PushOutcome) {
        self.settle(Pushed::Ended(outcome));
    }

    fn settle(self, pushed: Pushed) {
        // An error means that the caller has stopped waiting.
        let _ = self.outcome.send(pushed);
    }
}

/// Waits for these confirmations, no longer than the first deadline allows.
async fn wait(live: &Live, wanted: Confirmations, first: Instant, last: Instant) -> Result<Confirmations, RedisError> {
    let ask = async |call: Call| {
        let left = first.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
        // A timeout of 0 would mean to wait for ever.
        let call = call.arg((left.as_millis() as u64).max(1));
        live.run(&[call], last).await?.pop().unwrap_or_else(no_answer)
    };
    let mut reached = Confirmations::default();
    if wanted.replicas > 0 {
        reached.replicas = parse(ask(Call::new("WAIT").arg(wanted.replicas)).await?)?;
    }
    if wanted.disk {
        reached.disk = is_synced(ask(Call::new("WAITAOF").arg(1).arg(0)).await?)?;
    }
    Ok(reached)
}

/// Parses an answer to `WAITAOF`: the number of local files (0 or 1) and of replicas that have synced.
fn is_synced(answer: Value) -> Result<bool, RedisError> {
    let (local, _): (u32, u32) = parse(answer)?;
    Ok(local >= 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Refusal;

    // The servers that tests run on may be older than 7.2, which introduced `WAITAOF`.
    #[test]
    fn a_disk_that_has_not_synced_is_a_refusal() {
        let answered = |local, replicas| is_synced(Value::Array(vec![Value::Int(local), Value::Int(replicas)]));
        assert_eq!(answered(1, 0), Ok(true));
        assert_eq!(answered(0, 2), Ok(false), "a replica's disk is not this server's");
        assert!(is_synced(Value::Int(1)).is_err());

        let required = Confirmations { replicas: 1, disk: true };
        assert_eq!(required.missed(required), None);
        assert_eq!(required.missed(Confirmations { replicas: 1, disk: false }), Some(Refusal::NotSynced));
        let short = Refusal::Replicas { reached: 0, wanted: 1 };
        assert_eq!(required.missed(Confirmations { replicas: 0, disk: true }), Some(short));
        assert_eq!(Confirmations::default().missed(Confirmations::default()), None);
    }
}
