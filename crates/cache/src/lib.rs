//! The only Holdfast crate that knows Redis.
//!
//! Two roles, one server each in shipped deployments: the *cache*, which may lose anything at any moment, and the *queue*, which
//! keeps what Kafka did not take. In the order in which a message meets them:
//!
//! 1. [`connection`]: one multiplexed connection a role; lazy, reconnecting, and every call within its caller's deadline.
//! 2. [`rate_limit`]: how much a user may send.
//! 3. [`recent`]: the recent list: add if absent, position in the live stream, announcement to other gateways, all in one script.
//! 4. [`channels`]: hearing what other gateways announce, and knowing when something may have been missed.
//! 5. [`announce`]: telling them of what nobody keeps; [`groups`]: that a group has changed.
//! 6. [`failed`]: the failed queue, which is durable or refuses.
//! 7. [`presence`]: who is online; [`inbox`]: what users see of their chats, kept up by what is listed.
//! 8. [`breaker`]: not asking again and again what does not answer. It knows no Redis; Kafka's callers use it too.
//!
//! What is not part of that journey stands on [`client`], typed operations behind the breaker, with the values of [`codec`]; [`aside`] keeps
//! what a store has; [`lock`] says who should do what only one need do.
//!
//! Operators have [`control`], [`inspect`] and [`sweep`].
//!
//! [`keys`] alone builds the names of keys and channels, [`entry`] and [`event`] alone the bytes of list entries and publications.
//! Every script touches keys of one cluster slot only.

pub mod announce;
pub mod aside;
pub mod breaker;
pub mod channels;
pub mod client;
pub mod codec;
pub mod connection;
pub mod control;
pub mod entry;
pub mod event;
pub mod failed;
pub mod groups;
pub mod inbox;
pub mod inspect;
pub mod keys;
pub mod lock;
pub mod metrics;
pub mod presence;
pub mod rate_limit;
pub mod recent;
pub mod sweep;

mod error;
mod msgpack;
mod script;

pub use announce::Announcer;
pub use aside::Aside;
pub use breaker::{Breaker, BreakerSettings};
pub use channels::{ChannelEvent, Channels};
pub use client::{Client, ClientSettings};
pub use codec::Codec;
pub use connection::Connection;
pub use error::CacheError;
pub use event::{Event, LiveEvent, Origin};
pub use failed::FailedQueue;
pub use inbox::Inboxes;
pub use keys::Keys;
pub use lock::{LockGuard, Locks};
pub use metrics::CacheMetrics;
pub use recent::RecentList;

/// The README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
