//! Waiting until replicas, or the disk, have what was pushed.
//!
//! `WAIT` and `WAITAOF` block their connection, and vouch only for what that same connection has written. So the index is touched
//! on a connection of the fence's own, after the push was answered on the other one: the touch always writes, hence follows the
//! push in the replication stream, and what has the touch has the push. The touch answers with the server's run id, so that two
//! connections to two servers are noticed. Requests that arrive while others are waited for are the next batch.
//!
//! A batch is waited for until the earliest of its deadlines, then on until the next one: each request is answered by its own.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::gate::Fence;
use super::{PushOutcome, Refusal};
use crate::CacheError;
use crate::connection::{Connection, Live};
use crate::script::{Call, parse};

/// Requests that may wait; when it is full a push ends as unknown.
pub(super) const QUEUE: usize = 4096;
/// Requests that share one wait.
const BATCH: usize = 512;
/// What is left of a deadline for the answer to travel: the server looks at its blocked clients ten times a second.
const MARGIN: Duration = Duration::from_millis(150);

/// One pushed entry whose chat is to be touched and fenced.
pub(super) struct Request {
    pub(super) touch: Call,
    pub(super) waiting: Waiting,
}

/// Who waits for it.
pub(super) struct Waiting {
    pub(super) run_id: Arc<str>,
    pub(super) fence: Fence,
    pub(super) deadline: Instant,
    pub(super) outcome: oneshot::Sender<PushOutcome>,
}

/// Who has what was written.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    replicas: u32,
    disk: bool,
}

/// Serves requests until their sender is gone.
pub(super) async fn serve(connection: Connection, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|request| !request.waiting.outcome.is_closed());
        let (touches, mut waiting) = batch.drain(..).map(|request| (request.touch, request.waiting)).unzip();
        if let Err(error) = settle(&connection, touches, &mut waiting).await {
            waiting.into_iter().for_each(|waiting| waiting.end(PushOutcome::Unknown(error.to_string())));
        }
    }
}

/// Touches, and answers everybody as soon as it is known that they are safe, or that they are not by their deadline. Whoever is
/// left when this fails has to be told.
async fn settle(connection: &Connection, touches: Vec<Call>, waiting: &mut Vec<Waiting>) -> Result<(), CacheError> {
    let Some(last) = waiting.iter().map(|waiting| waiting.deadline).max() else { return Ok(()) };
    // This one connection for all of it: the waits vouch for what it wrote.
    let live = connection.live(last).await?;
    let touched = live.run(touches, last).await?;
    let all = std::mem::take(waiting);
    waiting.extend(all.into_iter().zip(touched).filter_map(|(waiting, touched)| waiting.touched(touched)));
    while let Some(first) = waiting.iter().map(|waiting| waiting.deadline).min() {
        let wanted = waiting.iter().fold(Fence::default(), |all, waiting| all.and(waiting.fence));
        let reached = wait(&live, wanted, first, last).await?;
        let now = Instant::now();
        let is_due = |waiting: &mut Waiting| {
            refusal(waiting.fence, reached).is_none() || waiting.deadline.saturating_duration_since(now) <= MARGIN
        };
        for waiting in waiting.extract_if(.., is_due) {
            let outcome = refusal(waiting.fence, reached).map_or(PushOutcome::Accepted, PushOutcome::Refused);
            waiting.end(outcome);
        }
    }
    Ok(())
}

impl Waiting {
    /// Goes on waiting, unless the touch failed or met another server.
    fn touched(self, touched: Result<Value, CacheError>) -> Option<Self> {
        let failed = match touched.and_then(parse::<String>) {
            Ok(found) if *found == *self.run_id => return Some(self),
            Ok(_) => "the queue server was replaced".to_owned(),
            Err(error) => error.to_string(),
        };
        self.end(PushOutcome::Unknown(failed));
        None
    }

    fn end(self, outcome: PushOutcome) {
        // Whoever asked may have stopped waiting.
        let _ = self.outcome.send(outcome);
    }
}

/// Waits for what is wanted, no longer than the first deadline allows.
async fn wait(live: &Live, wanted: Fence, first: Instant, last: Instant) -> Result<Reached, CacheError> {
    let ask = async |call: Call| {
        let left = first.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
        // A wait of 0 would be one without end.
        let call = call.arg((left.as_millis() as u64).max(1));
        live.run(vec![call], last).await?.pop().unwrap_or_else(|| Err(CacheError::unexpected("no answer")))
    };
    let mut reached = Reached::default();
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

/// Why what was reached is not enough; `None`: it is.
fn refusal(fence: Fence, reached: Reached) -> Option<Refusal> {
    if reached.replicas < fence.replicas {
        return Some(Refusal::Replicas { reached: reached.replicas, wanted: fence.replicas });
    }
    (fence.disk && !reached.disk).then_some(Refusal::NotSynced)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The servers that tests run on may be older than 7.2, which brought `WAITAOF`.
    #[test]
    fn a_disk_that_has_not_synced_is_a_refusal() {
        let answered = |local, replicas| is_synced(Value::Array(vec![Value::Int(local), Value::Int(replicas)]));
        assert_eq!(answered(1, 0), Ok(true));
        assert_eq!(answered(0, 2), Ok(false), "a replica's disk is not this server's");
        assert!(is_synced(Value::Int(1)).is_err());

        let fence = Fence { replicas: 1, disk: true };
        assert_eq!(refusal(fence, Reached { replicas: 1, disk: true }), None);
        assert_eq!(refusal(fence, Reached { replicas: 1, disk: false }), Some(Refusal::NotSynced));
        let short = Refusal::Replicas { reached: 0, wanted: 1 };
        assert_eq!(refusal(fence, Reached { replicas: 0, disk: true }), Some(short));
        assert_eq!(refusal(Fence::default(), Reached::default()), None);
    }
}
