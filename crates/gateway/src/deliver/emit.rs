//! Giving something to one socket, within what may wait for it ([`crate::deliver::outgoing`]).

use std::sync::Arc;

use serde_json::value::RawValue;
use socketioxide::adapter::LocalAdapter;
use socketioxide::socket::Socket;
use socketioxide::{SendError, SocketError};

use crate::deliver::outgoing::{Account, framed};
use crate::deliver::sessions::Session;
use crate::metrics::Packet;

/// Gives an event; false if there is no room for it.
pub(crate) fn event(socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) -> bool {
    give(socket, Packet::Event, size_of_event(event, payload), || socket.emit(event, payload))
}

/// Gives an event that answers a request; false if there is no room for it.
pub(crate) fn response(socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) -> bool {
    give(socket, Packet::Response, size_of_event(event, payload), || socket.emit(event, payload))
}

/// Gives an acknowledgement; false if there is no room for it.
pub(crate) fn answer(
    socket: &Socket<LocalAdapter>,
    id: i64,
    payload: &RawValue,
    send: impl FnOnce() -> Result<(), SendError>,
) -> bool {
    // `43`, the id, and the payload in brackets.
    let digits = id.checked_ilog10().unwrap_or(0) as usize + 1;
    give(socket, Packet::Response, framed(4 + digits + payload.get().len()), send)
}

/// Charges an event that is held back until it can be given; false if there is no room for it.
pub(crate) fn hold(socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) -> bool {
    account(socket).is_none_or(|account| account.charge(Packet::Event, size_of_event(event, payload)))
}

/// Gives an event that was charged before; false if it is dropped.
pub(crate) fn held(socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) -> bool {
    let given = socket.emit(event, payload).is_ok();
    if let Some(account) = account(socket).filter(|_| !given) {
        account.refund(size_of_event(event, payload));
    }
    given
}

/// Forgets an event that was charged before and is not to be given.
pub(crate) fn forget(socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) {
    if let Some(account) = account(socket) {
        account.refund(size_of_event(event, payload));
    }
}

/// `42`, and the event and its payload in brackets.
fn size_of_event(event: &str, payload: &RawValue) -> usize {
    framed(2 + 5 + event.len() + payload.get().len())
}

fn account(socket: &Socket<LocalAdapter>) -> Option<&Account> {
    socket.req_parts().extensions.get::<Arc<Session>>().map(|session| &*session.account)
}

fn give(
    socket: &Socket<LocalAdapter>,
    packet: Packet,
    bytes: usize,
    send: impl FnOnce() -> Result<(), SendError>,
) -> bool {
    // Charged first, for the transport may write the packet before this function goes on.
    if account(socket).is_some_and(|account| !account.charge(packet, bytes)) {
        return false;
    }
    let sent = send();
    if let Err(error) = &sent {
        if let Some(account) = account(socket) {
            account.refund(bytes);
        }
        tracing::debug!(%error, "a packet could not be queued");
    }
    // A socket that has gone misses nothing.
    !matches!(sent, Err(SendError::Socket(SocketError::InternalChannelFull)))
}
