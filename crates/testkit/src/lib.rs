//! What tests and local runs need around the two services: real servers, lines that can be cut, our own binaries, tokens.
//!
//! - [`Redis`], [`Mongo`] and [`Kafka`] start real servers on free loopback ports, each with its own folder. They can be killed, frozen
//!   and started again where they were. [`shared`] gives one set of them to every test of a binary.
//! - [`RedisCluster`] is three Redis masters, with replicas if wanted; slots can be moved while calls go on.
//! - [`Proxy`] stands in front of a server and cuts, blocks, delays or half-closes the line.
//! - [`Program`] starts `holdfast-gateway` and `holdfast-worker` as an operator would.
//! - [`until`] waits for what happens soon, with a deadline for what never does.
//! - [`token`] signs a user's token, [`unique`] names what a test must not share.
//!
//! Nothing outlives its owner: a server dies when its handle is dropped, and when the owning process ends in any way, `kill -9`
//! included (see [`reaper`](mod@reaper)).
//!
//! The servers themselves come from `scripts/servers`.

mod child;
mod files;
mod http;
mod kafka;
mod mongo;
mod mongo_set;
mod ports;
mod program;
mod proxy;
pub mod reaper;
mod redis;
mod redis_cluster;
mod rest;
mod rights;
mod shared;
mod token;
mod until;

pub use crate::child::Child;
pub use crate::files::Folder;
pub use crate::http::http_get;
pub use crate::kafka::{Kafka, KafkaOptions, Listener};
pub use crate::mongo::{Mongo, MongoOptions};
pub use crate::mongo_set::MongoSet;
pub use crate::ports::{free_port, is_free};
pub use crate::program::{Program, ProgramOptions};
pub use crate::proxy::Proxy;
pub use crate::redis::{Redis, RedisOptions, Role, connect_redis};
pub use crate::redis_cluster::{Move, RedisCluster, RedisClusterOptions};
pub use crate::rest::{Response, request};
pub use crate::rights::{Operation, Resource};
pub use crate::shared::{Shared, shared};
pub use crate::token::token;
pub use crate::until::{LIVENESS, until, until_with};

use std::sync::atomic::{AtomicU32, Ordering};

/// A name that no other test, process or run has: `prefix`, a dash and letters that are fit for topics, databases and user ids.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{:x}-{:06x}-{number:x}", std::process::id(), fastrand::u32(..1 << 24))
}
