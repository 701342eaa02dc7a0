//! The gateway: delivers messages in real time and takes responsibility for them.
//!
//! # A message's journey
//!
//! 1. [`socketio`] or [`rest`] takes a send ([`wire::requests`]), checks it against the limits of [`holdfast_message::Draft`], and gives it
//!    its id and its timestamp ([`send::timestamps`]), all in the order of arrival.
//! 2. [`send::pipeline`] takes it from there; [`send::pipeline::Pipeline::submit`] is the way in.
//! 3. Rate limit ([`limits`]) and permission ([`access`]). Nobody sees a message that fails them.
//! 4. The recent list takes it if absent, gives it its position in the live stream and announces it to the other gateways, in one call
//!    ([`holdfast_cache::recent`]). Without the cache the journey goes on, and [`send::recent_retry`] repeats the call later.
//! 5. [`deliver`]: the sockets of this gateway, each connection once, however often a message is announced. [`deliver::rooms`] maps
//!    groups to sockets, and updates the map when [`groups`] changes their members.
//! 6. [`send::publish`]: Kafka, else the failed queue. Only an acknowledgement of one of them makes a positive answer. [`failed_queue`]
//!    replays the failed queue and keeps its index whole.
//! 7. The sender's answer: positive ([`send::outcome`]), or a [`refusal`] if nothing durable took the message; then what was shown is
//!    retracted.
//!
//! From Kafka on, the worker's crate goes on. [`read`] is the way back, from the recent list, the failed queue and MongoDB to a
//! client; requests reach MongoDB through a breaker ([`guarded_store`]).
//!
//! Beside the journey: [`inbox`] is what users see of their chats, how many messages are unread and which chats were written to last; it is
//! updated with what step 4 listed. [`presence`] sends who is online and who types as ephemeral events ([`deliver::ephemeral`]), which are
//! never stored. [`remote`] takes what other gateways announce from the subscription to Redis ([`holdfast_cache::channels`]), gives it to
//! the sockets here, and sends them `resync` when the subscription was interrupted.
//!
//! Whatever goes to clients is bounded in bytes ([`deliver::outgoing`]), and a connection that does not take it, or is silent for too long,
//! is ended by [`deliver::sessions`].
//!
//! [`server`] builds all of this from the settings, runs it, and drains it at the end.
//!
//! A positive answer promises that the message is, or will be, in MongoDB exactly once. It does not promise that anybody saw it. A
//! gateway that is killed between 4 and 6 leaves a message that others saw and whose sender was never answered; unless the sender
//! repeats it, it is not stored.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the map of the crate names its modules, most of which are private"
)]

mod access;
pub mod auth;
pub mod config;
pub mod deliver;
pub mod failed_queue;
mod gateway;
mod groups;
pub mod guarded_store;
mod health;
pub mod inbox;
mod limits;
pub mod metrics;
mod presence;
pub mod profiles;
mod read;
pub mod refusal;
mod remote;
pub mod rest;
pub mod send;
mod server;
mod socketio;
pub mod wire;

pub use config::Config;
pub use server::run;

#[doc(hidden)]
pub mod history {
    //! The readers of a history request, for the fuzz targets.
    pub use crate::wire::cursor::{MAX_LIMIT, read as read_cursor, write as write_cursor};
}

#[doc(hidden)]
pub mod ingress {
    //! What clients send, for the fuzz targets.
    pub use crate::wire::requests::{Handshake, HistoryRequest, SendRequest};
}

#[doc(hidden)]
pub mod resume {
    //! The readers of a `resume`, for the fuzz targets.
    pub use crate::wire::requests::{MAX_RESUMED_CHATS as MAX_CHATS, ResumeRequest, readable_offsets as wanted};
}
