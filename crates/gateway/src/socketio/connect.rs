//! Connections: from the handshake to the disconnect.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use holdfast_keys::Channel;
use holdfast_message::UserId;
use serde_json::Value;
use serde_json::value::to_raw_value;
use socketioxide::ParserError;
use socketioxide::extract::SocketRef;
use socketioxide::socket::{DisconnectReason, Sid};
use tokio_util::sync::CancellationToken;

use super::handlers::Resumed;
use super::{ack, listen, session_of};
use crate::auth::Identity;
use crate::deliver::emit;
use crate::gateway::Gateway;
use crate::limits::handshake::ClientAddress;
use crate::limits::slots::Slot;
use crate::metrics::{Limited, Packet};
use crate::refusal::{Code, Refusal};
use crate::wire::events::{client, server};
use crate::wire::requests::{Handshake, resume_weight};

/// What a `connect_error` carries: the code.
#[derive(Debug)]
pub(crate) struct ConnectError(Code);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// The handshake's `offsets`, until they are answered.
#[derive(Clone)]
struct Offsets(BTreeMap<String, Value>);

/// How far a new connection has come. Clients emit without waiting, so its first events may be handled before it is added.
#[derive(Default)]
pub(super) struct Arrival {
    /// Cancelled once it is added to the gateway's sockets.
    pub(super) added: CancellationToken,
    /// Its subscriptions were not confirmed in time; it gets `resync` when they are.
    pub(super) late: AtomicBool,
}

/// The slots that a connection takes among its user's and its address's, given back at its end.
type Slots = (Slot<UserId>, Option<Slot<IpAddr>>);

/// Accepts a connection with a valid token, and registers the handlers of its events before the client learns that it is connected.
pub(crate) async fn authenticate(
    gateway: Arc<Gateway>,
    socket: SocketRef,
    handshake: Result<Handshake, ParserError>,
) -> Result<(), ConnectError> {
    let (token, offsets) = handshake.unwrap_or_default().into_parts();
    // A connection may leave the namespace and enter it again as often as it likes, so each time counts as an event.
    let measured = ack::measure_entry(&gateway.metrics, &socket);
    let identity = measured.and_then(|()| gateway.tokens.verify(&token)).and_then(|identity| {
        let slots = slots(&gateway, &socket, &identity.user)?;
        socket.extensions.insert(slots);
        if let Some(session) = session_of(&socket) {
            session.taken_by(&identity.user, socket.id);
        }
        Ok(identity)
    });
    match identity {
        Ok(identity) => {
            listen(&gateway, &socket);
            on_disconnect(&gateway, &socket, identity.user.clone());
            socket.extensions.insert(identity);
            socket.extensions.insert(Arc::new(Arrival::default()));
            if let Some(offsets) = offsets {
                socket.extensions.insert(Offsets(offsets));
            }
            Ok(())
        }
        Err(refusal) => {
            gateway.metrics.refused(refusal.code);
            tracing::debug!(message = refusal.message, "a handshake was refused");
            Err(ConnectError(refusal.code))
        }
    }
}

/// Adds a connection to the gateway's sockets, and answers the handshake's `offsets`.
pub(crate) async fn connected(gateway: Arc<Gateway>, socket: SocketRef) {
    let Some(identity) = socket.extensions.get::<Identity>() else { return };
    let user = identity.user.clone();
    // Until the server has confirmed the subscription, this socket misses what other gateways announce.
    let subscription = gateway.channels.subscribe(Channel::User(user.clone()));
    let confirmed = subscription.confirmation();
    gateway.sockets.add(&identity, socket.clone(), subscription);
    gateway.rooms.connected(&user, confirmed);
    gateway.presence.joined(&user, socket.id);
    if let Some(arrival) = socket.extensions.get::<Arc<Arrival>>() {
        arrival.added.cancel();
    }
    // It may have disconnected before it was added.
    if !socket.connected() {
        gone(&gateway, &user, socket.id);
        return;
    }
    if let Some(Offsets(offsets)) = socket.extensions.remove::<Offsets>() {
        resume(&gateway, &user, &socket, &offsets).await;
    }
}

/// Answers the handshake's `offsets` by the event `resumed`. Over its limit, the answer says that nothing is recovered: no client waits for a
/// refusal here.
async fn resume(gateway: &Gateway, user: &UserId, socket: &SocketRef, offsets: &BTreeMap<String, Value>) {
    let resumed = match gateway.limits.pass_many(user, client::RESUME, resume_weight(offsets)).await {
        Ok(()) => Resumed::of(gateway, user, socket, offsets).await,
        Err(refusal) => {
            gateway.metrics.refused(refusal.code);
            Resumed::refused(offsets)
        }
    };
    if to_raw_value(&resumed.missed).is_ok_and(|answer| emit::response(socket, server::RESUMED, &answer)) {
        resumed.given();
    } else {
        gateway.metrics.outgoing_dropped(Packet::Response);
        tracing::debug!(%user, "the answer to the handshake's offsets could not be given");
    }
}

fn on_disconnect(gateway: &Arc<Gateway>, socket: &SocketRef, user: UserId) {
    let gateway = gateway.clone();
    socket.on_disconnect(async move |socket: SocketRef, _: DisconnectReason| {
        socket.extensions.remove::<Slots>();
        if let Some(session) = session_of(&socket) {
            session.left();
        }
        gone(&gateway, &user, socket.id);
        // socketioxide ignores a client that enters again before this handler has ended.
        tokio::spawn(async move { gateway.typing.left(socket.id).await });
    });
}

/// Releases what a user holds by a socket whose transport has failed, before its session's end is noticed.
pub(crate) fn release(gateway: &Gateway, user: &UserId, socket: Sid) {
    if let Some(socket) = gateway.sockets.socket(user, socket) {
        socket.extensions.remove::<Slots>();
    }
    gone(gateway, user, socket);
}

/// Removes a socket that has gone. May be called more than once.
fn gone(gateway: &Gateway, user: &UserId, socket: Sid) {
    gateway.sockets.remove(user, socket);
    gateway.presence.left(user, socket);
}

/// A slot for one more connection of this user, and one of this address.
fn slots(gateway: &Gateway, socket: &SocketRef, user: &UserId) -> Result<Slots, Refusal> {
    let too_many = |limit| {
        gateway.metrics.limited(limit);
        Refusal::new(Code::RateLimited, "too many connections")
    };
    let of_user = gateway.limits.users.acquire(user).ok_or_else(|| too_many(Limited::UserSockets))?;
    let Some(ClientAddress(address)) = socket.req_parts().extensions.get() else { return Ok((of_user, None)) };
    let of_address = gateway.limits.addresses.acquire(address).ok_or_else(|| too_many(Limited::AddressSockets))?;
    Ok((of_user, Some(of_address)))
}
