//! Acknowledgements, and what one connection may ask for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::AckSender;
use socketioxide::handler::{FromMessageParts, Value as Packet};
use socketioxide::socket::Socket;

use crate::Gateway;
use crate::deliver::emit;
use crate::error::{Code, Refusal};
use crate::limit::meter::{Meter, Verdict};

/// What a client is told to wait that is about to be disconnected.
const PAUSE: Duration = Duration::from_secs(10);

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
        packet: &mut Packet,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        // Every handler asks for one, so every event is measured.
        let verdict = verdict(socket, size(packet));
        Ok(Self { socket: socket.clone(), id: *id, verdict })
    }
}

/// What becomes of an event of so many bytes on this connection.
fn verdict(socket: &Socket<LocalAdapter>, bytes: usize) -> Verdict {
    let meter = socket.req_parts().extensions.get::<Arc<Meter>>();
    meter.map_or(Verdict::Pass, |meter| meter.count(bytes, Instant::now()))
}

/// Counts that a connection comes in as an event.
pub(super) fn measured(gateway: &Gateway, socket: &Socket<LocalAdapter>) -> Result<(), Refusal> {
    refuse(gateway, verdict(socket, 0))
}

fn refuse(gateway: &Gateway, verdict: Verdict) -> Result<(), Refusal> {
    let (limit, retry_after) = match verdict {
        Verdict::Pass => return Ok(()),
        Verdict::Refuse { limit, retry_after } => (limit, retry_after),
        Verdict::Disconnect { limit } => (limit, PAUSE),
    };
    gateway.metrics.limited(limit);
    Err(Refusal::rate_limited(retry_after))
}

fn size(packet: &Packet) -> usize {
    match packet {
        Packet::Str(text, attached) => text.len() + attached.iter().flatten().map(|bytes| bytes.len()).sum::<usize>(),
        Packet::Bytes(bytes) => bytes.len(),
    }
}

impl Ack {
    /// Refuses an event that nobody waits for the answer of, or that is too much for one connection.
    pub(super) fn wanted(&self, gateway: &Gateway) -> Result<(), Refusal> {
        self.passes(gateway)?;
        if self.id.is_none() { Err(ack_missing()) } else { Ok(()) }
    }

    /// Refuses an event that is too much for one connection.
    pub(super) fn passes(&self, gateway: &Gateway) -> Result<(), Refusal> {
        // With a full buffer it stays until its next event.
        if let Verdict::Disconnect { limit } = self.verdict
            && self.socket.connected()
            && self.socket.clone().disconnect().is_ok()
        {
            gateway.metrics.abusive.inc();
            tracing::info!(?limit, socket = %self.socket.id, "a client that took no notice was disconnected");
        }
        refuse(gateway, self.verdict)
    }

    /// Gives the answer to the client, if it waits for one; false if there is no room for it.
    pub(super) fn send(&self, answer: &RawValue) -> bool {
        let Some(id) = self.id else { return true };
        emit::answer(&self.socket, id, answer, || {
            let Ok(sender) =
                AckSender::from_message_parts(&self.socket, &mut Packet::Str(Default::default(), None), &self.id);
            sender.send(answer)
        })
    }
}

fn ack_missing() -> Refusal {
    Refusal::new(Code::Validation, "every event needs an acknowledgement callback")
}
