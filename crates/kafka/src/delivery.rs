//! The outcome of a published record, and what its caller must do about it.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::settings::BATCH_BYTES;

/// The record is durable: all in-sync replicas have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The partition that holds the record.
    pub partition: i32,
    /// Its offset; -1 where the broker did not report it.
    pub offset: i64,
}

/// What to do about a record that was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Kafka can never take it: refuse.
    #[error("the record is too large for the topic: {0}")]
    TooLarge(String),
    /// Kafka did not acknowledge it now: fall back. It may yet turn up in the log.
    #[error("{0}")]
    Unavailable(Failure),
}

/// Why a record was not acknowledged, and whether it may be in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// librdkafka's error.
    pub reason: String,
    /// Whether the record may be in the log all the same. A copy published later does no harm: the message's id is the same.
    pub possibly_persisted: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fate = if self.possibly_persisted { "possibly persisted" } else { "not persisted" };
        write!(f, "kafka did not acknowledge the record ({fate}): {}", self.reason)
    }
}

pub(crate) type Report = Result<Acknowledged, PublishError>;

/// `reported`: by a delivery report, hence perhaps sent; otherwise refused on the way into the queue.
pub(crate) fn classify(error: &KafkaError, size: usize, reported: bool) -> PublishError {
    let code = error.rdkafka_error_code();
    if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) && (!reported || size > BATCH_BYTES) {
        return PublishError::TooLarge(format!("{size} bytes: {error}"));
    }
    // Known never to have been written; for everything else the answer may have been lost after the record was taken.
    let refused = matches!(
        code,
        Some(
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::PurgeQueue
                | RDKafkaErrorCode::QueueFull
        )
    );
    PublishError::Unavailable(Failure { reason: error.to_string(), possibly_persisted: reported && !refused })
}
