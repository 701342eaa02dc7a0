//! The gateway: delivers messages in real time and takes responsibility for them.
//!
//! # A message's journey
//!
//! 1. [`ingress`] (Socket.IO) or [`rest`] takes a send, checks it against the limits of [`holdfast_message::Draft`], and gives it its
//!    id and its time ([`stamps`]). All of that happens in the order of arrival.
//! 2. [`pipeline`] takes it from there; [`pipeline::Pipeline::submit`] is the way in.
//! 3. [`admit`]: rate limit ([`limit`]) and permission ([`members`], [`relations`]). Nobody sees a message that fails them.
//! 4. The recent list takes it if absent, gives it its place in the live stream and announces it to the other gateways, in one call
//!    ([`holdfast_cache::recent`]). Without the cache the journey goes on, and [`relist`] repeats the call later.
//! 5. [`deliver`]: the sockets of this gateway, each connection once, however often a message is announced. [`rooms`] keeps in step which of them hear which groups,
//!    as [`groups`] changes them.
//! 6. [`publish`]: Kafka, else the failed queue. Only an acknowledgement of one of them makes a positive answer. [`retry`] replays
//!    the failed queue, step by step ([`holdfast_failed_queue::replay`]), and keeps its index whole ([`holdfast_failed_queue::IndexRepair`]).
//! 7. The sender's answer. If nothing durable took the message, what was shown is taken back.
//!
//! From Kafka on, the worker's crate tells the rest. [`history`] is the way back: from the recent list, the failed queue and MongoDB
//! to a client ([`stored`] is how requests ask MongoDB); [`resume`] the short way, for a client that was away for a moment.
//!
//! [`inbox`] is what users see of their chats: how much is unread, and which chats were written to last; it hears of what step 4
//! listed, beside the journey.
//!
//! [`live`] tells clients, on every gateway, of what nobody keeps: who types ([`typing`]), who is online ([`presence`]).
//!
//! Whatever goes to clients is bounded in bytes ([`outgoing`]), and a connection that does not take it, or is silent for too long,
//! is ended by [`sessions`].
//!
//! A positive answer promises that the message is, or will be, in MongoDB exactly once. It does not promise that anybody saw it. A
//! gateway that is killed between 4 and 6 leaves a message that others saw and whose sender was never answered; unless the sender
//! repeats it, it is not stored.

pub mod admit;
pub mod answer;
pub mod asyncapi;
pub mod auth;
pub mod config;
pub mod deliver;
mod dev;
pub mod durables;
pub mod error;
pub mod event;
pub mod groups;
pub mod health;
pub mod history;
pub mod inbox;
pub mod ingress;
mod integer;
pub mod kept;
pub mod limit;
pub mod live;
pub mod lookup;
pub mod members;
pub mod metrics;
pub mod origins;
pub mod outgoing;
pub mod pipeline;
pub mod presence;
pub mod profiles;
pub mod publish;
pub mod relations;
pub mod relist;
pub mod remote;
pub mod rest;
pub mod resume;
pub mod retry;
pub mod rooms;
pub mod server;
pub mod sessions;
pub mod stamps;
pub mod stored;
pub mod typing;

use std::time::Duration;

use holdfast_cache::Channels;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use server::run;

/// What a request needs.
pub struct Gateway {
    /// Checks tokens.
    pub tokens: auth::Verifier,
    /// Stamps messages.
    pub stamps: stamps::Stamps,
    /// Permissions.
    pub admission: admit::Admission,
    /// Every limit but that of messages.
    pub limits: std::sync::Arc<limit::Limits>,
    /// The write path.
    pub pipeline: pipeline::Pipeline,
    /// The read path.
    pub history: history::History,
    /// Messages by id.
    pub lookup: lookup::Lookup,
    /// What users say of themselves.
    pub profiles: profiles::Profiles,
    /// What users see of their chats.
    pub inbox: inbox::Inbox,
    /// What clients missed.
    pub resume: resume::Resume,
    /// Who belongs to which chats.
    pub membership: members::Membership,
    /// Groups, and their changes.
    pub groups: groups::Groups,
    /// Friends and blocks.
    pub relations: relations::Relations,
    /// This gateway's sockets.
    pub sockets: deliver::Sockets,
    /// Which groups they hear.
    pub rooms: rooms::Rooms,
    /// Tells clients of what nobody keeps.
    pub live: live::Live,
    /// Who is online.
    pub presence: presence::Presence,
    /// Who types.
    pub typing: typing::Typing,
    /// What this gateway hears from others.
    pub channels: Channels,
    /// Counters.
    pub metrics: metrics::Metrics,
    /// Within which every event is answered.
    pub send_deadline: Duration,
    /// The size of a history page without `limit`.
    pub history_default_limit: usize,
    /// Cancelled when the gateway shuts down: no new sends.
    pub draining: CancellationToken,
}
