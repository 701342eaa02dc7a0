//! Acknowledgements, and what one connection may send.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::AckSender;
use socketioxide::handler::{FromMessageParts, Value as Payload};
use socketioxide::socket::Socket;

use crate::deliver::emit;
use crate::limits::connection::{Meter, Verdict};
use crate::metrics::{Metrics, Packet};
use crate::refusal::{Code, Refusal};
use crate::wire::events::AckPolicy;
use crate::wire::responses::Positive;

/// The pause that a client is asked for before it is disconnected.
const PAUSE: Duration = Duration::from_secs(10);
/// An answer of at least so many bytes may find no room where a refusal does. No answer to a send is so large.
const LARGE: usize = 64 * 1024;

/// The acknowledgement that the client waits for, if it does.
pub(super) struct Ack {
    socket: Arc<Socket<LocalAdapter>>,
    id: Option<i64>,
    verdict: Verdict,
}

impl FromMessageParts<LocalAdapter> for Ack {
    type Error = Infallible;
    fn from_message_parts(
        socket: &Arc<Socket<LocalAdapter>>,
        payload: &mut Payload,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        // Every handler takes one, so every event is measured.
        let verdict = verdict(socket, size(payload));
        Ok(Self { socket: socket.clone(), id: *id, verdict })
    }
}

/// Counts an event of so many bytes on this connection.
fn verdict(socket: &Socket<LocalAdapter>, bytes: usize) -> Verdict {
    let meter = socket.req_parts().extensions.get::<Arc<Meter>>();
    meter.map_or(Verdict::Pass, |meter| meter.count(bytes, Instant::now()))
}

/// Counts it as an event that a connection enters the namespace.
pub(super) fn measure_entry(metrics: &Metrics, socket: &Socket<LocalAdapter>) -> Result<(), Refusal> {
    enforce(metrics, verdict(socket, 0))
}

fn enforce(metrics: &Metrics, verdict: Verdict) -> Result<(), Refusal> {
    let (limit, retry_after) = match verdict {
        Verdict::Pass => return Ok(()),
        Verdict::Refuse { limit, retry_after } => (limit, retry_after),
        Verdict::Disconnect { limit } => (limit, PAUSE),
    };
    metrics.limited(limit);
    Err(Refusal::rate_limited(retry_after))
}

fn size(payload: &Payload) -> usize {
    match payload {
        Payload::Str(text, attached) => text.len() + attached.iter().flatten().map(|bytes| bytes.len()).sum::<usize>(),
        Payload::Bytes(bytes) => bytes.len(),
    }
}

impl Ack {
    /// Refuses an event that exceeds what one connection may send, or that lacks the acknowledgement that it must ask for.
    pub(super) fn passes(&self, metrics: &Metrics, policy: AckPolicy) -> Result<(), Refusal> {
        // With a full buffer the socket stays until its next event.
        if let Verdict::Disconnect { limit } = self.verdict
            && self.socket.connected()
            && self.socket.clone().disconnect().is_ok()
        {
            metrics.abusive.inc();
            tracing::info!(?limit, socket = %self.socket.id, "a client that ignored its refusals was disconnected");
        }
        enforce(metrics, self.verdict)?;
        if self.id.is_none() && policy == AckPolicy::Required {
            return Err(Refusal::new(Code::Validation, "every event needs an acknowledgement callback"));
        }
        Ok(())
    }

    /// [`Ack::passes`] for an event that must ask for an acknowledgement.
    pub(super) fn required(&self, metrics: &Metrics) -> Result<(), Refusal> {
        self.passes(metrics, AckPolicy::Required)
    }

    /// Answers `{ ok: true, … }`; false if the answer could not be given. An answer that finds no room among what waits for the client is
    /// dropped and counted: the client asks or sends again. In place of a large one a refusal is tried.
    pub(super) fn answer(&self, metrics: &Metrics, answer: &impl Serialize) -> bool {
        let answer = to_raw_value(&Positive::new(answer));
        if answer.as_ref().is_ok_and(|answer| self.send(answer)) {
            return true;
        }
        metrics.outgoing_dropped(Packet::Response);
        // A durable send is never answered by a refusal.
        if answer.is_ok_and(|answer| answer.get().len() <= LARGE) {
            return false;
        }
        self.refuse(metrics, &Refusal::unavailable("too much waits for this connection"));
        false
    }

    /// Answers `{ ok: false, error }`, and counts the refusal. One that finds no room is dropped and counted.
    pub(super) fn refuse(&self, metrics: &Metrics, refusal: &Refusal) {
        metrics.refused(refusal.code);
        let refusal = to_raw_value(&json!({ "ok": false, "error": refusal }));
        if !refusal.is_ok_and(|refusal| self.send(&refusal)) {
            metrics.outgoing_dropped(Packet::Response);
        }
    }

    /// Gives the answer to the client, if it waits for one; false if there is no room for it.
    fn send(&self, answer: &RawValue) -> bool {
        let Some(id) = self.id else { return true };
        emit::answer(&self.socket, id, answer, || {
            let Ok(sender) =
                AckSender::from_message_parts(&self.socket, &mut Payload::Str(Default::default(), None), &self.id);
            sender.send(answer)
        })
    }
}
