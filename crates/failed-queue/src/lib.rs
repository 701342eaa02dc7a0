//! The failed queue: messages that Kafka did not take, stored in Redis until it does. What it holds must not be lost.
//!
//! In the order in which a message meets the modules:
//!
//! 1. `queue.rs`: [`FailedQueue::push`] appends an [`QueueEntry`] and answers with a [`PushOutcome`].
//! 2. `durability.rs`: whether the server retains what is pushed; `replication.rs`: waits for replicas and disk; `node.rs`: what is known
//!    about each server.
//! 3. `lease.rs`: a retrier takes due chats, and removes entries or moves them to the dead list.
//! 4. [`replay`]: publishes the entries of a chat, and removes those that Kafka has acknowledged.
//! 5. [`IndexRepair`]: finds chats that the index lacks.
//!
//! `stats.rs` counts what waits, `operate.rs` is for operators, and `scan.rs` walks over keys. `scripts/` holds the Lua scripts.

pub mod replay;

mod durability;
mod entry;
mod index_repair;
mod lease;
mod node;
mod operate;
mod outcome;
mod queue;
mod replication;
mod scan;
mod settings;
mod stats;
mod warning;

use std::time::Duration;

pub use entry::{DeadEntry, EntryError, QueueEntry};
pub use index_repair::{IndexRepair, RepairPace, RepairStep};
pub use lease::{FURTHEST, FinishAs, Head, Lease, Taken};
pub use operate::{Buried, ChatQueue, Found};
pub use outcome::{PushOutcome, Refusal};
pub use queue::FailedQueue;
pub use scan::Cursor;
pub use settings::{Durability, FailedQueueSettings};
pub use stats::{Peeked, QueueStats};
pub use warning::Warning;

/// The time for one call of the retry service to a queue server.
pub const BUDGET: Duration = Duration::from_secs(2);
