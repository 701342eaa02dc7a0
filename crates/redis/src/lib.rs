//! Redis, without anything about chats: connections, typed operations, locks and cache-aside. The only crate that imports a Redis client.
//!
//! From the wire upwards:
//!
//! 1. [`Connection`]: one multiplexed connection to a server, or to each node of a cluster. It connects lazily, reconnects, and ends every
//!    call by its caller's deadline. [`Call`] is a command, [`Script`] a Lua script; [`RedisError`] says what a failed call means.
//! 2. [`Subscriber`]: a connection that receives publications.
//! 3. [`Client`]: typed operations on values and collections, behind a circuit breaker; [`Codec`] encodes values.
//! 4. [`Locks`] decide which of many processes does some work.
//! 5. [`aside`]: values of a source, cached in Redis and in memory.
//!
//! [`server_info`] and [`Scan`] are for operators; [`msgpack`] is the encoding of entries and publications. Every script and every call
//! touches keys of one cluster slot only.

pub mod aside;
pub mod metrics;
pub mod msgpack;
pub mod server_info;

mod client;
mod codec;
mod connection;
mod error;
mod hash_slot;
mod lock;
mod scan;
mod script;
mod subscriber;

pub use client::{Client, ClientSettings, End, Scores, Ttl};
pub use codec::{COMPRESS_ABOVE, Codec, EncodeError, MAX_VALUE};
pub use connection::{Connection, Live, Node, Route, Sent};
pub use error::RedisError;
pub use lock::{LockGuard, LockServer, LockSettings, Locks};
pub use metrics::RedisMetrics;
pub use redis::Value;
pub use scan::{Page, Scan};
pub use script::{Call, Script, parse};
pub use subscriber::{Subscriber, SubscriptionError};

/// The README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
