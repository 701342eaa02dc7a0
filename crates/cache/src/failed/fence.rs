//! Waiting until replicas, or the disk, have what was pushed.
//!
//! `WAIT` and `WAITAOF` block their connection, and vouch only for what that same connection has written. So the index is touched
//! on a connection of the fence's own, after the push was answered on the other one: the touch always writes, hence follows the
//! push in the replication stream, and what has the touch has the push. The touch answers with the server's run id, so that two
//! connections to two servers are noticed. Requests that arrive while one wait is under way share the next.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::gate::Fence;
use super::{PushOutcome, Refusal};
use crate::CacheError;
use crate::connection::Connection;
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
    pub(super) run_id: Arc<str>,
    pub(super) fence: Fence,
    pub(super) deadline: Instant,
    pub(super) outcome: oneshot::Sender<PushOutcome>,
}

/// Serves requests until their sender is gone.
pub(super) async fn serve(connection: Connection, mut requests: mpsc::Receiver<Request>) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, BATCH).await > 0 {
        batch.retain(|request| !request.outcome.is_closed());
        settle(&connection, std::mem::take(&mut batch)).await;
    }
}

async fn settle(connection: &Connection, batch: Vec<Request>) {
    let Some(deadline) = batch.iter().map(|request| request.deadline).max() else { return };
    let fence = batch.iter().fold(Fence::default(), |all, request| Fence {
        replicas: all.replicas.max(request.fence.replicas),
        disk: all.disk || request.fence.disk,
    });
    let (touches, waiting): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|request| (request.touch, (request.run_id, request.fence, request.outcome))).unzip();
    let mut results = match run(connection, touches, fence, deadline).await {
        Ok(results) => results,
        Err(error) => {
            for (_, _, outcome) in waiting {
                let _ = outcome.send(PushOutcome::Unknown(error.to_string()));
            }
            return;
        }
    };
    let reached = results.split_off(waiting.len());
    let replicas = reached.first().map_or(0, |result| count(result.as_ref().ok()));
    for (touched, (run_id, fence, outcome)) in results.into_iter().zip(waiting) {
        let touched = touched.and_then(parse::<String>);
        let verdict = match touched {
            Err(error) => PushOutcome::Unknown(error.to_string()),
            Ok(found) if *found != *run_id => PushOutcome::Unknown("the queue server was replaced".into()),
            Ok(_) if replicas < fence.replicas => {
                PushOutcome::Refused(Refusal::Replicas { reached: replicas, wanted: fence.replicas })
            }
            // A disk that was not synced in time will be within the second: what `everysec` promises, and what servers
            // without WAITAOF are accepted with.
            Ok(_) => PushOutcome::Accepted,
        };
        let _ = outcome.send(verdict);
    }
}

async fn run(
    connection: &Connection,
    mut calls: Vec<Call>,
    fence: Fence,
    deadline: Instant,
) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
    let live = connection.live(deadline).await?;
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    // A wait of 0 would be one without end.
    let left = (left.as_millis() as u64).max(1);
    calls.push(if fence.replicas > 0 { Call::new("WAIT").arg(fence.replicas).arg(left) } else { Call::new("PING") });
    if fence.disk {
        calls.push(Call::new("WAITAOF").arg(1).arg(0).arg(left));
    }
    live.run(calls, deadline).await
}

fn count(value: Option<&Value>) -> u32 {
    match value {
        Some(Value::Int(count)) => u32::try_from(*count).unwrap_or_default(),
        _ => 0,
    }
}
