//! Delivery: from a message or an event to the connections of this gateway.
//!
//! [`sockets`] knows the connections by user and gives each of them what it is for, socket by socket: each message once
//! ([`sent_window`]), within what may wait for it ([`emit`], [`outgoing`]). [`rooms`] keeps in step which users here belong to which
//! groups ([`room_index`]). [`ephemeral`] sends events that are never stored (typing, presence, read receipts) to the sockets here and to other
//! gateways. [`sessions`] ends connections that take nothing.

pub(crate) mod emit;
pub(crate) mod ephemeral;
pub(crate) mod outgoing;
pub(crate) mod room_index;
pub(crate) mod rooms;
pub(crate) mod sent_window;
pub(crate) mod sessions;
pub mod sockets;
