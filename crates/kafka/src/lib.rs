//! The only Holdfast crate that builds Kafka clients.
//!
//! In the order of a message's journey:
//!
//! 1. [`KafkaSettings`] ([`settings`]): where Kafka is. From it every client's configuration is made, in one place, so that what
//!    the promise rests on (`acks=all`, idempotence, no automatic commit, `earliest`) can't be forgotten or overridden.
//! 2. [`Admin`] ([`admin`]): makes the topics, and reads back what their durability rests on.
//! 3. [`Publisher`] ([`publisher`]): puts a record into the log, and says what its caller must do when it could not.
//! 4. [`GroupConsumer`] ([`consumer`]): reads the log as a member of a group. Nothing is committed unless asked for, and a
//!    rebalance takes place when the caller says so.
//! 5. [`RangeReader`] ([`reader`]): reads a part of the log without a group: dead letters, verification.
//!
//! What a group commits is in [`commits`]. What librdkafka says through its callbacks goes to `tracing` ([`context`]); [`trouble`] says what kinds of errors there are.

pub mod admin;
pub mod commits;
pub mod consumer;
pub mod context;
mod delivery;
mod membership;
mod position;
mod producer;
pub mod publisher;
pub mod reader;
pub mod settings;
pub mod trouble;

pub use admin::{Admin, AdminError, BrokerReport, TopicReport, TopicsReport};
pub use commits::{Commit, Committed, Loss};
pub use consumer::{ConsumerSettings, GroupConsumer, Polled};
pub use delivery::{Acknowledged, Failure, PublishError};
pub use membership::Event;
pub use publisher::{PublishRecord, Publisher};
/// A record as lent by the client, and how to look into it.
pub use rdkafka::message::{BorrowedMessage, Headers, Message as RecordView, OwnedMessage};
pub use reader::RangeReader;
pub use settings::KafkaSettings;
pub use trouble::Trouble;

/// Why a client could not be built or asked: the settings are wrong, or Kafka did not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{doing}: {reason}")]
pub struct ClientError {
    /// What was being done.
    pub doing: &'static str,
    /// What librdkafka said.
    pub reason: String,
}

impl ClientError {
    pub(crate) fn new(doing: &'static str) -> impl FnOnce(rdkafka::error::KafkaError) -> Self {
        move |error| Self { doing, reason: settings::without_value(&error) }
    }
}
